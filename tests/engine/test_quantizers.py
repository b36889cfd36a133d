"""DoReFa's quantizers against their formulas: forward, backward, and where formulas break down."""

import numpy as np
import pytest

from bitnet import Tensor, random
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight, quantize_k

each_bits = pytest.mark.parametrize("bits", range(1, 9))
each_float = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@each_bits
@each_float
def test_every_code_is_a_fixed_point_of_quantize_k(bits, dtype):
    levels = (np.arange(2**bits) / (2**bits - 1)).astype(dtype)
    np.testing.assert_array_equal(quantize_k(levels, bits), levels)


def test_quantize_k_rounds_to_the_nearest_level_and_halves_to_even():
    assert quantize_k(np.array([0, 0.49, 0.51, 1]), 1).tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(quantize_k(np.array([0.16, 0.17, 0.5, 0.84]), 2), [0, 1 / 3, 2 / 3, 1], rtol=1e-15)
    assert quantize_k(np.array([0.5]), 1).tolist() == [0]


@pytest.mark.parametrize("quantizer", [DoReFaWeight, DoReFaActivation, DoReFaGradient])
@pytest.mark.parametrize("bits", [0, 9, 32, -1, 2.5, "2", None])
def test_other_widths_than_1_to_8_are_refused(quantizer, bits):
    with pytest.raises(ValueError, match="1 to 8 bits"):
        quantizer(bits)


class TestActivation:
    @each_bits
    @each_float
    def test_every_code_is_a_fixed_point(self, bits, dtype):
        quantizer = DoReFaActivation(bits)
        codes = quantizer.encode((np.arange(2**bits) / (2**bits - 1)).astype(dtype))
        assert codes.values.tolist() == list(range(2**bits))
        assert quantizer.encode(codes.decode(dtype)).values.tolist() == list(range(2**bits))

    @each_bits
    def test_forward_is_clip_and_quantize_k(self, bits):
        x = np.random.default_rng(0).uniform(-1, 2, (4, 5, 6)).astype(np.float32)
        y = DoReFaActivation(bits)(x)
        assert y.codes.encoding == "unsigned"
        np.testing.assert_allclose(y.data, quantize_k(np.clip(x, 0, 1), bits), rtol=0, atol=1e-7)

    def test_one_bit_means_zero_and_one(self):
        assert DoReFaActivation(1)(np.array([-1, 0.4, 0.6, 9], np.float32)).data.tolist() == [0, 0, 1, 1]

    @each_float
    def test_the_gradient_passes_from_0_to_1_inclusive(self, dtype):
        below, above = np.nextafter(dtype(0), dtype(-1)), np.nextafter(dtype(1), dtype(2))
        x = Tensor(np.array([-0.5, below, 0, -0.0, 0.3, 1, above, 7, -np.inf, np.inf], dtype), requires_grad=True)
        DoReFaActivation(2)(x).backward(np.arange(1, 11).astype(dtype))
        assert x.grad.tolist() == [0, 0, 3, 4, 5, 6, 0, 0, 0, 0]


class TestOneBitWeight:
    quantizer = DoReFaWeight(1)

    def test_sign_times_mean_magnitude_of_the_layer(self):
        w = normal(3, 3, 4, 5)
        y = self.quantizer(w)
        assert (y.codes.bits, y.codes.encoding) == (1, "bipolar")
        assert y.codes.scale == pytest.approx(np.abs(w.astype(np.float64)).mean(), rel=1e-12)
        np.testing.assert_allclose(y.data, np.where(w >= 0, 1, -1) * np.abs(w).mean(), rtol=1e-6)

    def test_the_sign_of_zero_is_plus(self):
        assert self.quantizer.encode(np.array([0, -0.0, -4, 4], np.float32)).levels().tolist() == [1, 1, -1, 1]

    def test_the_gradient_is_passed_on_unchanged(self):
        w, g = Tensor(100 * normal(3, 4), requires_grad=True), normal(3, 4, seed=1)
        self.quantizer(w).backward(g)
        np.testing.assert_array_equal(w.grad, g)


