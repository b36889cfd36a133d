"""The fused blocks give the bits of their unfused parts: values, statistics and gradients; a first block's to rounding."""

import numpy as np
import pytest

from bitnet import Codes, Tensor, execution, layers, methods, no_grad, random
from bitnet.functional import ConvBlock, FirstBlock
from bitnet.kernels.machine import threads
from bitnet.kernels.pointwise import block as kernels
from bitnet.layers import Block
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight, GXNORWeight, QNNLinear, QNNLogarithmic
from bitnet.tensor import as_tensor


class Parts:
    """The four modules of a block with an input of codes, the same ones for the same arguments."""

    def __init__(self, bits=(1, 2, 4), pool=None, size=(7, 8), channels=(20, 18), out_bits=2, **options):
        w_bits, a_bits, g_bits = bits
        rng = np.random.default_rng(0)
        self.conv = layers.Conv2d(*channels, 3, rng=rng, weight_quantizer=DoReFaWeight(w_bits),
                                  grad_quantizer=DoReFaGradient(g_bits), **options)
        self.norm, self.act = layers.BatchNorm(channels[1]), layers.Activation(DoReFaActivation(out_bits))
        self.pool = layers.MaxPool(pool) if pool else None
        self.norm.gamma.data[:] = rng.standard_normal(channels[1])  # of both signs
        self.norm.beta.data[:] = rng.uniform(0, 1, channels[1])
        values = rng.integers(0, 1 << a_bits, (5, *size, channels[0])).astype(np.uint8)
        self.x = Tensor(Codes(values, a_bits, "unsigned", 1 / ((1 << a_bits) - 1)), requires_grad=True)

    def fused(self):
        block = Block.of("conv norm pool act", self.conv, self.norm, self.act, self.pool)
        return block(self.x)

    def unfused(self):
        y = self.norm(self.conv(self.x))
        return self.act(self.pool(y) if self.pool else y)

    def arrays(self):
        """Everything that a step with this block leaves behind."""
        return {"x": self.x.grad, "weight": self.conv.weight.grad, "gamma": self.norm.gamma.grad, "beta": self.norm.beta.grad,
                "mean": self.norm.running_mean, "var": self.norm.running_var}


def step(parts, block, silent=()):
    """A training step; samples in ``silent`` get no gradient."""
    random.set_state((3, 4))
    y = block(parts)
    grad = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    grad[list(silent)] = 0
    y.backward(grad)
    return {"y": y.data, "draw": random.get_state()} | parts.arrays()


def assert_fused_is_unfused(silent=(), **options):
    parts = Parts(**options)
    assert isinstance(parts.fused()._function, ConvBlock)
    assert not isinstance(parts.unfused()._function, ConvBlock)
    found, expected = step(Parts(**options), Parts.fused, silent), step(Parts(**options), Parts.unfused, silent)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert np.abs(expected["x"]).max() > 0 and np.abs(expected["weight"]).max() > 0


@pytest.mark.parametrize("pool", [None, 2, 3])
@pytest.mark.parametrize("bits, out_bits", [((1, 2, 4), 2), ((1, 1, 1), 1), ((3, 4, 6), 5), ((8, 8, 8), 8)])
def test_every_width(bits, out_bits, pool):
    assert_fused_is_unfused(bits=bits, out_bits=out_bits, pool=pool)


@pytest.mark.parametrize("options", [
    {"padding": "same"}, {"padding": ((1, 0), (0, 2)), "stride": (1, 2)}, {"stride": 2, "pool": 2}, {"groups": 2},
    {"size": (3, 3)}, {"size": (4, 5), "pool": 2}, {"channels": (1, 1), "padding": 1}, {"channels": (65, 130), "pool": 2},
    {"size": (25, 30), "channels": (3, 5), "pool": 2},  # more rows than one tile of the sums
])
def test_every_shape(options):
    assert_fused_is_unfused(**options)


