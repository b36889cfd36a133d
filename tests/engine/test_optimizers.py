"""Update rules and schedules against their formulas."""

import numpy as np
import pytest

from bitnet import Parameter
from bitnet.constraints import Centre, Clip, Each
from bitnet.optimizers import SGD, Adam, ExponentialDecay, StepDecay, Steps, Tenths


def parameters():
    rng = np.random.default_rng(0)
    return [Parameter(rng.standard_normal((3, 4)).astype(np.float32)),
            Parameter(rng.standard_normal(5).astype(np.float32), weight_decay=0.1)]


def set_gradients(params, step):
    rng = np.random.default_rng([1, step])
    for p in params:
        p.grad = rng.standard_normal(p.shape).astype(np.float32)


def run(optimizer, params, steps, first=1):
    for step in range(first, first + steps):
        set_gradients(params, step)
        optimizer.step()


def expected_after(steps, update):
    """The parameters by ``update(w, g, step, memory) -> w`` in float64; g includes the weight decay."""
    values = []
    for which, p in enumerate(parameters()):
        w, memory = p.data.astype(np.float64), {}
        for step in range(1, steps + 1):
            params = parameters()
            set_gradients(params, step)
            w = update(w, params[which].grad + (0.01 + p.weight_decay) * w, step, memory)
        values.append(w)
    return values


def assert_updates(optimizer, params, update, steps=4):
    run(optimizer, params, steps)
    for p, expected in zip(params, expected_after(steps, update), strict=True):
        assert p.data.dtype == np.float32
        np.testing.assert_allclose(p.data, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum, nesterov", [(0, False), (0.9, False), (0.9, True)])
def test_sgd(momentum, nesterov):
    def update(w, g, step, memory):
        v = memory["v"] = momentum * memory.get("v", 0) + g
        return w - 0.1 * (g + momentum * v if nesterov else v)

    params = parameters()
    assert_updates(SGD(params, 0.1, momentum, nesterov, weight_decay=0.01), params, update)


def test_adam():
    def update(w, g, step, memory):
        m = memory["m"] = 0.8 * memory.get("m", 0) + 0.2 * g
        v = memory["v"] = 0.95 * memory.get("v", 0) + 0.05 * g * g
        return w - 0.1 * m / (1 - 0.8**step) / (np.sqrt(v / (1 - 0.95**step)) + 1e-3)

    params = parameters()
    assert_updates(Adam(params, 0.1, 0.8, 0.95, 1e-3, weight_decay=0.01), params, update)


def test_adam_with_tensorflows_eps():
    def update(w, g, step, memory):
        m = memory["m"] = 0.8 * memory.get("m", 0) + 0.2 * g
        v = memory["v"] = 0.95 * memory.get("v", 0) + 0.05 * g * g
        return w - 0.1 * np.sqrt(1 - 0.95**step) / (1 - 0.8**step) * m / (np.sqrt(v) + 1e-1)

    params = parameters()
    assert_updates(Adam(params, 0.1, 0.8, 0.95, 1e-1, weight_decay=0.01, epsilon_hat=True), params, update)


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, 0.9), lambda p: Adam(p, 0.1)])
class TestEveryOptimizer:
    def test_a_parameter_has_a_learning_rate_of_its_own(self, make):
        fast, params = parameters(), parameters()
        for p in fast:
            p.lr_factor = 3.0
        optimizer, other = make(fast), make(params)
        other.lr = 3 * optimizer.lr
        run(optimizer, fast, 3)
        run(other, params, 3)
        for p, q in zip(fast, params, strict=True):
            np.testing.assert_allclose(p.data, q.data, rtol=1e-6)

    def test_a_restarted_optimizer_is_as_new(self, make):
        params = parameters()
        optimizer = make(params)
        run(optimizer, params, 3)
        optimizer.restart()
        new = make(params).state_dict()
        assert new.keys() == optimizer.state_dict().keys()
        for name, value in optimizer.state_dict().items():
            np.testing.assert_array_equal(value, new[name])

    def test_a_parameter_without_gradient_stays(self, make):
        params = parameters()
        optimizer = make(params)
        set_gradients(params, 1)
        params[0].grad = None
        before = [p.data.copy() for p in params]
        optimizer.step()
        np.testing.assert_array_equal(params[0].data, before[0])
        assert (params[1].data != before[1]).any()

    def test_updates_are_in_place(self, make):
        params = parameters()
        arrays = [p.data for p in params]
        run(make(params), params, 1)
        assert all(p.data is array for p, array in zip(params, arrays, strict=True))

    def test_a_parameter_in_another_layout_is_updated_too(self, make):
        straight, transposed = parameters()[:1], parameters()[:1]
        transposed[0].data = np.asfortranarray(transposed[0].data)
        for params in (straight, transposed):
            run(make(params), params, 2)
        np.testing.assert_array_equal(transposed[0].data, straight[0].data)

    def test_a_saved_state_continues_as_if_nothing_had_been(self, make):
        through, params = parameters(), parameters()
        run(make(through), through, 6)
        first = make(params)
        run(first, params, 3)
        second = make(params)
        state = first.state_dict()
        second.load_state_dict(state)
        for array in (value for value in state.values() if np.ndim(value)):
            array += 1  # a copy: the optimizer does not notice
        run(second, params, 3, first=4)
        for one, other in zip(params, through, strict=True):
            np.testing.assert_array_equal(one.data, other.data)

    def test_the_learning_rate_can_be_set(self, make):
        params = parameters()
        optimizer = make(params)
        optimizer.lr = 0.0
        before = [p.data.copy() for p in params]
        run(optimizer, params, 2)
        for p, array in zip(params, before, strict=True):
            np.testing.assert_array_equal(p.data, array)
        assert optimizer.state_dict()["lr"] == 0.0

    def test_zero_grad(self, make):
        params = parameters()
        set_gradients(params, 1)
        make(params).zero_grad()
        assert all(p.grad is None for p in params)

    def test_the_state_of_others_is_refused(self, make):
        optimizer = make(parameters())
        for other in (make(parameters()[:1]), make(parameters()[::-1])):
            with pytest.raises(ValueError, match="of another optimizer or of other parameters"):
                optimizer.load_state_dict(other.state_dict())
        with pytest.raises(ValueError, match="of another optimizer"):
            optimizer.load_state_dict({"steps": 0, "lr": 0.1})


