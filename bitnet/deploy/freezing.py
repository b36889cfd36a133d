"""From a tree of modules to stages: readers, one for each kind of module, then patterns over what they gave.

A reader tells in stages what a module computes in evaluation, with the same arithmetic. A pattern makes one stage of several
that stand in a row. A layer of one's own gets its reader beside itself:

    @reads(MyLayer)
    def _(module, name, out):
        out.add(Affine, name, scale=..., shift=...)
"""

import math
from functools import reduce

import numpy as np

from bitnet import functional, layers
from bitnet.codes import Codes, unit_of
from bitnet.deploy import codebook
from bitnet.deploy.network import FrozenNetwork
from bitnet.deploy.products import First, Product, Thresholds
from bitnet.deploy.stages import (
    Affine,
    AvgPool,
    Centred,
    Channels,
    Clip,
    Join,
    MaxPool,
    MeanMagnitude,
    Quantize,
    Reshape,
    Steps,
    Tanh,
    Upsample,
    Wire,
)
from bitnet.description import describe
from bitnet.functional import ap2
from bitnet.kernels.pointwise import elementary
from bitnet.kernels.products.geometry import Conv
from bitnet.module import Module, preserved
from bitnet.quantizers import IntegerThresholds, Quantizer
from bitnet.quantizers.tnn import NEVER
from bitnet.tensor import no_grad

READERS = {}


def reads(kind):
    """Decorate a function (module, name, out) that reads modules of a kind: it adds stages to ``out``, a Reader."""
    def enter(function):
        READERS[kind] = function
        return function
    return enter


class Reader:
    """Collects the stages of a network, or of one way of a join.

    Attributes
    ----------
    wire : Wire   # what leaves the last stage
    fuses : are patterns looked for in the ways of joins?
    """

    def __init__(self, wire, fuses=True):
        self.start = self.wire = wire
        self.fuses = fuses
        self.stages = []

    def add(self, kind, name, options=None, **arrays):
        """Add a stage; its arrays go by their parts' names."""
        name = name.strip(".") or "network"
        stage = kind(name, self.wire, options or {})
        self.stages.append(stage.fill({f"{name}.{part}": array for part, array in arrays.items()}))
        self.wire = stage.after

    def read(self, module, name):
        """Add the stages of a module; ValueError where it cannot be frozen."""
        kind = next((kind for kind in type(module).__mro__ if kind in READERS), None)
        if kind is None or getattr(module.forward, "__func__", None) is not kind.forward:
            raise ValueError(f"{name or 'the network'} cannot be frozen: there is no reader (bitnet.deploy.reads) for "
                             f"{type(module).__name__}{' with a forward of its own' if kind else ''}")
        READERS[kind](module, name, self)

    def join(self, op, name, first, second):
        """Add the sum or the product of two ways: functions of a Reader each."""
        ways = [Reader(self.wire, self.fuses), Reader(self.wire, self.fuses)]
        for way, read in zip(ways, (first, second), strict=True):
            read(way)
            way.stages = fused(way.stages) if self.fuses else way.stages
        described = [[one.describe() for one in way.stages] for way in ways]
        stage = Join(name.strip(".") or "network", self.wire, {"op": op, "ways": described})
        self.stages.append(stage.fill({key: array for way in ways for one in way.stages for key, array in one.arrays.items()}))
        self.wire = stage.after

    def product(self, name, conv, weight, bias=None):
        """Add a product with a weight, Codes or an array of any shape with as many numbers."""
        codes, arrays = None, {} if bias is None else {"bias": bias}
        if isinstance(weight, Codes):
            terms = weight.terms() if weight.per == "term" else [weight]
            weight = terms[0] if len(terms) == 1 else weight
            scales = "one" if terms[0].one_scale else terms[0].per
            codes = {"bits": weight.bits, "encoding": weight.encoding, "scales": scales}
            if len(terms) > 1:
                codes["terms"] = len(terms)
            scale = np.asarray(weight.scale, np.float64)
            if weight.per == "group":
                codes |= {"parts": scale.shape[-2], "unit": unit_of(scale)}
                scale = (scale / codes["unit"]).astype(np.uint8).reshape(*conv.kernel_size, -1, conv.out_channels)
            arrays["planes"] = np.stack([np.packbits(term.values.ravel() >> bit & 1, bitorder="little")
                                         for term in terms for bit in range(weight.bits)])
            arrays["scale"] = scale
            book = codebook.packed(weight.values.reshape(conv.weight_shape)) if weight.bits == len(terms) == 1 else None
            if book is not None:
                arrays["planes"], arrays["words"] = book
                codes["words"] = len(book[1])
        else:
            arrays["weight"] = np.asarray(weight, np.float32).reshape(conv.weight_shape)
        self.add(Product, name, geometry(conv) | {"bias": bias is not None, "weight": codes}, **arrays)