@pytest.mark.parametrize("pool", [None, 2, 3])
@pytest.mark.parametrize("channels", [1, 3, 6, 12, 16, 33])
def test_few_channels(channels, pool):
    # of a copy of 16 numbers, what is too much must not stay anywhere; 11 x 9 results: the last row or column is in no window
    assert_fused_is_unfused(channels=(5, channels), pool=pool, size=(13, 11))


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3, 12, 64, kernels.SLACK + 1])
def test_accumulators_of_16_bits(channels, pool):
    rng = np.random.default_rng(0)
    accum = rng.integers(-300, 300, (3, 7, 8, channels)).astype(np.int16)
    scale, shift, slope = rng.standard_normal((3, channels))
    results = []
    for a in (accum, accum.astype(np.int32)):
        codes, route = kernels.encode(a, 0.003, scale, shift, pool, 2)
        g = np.random.default_rng(1).standard_normal(codes.shape).astype(np.float32)
        results.append([codes, route, kernels.sums(a, 0.003), kernels.grad_sums(g, route, a, 0.003, pool),
                        *kernels.grad_codes(g, route, a, 0.003, scale, slope, shift, pool, 4, (np.uint32(3), np.uint32(5)))])
    for narrow, wide in zip(*results, strict=True):
        np.testing.assert_array_equal(narrow, wide)


def test_a_sample_without_gradient():
    # batch norm still hands it a share of the others' gradients
    assert_fused_is_unfused(silent=(1, 3))


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_threads(count):
    before = threads.get_threads()
    try:
        threads.set_threads(1)
        expected = step(Parts(pool=2), Parts.fused)
        threads.set_threads(count)
        found = step(Parts(pool=2), Parts.fused)
    finally:
        threads.set_threads(before)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("pool", [None, 2])
def test_evaluation(pool):
    parts = Parts(pool=pool)
    parts.norm.running_mean[:], parts.norm.running_var[:] = 0.5, 2
    parts.norm.eval()
    with no_grad():
        found, expected = parts.fused(), parts.unfused()
    np.testing.assert_array_equal(found.codes.values, expected.codes.values)
    assert found.codes.scale == expected.codes.scale
    assert (parts.norm.running_mean == 0.5).all() and (parts.norm.running_var == 2).all()


def test_only_what_needs_a_gradient_costs_one():
    parts = Parts()
    parts.x.requires_grad = False
    parts.fused().backward(np.ones((5, 5, 6, 18), np.float32))
    assert parts.x.grad is None and parts.conv.weight.grad is not None


class Inverted(DoReFaActivation):
    """Somebody's own quantizer of activations: the codes turned round."""

    def encode_and_save(self, array):
        return super().encode_and_save(1 - array)


class Nearest(DoReFaGradient):
    """Somebody's own quantizer of gradients: the nearest level, without noise."""

    def encode(self, array):
        largest = np.abs(array).max(axis=(1, 2, 3))
        values = np.rint((array / largest[:, None, None, None] + 1) * (self.top / 2)).astype(np.uint8)
        return self.codes(values, largest)


@pytest.mark.parametrize("change", [
    lambda parts: setattr(parts.conv, "weight_quantizer", None),
    lambda parts: setattr(parts.conv, "grad_quantizer", None),
    lambda parts: setattr(parts.conv, "input_quantizer", DoReFaActivation(1)),
    lambda parts: setattr(parts.conv, "bias", layers.Parameter(np.ones(18, np.float32))),
    lambda parts: setattr(parts.act, "quantizer", None),
    lambda parts: setattr(parts.act, "quantizer", Inverted(2)),
    lambda parts: setattr(parts.conv, "grad_quantizer", Nearest(4)),
    lambda parts: setattr(parts, "pool", layers.MaxPool(3, 2, 1)),
    lambda parts: setattr(parts, "pool", layers.MaxPool(2, 1)),
    lambda parts: setattr(parts, "x", Tensor(parts.x.data, requires_grad=True)),
    lambda parts: parts.norm.eval(),
    lambda parts: setattr(parts, "norm", layers.LowPrecisionBatchNorm(18, 3)),
    lambda parts: setattr(parts.conv, "weight_quantizer", QNNLinear(3, step=0.5)),
    lambda parts: setattr(parts.conv, "weight_quantizer", QNNLogarithmic(3, signed=True)),
    lambda parts: setattr(parts.conv, "weight_quantizer", GXNORWeight(2)),
], ids=["float weight", "float gradient", "input quantizer", "bias", "relu", "own activation", "own gradient", "padded pool",
        "overlapping pool", "float input", "evaluation with gradients", "low precision norm", "linear weight without codes",
        "logarithmic weight", "weight in many places"])