@pytest.mark.parametrize("lr", [-0.1, float("nan")])
def test_learning_rates_that_make_no_sense(lr):
    with pytest.raises(ValueError, match="learning rate must not be negative"):
        SGD(parameters(), lr)


def test_step_decay():
    schedule = StepDecay(0.8, 0.5, 3 / 7)  # every 3 of 7 epochs
    assert [schedule(epoch / 7) for epoch in range(7)] == [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2]
    assert StepDecay(0.8)(0.999) == 0.8
    for epochs in range(1, 40):  # whatever the quotients are rounded to
        assert [StepDecay(1.0, 0.5, 6 / epochs)(epoch / epochs) for epoch in range(epochs)] == [
            0.5 ** (epoch // 6) for epoch in range(epochs)]


def test_exponential_decay():
    schedule = ExponentialDecay(1.0, 1e-3)
    assert [schedule(part / 3) for part in range(4)] == pytest.approx([1, 0.1, 0.01, 0.001])
    assert ExponentialDecay(0.5, 0.1)(0) == 0.5
    assert [ExponentialDecay(1.0, 0.01, times=2)(p) for p in (0, 0.25, 0.5)] == pytest.approx([1, 0.1, 1])


def test_tenths():
    assert [Tenths(1.0)(p) for p in (0, 0.49, 0.5, 0.83, 0.84)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_steps():
    schedule = Steps(2e-4, (60 / 90, 0.2), (75 / 90, 0.04))
    rates = [schedule(epoch / 90) for epoch in (0, 59, 60, 74, 75, 89)]
    assert rates == pytest.approx([2e-4, 2e-4, 4e-5, 4e-5, 8e-6, 8e-6])
    assert Steps(0.5)(0.9) == 0.5


def test_constraints_follow_the_optimizers_step():
    w, other = Parameter(np.array([0.5, -0.95, 0.0], np.float32), lr_factor=4.0, constraint=Clip(1.0)), Parameter(
        np.array([5.0], np.float32))
    optimizer = SGD([w, other], lr=0.1)
    w.grad, other.grad = np.array([1.0, 1.0, -0.5], np.float32), np.array([10.0], np.float32)
    optimizer.step()
    np.testing.assert_allclose(w.data, [0.1, -1, 0.2], rtol=1e-6)
    assert other.data.tolist() == [4]
    optimizer.zero_grad()
    before = w.data.copy()
    optimizer.step()  # no gradient, no constraint
    np.testing.assert_array_equal(w.data, before)


def test_centring_and_clipping():
    w = (np.random.default_rng(0).standard_normal((3, 3, 8, 4)) + 0.3).astype(np.float32)
    both = w.copy()
    Centre()(w)
    np.testing.assert_allclose(w.mean(axis=2), 0, atol=1e-6)
    Clip(0.5)(w)
    assert np.abs(w).max() == 0.5
    Each([Centre(), Clip(0.5)])(both)
    np.testing.assert_array_equal(both, w)


@pytest.mark.parametrize("make", [
    lambda: StepDecay(1, 0, 1), lambda: StepDecay(1, -1, 1), lambda: StepDecay(1, 0.5, 0),
    lambda: ExponentialDecay(1, 0.1, 0), lambda: ExponentialDecay(0, 0.1), lambda: ExponentialDecay(1, 0),
])
def test_schedules_that_make_no_sense(make):
    with pytest.raises(ValueError, match="schedule needs"):
        make()
