"""Values of operations, and what they refuse."""

import numpy as np
import pytest

from bitnet import Tensor, random
from bitnet import functional as F


def normal(*shape):
    return Tensor(np.random.default_rng(0).standard_normal(shape))


@pytest.mark.parametrize("size, kernel, stride, expected", [
    (18, 3, 1, (1, 1)), (18, 2, 1, (0, 1)), (5, 3, 2, (1, 1)), (6, 3, 2, (0, 1)), (7, 1, 3, (0, 0)), (9, 4, 1, (1, 2)),
])
def test_same_padding(size, kernel, stride, expected):
    assert F.same_padding(size, kernel, stride) == expected
    assert (size + sum(expected) - kernel) // stride + 1 == -(-size // stride)


@pytest.mark.parametrize("padding, shape", [
    (0, (2, 6, 7, 4)), (1, (2, 8, 9, 4)), ((1, 0), (2, 8, 7, 4)), (((0, 1), (2, 3)), (2, 7, 12, 4)), ("same", (2, 8, 9, 4)),
])
def test_ways_to_say_padding(padding, shape):
    assert F.conv2d(normal(2, 8, 9, 3), normal(3, 3, 3, 4), padding=padding).shape == shape


@pytest.mark.parametrize("call, message", [
    (lambda: F.conv2d(normal(8, 9, 3), normal(3, 3, 3, 4)), "takes images"),
    (lambda: F.conv2d(normal(2, 8, 9, 3), normal(3, 3, 2, 4)), r"must have shape \(3, 3, 3, 4\)"),
    (lambda: F.conv2d(normal(2, 8, 9, 3), normal(3, 3, 3, 4), groups=2), "groups=2 must divide"),
    (lambda: F.conv2d(normal(2, 2, 9, 3), normal(3, 3, 3, 4)), "does not fit"),
    (lambda: F.conv2d(normal(2, 8, 9, 3), normal(3, 3, 3, 4), padding="valid"), 'padding must be "same"'),
    (lambda: F.conv2d(normal(2, 8, 9, 3), normal(3, 3, 3, 4), padding=-1), "must not be negative"),
    (lambda: F.conv2d(normal(2, 8, 9, 3), normal(3, 3, 3, 4), stride=0), "must be positive|division"),
    (lambda: F.linear(normal(2, 8), normal(7, 4)), r"takes an input \(N, 7\)"),
    (lambda: F.max_pool(normal(2, 8, 9, 3), 9), "does not fit shape"),
    (lambda: F.max_pool(normal(2, 8, 9, 3), 2, 0), "does not fit shape"),
    (lambda: F.avg_pool(normal(2, 8, 9, 3), 2, 2, 2), "does not fit shape"),
    (lambda: F.avg_pool(normal(2, 8), 2), "does not fit shape"),
    (lambda: F.dropout(normal(2, 8), 1.0), "the share to drop"),
    (lambda: F.dropout(normal(2, 8), -0.1), "the share to drop"),
    (lambda: F.softmax_cross_entropy(normal(2, 8), np.array([1, 2, 3])), "integer labels"),
    (lambda: F.softmax_cross_entropy(normal(2, 8), np.array([1.0, 2.0])), "integer labels"),
    (lambda: F.squared_hinge(normal(2, 8, 1), np.array([1, 2])), "integer labels"),
])
def test_what_operations_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_average_pooling_counts_padding_as_zeros():
    x = Tensor(np.ones((1, 4, 4, 1)))
    assert F.avg_pool(x, 2).data.ravel().tolist() == [1, 1, 1, 1]
    assert F.avg_pool(x, 2, 2, 1).data[0, 0, :, 0].tolist() == [0.25, 0.5, 0.25]


@pytest.mark.parametrize("size", [15, 16])
def test_the_gradient_of_a_large_pooling_window_goes_to_its_maximum(size):
    x = Tensor(np.zeros((1, size, size, 1), np.float32), requires_grad=True)
    x.data[0, -1, -1] = 1
    F.max_pool(x, size).sum().backward()
    np.testing.assert_array_equal(x.grad, x.data)


def test_a_larger_pooling_window_than_a_byte_can_number_is_refused():
    with pytest.raises(ValueError, match="at most 16"):
        F.max_pool(Tensor(np.zeros((1, 17, 17, 1), np.float32)), 17)


