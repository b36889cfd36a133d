"""Stages that multiply by weights: a plain product, a first block of real images, and blocks on integers.

Of a block on integers, batch norm, clip and quantizer together are a staircase of the integer sum: a channel's code is the
number of thresholds that the sum, times the channel's sign, has reached. DoReFa-Net (arXiv:1606.06160, section 2.8) says that
this can be done; that it holds bit for bit is the doing of ``freezing.staircase``.
"""

import math

import numpy as np

from bitnet.checks import number, truth, whole, wholes
from bitnet.codes import Codes
from bitnet.deploy import codebook
from bitnet.deploy.stages import Stage, codes_wire, pooled_shape, real
from bitnet.execution import sum_of
from bitnet.kernels.pointwise import norm
from bitnet.kernels.pointwise.pool import max_pool
from bitnet.kernels.pointwise.threshold import pack_thresholds
from bitnet.kernels.products import accumulator_type, dense, direct, popcount
from bitnet.kernels.products.geometry import Conv, Operand, largest_level
from bitnet.kernels.products.packing import join_pixels, pack_channels

PIXELS = 1 << 12  # of a filter, a stride or a padding, at most
TERMS = 1 << 12   # of a weight, at most


class Product(Stage):
    """A convolution, or a fully connected layer, of what enters with weights: real numbers leave.

    Options: kernel, the size of a filter; stride, padding, groups as those of ``Conv``; out, its output channels; bias, whether
    there is one; weight, {"bits", "encoding", "scales"} of codes whose scales are "one", one a "filter", one a "sign" or one a
    "group", or null for real numbers; "terms" beside them where the weight is a sum of so many codes, each with such scales;
    beside groups, "parts", how many of them a filter has at one of its places, and "unit", what their scales are multiples of;
    "words" where weights of one bit have a codebook of so many: planes are those of ``codebook.packed`` then, and there is an
    array words.
    Arrays: planes, uint8 (terms * bits, bytes), the bit planes of the weight's codes in C order of (kh, kw, in, out), packed as
    ``numpy.packbits`` does with bitorder="little", and scale, float64, but of groups uint8 (kh, kw, parts, out), in units; or
    weight, float32; bias, float32 (out,).

    On codes with weights of codes, it is one integer product for each term of the weight (``Codes.terms``), times its scales.
    """

    kind = "product"

    def plan(self, kernel, stride, padding, groups, out, bias, weight):
        shape = self.before.shape
        self.image = shape if len(shape) == 3 else (1, 1, *shape)
        pairs = [wholes(what, pair, 2, low, PIXELS) for what, pair, low in (
            ("kernel", kernel, 1), ("stride", stride, 1), ("padding", padding[0], 0), ("padding", padding[1], 0))]
        self.conv = Conv(self.image[2], whole("out", out, 1), *pairs[:2], tuple(pairs[2:]), whole("groups", groups, 1)).check()
        size = self.conv.output_size(*self.image[:2])
        wholes("the numbers of an image and of a weight", [math.prod(size) * out, math.prod(self.conv.weight_shape)])
        if len(shape) == 1 and size != (1, 1):
            raise ValueError(f"expected one pixel of results for {shape}, got {size}")
        self._plan_weight(weight)
        if truth("bias", bias):
            self.wants("bias", np.float32, out)
        self.on_codes = self.before.is_codes and weight is not None
        self.by_image = self.on_codes or direct.serves(np.empty(0, np.float32), self.conv)  # a BLAS may sum otherwise
        if self.on_codes:
            self._plan_sums()
        return self.before.reals((*size, out) if len(shape) == 3 else (out,))

    def _plan_weight(self, weight):
        if weight is None:
            self.weights = None
            self.wants("weight", np.float32, *self.conv.weight_shape)
            return
        codes = {"bits": weight["bits"], "encoding": weight["encoding"], "scale": 1.0}
        self.weights = codes_wire(self.conv.weight_shape, codes)
        self.summands = whole("terms", weight.get("terms", 1), 1, TERMS)
        if "terms" in weight and weight["scales"] not in ("one", "filter"):
            raise ValueError(f"terms of a weight have one scale or one a filter, got {weight['scales']!r}")
        rows, length = self.summands * self.weights.bits, math.prod(self.conv.weight_shape)
        if "words" in weight:
            if weight["bits"] != 1 or "terms" in weight:
                raise ValueError("a codebook is of weights of one bit and one term")
            count, length = whole("words", weight["words"], 1, length), math.prod(self.conv.weight_shape[2:])
            rows = codebook.index_bits(count)
            self.wants("words", np.uint8, count, -(-self.conv.tap_count // 8))
        self.wants("planes", np.uint8, rows, -(-length // 8))
        shape = {"one": (), "filter": (self.conv.out_channels,), "sign": (2,), "group": None, "none": None}[weight["scales"]]
        if weight["scales"] in ("sign", "group") and self.weights.encoding != "ternary":
            raise ValueError(f"only ternary weights have a scale a {weight['scales']}")
        if weight["scales"] == "group":
            number("the unit of scales", weight["unit"], 2.0 ** -200, 2.0 ** 200)
            parts = whole("parts", weight["parts"], 1, self.conv.group_in)
            self.wants("scale", np.uint8, *self.conv.kernel_size, parts, self.conv.out_channels)
        if shape is not None:
            self.wants("scale", np.float64, *[self.summands] * ("terms" in weight), *shape)

    def _plan_sums(self):
        conv, w = self.conv, self.weights
        largest = 255 if self.options["weight"]["scales"] == "group" else largest_level(w)  # of a term, see Codes.terms
        self.bound = largest_level(self.before) * largest * conv.group_in * conv.tap_count
        if w.encoding == "unsigned" or 2 * self.bound >= 1 << 31:
            raise ValueError(f"expected bipolar or ternary weights and sums that fit int32, got {w.encoding} ones and sums up "
                             f"to {self.bound}")
        self.flat, self.size = conv.flattened(*self.image[:2])
        self.takes_words = conv.groups == 1

    def prepare(self):
        self.codes = self.dense = None
        if self.weights is None:
            self.dense = self["weight"]
            return
        shape, bits = self.conv.weight_shape, self.weights.bits
        if self["words"] is not None:
            values = codebook.unpacked(self["planes"], self["words"], shape)[None]
        else:
            planes = np.unpackbits(self["planes"], axis=1, count=math.prod(shape), bitorder="little")
            planes = planes.reshape(self.summands, bits, -1) << np.arange(bits, dtype=np.uint8)[:, None]
            values = np.bitwise_or.reduce(planes, axis=1).reshape(self.summands, *shape)
        if self.weights.encoding == "ternary" and values.max() > 2:
            raise ValueError(f"{self.name}.planes must hold ternary codes 0, 1 and 2, got a 3")
        scales, scale = self.options["weight"]["scales"], self["scale"]
        if "terms" in self.options["weight"]:
            self.codes = Codes(values, bits, self.weights.encoding, scale, per="term")
        else:
            if scales == "group":
                scale = scale * self.options["weight"]["unit"]
            scale = 1.0 if scales == "none" else float(scale) if scales == "one" else scale
            self.codes = Codes(values[0], bits, self.weights.encoding, scale, per=scales)
        if not self.on_codes:
            self.dense = self.codes.decode()
            return
        self.terms = []
        for term in self.codes.terms():
            w = term.with_values(term.values.reshape(self.flat.weight_shape))
            dtype = accumulator_type(self.before, w, self.conv)
            self.terms.append((popcount.Forward(self.before, w, self.flat, self.size, dtype),
                               self.before.scale * (w.scale if w.one_scale else 1.0), None if w.one_scale else w.scale))

    @property
    def counts(self):
        """Is what leaves one integer sum, times scales?"""
        return self.on_codes and len(self.terms) == 1

    def words(self, x):
        """What enters as packed words."""
        if not isinstance(x, Codes):
            return join_pixels(x, self.conv.in_channels) if self.flat is not self.conv else x
        values = x.values.reshape(len(x.values), *self.size, self.flat.in_channels)
        return pack_channels(Operand(values, x.bits, x.encoding), self.flat.groups, self.flat.padding)

    def sums(self, x):
        """The integer sums (N, OH, OW, out) of the only term."""
        return self.terms[0][0](self.words(x))

    def worth(self, sums):
        """What leaves, for the sums of the only term."""
        _, kappa, scale = self.terms[0]
        return self._biased(_scaled(sums.astype(np.float32) * np.float32(kappa), scale))

    def run(self, x):
        if self.on_codes:
            words = self.words(x)
            parts = (_scaled(forward(words, np.full(len(words), kappa, np.float32)), scale)
                     for forward, kappa, scale in self.terms)
            y = self._biased(sum_of(parts))
        else:
            x = np.ascontiguousarray(real(x)).reshape(x.shape[0], *self.image)
            y = dense.forward(x, self.dense, self.conv, self["bias"])
        return y.reshape(len(y), *self.after.shape)

    def _biased(self, y):
        return y if self["bias"] is None else norm.channel_affine(y, np.ones_like(self["bias"]), self["bias"])

    def about(self):
        sides = "x".join(map(str, self.conv.kernel_size))
        return f"{sides} {'integers, then ' if self.on_codes else ''}float32"

    @property
    def widths(self):
        """Bits of weights and of what meets them."""
        return 32 if self.weights is None else self.weights.bits * self.summands, self.before.bits


def _scaled(y, scale):
    return y if scale is None else norm.channel_affine(y, scale, np.zeros_like(scale))


class First(Product):
    """A first block on real images: convolution, max pool, clip to [0, 1] and rounding, in one walk (``direct.encode``).

    Options: those of a product; pool, the size of windows side by side, 1 for none; bits of the codes that leave.
    """

    kind = "first"

    def plan(self, pool, bits, **product):
        wire = super().plan(**product)
        if self.on_codes or not self.by_image or len(self.before.shape) != 3:
            raise ValueError("expected real images of few channels")
        whole("pool", pool, 1, 15)
        whole("bits", bits, 1, 8)
        return codes_wire(pooled_shape(wire.shape, pool, pool, 0),
                          {"bits": bits, "encoding": "unsigned", "scale": 1 / ((1 << bits) - 1)})

    def run(self, x):
        values, _ = direct.encode(real(x), self.dense, self.conv, self["bias"], self.options["pool"], self.after.bits)
        return self.after.codes(values)

    def about(self):
        pool = self.options["pool"]
        return f"{super().about()}{f', max pool {pool}' if pool > 1 else ''}, clip, round"


class Thresholds(Product):
    """A block on integers: codes enter, codes leave.

        code = number of thresholds t with sign * sum(input level * weight level) >= t

    Options: those of a product, without scales ("none") and bias; codes, {"bits", "encoding", "scale"} of those that leave;
    pool, null or [size, stride, padding] of a max pooling; pool_sums: is it one of the sums themselves, or of sign * sum?
    Arrays: planes, see ``Product``; sign, int8 (out,) of 1 and -1; thresholds, int32 (largest code, out), rising.
    """

    kind = "thresholds"

    def plan(self, codes, pool, pool_sums, **product):
        wire = super().plan(**product)
        if not self.on_codes or product["bias"] or product["weight"]["scales"] != "none":
            raise ValueError("expected codes, and weights of codes without scales and bias")
        shape, self.pool_of_sums = wire.shape, pool if truth("pool_sums", pool_sums) else None
        self.window = 1 if pool is None or pool_sums else pool[0]  # of pack_thresholds
        if pool is not None:
            shape = pooled_shape(shape, *pool)
            if not pool_sums and pool[1:] != [pool[0], 0]:
                raise ValueError(f"windows of sign * sum must lie side by side, got {pool}")
        after = codes_wire(shape, codes)
        self.wants("sign", np.int8, self.conv.out_channels)
        self.wants("thresholds", np.int32, 2 if after.encoding == "ternary" else (1 << after.bits) - 1, self.conv.out_channels)
        return after

    def prepare(self):
        super().prepare()
        sign, rows = self["sign"], self["thresholds"]
        if not np.isin(sign, (1, -1)).all():
            raise ValueError(f"{self.name}.sign must hold 1 and -1, got other numbers")
        if (rows[1:] < rows[:-1]).any():
            raise ValueError(f"{self.name}.thresholds must rise, got some that fall")
        # ternary codes 0, 1 and 2 have the planes of 0, 1 and 3: the second threshold counts twice
        self.sign, self.rows = sign.astype(np.int32), rows[[0, 1, 1]] if self.after.encoding == "ternary" else rows

    def run(self, x):
        accum = self.sums(x)
        if self.pool_of_sums:
            accum, _ = max_pool(accum, *self.pool_of_sums)
        padding = self.follower.flat.padding if self.follower else ((0, 0), (0, 0))
        words = pack_thresholds(accum, self.sign, self.rows, self.window, self.after.bits, padding)
        return words if self.follower else self.unpacked(words, padding)

    def unpacked(self, words, padding):
        """Packed words as the codes that they stand for."""
        (top, bottom), (left, right) = padding
        inside = words[:, 0, :, top:words.shape[3] - bottom, left:words.shape[4] - right]
        bits = np.unpackbits(np.ascontiguousarray(inside).view(np.uint8), axis=-1, bitorder="little")
        bits = bits[..., :self.conv.out_channels]  # (N, plane, H, W, out)
        if self.after.encoding == "ternary":
            values = bits.sum(axis=1, dtype=np.uint8)
        else:
            values = np.bitwise_or.reduce(bits << np.arange(self.after.bits, dtype=np.uint8)[:, None, None, None], axis=1)
        return self.after.codes(values.reshape(len(words), *self.after.shape))

    def walk(self, x, visit):
        y = self.run(x)
        visit(self, self.unpacked(y, self.follower.flat.padding) if self.follower else y)
        return y

    def about(self):
        sides, pool = "x".join(map(str, self.conv.kernel_size)), self.options["pool"]
        return f"{sides} integers{f', max pool {pool[0]}' if pool else ''}, thresholds"
