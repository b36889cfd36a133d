"""Equally spaced levels whose distance is given."""

import numpy as np
import pytest

from bitnet.kernels.products.geometry import largest_level
from bitnet.quantizers import UniformActivation, UniformWeight
from bitnet.tensor import Tensor

X = np.concatenate([np.random.default_rng(0).normal(0, 2, 300), np.arange(-9, 9) / 4]).astype(np.float32)


@pytest.mark.parametrize(("bits", "encoding", "levels"), [
    (1, "unsigned", [0, 1]), (3, "unsigned", range(8)), (1, "bipolar", [-1, 1]), (2, "bipolar", [-3, -1, 1, 3]),
    (2, "ternary", [-1, 0, 1]), (3, "signed", range(-3, 4)), (2, "signed", [-1, 0, 1]), (4, "signed", range(-7, 8))])
def test_the_nearest_level(bits, encoding, levels):
    levels = np.array(levels) * 0.25
    kinds = [UniformActivation] + [UniformWeight] * (encoding != "unsigned")
    nearest = np.abs(X[:, None] - levels).min(axis=1)
    for kind in kinds:
        x = Tensor(X, requires_grad=True)
        y = kind(bits, encoding, 0.25)(x)
        assert set(np.unique(y.data)) == set(levels.astype(np.float32))
        np.testing.assert_allclose(np.abs(y.data - X), nearest, atol=1e-6)
        y.backward(np.full_like(X, 3))
        np.testing.assert_array_equal(x.grad, 3 * ((X >= levels[0]) & (X <= levels[-1])))


def test_signed_weights_are_a_sum_of_ternary_codes():
    w = np.random.default_rng(1).normal(0, 1, (3, 3, 4, 5)).astype(np.float32)
    codes = UniformWeight(4, "signed", (0.1, 0.2, 0.3, 0.4, 0.5)).encode(w)
    assert len(codes.terms()) == 3 and all(largest_level(term) == 1 for term in codes.terms())
    scale = np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32)
    np.testing.assert_allclose(codes.decode(), np.rint(np.clip(w / scale, -7, 7)) * scale, rtol=1e-6)
    wide = UniformWeight(4, "signed", 0.1, narrow=False).encode(np.float32([-9, 9]))
    np.testing.assert_allclose(wide.decode(), [-0.8, 0.7], rtol=1e-6)


@pytest.mark.parametrize(("kind", "args"), [
    (UniformWeight, (0,)), (UniformWeight, (2, "unsigned")), (UniformWeight, (3, "ternary")), (UniformWeight, (1, "signed")),
    (UniformWeight, (2, "bipolar", 0.0)), (UniformWeight, (2, "bipolar", (1.0, -1.0))), (UniformActivation, (2, "log")),
    (UniformActivation, (2, "unsigned", float("nan"))), (UniformActivation, (2, "unsigned", (1.0, 2.0)))])
def test_other_levels(kind, args):
    with pytest.raises(ValueError, match="got"):
        kind(*args)