def test_batch_statistics_of_a_large_mean():
    x = (1e4 + np.random.default_rng(0).standard_normal((64, 5, 5, 3))).astype(np.float32)
    mean, var = F.batch_statistics(x)
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(var, x.var(axis=(0, 1, 2), dtype=np.float64), rtol=1e-6)


def test_batch_norm_is_its_formula():
    x, gamma, beta = normal(4, 5, 6, 3), normal(3), normal(3)
    mean, var = np.array([1.0, 2, 3]), np.array([0.5, 0, 2])
    y = F.batch_norm(x, gamma, beta, mean, var, eps=0.01).data
    np.testing.assert_allclose(y, gamma.data * (x.data - mean) / np.sqrt(var + 0.01) + beta.data, rtol=1e-12, atol=1e-12)


def test_a_constant_channel_stays_finite():
    x = Tensor(np.full((8, 3, 3, 2), 7.0, np.float32), requires_grad=True)
    y = F.batch_norm(x, Tensor(np.ones(2, np.float32)), Tensor(np.zeros(2, np.float32)), *F.batch_statistics(x.data),
                     training=True)
    y.sum().backward()
    np.testing.assert_allclose(y.data, 0, atol=1e-3)
    assert np.isfinite(x.grad).all()


def test_dropout_keeps_the_mean():
    x = Tensor(np.ones((200, 500), np.float32))
    y = F.dropout(x, 0.3).data
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
    assert abs(y.mean() - 1) < 5 * np.sqrt(0.3 / 0.7 / y.size)


def test_dropout_takes_a_draw_of_its_own_each_time():
    x = Tensor(np.ones((200, 500), np.float32))
    first, second = F.dropout(x, 0.5).data, F.dropout(x, 0.5).data
    assert random.get_state() == (0, 2)
    assert 0.45 < np.mean(first != second) < 0.55


def test_losses_are_their_formulas():
    logits, labels = normal(5, 4), np.array([0, 3, 3, 1, 2])
    p = np.exp(logits.data) / np.exp(logits.data).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(F.softmax(logits.data), p, rtol=1e-12)
    assert F.softmax_cross_entropy(logits, labels).data == pytest.approx(-np.log(p[np.arange(5), labels]).mean())
    targets = 2 * np.eye(4)[labels] - 1
    assert F.squared_hinge(logits, labels).data == pytest.approx((np.maximum(0, 1 - targets * logits.data) ** 2).mean())


@pytest.mark.parametrize("label", [-1, 10])
@pytest.mark.parametrize("loss", [F.softmax_cross_entropy, F.squared_hinge])
def test_labels_that_there_are_not(loss, label):
    # -1 was class 9, as an index counts from the end
    with pytest.raises(ValueError, match=rf"labels of 10 classes are 0 to 9, got {label}$"):
        loss(Tensor(np.zeros((2, 10), np.float32)), np.array([3, label]))


def test_huge_logits_do_not_overflow():
    logits = Tensor(np.array([[1e4, -1e4], [0, 3e38]], np.float32), requires_grad=True)
    loss = F.softmax_cross_entropy(logits, np.array([0, 1]))
    loss.backward()
    assert loss.data == 0 and np.isfinite(logits.grad).all()


def test_nan_is_not_hidden():
    x = Tensor(np.array([[np.nan, 1.0]], np.float32))
    assert np.isnan(F.relu(x).data[0, 0]) and np.isnan(F.clip(x).data[0, 0])
    assert np.isnan(F.softmax_cross_entropy(x, np.array([1])).data)


def test_operations_take_arrays_that_are_not_contiguous():
    x = Tensor(np.random.default_rng(0).standard_normal((3, 7, 6, 2)).transpose(3, 1, 2, 0), requires_grad=True)
    straight = Tensor(np.ascontiguousarray(x.data), requires_grad=True)
    weight, one = normal(3, 3, 3, 4), Tensor(np.ones(3))

    def network(x):
        y = F.batch_norm(F.relu(F.clip(x, -1, 1)), one, one, *F.batch_statistics(x.data), training=True)
        return F.conv2d(F.avg_pool(F.max_pool(y, 2, 1), 2, 1), weight)

    results = []
    for tensor in (x, straight):
        y = network(tensor)
        y.backward(np.random.default_rng(1).standard_normal(y.shape[::-1]).T)
        results.append((y.data, tensor.grad))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