def test_what_cannot_be_fused_runs_in_parts(change):
    results = []
    for block in (Parts.fused, Parts.unfused):
        parts = Parts(pool=2)
        change(parts)
        results.append(step(parts, block))
    for name, array in results[1].items():
        np.testing.assert_array_equal(results[0][name], array, err_msg=name)


class FirstParts:
    """The three modules of a first block and its images, the same ones for the same arguments."""

    def __init__(self, bits=2, pool=2, size=(13, 12), channels=(3, 18), kernel=5, bias=True, **options):
        rng = np.random.default_rng(0)
        self.conv = layers.Conv2d(*channels, kernel, bias=bias, rng=rng, **options)
        if bias:
            self.conv.bias.data[:] = rng.uniform(-0.5, 0.5, channels[1])
        self.act, self.pool = layers.Activation(DoReFaActivation(bits)), layers.MaxPool(pool) if pool else None
        self.x = Tensor(rng.random((5, *size, channels[0]), np.float32))

    def fused(self):
        return layers.Sequential(first=Block.of("conv norm pool act", self.conv, None, self.act, self.pool))(self.x)

    def unfused(self):
        with layers.unfused():
            return self.fused()


def first_step(parts, block):
    """Output, gradients and executed products of a step."""
    with execution.log() as records:
        y = block(parts)
        y.backward(np.random.default_rng(1).standard_normal(y.shape).astype(np.float32))
    return y, [parameter.grad for parameter in (parts.conv.weight, parts.conv.bias) if parameter is not None], records


def assert_same_first_step(found, expected):
    (y, grads, records), (expected_y, expected_grads, expected_records) = found, expected
    np.testing.assert_array_equal(y.data, expected_y.data)
    assert records == expected_records
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert grad.dtype == expected_grad.dtype
        # sums of up to 500 float32 numbers, in two orders
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-5 * np.abs(expected_grad).max())


@pytest.mark.parametrize("options", [
    *({"bits": bits} for bits in range(1, 9)), {"pool": None}, {"pool": 3}, {"bias": False}, {"padding": "same"},
    {"kernel": (3, 4), "padding": ((1, 0), (0, 2)), "stride": (2, 1)}, {"channels": (3, 48)}, {"channels": (1, 1)},
    {"channels": (4, 6), "kernel": (2, 8)},
], ids=str)
def test_first_block_gives_the_codes_of_its_parts(options):
    found = FirstParts(**options)
    y = found.fused()
    assert isinstance(y._function, FirstBlock)
    assert not isinstance(found.unfused()._function, FirstBlock)
    assert y.codes.values.dtype == np.uint8 and y.codes.encoding == "unsigned"
    first, expected = first_step(FirstParts(**options), FirstParts.fused), first_step(FirstParts(**options), FirstParts.unfused)
    assert_same_first_step(first, expected)
    assert [(record.layer, record.role, record.family) for record in first[2]] == [
        ("first", "forward", "float32"), ("first", "weight_grad", "float32")]
    assert all(np.abs(grad).max() > 0 for grad in first[1])


