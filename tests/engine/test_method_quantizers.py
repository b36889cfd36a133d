"""The quantizers around DoReFa against hand-computed numbers, forward and backward, and where formulas break down."""

import math

import numpy as np
import pytest

from bitnet import Codes, Parameter, Tensor, execution, layers, quantizers, random
from bitnet import functional as F
from bitnet.kernels.products import reference
from bitnet.kernels.products.geometry import Conv
from bitnet.quantizers import (
    BinaryConnectWeight,
    BitwiseActivation,
    BitwiseWeight,
    BNNActivation,
    BNNWeight,
    BWNWeight,
    DoReFaGradient,
    DoReFaWeight,
    GXNORActivation,
    GXNORWeight,
    NormalizedActivation,
    PixelInput,
    QNNLinear,
    QNNLogarithmic,
    SparseTernaryWeight,
    StaircaseWeight,
    TTQWeight,
    TWNWeight,
    XNORActivation,
    XNORGradient,
    XNORWeight,
)
from bitnet.quantizers.staircase import hardness


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(quantizer, x, g=None, *scales):
    """Values and gradients of x (and of the learned scales) in float64."""
    tensors = [Tensor(np.array(value, np.float64), requires_grad=True) for value in (x, *scales)]
    if scales:
        quantizer.scales = Parameter(tensors[1].data)
        tensors[1] = quantizer.scales
    y = quantizer(tensors[0])
    y.backward(np.ones(y.shape) if g is None else np.array(g, np.float64))
    value = y.codes.decode(np.float64) if y.codes else y.data
    return value, *[tensor.grad for tensor in tensors]


def check(quantizer, x, g, expected, expected_grad):
    value, grad = run(quantizer, x, g)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-12)


# By name

def test_every_name_makes_a_quantizer_and_options_reach_it():
    assert len(set(quantizers.names())) == len(quantizers.names()) >= 20
    for name in quantizers.names():
        assert isinstance(quantizers.get(name), quantizers.Quantizer)
    assert quantizers.get("binaryconnect_stochastic").stochastic and not quantizers.get("binaryconnect").stochastic
    assert quantizers.get("ttq", t=0.1).t == 0.1 and quantizers.get("dorefa_weight", bits=3).bits == 3


def test_unknown_names_and_options_are_one_clear_sentence():
    with pytest.raises(ValueError, match=r"must be one of dorefa_weight, .*, got 'tnw'"):
        quantizers.get("tnw")
    with pytest.raises(ValueError, match=r"'twn' does not take these options: \{'sigma': 2\}"):
        quantizers.get("twn", sigma=2)


DEGENERATE = [np.zeros((2, 3)), np.full((2, 3), 0.7), np.full((2, 3), -0.7), np.array([[0.4]]), np.array([[0.0]]),
              np.array([[-1e30, 1e30]]), np.array([[1e-30, -1e-30]])]


@pytest.mark.parametrize("name", [name for name in quantizers.names() if not name.endswith("_gradient")])
@pytest.mark.parametrize("x", DEGENERATE)
@pytest.mark.filterwarnings("error")
def test_degenerate_inputs_give_numbers(name, x):
    quantizer = quantizers.get(name)
    tensors = [Tensor(x.astype(np.float32), requires_grad=True)]
    if quantizer.scales is not None:
        tensors.append(quantizer.scales)
    y = quantizer(tensors[0])
    y.backward(np.ones(x.shape, np.float32))
    assert np.isfinite(y.data).all() and all(np.isfinite(t.grad).all() for t in tensors)
    assert y.data.dtype == np.float32 and tensors[0].grad.dtype == np.float32 and tensors[0].grad.shape == x.shape
    if y.codes:
        assert y.codes.values.dtype == np.uint8
        assert y.codes.values.max() <= (2 if y.codes.encoding == "ternary" else 2**y.codes.bits - 1)


# Binary-Weight-Networks and XNOR-Net

W = [[0.5, -2.0], [-0.25, 0.0], [0.75, 1.0]]  # 3 inputs, 2 filters
G = [[1.0, 2.0], [3.0, -4.0], [-5.0, 6.0]]
SIGNS = np.array([[1, -1], [-1, 1], [1, 1]])


