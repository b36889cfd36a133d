"""Every kernel family gives exactly the integers of the reference, for every layer."""

import sys

import numpy as np
import pytest
from hypothesis import given
from strategies import exhaustive, layer_of, layers, random_codes

from bitnet.kernels import products
from bitnet.kernels.products import reference
from bitnet.kernels.products.geometry import Conv, Operand, largest_level

each_family = pytest.mark.parametrize("family", sorted(products.FAMILIES))


def scaled_in_float32(integers, scale):
    return integers.astype(np.float32) * scale.astype(np.float32).reshape(-1, *[1] * (integers.ndim - 1))


def assert_exact(family, layer):
    """All three products of a layer equal the reference."""
    conv, size, x, w, g, scale = layer
    accum, expected = products.forward(family, x, w, conv), reference.forward(x.levels(), w.levels(), conv)
    largest = largest_level(x) * largest_level(w) * np.prod(conv.weight_shape[:3])
    assert accum.dtype == (np.int16 if largest < 2**15 else np.int32)
    np.testing.assert_array_equal(accum, expected)
    real = products.forward(family, x, w, conv, scale)
    assert real.dtype == np.float32
    np.testing.assert_array_equal(real, scaled_in_float32(expected, scale))
    grad = products.input_grad(family, g, w, conv, size, scale)
    expected = reference.input_grad(g.levels(), w.levels(), conv, size)
    assert grad.dtype == np.float32
    np.testing.assert_array_equal(grad, scaled_in_float32(expected, scale))
    per_sample = reference.weight_grad(g.levels(), x.levels(), conv)
    scaled = products.weight_grad(family, g, x, conv, scale)
    assert scaled.dtype == np.float32
    if products.runs_on_pixels(conv, size):  # one float32 matrix product
        np.testing.assert_allclose(scaled, np.tensordot(scale, per_sample, 1), rtol=1e-5,
                                   atol=1e-6 * np.abs(per_sample).max() * np.abs(scale).max())
    else:
        expected = np.zeros(conv.weight_shape, np.float32)
        for one in scaled_in_float32(per_sample, scale):
            expected += one
        np.testing.assert_array_equal(scaled, expected)  # bit for bit: three roundings a sample, samples in order


@each_family
@exhaustive
@given(layer=layers())
def test_random_layers_equal_the_reference(family, layer):
    assert_exact(family, layer)


def test_families():
    assert set(products.FAMILIES) == {"popcount", "byte_dot", "float"}


SHAPES = {
    "1x1": (Conv(65, 33, (1, 1)), (4, 3)),
    "1x1 of one pixel": (Conv(130, 17, (1, 1)), (1, 1)),
    "one channel": (Conv(1, 1, (3, 3), padding=((1, 1), (1, 1))), (5, 5)),
    "one pixel out": (Conv(48, 20, (4, 3)), (4, 3)),
    "one pixel out of a padded image": (Conv(16, 20, (5, 5), padding=((1, 2), (2, 1))), (2, 2)),
    "one pixel out, grouped": (Conv(6, 4, (3, 3), groups=2), (3, 3)),
    "stride > kernel": (Conv(3, 16, (1, 2), (3, 3)), (8, 9)),
    "padding > kernel": (Conv(3, 5, (1, 2), (1, 2), ((2, 2), (3, 1))), (3, 3)),
    "more than 64 positions a row": (Conv(2, 3, (3, 3), (1, 1), ((1, 1), (1, 1))), (3, 70)),
    "more rows than a tile holds": (Conv(5, 18, (3, 3)), (14, 15)),
    "as many groups as channels": (Conv(12, 24, (3, 3), padding=((1, 1), (1, 1)), groups=12), (5, 4)),
}