def test_first_block_on_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 13, 12, 3)).astype(np.uint8)
    results = []
    real = pixels / np.float32(256)
    for images, block in ((pixels, FirstParts.fused), (pixels, FirstParts.unfused), (real, FirstParts.fused)):
        parts = FirstParts()
        parts.x = as_tensor(images)
        results.append(first_step(parts, block))
    assert isinstance(results[0][0]._function, FirstBlock)
    assert_same_first_step(*results[:2])
    np.testing.assert_array_equal(results[0][0].data, results[2][0].data)
    for found, expected in zip(results[0][1], results[2][1], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_block_tells_why_it_is_not_fused():
    block = Block(3, 4, 3)
    assert not block.fused and "the activation is not rounded" in block.reason and block.reason in repr(block)
    block = layers.Sequential(Block(3, 4, 3), Block(4, 5, 3), Block(5, 4, 3), layers.Linear(4, 2))
    methods.DoReFa(1, 2, 4).apply(block)
    assert [one.fused for one in block[:2]] == ["first", "codes"] and "one Function" in repr(block[1])
    block[1].conv.grad_quantizer = Nearest(4)  # decided anew whenever a part is replaced
    assert "gradients are not rounded" in block[1].reason
    block[1].conv.grad_quantizer = DoReFaGradient(3)
    assert block[1].fused == "codes"
    block[1].order = "conv act norm pool"
    assert block[1].reason == "the order is conv act norm"
    with pytest.raises(ValueError, match="once each, got 'conv'"):
        block[1].order = "conv"


def test_first_block_in_evaluation_keeps_nothing():
    parts = FirstParts()
    with no_grad():
        found, expected = parts.fused(), parts.unfused()
    assert found._function is None
    np.testing.assert_array_equal(found.codes.values, expected.codes.values)


@pytest.mark.parametrize("change", [
    lambda parts: setattr(parts, "x", Tensor(parts.x.data, requires_grad=True)),
    lambda parts: setattr(parts, "x", Tensor(parts.x.data.astype(np.float64))),
    lambda parts: setattr(parts.act, "quantizer", None),
    lambda parts: setattr(parts.act, "quantizer", Inverted(2)),
    lambda parts: setattr(parts.conv, "weight_quantizer", DoReFaWeight(2)),
    lambda parts: setattr(parts.conv, "input_quantizer", DoReFaActivation(8)),
    lambda parts: setattr(parts.conv, "grad_quantizer", Nearest(4)),
    lambda parts: setattr(parts, "pool", layers.MaxPool(3, 2, 1)),
    lambda parts: setattr(parts, "pool", layers.MaxPool(2, 1)),
    lambda parts: parts.__init__(channels=(7, 18)),
    lambda parts: parts.__init__(channels=(6, 18), groups=3),
], ids=["gradient of the images", "float64", "relu", "own activation", "weight", "input", "gradient", "padded pool",
        "overlapping pool", "too many channels", "groups"])
def test_what_is_no_first_block_runs_in_parts(change):
    results = []
    for block in (FirstParts.fused, FirstParts.unfused):
        parts = FirstParts()
        change(parts)
        results.append(first_step(parts, block))
        assert not isinstance(results[-1][0]._function, FirstBlock)
    assert_same_first_step(*results)
    np.testing.assert_array_equal(results[0][1][0], results[1][1][0])


@pytest.mark.parametrize(("options", "message"), [
    ({"channels": (4, 5)}, "the weight must have shape"), ({"size": (6, 6), "pool": 3}, "a pooling window of 3"),
])
def test_first_block_refuses_what_its_parts_refuse(options, message):
    parts = FirstParts(**options)
    if "channels" in options:
        parts.x = Tensor(parts.x.data[..., :3])
    with pytest.raises(ValueError, match=message):
        parts.fused()


def test_first_block_on_any_number_of_threads():
    before, results = threads.get_threads(), []
    try:
        for count in (1, 2):
            threads.set_threads(count)
            y, grads, _ = first_step(FirstParts(channels=(3, 48)), FirstParts.fused)
            results.append([y.data, *grads])
    finally:
        threads.set_threads(before)
    for found, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(found, expected)
