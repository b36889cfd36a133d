"""The graph: order, sums, memory, and what it refuses."""

import weakref

import numpy as np
import pytest

from bitnet import Codes, Tensor, no_grad
from bitnet.tensor import Function, is_recording


def leaf(*values):
    return Tensor(np.array(values, np.float64), requires_grad=True)


def test_a_shared_subexpression_counts_as_often_as_it_is_used():
    x = leaf(2.0, -3.0)
    (x * x + x * x * x + x).sum().backward()
    assert x.grad.tolist() == [2 * 2 + 3 * 4 + 1, -2 * 3 + 3 * 9 + 1]


class Counted(Function):
    """The identity, counting its backward passes."""

    def forward(self, x, calls):
        self.calls = calls
        return x + 0

    def backward(self, grad_output):
        self.calls.append(grad_output.copy())
        return grad_output


def test_a_diamond_is_walked_once_its_gradients_are_complete():
    calls = []
    x = leaf(3.0)
    middle = Counted.apply(x, calls=calls)
    left, right = middle * 2, middle * 5
    (left * right + middle).sum().backward()
    assert [call.tolist() for call in calls] == [[2 * 10 * 3 + 1]]
    assert x.grad.tolist() == [61]


def test_branches_of_different_depth_wait_for_each_other():
    calls = []
    x = leaf(1.0)
    middle = Counted.apply(x, calls=calls)
    deep = middle
    for _ in range(5):
        deep = deep * 2
    (middle + deep).sum().backward()  # the short branch comes first in the graph
    assert len(calls) == 1 and x.grad.tolist() == [33]


def test_depth_is_not_limited_by_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(5000):
        y = y + 1
    y.sum().backward()
    assert x.grad.tolist() == [1]


def test_gradients_add_up_over_passes():
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    (x * x).sum().backward()
    assert x.grad.tolist() == [5, 7]


def test_two_leaves_of_one_sum_do_not_share_what_is_added_later():
    a, b = leaf(1.0), leaf(2.0)
    (a + b).sum().backward()
    (a * 10).sum().backward()
    assert a.grad.tolist() == [11] and b.grad.tolist() == [1]


def test_only_what_requires_a_gradient_gets_one():
    x, constant = leaf(2.0), Tensor(np.array([5.0]))
    inner = x * constant
    inner.sum().backward()
    assert constant.grad is None and inner.grad is None and x.grad.tolist() == [5]
    assert not (constant * constant).requires_grad


def test_backward_frees_what_the_graph_kept():
    x = leaf(1.0, 2.0)
    inner = x * 3
    loss = (inner * inner).sum()
    kept = [weakref.ref(inner), weakref.ref(inner.data)]
    del inner
    assert all(one() is not None for one in kept)
    loss.backward()
    assert all(one() is None for one in kept)  # at once, not when the garbage collector comes round
    assert loss.data == 45


def test_a_second_backward_is_refused():
    x = leaf(1.0)
    shared = x * 2
    loss, other = (shared * shared).sum(), shared.sum()
    loss.backward()
    for again in (loss, other):
        with pytest.raises(RuntimeError, match="second time"):
            again.backward()
    assert x.grad.tolist() == [8]  # and changes nothing


def test_no_grad_builds_nothing():
    x = leaf(1.0)
    with no_grad():
        assert not is_recording()
        y = x * x
        with no_grad():
            pass
        assert not is_recording()
    assert is_recording() and not y.requires_grad
    kept = weakref.ref(x)
    del x
    assert kept() is None  # y does not hold on to what it was computed from
    with pytest.raises(RuntimeError, match="not computed from anything that requires a gradient"):
        y.backward()


def test_no_grad_ends_with_an_error_too():
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert is_recording()


def test_detach_ends_the_graph():
    x = leaf(3.0)
    y = (x * x).detach()
    assert not y.requires_grad and y.data.tolist() == [9]
    (y * x).sum().backward()
    assert x.grad.tolist() == [9]


def test_several_values_need_the_gradient_of_their_shape():
    y = leaf(1.0, 2.0) * 2
    with pytest.raises(ValueError, match=r"shape \(2,\) needs the gradient"):
        y.backward()
    with pytest.raises(ValueError, match=r"must have the tensor's shape \(2,\), got \(3,\)"):
        y.backward(np.ones(3))
    y.backward(np.array([1.0, 10.0]))


def test_float32_stays_float32():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    y = ((x * 2 + 1) * 0.5).sum()
    y.backward()
    assert y.data.dtype == x.grad.dtype == np.float32


def codes():
    return Codes(np.array([[0, 1, 3], [2, 2, 0]], np.uint8), 2, "unsigned", 1 / 3)


def test_a_tensor_of_codes_has_a_float_view_only_when_asked():
    x = Tensor(codes())
    assert x.shape == (2, 3) and len(x) == 2 and "2-bit unsigned codes" in repr(x)
    assert x.raw is x.codes and x._data is None
    np.testing.assert_array_equal(x.data, np.array([[0, 1 / 3, 1], [2 / 3, 2 / 3, 0]], np.float32))
    assert x.data is x.data and x.codes is not None


def test_assigned_data_replaces_codes():
    x = Tensor(codes())
    x.data = np.zeros(2, np.float32)
    assert x.codes is None and x.shape == (2,)


@pytest.mark.parametrize("encoding, levels", [("unsigned", [0, 1, 2, 3]), ("bipolar", [-3, -1, 1, 3])])
def test_codes_stand_for_numbers(encoding, levels):
    scales = np.array([0.5, 0.25])
    both = Codes(np.array([[0, 1, 2, 3]] * 2, np.uint8), 2, encoding, scales)
    assert both.levels().tolist() == [levels] * 2
    np.testing.assert_array_equal(both.decode(), np.float32(np.array([levels] * 2) * scales[:, None]))
    single = both.with_values(both.values[:1], 2.0)
    np.testing.assert_array_equal(single.decode(np.float64), [[2.0 * level for level in levels]])


@pytest.mark.parametrize("operation", [
    lambda a, b: a - b, lambda a, b: a / b, lambda a, b: -a + b, lambda a, b: 2.0 - a * b, lambda a, b: 1.0 / (a * a + b),
    lambda a, b: (a * b).mean() + a.sum() * 0.0 + b.mean(),
])
def test_gradients_of_arithmetic(gradcheck, operation):
    rng = np.random.default_rng(0)
    gradcheck(operation, rng.standard_normal((3, 4)), rng.uniform(1, 2, (1, 4)))


def test_gradients_of_matrix_products_and_indexing(gradcheck):
    rng = np.random.default_rng(0)
    gradcheck(lambda a, b: a @ b, rng.standard_normal((3, 4)), rng.standard_normal((4, 2)))
    gradcheck(lambda a: a[1:, ::2] * a[0, 1], rng.standard_normal((3, 4)))
    gradcheck(lambda a: a[np.array([0, 0, 2])], rng.standard_normal((3, 4)))  # a place taken twice


def test_an_array_on_the_left_makes_a_tensor_and_no_array_of_objects():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    left = np.full((2, 3), 2, np.float32)
    for y, expected in ((left + x, 3), (left - x, 1), (left * x, 2), (left / x, 2)):
        assert isinstance(y, Tensor) and (y.data == expected).all() and y.data.dtype == np.float32
    assert (np.ones((4, 2), np.float32) @ x).shape == (4, 3)
    with pytest.raises(TypeError, match="tensors, numbers and arrays of numbers, got str"):
        x + "1"
    with pytest.raises(ValueError, match=r"@ takes matrices .* got shapes \(2, 3\) and \(2, 3\)"):
        x @ x