@each_family
@pytest.mark.parametrize("encodings", [("unsigned", "bipolar", "bipolar"), ("bipolar",) * 3, ("ternary",) * 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_at_the_edge(shape, encodings, family):
    assert_exact(family, layer_of(*SHAPES[shape], (2, 1, 4), encodings[0], others=encodings[1:]))


@each_family
@pytest.mark.parametrize("encoding", ["unsigned", "bipolar"])
@pytest.mark.parametrize("bits", [1, 8])
@pytest.mark.parametrize("code_x, code_w, code_g", [(0, 0, 0), (1, 1, 1), (0, 1, 0), (1, 0, 1), (0, 0, 1)])
def test_all_zero_and_all_max_codes(code_x, code_w, code_g, bits, encoding, family):
    layer = layer_of(Conv(65, 18, (3, 3), (1, 2), ((1, 1), (0, 1))), (5, 4), (bits,) * 3, encoding)
    for operand, code in zip((layer.x, layer.w, layer.g), (code_x, code_w, code_g), strict=True):
        operand.values[:] = code * (2**bits - 1)
    assert_exact(family, layer)


LONGEST = 16512  # the largest L with 2 * 255 * 255 * L < 2**31


@each_family
@pytest.mark.parametrize("encoding", ["unsigned", "bipolar"])
@pytest.mark.parametrize("code", [0, 255])
def test_the_longest_sum_that_is_admitted_is_exact(code, encoding, family):
    conv, x_level = Conv(LONGEST, 2, (1, 1)), 255 if code or encoding == "unsigned" else -255
    x = Operand(np.full((1, 2, 1, LONGEST), 255 if encoding == "unsigned" else code, np.uint8), 8, encoding)
    w = Operand(np.full((1, 1, LONGEST, 2), code, np.uint8), 8, "bipolar")
    w_level = 255 if code else -255
    assert (products.forward(family, x, w, conv) == x_level * w_level * LONGEST).all()
    transposed = Conv(2, LONGEST, (1, 1))
    g = Operand(np.full((1, 2, 1, LONGEST), 255, np.uint8), 8, "bipolar")
    w = Operand(w.values.reshape(1, 1, 2, LONGEST), 8, "bipolar")
    assert (products.input_grad(family, g, w, transposed, (2, 1), np.ones(1)) == 255 * w_level * LONGEST).all()
    positions = Conv(1, 1, (1, 1))
    x = x._replace(values=x.values[:, :1].reshape(1, 128, 129, 1))
    g = Operand(w.values[:, :, :1].reshape(1, 128, 129, 1), 8, "bipolar")
    assert (products.weight_grad(family, g, x, positions, np.ones(1)) == x_level * w_level * LONGEST).all()


@each_family
@pytest.mark.parametrize("conv, size", [
    (Conv(48, 40, (3, 3), (1, 1), ((1, 1), (1, 1))), (9, 9)),
    (Conv(130, 96, (3, 2), (2, 1), ((1, 0), (0, 1)), groups=2), (7, 6)),
    (Conv(65, 300, (5, 5)), (5, 5)),
])
def test_same_bits_on_any_number_of_threads(conv, size, family, thread_count):
    layer = layer_of(conv, size, samples=5)
    results = []
    for count in (1, 2, 3, 7):
        thread_count(count)
        results.append((products.forward(family, layer.x, layer.w, conv),
                        products.input_grad(family, layer.g, layer.w, conv, size, layer.scale),
                        products.weight_grad(family, layer.g, layer.x, conv, layer.scale)))
    for other in results[1:]:
        for first, found in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(found, first)


@each_family
def test_values_need_not_be_contiguous(family):
    conv, size, x, w, g, scale = layer_of(Conv(20, 16, (3, 3)), (6, 5))

    def strided(codes):
        twice = np.repeat(codes.values, 2, axis=-1)
        twice[..., 1::2] ^= 1  # what lies between must not be read
        return codes._replace(values=twice[..., ::2])

    np.testing.assert_array_equal(products.forward(family, strided(x), strided(w), conv),
                                  products.forward(family, x, w, conv))
    np.testing.assert_array_equal(products.input_grad(family, strided(g), strided(w), conv, size, scale),
                                  products.input_grad(family, g, w, conv, size, scale))
    np.testing.assert_array_equal(products.weight_grad(family, strided(g), strided(x), conv, scale),
                                  products.weight_grad(family, g, x, conv, scale))


@each_family
def test_operands_are_only_read(family):
    conv, size, x, w, g, scale = layer_of(Conv(20, 16, (3, 3), (2, 1), ((1, 1), (0, 2))), (6, 5))
    for array in (x.values, w.values, g.values, scale):
        array.flags.writeable = False
    products.forward(family, x, w, conv)
    products.input_grad(family, g, w, conv, size, scale)
    products.weight_grad(family, g, x, conv, scale)


@each_family
def test_a_sample_of_scale_zero_has_no_share(family):
    conv, _, x, _, g, scale = layer_of(Conv(20, 16, (3, 3)), (6, 5), samples=3)
    scale[1] = 0
    others = [0, 2]
    np.testing.assert_array_equal(
        products.weight_grad(family, g, x, conv, scale),
        products.weight_grad(family, g._replace(values=g.values[others]), x._replace(values=x.values[others]), conv,
                             scale[others]))


OPERANDS = [("forward", "x", "input"), ("forward", "w", "weight"), ("input_grad", "g", "gradient"),
            ("input_grad", "w", "weight"), ("weight_grad", "g", "gradient"), ("weight_grad", "x", "input")]


class TestRefusals:
    """What a product does not take is named, with what it got."""

    layer = layer_of(Conv(6, 8, (3, 3), padding=((1, 1), (1, 1))), (4, 5))

    def call(self, path, **change):
        conv, size, x, w, g, scale = self.layer._replace(**change)
        if path == "forward":
            return products.forward("popcount", x, w, conv)
        if path == "input_grad":
            return products.input_grad("popcount", g, w, conv, size, scale)
        return products.weight_grad("popcount", g, x, conv, scale)

    @pytest.mark.parametrize("path, operand, name", OPERANDS)
    def test_other_types_than_uint8(self, path, operand, name):
        codes = getattr(self.layer, operand)
        with pytest.raises(ValueError, match=f"{name} must be uint8 codes .* got int8"):
            self.call(path, **{operand: codes._replace(values=codes.values.astype(np.int8))})

    @pytest.mark.parametrize("path, operand, name", OPERANDS)
    def test_other_shapes(self, path, operand, name):
        codes = getattr(self.layer, operand)
        with pytest.raises(ValueError, match=rf"{name} must be uint8 codes of shape \(.*\), got uint8 of shape"):
            self.call(path, **{operand: codes._replace(values=codes.values[..., :-1])})

    @pytest.mark.parametrize("path, operand, name", OPERANDS)
    @pytest.mark.parametrize("bits", [0, 9])
    def test_other_bits_than_1_to_8(self, bits, path, operand, name):
        with pytest.raises(ValueError, match=f"{name} must have 1 to 8 bits, got {bits}"):
            self.call(path, **{operand: getattr(self.layer, operand)._replace(bits=bits)})

    @pytest.mark.parametrize("path, operand, name", OPERANDS)
    def test_encodings_without_a_kernel(self, path, operand, name):
        wrong = "logarithmic" if operand == "x" else "unsigned"
        with pytest.raises(ValueError, match=f"{name} must be .*bipolar or ternary codes, got '{wrong}'"):
            self.call(path, **{operand: getattr(self.layer, operand)._replace(encoding=wrong)})

    @pytest.mark.parametrize("path, operand, name", OPERANDS)
    def test_ternary_codes_of_other_bits_than_2(self, path, operand, name):
        with pytest.raises(ValueError, match=f"{name} of ternary codes must have 2 bits, got 1"):
            self.call(path, **{operand: getattr(self.layer, operand)._replace(encoding="ternary", bits=1)})

    @pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
    def test_a_scale_that_is_not_one_a_sample(self, shape):
        with pytest.raises(ValueError, match="scale must have one entry for each of 2 samples"):
            self.call("weight_grad", scale=np.ones(shape))

    def test_batches_that_differ(self):
        with pytest.raises(ValueError, match="gradient must be"):
            self.call("weight_grad", g=self.layer.g._replace(values=self.layer.g.values[:1]))

    def test_a_filter_that_does_not_fit(self):
        with pytest.raises(ValueError, match="does not fit"):
            self.call("input_grad", size=(0, 5))

    def test_sums_beyond_int32(self):
        deep = LONGEST + 1
        rng = np.random.default_rng(0)
        pixel, weight = random_codes(rng, (1, 1, 1, deep), 8), random_codes(rng, (1, 1, deep, 1), 8)
        with pytest.raises(ValueError, match=f"sum of {deep} products of 8 and 8 bits does not fit int32"):
            products.forward("popcount", pixel, weight, Conv(deep, 1, (1, 1)))
        weight = weight._replace(values=weight.values.reshape(1, 1, 1, deep))
        with pytest.raises(ValueError, match="does not fit int32"):
            products.input_grad("popcount", pixel, weight, Conv(1, deep, (1, 1)), (1, 1), np.ones(1))
        image = pixel._replace(values=pixel.values.reshape(1, deep, 1, 1))
        with pytest.raises(ValueError, match="does not fit int32"):
            products.weight_grad("popcount", image, image, Conv(1, 1, (1, 1)), np.ones(1))

    def test_sums_of_ternary_codes_beyond_int32(self):
        deep = 1 << 29  # the two planes of each count: sums of four times the levels' products
        codes = Operand(np.zeros((1, 1, 1, deep), np.uint8), 2, "ternary")  # pages that nobody reads
        weight = codes._replace(values=codes.values.reshape(1, 1, deep, 1))
        with pytest.raises(ValueError, match=f"sum of {deep} products of 2 and 2 bits does not fit int32"):
            products.forward("popcount", codes, weight, Conv(deep, 1, (1, 1)))


def index_tables():
    """What all functions that keep tables of indices have had to compute, and how often they were asked."""
    modules = [module for name, module in sys.modules.items() if name.startswith("bitnet.kernels.")]
    functions = {value for module in modules for value in vars(module).values() if hasattr(value, "cache_info")}
    infos = [function.cache_info() for function in functions]
    return sum(info.misses for info in infos), sum(info.hits for info in infos)


@pytest.mark.parametrize("family", ["popcount", "byte_dot"])
def test_index_tables_are_computed_once_a_layer(family):
    layer = layer_of(Conv(7, 9, (3, 2)), (5, 6))
    assert_exact(family, layer)
    misses, hits = index_tables()
    assert_exact(family, layer)
    assert index_tables()[0] == misses and index_tables()[1] > hits


@each_family
def test_a_batch_may_be_empty(family):
    conv, size, x, w, g, scale = layer_of(Conv(5, 8, (3, 3), padding=((1, 1), (1, 1))), (4, 6), samples=0)
    assert products.forward(family, x, w, conv).shape == (0, 4, 6, 8)
    assert products.input_grad(family, g, w, conv, size, scale).shape == (0, 4, 6, 5)
    assert not products.weight_grad(family, g, x, conv, np.zeros(0)).any()