def geometry(conv):
    """Options of a product, from its Conv."""
    return {"kernel": list(conv.kernel_size), "stride": list(conv.stride), "padding": [list(pair) for pair in conv.padding],
            "groups": conv.groups, "out": conv.out_channels}


# Readers

@reads(layers.Sequential)
def _(module, name, out):
    for key, child in module.layers.items():
        out.read(child, f"{name}.{key}" if name else key)


@reads(layers.Residual)
def _(module, name, out):
    out.join("sum", name, lambda way: way.read(module.body, name),
             lambda way: way.read(module.shortcut, f"{name}.shortcut") if module.shortcut else None)


@reads(layers.Block)
def _(module, name, out):
    for part in module.parts():
        out.read(part, name if part is module.conv else f"{name}.{_name_of(module, part)}")


def _name_of(module, part):
    return next(key for key, child in module.children().items() if child is part)


@reads(layers.Images)
def _(module, name, out):
    if module.shape != out.wire.shape:  # else nothing: the network checks its input itself
        raise ValueError(f"{name} takes images of shape {module.shape}, got {out.wire.shape}")


@reads(layers.Dropout)
def _(module, name, out):
    """Nothing is dropped in evaluation."""


@reads(layers.Conv2d)
def _(module, name, out):
    if module.input_quantizer:
        out.read(module.input_quantizer, f"{name}.input")
    conv, _ = module.geometry(out.wire.shape)
    out.product(name, conv, module.quantized_weight().raw, None if module.bias is None else module.bias.data)


READERS[layers.Linear] = READERS[layers.Conv2d]


@reads(layers.XNORConv2d)
def _(module, name, out):
    if not module.scale_map:
        READERS[layers.Conv2d](module, name, out)
        return
    conv, _ = module.geometry(out.wire.shape)

    def scale_map(way):
        way.add(MeanMagnitude, f"{name}.magnitude")
        way.product(f"{name}.map", Conv(1, 1, *conv[2:5]), np.full((*conv.kernel_size, 1, 1), 1 / conv.tap_count, np.float32))

    out.join("product", f"{name}.scaled", lambda way: READERS[layers.Conv2d](module, name, way), scale_map)


@reads(layers.BitwiseLinear)
def _(module, name, out):
    conv, _ = module.geometry(out.wire.shape)
    ones, last = np.ones(module.out_features, np.float32), float(1 / np.sqrt(module.in_features))
    if module.stage == 1:
        out.product(name, conv, elementary.tanh(module.weight.data))
        out.add(Affine, f"{name}.bias", scale=ones, shift=elementary.tanh(module.bias.data))
        if module.hidden:
            out.add(Tanh, f"{name}.act")
        return
    out.product(name, conv, module.quantized_weight().raw)
    out.add(Affine, f"{name}.bias", scale=ones, shift=module.bias_quantizer(module.bias).data)
    if module.hidden:
        out.read(module.act, f"{name}.act")
    else:
        out.add(Affine, f"{name}.share", scale=ones * np.float32(last), shift=0 * ones)


@reads(layers.BatchNorm)
def _(module, name, out):
    mean, var = module.statistics(None)
    scale = module.gamma.data * (1 / np.sqrt(var + module.eps))
    out.add(Affine, name, scale=scale.astype(np.float32), shift=(module.beta.data - mean * scale).astype(np.float32))


@reads(layers.ShiftBatchNorm)
def _(module, name, out):
    scale = ap2(module.running_rstd).astype(np.float32) * ap2(module.gamma.data)
    out.add(Centred, name, mean=module.running_mean.astype(np.float32), scale=scale, shift=module.beta.data)


@reads(layers.LowPrecisionBatchNorm)
def _(module, name, out):
    mean, var = module.statistics(None)
    rstd = 1 / np.sqrt(var + module.eps)
    out.add(Affine, name, scale=rstd.astype(np.float32), shift=(-mean * rstd).astype(np.float32))
    out.read(module.quantizer, f"{name}.quantizer")
    out.add(Affine, f"{name}.outer", scale=module.gamma.data, shift=module.beta.data)


