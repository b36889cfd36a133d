"""Gradients of every smooth operation against finite differences in float64."""

import numpy as np
import pytest

from bitnet import functional as F
from bitnet import random
from bitnet.tensor import Function


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def spread(*shape):
    """Numbers that all differ by 0.01 at least, none nearer to 0 or 1 than 0.004: no ties, no kinks."""
    size = int(np.prod(shape))
    return (np.random.default_rng(0).permutation(size).reshape(shape) - size // 2) * 0.01 + 0.005


class Cube(Function):
    """x**3, with a chosen factor in the gradient: 3 is right."""

    def forward(self, x, factor):
        self.x, self.factor = x, factor
        return x**3

    def backward(self, grad_output):
        return self.factor * self.x**2 * grad_output


def test_a_wrong_gradient_is_noticed(gradcheck):
    gradcheck(lambda x: Cube.apply(x, factor=3), normal(3, 4))
    with pytest.raises(AssertionError, match="gradient of input 0"):
        gradcheck(lambda x: Cube.apply(x, factor=3.00001), normal(3, 4))


CONVOLUTIONS = [
    ((2, 5, 6, 3), (3, 2, 3, 4), {}),
    ((2, 5, 6, 3), (3, 3, 3, 4), {"padding": "same"}),
    ((2, 7, 6, 3), (3, 2, 3, 4), {"stride": 2, "padding": "same"}),
    ((1, 6, 7, 2), (2, 3, 2, 5), {"stride": (3, 2), "padding": ((1, 0), (2, 1))}),
    ((2, 4, 4, 6), (3, 3, 2, 9), {"padding": 1, "groups": 3}),
    ((3, 4, 5, 2), (4, 5, 2, 6), {}),
    ((2, 5, 5, 4), (1, 1, 4, 3), {"stride": 2}),
]


@pytest.mark.parametrize("x, w, options", CONVOLUTIONS)
def test_conv2d(gradcheck, x, w, options):
    gradcheck(lambda x, w: F.conv2d(x, w, **options), normal(*x), normal(*w))
    gradcheck(lambda x, w, b: F.conv2d(x, w, b, **options), normal(*x), normal(*w), normal(w[-1]))


def test_linear(gradcheck):
    gradcheck(F.linear, normal(4, 7), normal(7, 3))
    gradcheck(F.linear, normal(4, 7), normal(7, 3), normal(3))


@pytest.mark.parametrize("shape", [(6, 3), (2, 4, 5, 3)])
def test_batch_norm_in_training(gradcheck, shape):
    def through_statistics(x, gamma, beta):
        return F.batch_norm(x, gamma, beta, *F.batch_statistics(x.data), training=True)

    gradcheck(through_statistics, 3 * normal(*shape) + 1, normal(3, seed=1), normal(3, seed=2), tolerance=1e-6)


def test_batch_norm_in_evaluation(gradcheck):
    mean, var = normal(3, seed=3), normal(3, seed=4) ** 2
    gradcheck(lambda x, gamma, beta: F.batch_norm(x, gamma, beta, mean, var), normal(2, 4, 5, 3), normal(3, seed=1),
              normal(3, seed=2))


@pytest.mark.parametrize("size, stride, padding", [(2, None, 0), (3, 2, 1), (3, 1, 0), (2, 3, 0),
                                                   (3, 2, "same"), (2, 2, ((1, 0), (0, 1)))])
@pytest.mark.parametrize("pool", [F.avg_pool, F.max_pool])
def test_pooling(gradcheck, pool, size, stride, padding):
    gradcheck(lambda x: pool(x, size, stride, padding), spread(2, 7, 8, 3), step=1e-4)


def test_sums_of_windows(gradcheck):
    x = normal(2, 6, 4, 3)
    np.testing.assert_allclose(F.avg_pool(x, 2, total=True).data, 4 * F.avg_pool(x, 2).data)
    gradcheck(lambda x: F.avg_pool(x, 2, total=True), x)


def test_standardized_pixels(gradcheck):
    x = normal(2, 3, 4, 3)
    y = F.standardize(x, (10, 20, 30), (2.0, 4, 8), (2, 0, 1)).data
    np.testing.assert_allclose(y, (256 * x[..., [2, 0, 1]] - [10, 20, 30]) / [2, 4, 8], rtol=1e-6)
    gradcheck(lambda x: F.standardize(x, (10, 20, 30), (2.0, 4, 8), (2, 0, 1)), x, tolerance=1e-6)
    gradcheck(lambda x: F.standardize(x, order=(1, 2, 0)), x)


def test_clip_and_relu(gradcheck):
    gradcheck(F.relu, spread(20, 20), step=1e-4)
    gradcheck(F.clip, spread(20, 20), step=1e-4)
    gradcheck(lambda x: F.clip(x, -0.5, 1.2), spread(20, 20), step=1e-4)


@pytest.mark.parametrize("a, b", [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (2, 1, 4)), ((1,), (5, 2)), ((2, 3), ())])
def test_arithmetic_with_broadcasting(gradcheck, a, b):
    gradcheck(lambda a, b: a + b, normal(*a), normal(*b, seed=1))
    gradcheck(lambda a, b: a * b, normal(*a), normal(*b, seed=1))


def test_arithmetic_with_numbers(gradcheck):
    gradcheck(lambda a: 2 * a + 1 + a * 3, normal(3, 4))


def test_reshape_and_sum(gradcheck):
    gradcheck(lambda x: x.reshape(6, 4) * x.reshape(6, 4), normal(2, 3, 4))
    gradcheck(lambda x: (x * x).sum(), normal(2, 3, 4))


@pytest.mark.parametrize("loss", [F.softmax_cross_entropy, F.squared_hinge])
def test_losses(gradcheck, loss):
    labels = np.array([0, 3, 3, 1, 2])
    gradcheck(lambda logits: loss(logits, labels), 2 * normal(5, 4))


def test_dropout_with_the_same_draw(gradcheck):
    def dropout(x):
        random.seed(5)
        return F.dropout(x, 0.3)

    gradcheck(dropout, normal(10, 20))


def test_a_whole_network(gradcheck):
    def network(x, w0, gamma, beta, w1):
        y = F.max_pool(F.conv2d(x, w0, padding="same"), 2)
        y = F.batch_norm(y, gamma, beta, *F.batch_statistics(y.data), training=True)
        return F.softmax_cross_entropy(F.linear((y * y).reshape(4, 45), w1), np.array([0, 1, 2, 0]))

    gradcheck(network, normal(4, 6, 6, 2), normal(3, 3, 2, 5), 1 + normal(5, seed=1) / 9, normal(5, seed=2), normal(45, 3),
              step=1e-6, tolerance=1e-6)