def soft(w):
    """The tanh rule without its rounding: 2 * (t / (2 m) + 1/2) - 1."""
    t = np.tanh(w)
    return t / np.abs(t).max()


class TestWeight:
    each_width = pytest.mark.parametrize("bits", range(2, 9))

    @each_width
    @each_float
    def test_forward(self, bits, dtype):
        w = normal(3, 3, 8, 9, dtype=dtype)
        t = np.tanh(w)
        expected = 2 * quantize_k(t / (2 * np.abs(t).max()) + dtype(0.5), bits) - 1
        y = DoReFaWeight(bits)(w)
        assert (y.codes.bits, y.codes.encoding, y.codes.scale) == (bits, "bipolar", 1 / (2**bits - 1))
        np.testing.assert_allclose(y.data, expected, rtol=0, atol=1e-6)
        assert np.abs(y.data).max() == 1  # the largest weight of the layer is one end of the scale

    @each_width
    @pytest.mark.parametrize("seed", [0, 1])
    def test_backward_is_the_derivative_of_the_rule_without_rounding(self, bits, seed):
        w, g = normal(4, 5, seed=seed, dtype=np.float64), normal(4, 5, seed=seed + 2, dtype=np.float64)
        x = Tensor(w, requires_grad=True)
        DoReFaWeight(bits)(x).backward(g)
        expected, step = np.zeros_like(w), 1e-6
        for i in np.ndindex(w.shape):  # the largest weight too: it moves m, and with it all others
            unit = np.zeros_like(w)
            unit[i] = step
            expected[i] = np.sum(g * (soft(w + unit) - soft(w - unit))) / (2 * step)
        np.testing.assert_allclose(x.grad, expected, rtol=1e-6, atol=1e-8)

    def test_the_largest_weights_share_the_gradient_through_the_maximum(self):
        w = np.array([0.5, -1.5, 0.25, 1.5])  # both signs, one magnitude
        g = np.array([1.0, 2.0, 3.0, 4.0])
        t, m = np.tanh(w), np.tanh(1.5)
        share = np.sum(g * t) / m**2 / 2
        expected = (g / m - share * np.array([0, -1, 0, 1])) * (1 - t**2)
        x = Tensor(w, requires_grad=True)
        DoReFaWeight(3)(x).backward(g)
        np.testing.assert_allclose(x.grad, expected, rtol=1e-12)

    def test_the_maximum_can_be_taken_for_a_constant(self):
        w, g = normal(4, 5, dtype=np.float64), normal(4, 5, seed=1, dtype=np.float64)
        x = Tensor(w, requires_grad=True)
        DoReFaWeight(2, through_max=False)(x).backward(g)
        t = np.tanh(w)
        np.testing.assert_allclose(x.grad, g / np.abs(t).max() * (1 - t**2), rtol=1e-12)

    def test_the_type_is_kept(self):
        x = Tensor(normal(4, 5), requires_grad=True)
        DoReFaWeight(2)(x).backward(normal(4, 5, seed=1))
        assert x.grad.dtype == np.float32


@each_bits
@pytest.mark.parametrize("w", [np.zeros((3, 3, 2, 4)), np.array([[0.7]]), np.array([[-0.7]]), np.array([[0.0]]),
                               np.full((2, 2), 1e-30), np.full((2, 2), -1e30), np.array([[1e-30, 0.0]])])
@pytest.mark.filterwarnings("error")
def test_weights_without_a_scale_give_numbers(bits, w):
    x = Tensor(w.astype(np.float32), requires_grad=True)
    y = DoReFaWeight(bits)(x)
    y.backward(np.ones(w.shape, np.float32))
    assert np.isfinite(y.data).all() and np.isfinite(x.grad).all()
    assert y.codes.values.max() < 2**bits


def encode(g, bits, draw=0, seed=0):
    random.set_state((seed, draw))
    return DoReFaGradient(bits).encode(g)