@reads(Quantizer)
def _(module, name, out):
    out.add(Quantize, name, {"quantizer": describe(module)})


@reads(IntegerThresholds)
def _(module, name, out):
    numbers = np.stack([module.sign, module.low, module.high])
    if not (np.abs(numbers) <= NEVER + 1).all() or (numbers != np.rint(numbers)).any():
        raise ValueError(f"{name} cannot be frozen: expected thresholds that are whole numbers up to {NEVER:.0f}, found others")
    sign, low, high = numbers.astype(np.int32)
    out.add(Steps, name, sign=sign.astype(np.int8), low=low, high=high)


@reads(layers.Activation)
def _(module, name, out):
    if module.quantizer:
        out.read(module.quantizer, name)
    else:
        out.add(Clip, name, {"low": 0, "high": None})


@reads(layers.Clip)
def _(module, name, out):
    out.add(Clip, name, {"low": module.low, "high": module.high})


@reads(layers.MaxPool)
def _(module, name, out):
    out.add(MaxPool, name, _window(module, out))


@reads(layers.AvgPool)
def _(module, name, out):
    out.add(AvgPool, name, _window(module, out) | ({"total": True} if module.total else {}))


def _window(module, out):
    stride, padding = functional.pooling(out.wire.shape, module.size, module.stride, module.padding)
    sides = {side for pair in padding for side in pair}
    padding = sides.pop() if len(sides) == 1 else [list(pair) for pair in padding]
    return {"size": module.size, "stride": stride, "padding": padding}


@reads(layers.Standardize)
def _(module, name, out):
    if module.order:
        out.add(Channels, f"{name}.order", {"order": list(module.order)})
    if module.mean:
        scale, shift = functional.standard_constants(module.mean, module.std, np.float32)
        out.add(Affine, name, scale=scale, shift=shift)


@reads(layers.Upsample)
def _(module, name, out):
    out.add(Upsample, name, {"factor": module.factor, "smooth": module.smooth})


@reads(layers.Flatten)
def _(module, name, out):
    out.add(Reshape, name, {"shape": [math.prod(out.wire.shape)]})


@reads(layers.Reshape)
def _(module, name, out):
    out.add(Reshape, name, {"shape": list(module.shape)})


@reads(layers.Lambda)
def _(module, name, out):
    raise ValueError(f"{name} cannot be frozen: a Lambda is a function of one's own, and a frozen network is nothing but data")


# Patterns: stages that begin a row -> the stages in its place and how many it takes, or None

def staircase(code, sign, bound, rows):
    """Where the codes of integer sums step, by bisection on the float arithmetic that makes them.

    Every operation in it is monotone, rounding included, so the staircase is, and each of its steps is one integer.

    Parameters
    ----------
    code : integer array (n, C) -> codes (n, C), of sums in each channel
    sign : int array (C,), of 1 where codes rise with sums and -1 where they fall; bound : no sum is larger
    rows : number of thresholds

    Returns
    -------
    thresholds : int32 (rows, C), code = number of thresholds t with sign * sum >= t
    """
    wanted = np.arange(1, rows + 1)[:, None]
    low = np.full((rows, len(sign)), -bound - 1)  # not reached here, nor perhaps anywhere
    high = np.full_like(low, bound + 1)
    while (high - low > 1).any():
        middle = (low + high) // 2
        reached = code(middle * sign) >= wanted
        high, low = np.where(reached, middle, high), np.where(reached, low, middle)
    return high.astype(np.int32)


