"""Gradients by finite differences, and a stream of noise of each test's own."""

import numpy as np
import pytest

from bitnet import Tensor, random


@pytest.fixture(autouse=True)
def own_noise():
    """Every test starts from draw 0 of seed 0 and leaves no trace in the next."""
    with random.preserved():
        random.seed(0)
        yield


@pytest.fixture
def gradcheck():
    """Compares backward with central differences.

    One random direction in one input moves all its elements at once, and one random weighting of the outputs sums them up:
    so each comparison of two numbers covers the whole Jacobian.
    """

    def gradcheck(function, *arrays, step=1e-5, tolerance=1e-7, directions=3):
        rng = np.random.default_rng(0)
        tensors = [Tensor(array.astype(np.float64), requires_grad=True) for array in arrays]
        output = function(*tensors)
        weighting = rng.standard_normal(output.shape)
        output.backward(weighting)
        for which, tensor in enumerate(tensors):
            assert tensor.grad.shape == tensor.shape and tensor.grad.dtype == np.float64
            for _ in range(directions):
                direction = rng.standard_normal(tensor.shape)

                def moved(distance, which=which, direction=direction):
                    inputs = [Tensor(t.data + distance * direction if i == which else t.data) for i, t in enumerate(tensors)]
                    return np.sum(function(*inputs).data * weighting)

                numeric = (moved(step) - moved(-step)) / (2 * step)
                size = np.sqrt(np.sum(tensor.grad**2) * np.sum(direction**2))
                assert np.sum(tensor.grad * direction) == pytest.approx(numeric, rel=tolerance, abs=tolerance * size), (
                    f"gradient of input {which}")

    return gradcheck