class TestGradient:
    @each_bits
    def test_values_lie_on_the_grid_of_each_sample(self, bits):
        g = normal(5, 6, 7) * np.array([1, 10, 1e-20, 1e20, 3], np.float32)[:, None, None]
        codes, n = encode(g, bits), 2**bits - 1
        largest = np.abs(g).max(axis=(1, 2)).astype(np.float64)
        assert codes.encoding == "bipolar" and codes.values.max() <= n
        np.testing.assert_array_equal(codes.scale, largest / n)
        np.testing.assert_allclose(codes.decode(np.float64), largest[:, None, None] * (2.0 * codes.values - n) / n,
                                   rtol=1e-12)

    @each_bits
    def test_the_nearest_two_levels_and_no_others(self, bits):
        g = normal(4, 500)
        step = 2 * np.abs(g).max(axis=1, keepdims=True) / (2**bits - 1)
        assert (np.abs(encode(g, bits).decode() - g) <= step * 1.0001).all()

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_right_on_average(self, bits):
        g = np.concatenate([normal(3, 40), np.array([[0.5, -0.5, 0.0, 1e-9] * 10], np.float32)])
        largest, draws = np.abs(g).max(axis=1, keepdims=True), 2000
        mean = np.mean([encode(g, bits, draw).decode(np.float64) for draw in range(draws)], axis=0)
        # between two levels, `share` of a step above the lower one: a step with that probability
        step = 2 * largest / (2**bits - 1)
        share = (g + largest) / step % 1
        deviation = np.sqrt(share * (1 - share) / draws) * step
        assert (np.abs(mean - g) <= 5 * deviation + 1e-6 * largest).all()
        assert abs(np.sum((mean - g) / step)) <= 5 * np.sqrt(np.sum((deviation / step) ** 2)) + 1e-4

    @each_bits
    def test_extremes_stay_extremes_whatever_the_noise(self, bits):
        # n + sigma just below n + 1/2 rounds up in floats: without the clip the code would be n + 1, which may wrap to 0
        n = 2**bits - 1
        g = np.where(np.arange(1 << 20) % 2, np.float32(-0.3), np.float32(0.3))[None]
        values = encode(g, bits).values[0]
        assert (values[1::2] == 0).all()
        # just above n - 1/2 a float32 sum may be n - 1/2 itself, and that goes to the even n - 1: once in 2**17 at most
        assert ((values[::2] == n) | (values[::2] == n - 1)).all() and np.mean(values[::2] != n) < 5e-5

    @each_bits
    def test_a_sample_of_zeros_is_exactly_zero_and_disturbs_no_other(self, bits):
        g = normal(3, 5, 6)
        before = encode(g, bits).decode()
        g[1] = 0
        after = encode(g, bits).decode()
        assert (after[1] == 0).all()
        np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])

    def test_a_batch_of_zeros(self):
        assert (encode(np.zeros((2, 3), np.float32), 4).decode() == 0).all()

    def test_a_single_element_is_its_own_maximum(self):
        np.testing.assert_allclose(encode(np.array([[3.0], [-2.0]], np.float32), 2).decode(), [[3], [-2]], rtol=1e-6)

    def test_nan_and_infinity_are_not_hidden(self):
        g = normal(3, 4)
        g[0, 1], g[2, 3] = np.nan, np.inf
        decoded = encode(g, 4).decode()
        assert not np.isfinite(decoded[[0, 2]]).any() and np.isfinite(decoded[1]).all()

    def test_noise_depends_on_seed_and_draw_alone(self):
        g = normal(4, 500)
        first = encode(g, 4).values
        np.testing.assert_array_equal(encode(g, 4).values, first)
        for other in (encode(g, 4, draw=1), encode(g, 4, seed=1)):
            differing = np.mean(other.values != first)
            assert 0.1 < differing < 0.9

    def test_each_call_takes_the_next_draw(self):
        g = normal(4, 50)
        random.set_state((7, 3))
        values = [DoReFaGradient(4).encode(g).values for _ in range(2)]
        assert random.get_state() == (7, 5)
        for draw in (3, 4):
            np.testing.assert_array_equal(values[draw - 3], encode(g, 4, draw, seed=7).values)

    def test_the_layout_in_memory_does_not_matter(self):
        g = normal(4, 5, 6)
        np.testing.assert_array_equal(encode(np.asfortranarray(g), 4).values, encode(g, 4).values)