def block_on_integers(stages):
    """Sums of codes, what is monotone in each channel, and a quantizer, with a max pool anywhere: thresholds."""
    head, chain, pool, place = stages[0], [], None, 0
    if head.kind != Product.kind or not head.counts:
        return None
    for stage in stages[1:]:
        if stage.kind == MaxPool.kind and pool is None:
            pool, place = stage, len(chain)
        elif stage.monotone:
            chain.append(stage.run)
            if stage.after.is_codes:
                break
        else:
            return None
    else:
        return None
    count, last = 1 + len(chain) + (pool is not None), stage

    def after(sums, chain):
        result = reduce(lambda x, run: run(x), chain, head.worth(sums))
        return result.values if isinstance(result, Codes) else result

    ends = np.array([[-head.bound], [head.bound]]) * np.ones(head.conv.out_channels, np.int64)
    low, high = after(ends, chain)
    sign = np.where(low > high, -1, 1)
    options = {"codes": {"bits": last.after.bits, "encoding": last.after.encoding, "scale": last.after.scale}, "pool": None,
               "pool_sums": False}
    rest = []
    if pool is not None:
        before, later = after(ends, chain[:place])
        falls = before > later  # the sums, on their way to the pool
        sign = np.where(low == high, np.where(falls, -1, 1), sign)
        if ((sign < 0) == falls).all():  # the pool's largest has the largest code
            rest = [pool]
        elif not falls.any():
            options |= {"pool": pool.window, "pool_sums": True}
        else:
            return None
    if not rest and pool is None and len(stages) > count and stages[count].kind == MaxPool.kind:
        rest, count = [stages[count]], count + 1
    if rest and rest[0].window[1:] == [rest[0].window[0], 0]:
        options["pool"], rest = rest[0].window, []
    rows = 2 if last.after.encoding == "ternary" else (1 << last.after.bits) - 1
    thresholds = staircase(lambda sums: after(sums, chain), sign, head.bound, rows)
    weight = head.options["weight"] | {"scales": "none"}
    made = Thresholds(head.name, head.before, geometry(head.conv) | {"bias": False, "weight": weight} | options)
    book = {} if head["words"] is None else {f"{head.name}.words": head["words"]}
    made.fill(book | {f"{head.name}.planes": head["planes"], f"{head.name}.sign": sign.astype(np.int8),
               f"{head.name}.thresholds": thresholds})
    return [made, *(MaxPool(one.name, made.after, one.options) for one in rest)], count


def first_block(stages):
    """A product of real images with few channels, a quantizer that rounds [0, 1], and a max pool on either side of it."""
    head = stages[0]
    if head.kind != Product.kind or head.on_codes or not head.by_image or len(head.before.shape) != 3:
        return None
    parts = {stage.kind: stage for stage in stages[1:3] if stage.kind in (MaxPool.kind, Quantize.kind)}
    if len(stages) > 1 and stages[1].kind == Quantize.kind and len(parts) == 1:
        count = 2
    else:
        count = 1 + len(parts)
    quantize, pool = parts.get(Quantize.kind), parts.get(MaxPool.kind)
    if quantize is None or not quantize.quantizer.rounds_unit or list(parts.values()) != stages[1:count]:
        return None
    size, stride, padding = pool.window if pool else (1, 1, 0)
    if (stride, padding) != (size, 0) or size > 15:
        return None
    made = First(head.name, head.before, head.options | {"pool": size, "bits": quantize.after.bits})
    return [made.fill(head.arrays)], count


PATTERNS = (block_on_integers, first_block)


def fused(stages):
    """The stages, and one in the place of several wherever a pattern matches."""
    done, rest = [], list(stages)
    while rest:
        new, count = next((match for match in (pattern(rest) for pattern in PATTERNS) if match), ([rest[0]], 1))
        done, rest = done + new, rest[count:]
    return done


def freeze(net, shape=None):
    """Turn a trained network into stages for inference, with the same codes and logits, bit for bit.

    Parameters
    ----------
    net : Module   # any tree of this package's modules, and of those that have a reader (``reads``)
    shape : (H, W, C) or (D,) of what it takes; None: what the network says itself

    Returns
    -------
    network : FrozenNetwork, which gives what ``net.eval()`` gives

    Raises
    ------
    ValueError : the shape is not known, or a module in the tree cannot be frozen; it is named with the reason.
    """
    reader, images, classes = read(net, shape)
    return FrozenNetwork(reader.start.shape, fused(reader.stages), images, classes, getattr(net, "pictures", None))


def read(net, shape=None, fuses=True):
    """What ``freeze`` makes a frozen network of, before patterns are looked for; without ``fuses`` in no way of a join either.

    Returns
    -------
    reader : Reader, with its stages
    images : does the network take images; classes : names of its outputs, or None

    Raises
    ------
    ValueError : see ``freeze``.
    """
    if not isinstance(net, Module):
        raise ValueError(f"this takes a network, a tree of modules, got {type(net).__name__}")
    known = net.input_shape  # of images, as its input layer or its training tells
    if known is None and shape is None:
        raise ValueError("this network does not tell what it takes: expected freeze(net, shape) with the shape of an image, "
                         "such as (28, 28, 1)")
    reader = Reader(Wire(tuple(shape or known)), fuses)
    with no_grad(), preserved(net):
        net.eval()
        reader.read(net, "")
    classes = getattr(net, "classes", None)
    known_classes = classes is not None and len(classes) == reader.wire.shape[-1]
    return reader, known is not None, classes if known_classes else None