def test_one_scale_a_layer():
    check(BWNWeight(), W, G, SIGNS * (4.5 / 6), G)


def test_one_scale_a_filter_and_the_papers_gradient():
    alpha, inside = np.array([0.5, 1.0]), np.array([[1, 0], [1, 1], [1, 0]])  # |w| < 1, strictly
    check(XNORWeight(), W, G, SIGNS * alpha, np.array(G) * (1 / 3 + alpha * inside))
    check(XNORWeight("code"), W, G, SIGNS * alpha, np.array(G) * (1 / 3 + alpha * inside) * (1 - 1 / 3) * 3)


def test_the_exact_gradient_is_the_derivative_with_a_soft_sign():
    # with sign(w) replaced by s + w near the point, mean |w| * s has this derivative
    w, g = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 2, 3, 4)), np.random.default_rng(1).standard_normal((2, 2, 3, 4))
    _, grad = run(XNORWeight("exact"), w, g)
    sign, step = np.where(w >= 0, 1, -1), 1e-6

    def value(moved):
        return np.sum(g * np.abs(moved).mean(axis=(0, 1, 2)) * (sign + moved - w))

    for i in [(0, 0, 0, 0), (1, 0, 2, 3), (1, 1, 1, 2)]:
        unit = np.zeros_like(w)
        unit[i] = step
        assert grad[i] == pytest.approx((value(w + unit) - value(w - unit)) / (2 * step), rel=1e-6)


def test_xnors_window_is_open_and_bnns_closed():
    x, g = [-1.5, -1, -0.999, 0, 1, 2], np.arange(1.0, 7)
    check(XNORActivation(), x, g, [-1, -1, -1, 1, 1, 1], [0, 0, 3, 4, 0, 0])
    check(BNNActivation(), x, g, [-1, -1, -1, 1, 1, 1], [0, 2, 3, 4, 5, 0])


def test_xnors_gradient_must_be_a_known_one():
    with pytest.raises(ValueError, match="one of paper, code, exact, got 'best'"):
        XNORWeight("best")


def test_xnors_gradients_are_signs_times_the_largest_magnitude():
    g = np.array([[0.5, -2.0, 0.0, -0.0], [-0.25, 1e-9, -1e-9, 0.1]], np.float32)
    largest = np.array([[2], [0.25]], np.float32)
    codes = XNORGradient().encode(g)
    assert (codes.bits, codes.encoding) == (1, "bipolar")
    np.testing.assert_array_equal(codes.decode(), largest * [[1, -1, 1, 1], [-1, 1, -1, 1]])
    np.testing.assert_array_equal(XNORGradient(keep_zeros=True).encode(g).decode(), largest * np.sign(g))
    with pytest.raises(ValueError, match="zeros are kept in gradients of 1 bit, got 2 bits"):
        XNORGradient(2, keep_zeros=True)


@pytest.mark.parametrize("bits", range(1, 9))
def test_xnors_gradients_of_k_bits(bits):
    n, g = 2**bits - 1, normal(5, 400)
    g[2] = 0
    g[3] = np.repeat(np.linspace(-1, 1, 2**bits), 400 // 2**bits + 1)[:400]  # the levels themselves
    x = g.astype(np.float64) / np.maximum(np.abs(g).max(axis=1, keepdims=True), 1e-30)
    expected = 2 * (np.floor(n * (x + 1) / 2 + 0.5) / n - 0.5) * np.abs(g).max(axis=1, keepdims=True)
    found = XNORGradient(bits).encode(g).decode()
    step = 2 / n
    near = np.abs((x + 1) / step % 1 - 0.5) < 1e-4  # of a half: float32 may round to the other side
    assert near.mean() < 0.3 and (found[2] == 0).all()
    np.testing.assert_allclose(found[~near], expected[~near], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[3], g[3], atol=1e-6 if g[3].max() == 1 else step)


@pytest.mark.parametrize("keep_zeros", [False, True])
def test_xnors_gradients_run_on_integers(keep_zeros):
    x, w, g = normal(2, 6, 7, 5), normal(3, 3, 5, 4, seed=1), normal(2, 6, 7, 4, seed=2)
    g[g < 0.2] *= g[g < 0.2] < -0.2
    results = []
    for family in execution.FAMILIES:
        leaf, weight = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
        with execution.use_kernels(family), execution.log() as records:
            y = F.conv2d(BNNActivation()(leaf), BNNWeight()(weight), padding=1, grad_quantizer=XNORGradient(1, keep_zeros))
            y.backward(g)
        assert [record.family for record in records] == [family] * 3
        results.append((leaf.grad, weight.grad))
    sign = np.sign(g) if keep_zeros else np.where(g >= 0, 1, -1)
    rounded = sign * np.abs(g).max(axis=(1, 2, 3), keepdims=True).astype(np.float64)
    signs = np.where(x >= 0, 1.0, -1.0)
    expected = reference.weight_grad(rounded, signs, CONV).sum(axis=0)
    np.testing.assert_allclose(results[0][1], expected, rtol=1e-5, atol=1e-5)
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


# BinaryConnect and BNN

def test_signs_times_a_magnitude():
    check(BinaryConnectWeight(H=0.5), W, G, SIGNS * 0.5, G)
    check(BNNWeight(), W, G, SIGNS, G)


@pytest.mark.parametrize("quantizer", [BinaryConnectWeight(True), BNNWeight(True), BNNActivation(True)])
def test_stochastic_signs_have_the_probability_of_the_hard_sigmoid(quantizer):
    x = np.repeat([-2, -1, -0.5, 0, 0.3, 1, 2], 20000).reshape(7, 20000).astype(np.float32)
    share = quantizer.encode(x).values.mean(axis=1)
    expected = np.clip((x[:, 0] + 1) / 2, 0, 1)
    deviation = np.sqrt(expected * (1 - expected) / 20000)
    assert (np.abs(share - expected) <= 4 * deviation).all()


def test_a_stochastic_binaryconnect_is_evaluated_with_real_weights_a_stochastic_bnn_with_signs():
    for quantizer, expected in ((BinaryConnectWeight(True), W), (BNNWeight(True), SIGNS), (BNNActivation(True), SIGNS)):
        quantizer.training = False
        state = random.get_state()
        np.testing.assert_array_equal(quantizer(np.array(W)).data, expected)
        assert random.get_state() == state


def test_modules_switch_their_quantizers():
    linear = layers.Linear(3, 2, weight_quantizer=BinaryConnectWeight(True))
    net = layers.Sequential(linear, layers.Activation(BNNActivation(True)))
    net.eval()
    assert not net[0].weight_quantizer.training and not net[1].quantizer.training
    net.train()
    assert net[0].weight_quantizer.training and net[1].quantizer.training


def test_pixels_are_their_own_codes():
    pixels = np.arange(256, dtype=np.uint8)
    codes = PixelInput().encode(pixels.astype(np.float32) / np.float32(256))
    np.testing.assert_array_equal(codes.values, pixels)
    assert (codes.encoding, codes.bits, codes.scale) == ("unsigned", 8, 1 / 256)
    np.testing.assert_array_equal(PixelInput().encode(np.array([-0.1, 1.5])).values, [0, 255])


# TWN and TTQ

def test_twn():
    w = [[0.1, -1.0], [0.5, -0.3], [0.6, 2.0]]  # mean 0.75, Delta 0.525, above it 1, 0.6 and 2: alpha 1.2
    check(TWNWeight(), w, G, [[0, -1.2], [0, 0], [1.2, 1.2]], G)


def test_twn_per_filter():
    w = [[0.1, -1.0], [0.5, -0.3], [0.6, 2.0]]  # means 0.4 and 1.1; Deltas 0.28 and 0.77; alphas 0.55 and 1.5
    check(TWNWeight(per="filter"), w, G, [[0, -1.5], [0.55, 0], [0.55, 1.5]], G)


def test_ttq():
    w = [[2.0, -0.05], [0.1, -0.11], [0.2, -1.0]]  # Delta = 0.1: strictly beyond it are 2, 0.2 | -0.11, -1
    value, grad, scales = run(TTQWeight(), w, G, [1.5, 0.5])
    np.testing.assert_allclose(value, [[1.5, 0], [0, -0.5], [1.5, -0.5]])
    np.testing.assert_allclose(grad, [[1.5 * 1, 2], [3, 0.5 * -4], [1.5 * -5, 0.5 * 6]])
    np.testing.assert_allclose(scales, [1 - 5, -(-4 + 6)])  # the derivative of -W_n is -1
    np.testing.assert_allclose(run(TTQWeight(gradient="paper"), w, G, [1.5, 0.5])[2], [1 - 5, -4 + 6])


def test_ttqs_gradient_of_its_scales_is_the_derivative():
    w, g, scales = normal(3, 3, 4, 5), normal(3, 3, 4, 5, seed=1), np.array([0.7, 1.3])
    grad = run(TTQWeight(t=0.2), w, g, scales)[2]
    for i in range(2):
        moved = [run(TTQWeight(t=0.2), w, g, scales + step * np.eye(2)[i])[0] for step in (1e-3, -1e-3)]
        assert grad[i] == pytest.approx(np.sum(g * (moved[0] - moved[1])) / 2e-3, rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_ttq_with_a_share_of_zeros(share):
    codes = TTQWeight(sparsity=share).encode_and_save(normal(20, 50), np.ones(2))[0]
    assert np.mean(codes.values == 1) == share


def test_a_fixed_share_of_zeros_without_scales():
    w = [[2.0, -0.05], [0.1, -0.3], [0.2, -1.0]]
    check(SparseTernaryWeight(0.5), w, G, [[1, 0], [0, -1], [0, -1]], np.array(G) * (1 - np.tanh(w) ** 2))
    assert (SparseTernaryWeight(0.0).encode(np.array(w)).values != 1).all()
    assert np.mean(SparseTernaryWeight(0.75).encode(normal(20, 50)).values == 1) == 0.75
    with pytest.raises(ValueError, match=r"share of zeros must be in \[0, 1\), got 1"):
        SparseTernaryWeight(1)


def test_layers_hold_the_learned_scales():
    layer = layers.Linear(4, 3, weight_quantizer=TTQWeight(), bias=False)
    assert list(layer.named_parameters()) == ["weight", "weight_quantizer.scales"]
    layer(normal(5, 4)).backward(normal(5, 3, seed=1))
    assert layer.weight_quantizer.scales.grad.shape == (2,) and np.abs(layer.weight_quantizer.scales.grad).min() > 0


# QNN

def test_linear_quantization_to_levels_without_a_zero():
    x, g = [-3, -1, -0.7, -0.5, 0.2, 0.9, 1, 1.1], np.arange(1.0, 9)
    check(QNNLinear(2), x, g, np.array([-3, -3, -3, -1, 1, 3, 3, 3]) / 3, [0, 2, 3, 4, 5, 6, 7, 0])
    codes = QNNLinear(2).encode(np.array(x))
    assert (codes.encoding, codes.bits, codes.scale) == ("bipolar", 2, 1 / 3)
    assert QNNLinear(1).encode(np.array([-0.1, 0.1])).levels().tolist() == [-1, 1]
    check(QNNLinear(2, low=0, high=3), [-1, 0.4, 0.6, 2.5, 7], [1, 1, 1, 1, 1], [0, 0, 1, 2, 3], [0, 1, 1, 1, 0])


def test_linear_quantization_by_the_papers_formula():
    x = [-2, -0.6, -0.2, 0.3, 0.76, 5]
    check(QNNLinear(3, step=0.5), x, np.ones(6), [-1, -0.5, 0, 0.5, 1, 1], [0, 1, 1, 1, 1, 0])
    assert QNNLinear(3, step=0.5)(np.array(x)).codes is None  # five levels around 0
    check(QNNLinear(2, step=1.0), x, np.ones(6), [-1, -1, 0, 0, 1, 1], [0, 1, 1, 1, 1, 0])
    assert QNNLinear(2, step=1.0).encode(np.array(x)).encoding == "ternary"
    check(QNNLinear(2, low=0, step=0.5), x, np.ones(6), [0, 0, 0, 0.5, 1, 1], [0, 0, 0, 1, 1, 0])
    assert QNNLinear(2, low=0, step=0.5).encode(np.array(x)).encoding == "unsigned"


@pytest.mark.parametrize("options", [{"bits": 3}, {"bits": 2, "low": 0}, {"bits": 3, "step": 0.5}, {"bits": 2, "step": 1.0}])
def test_stochastic_linear_quantization_is_right_on_average(options):
    x = np.repeat(np.array([0.11, 0.5, 0.93]), 20000).reshape(3, -1)
    quantizer = QNNLinear(stochastic=True, **options)
    value = quantizer(x).data
    assert (np.abs(value.mean(axis=1) - x[:, 0]) < 0.02).all() and all(len(np.unique(row)) <= 2 for row in value)
    quantizer.training = False
    assert len(np.unique(quantizer(x).data)) <= 3


@pytest.mark.parametrize("options, message", [
    ({"bits": 2, "low": -2}, "low = 0 or -high, got -2 and 1.0"), ({"bits": 2, "high": 0}, "high > 0"),
    ({"bits": 2, "step": 0.1}, "2 to 4 levels"), ({"bits": 2, "step": 3}, "2 to 4 levels"),
    ({"bits": 3, "step": 0.7}, "must meet 1.0"), ({"bits": 2.0}, "1 to 8 bits, got 2.0"),
])
def test_bounds_of_linear_quantization_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        QNNLinear(**options)


def test_powers_of_two_are_exact_and_rounded_in_the_exponent():
    x = np.array([0, 1, -1, 1.41, 1.42, -2.9, 0.7, 0.71, 1e-30, np.inf, 2.0**-140])
    np.testing.assert_array_equal(F.ap2(x[1:-2]), np.sign(x[1:-2]) * 2 ** np.rint(np.log2(np.abs(x[1:-2]))))
    assert F.ap2(x)[[0, 9]].tolist() == [0, np.inf] and F.ap2(x)[-1] == 2.0**-140 and np.isnan(F.ap2(np.nan))
    assert F.ap2(normal(5)).dtype == np.float32


def test_logarithmic_quantization():
    x, g = [-1, 0, 0.02, 0.03, 0.3, 0.8, 1, 1.5], np.arange(1.0, 9)
    value = [0, 0, 0.015625, 0.03125, 0.25, 1, 1, 1]
    check(QNNLogarithmic(3), x, g, value, [0, 2, 3, 4, 5, 6, 7, 0])
    codes = QNNLogarithmic(3).encode(np.array(x))  # 7 powers, 2**0 to 2**-6
    assert (codes.bits, codes.encoding, codes.scale) == (7, "unsigned", 2.0**-6)
    assert codes.values.tolist() == [0, 0, 1, 2, 16, 64, 64, 64]
    check(QNNLogarithmic(3, signed=True), [-3, -0.6, -0.1, 0.2], np.ones(4), [-1, -0.5, 0, 0.25], [0, 1, 1, 1])


def test_stochastic_powers_are_the_two_next_ones():
    x = np.full(20000, 2.0**-1.25)
    value = QNNLogarithmic(3, stochastic=True)(x).data
    assert set(np.unique(value)) == {0.25, 0.5} and np.mean(value == 0.25) == pytest.approx(0.25, abs=0.02)


# GXNOR

def test_ternary_steps_and_their_windows():
    x, g = [-1.2, -1, -0.6, -0.5, 0, 0.4, 0.7, 1.1], np.full(8, 2.0)
    check(GXNORActivation(), x, g, [-1, -1, -1, 0, 0, 0, 1, 1], [0, 2, 2, 2, 2, 2, 2, 0])
    # |x| - r = 0.7, 0.5, 0.1, 0, 0.5, 0.1, 0.2, 0.6 of a = 0.5
    check(GXNORActivation(window="triangular"), x, g, [-1, -1, -1, 0, 0, 0, 1, 1], np.array([0, 0, 0.8, 1, 0, 0.8, 0.6, 0]) * 4)
    check(GXNORActivation(r=1), x, g, [-1, 0, 0, 0, 0, 0, 0, 1], [2, 2, 2, 2, 0, 0, 2, 2])


def test_other_spaces():
    check(GXNORActivation(0), [-0.6, -0.4, 0, 0.5], np.ones(4), [-1, -1, 1, 1], [0, 2, 2, 2])
    # N = 2: {-1, -0.5, 0, 0.5, 1}, steps at 0.5 and 0.75, windows of height 0.5 and width 1 that overlap
    check(GXNORActivation(2), [-0.8, -0.6, 0.1, 0.3, 0.76, 1.1], np.ones(6), [-1, -0.5, 0, 0, 1, 1],
          [1, 1, 0.5, 1, 1, 0.5])
    assert GXNORActivation(2)(np.ones(3)).codes is None and GXNORActivation(1)(np.ones(3)).codes.encoding == "ternary"
    assert GXNORActivation(0)(np.ones(3)).codes.encoding == "bipolar"


@pytest.mark.parametrize("window", ["rectangular", "triangular"])
@pytest.mark.parametrize("N", [0, 1, 2, 3])
def test_windows_have_the_area_of_their_steps(window, N):
    x = np.linspace(-3, 3, 60001)
    _, grad = run(GXNORActivation(N, window=window, a=0.25), x)
    assert np.sum(grad) * 1e-4 == pytest.approx(2, rel=1e-3)  # the staircase climbs from -1 to 1


@pytest.mark.parametrize("N", [0, 1, 2, 3])
def test_a_space_holds_its_numbers(N):
    numbers = np.linspace(-1, 1, 2**N + 1)
    np.testing.assert_array_equal(GXNORWeight(N).places(numbers), range(2**N + 1))
    np.testing.assert_array_equal(Tensor(GXNORWeight(N).at(np.arange(2**N + 1, dtype=np.uint8))).data, numbers)
    assert GXNORWeight(N).places(np.array([-7, 7])).tolist() == [0, 2**N]


@pytest.mark.parametrize("N", [0, 1, 2, 3])
def test_updates_move_by_whole_steps_and_jump_by_chance(N):
    space, dz = GXNORWeight(N), 2.0 ** (1 - N)
    start = np.repeat(np.arange(2**N + 1, dtype=np.uint8), 10000).reshape(-1, 10000)
    for update in (0.3 * dz, -0.3 * dz, 1.2 * dz, -9.0):
        moved = space.move(start, np.full(start.shape, update, np.float32)).astype(int) - start
        for row, place in zip(moved, range(2**N + 1), strict=True):
            rho = np.clip(place * dz - 1 + update, -1, 1) - (place * dz - 1)
            kappa = int(np.float32(rho / dz))  # towards 0
            chance = math.tanh(3 * abs(rho / dz - kappa))
            low, high = sorted((kappa, kappa + int(np.sign(rho))))
            assert ((row >= low) & (row <= high)).all() and (0 <= row + place).all() and (row + place <= 2**N).all()
            if kappa != rho / dz:
                assert np.mean(row != kappa) == pytest.approx(chance, abs=0.02)


def test_no_update_no_move():
    places = np.array([0, 1, 2], np.uint8)
    np.testing.assert_array_equal(GXNORWeight().move(places, np.zeros(3, np.float32)), places)


# Bitwise networks, the staircase, low-precision batch norm

def test_bitwise_weights():
    check(BitwiseWeight(), W, G, SIGNS, G)
    check(BitwiseWeight(0.5), W, G, [[0, -1], [0, 0], [1, 1]], G)  # 0, 0.25 and 0.5 are the smaller half
    assert BitwiseWeight().encode(np.array(W)).encoding == "bipolar"
    assert BitwiseWeight(0.01).encode(np.array(W)).encoding == "ternary"  # rounds to no zeros at all, in the same encoding


def test_bitwise_activations_have_the_gradient_of_tanh():
    x = np.array([-2, 0, 0.5])
    check(BitwiseActivation(), x, np.ones(3), [-1, 1, 1], 1 / np.cosh(x) ** 2)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_the_staircase_ends_as_dorefa(bits):
    w, g = normal(4, 5), normal(4, 5, seed=1)
    hard = run(DoReFaWeight(bits), w, g)
    soft = [run(StaircaseWeight(bits, c), w, g) for c in (1.0, 30.0, 1000.0, math.inf)]
    distance = [np.abs(value - hard[0]).mean() for value, _ in soft]
    assert distance[0] > distance[1] >= distance[2] >= distance[3] == 0
    for _, grad in soft:
        np.testing.assert_allclose(grad, hard[1], rtol=1e-6)  # the identity, whatever c
    assert StaircaseWeight(bits, math.inf)(w).codes is not None and StaircaseWeight(bits, 5.0)(w).codes is None


def test_a_staircase_by_hand():
    w = np.array([[0.5, -1.5]])  # E = 1
    check(StaircaseWeight(c=2.0), w, [[1, 1]], [[math.tanh(1) / math.tanh(2), -1]], [[1, 1]])
    slope = [2 / math.tanh(2) / math.cosh(1) ** 2, 0]
    np.testing.assert_allclose(run(StaircaseWeight(c=2.0, backward="match"), w)[1], [slope])
    np.testing.assert_allclose(run(StaircaseWeight(c=200.0, backward="clip"), np.array([[1e-3, -1.999]]))[1], [[1.5, 0]])


@pytest.mark.parametrize("spacing", ["geometric", "distance", "equal"])
def test_hardness_rises_from_end_to_end(spacing):
    values = [hardness(p, spacing=spacing) for p in np.linspace(0, 1, 11)]
    assert values[0] == pytest.approx(1) and values[-1] == pytest.approx(1000) and (np.diff(values) > 0).all()


def test_equal_spacing_changes_the_curve_equally():
    x, c = np.linspace(-1, 1, 4001), [hardness(p, spacing="equal") for p in np.linspace(0, 1, 41)]
    curves = np.tanh(np.multiply.outer(c, x)) / np.tanh(c)[:, None]
    moved = np.sqrt(np.mean(np.diff(curves, axis=0) ** 2, axis=1))
    assert moved.max() < 1.3 * moved.min()


def test_distance_from_the_first_curve_grows_evenly():
    x, c = np.linspace(-1, 1, 4001), [hardness(p, spacing="distance") for p in np.linspace(0, 1, 11)]
    curves = np.tanh(np.multiply.outer(c, x)) / np.tanh(c)[:, None]
    far = np.mean((curves - curves[0]) ** 2, axis=1)
    np.testing.assert_allclose(far / far[-1], np.linspace(0, 1, 11), atol=2e-3)


def test_normalized_activations():
    check(NormalizedActivation(1), [-3, -0.1, 0, 9], np.ones(4), [-1, -1, 1, 1], np.ones(4))
    check(NormalizedActivation(2), [-3, -0.1, 0, 1.2], np.ones(4), [-1.5, -0.5, 0.5, 1.5], np.ones(4))
    check(NormalizedActivation(2, mask=True), [-3, -2, 1.9, 2], np.ones(4), [-1.5, -1.5, 1.5, 1.5], [0, 1, 1, 0])
    assert NormalizedActivation(4).encode(np.array([0.3])).encoding == "bipolar"


# Codes and their products

def test_codes_with_scales_for_filters_and_signs():
    values = np.array([[0, 1, 2], [2, 0, 1]], np.uint8)
    filters = Codes(values, 2, "ternary", np.array([1.0, 2.0, 3.0]), per="filter")
    np.testing.assert_array_equal(filters.decode(), [[-1, 0, 3], [1, -2, 0]])
    signs = Codes(values, 2, "ternary", np.array([2.0, 0.5]), per="sign")
    np.testing.assert_array_equal(signs.decode(), [[-0.5, 0, 2], [2, -0.5, 0]])
    assert signs.with_values(values[:1]).per == "sign"


CONV = Conv(5, 4, (3, 3), (1, 1), ((1, 1), (1, 1)))
BINARY = ["bwn", "bwn_filter", "binaryconnect", "bnn_weight", "bitwise_weight"]
TERNARY = ["twn", "ttq", "gxnor_weight"]
INPUTS = ["bnn_activation", "pixels", "dorefa_activation", "qnn_linear", "qnn_logarithmic", "gxnor_activation"]


def encoded(name, array):
    quantizer = quantizers.get(name)
    return quantizer.encode_and_save(array, *[np.array([0.75, 1.25])] * (quantizer.scales is not None))[0]


@pytest.mark.parametrize("weight", BINARY + TERNARY)
@pytest.mark.parametrize("activation", INPUTS)
def test_layers_run_on_integers_the_same_on_all_families(weight, activation):
    x, w = encoded(activation, normal(2, 6, 7, 5)), encoded(weight, 0.6 * normal(3, 3, 5, 4, seed=1))
    g = DoReFaGradient(4).encode(normal(2, 6, 7, 4, seed=2))
    expected = reference.forward(x.decode(np.float64), w.decode(np.float64), CONV)
    whole = w if w.one_scale or w.per == "sign" else w.with_values(w.values, scale=1.0)
    expected_grad = reference.input_grad(g.decode(np.float64), whole.decode(np.float64), CONV, (6, 7))
    expected_w = reference.weight_grad(g.decode(np.float64), x.decode(np.float64), CONV).sum(axis=0)
    results = {}
    for family in execution.FAMILIES:
        with execution.use_kernels(family), execution.log() as records:
            results[family] = (execution.forward(x, w, CONV), execution.input_grad(g, whole, CONV, (6, 7)),
                               execution.weight_grad(g, x, CONV))
        assert {record.family for record in records} == {family}
    for result, wanted in zip(results["popcount"], (expected, expected_grad, expected_w), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)
    for family in ("byte_dot", "float"):
        for one, other in zip(results[family], results["popcount"], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_scale_for_each_filter_goes_into_the_gradient_before_it_is_quantized():
    x, w, g = normal(2, 6, 7, 5), normal(3, 3, 5, 4, seed=1), normal(2, 6, 7, 4, seed=2)
    w *= np.array([1, 10, 100, 1000], np.float32)
    leaf = Tensor(x, requires_grad=True)
    with execution.log() as records:
        F.conv2d(BNNActivation()(leaf), XNORWeight()(w), padding=1, grad_quantizer=DoReFaGradient(8)).backward(g)
    assert {r.role: r.family for r in records}["input_grad"] != "float32"
    assert {r.role: r.bits for r in records}["input_grad"] == (8, 1)
    alpha = np.abs(w).mean(axis=(0, 1, 2))
    exact = reference.input_grad((g * alpha).astype(np.float64), np.where(w >= 0, 1.0, -1.0), CONV, (6, 7))
    error = np.abs(leaf.grad - exact * (np.abs(x) <= 1))
    assert 0 < error.max() < 0.05 * np.abs(exact).max()


def test_quantized_gradients_cannot_meet_a_scale_for_each_filter_later():
    w = XNORWeight().encode(normal(3, 3, 5, 4))
    with pytest.raises(ValueError, match="needs a weight with one scale, got one for each filter"):
        execution.input_grad(DoReFaGradient(4).encode(normal(2, 6, 7, 4)), w, CONV, (6, 7))


@pytest.mark.parametrize("codes", [
    Codes(np.array([[0, 1] * 500], np.uint8), 1, "bipolar", 1.0),
    Codes(np.array([[0, 1, 2, 1] * 250], np.uint8), 2, "ternary", 2.0)])
def test_dropout_of_signs_and_ternary_codes(codes):
    y = F.dropout(Tensor(codes), 0.25)
    assert y.codes.encoding == "ternary" and y.codes.scale == codes.scale / 0.75
    kept = y.codes.levels() != 0
    np.testing.assert_array_equal(y.codes.levels()[kept], codes.levels()[kept])
    assert np.mean(kept[codes.levels() != 0]) == pytest.approx(0.75, abs=0.06)
