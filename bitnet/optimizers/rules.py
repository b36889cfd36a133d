"""Optimizers: how parameters follow their gradients."""

import numpy as np

from bitnet import execution
from bitnet.functional import ap2
from bitnet.kernels.pointwise import update


class Optimizer:
    """Updates parameters from their gradients; one that has no gradient stays as it is.

    Parameters
    ----------
    parameters : list of Parameter
    lr : learning rate, may be set at any time; multiplied by each parameter's own ``lr_factor``
    weight_decay : L2 penalty, added to each parameter's own ``weight_decay``
    """

    slots = ()  # names of the arrays kept for each parameter

    def __init__(self, parameters, lr, weight_decay=0.0):
        self.parameters, self.lr, self.weight_decay = list(parameters), lr, weight_decay
        if not lr >= 0:
            raise ValueError(f"the learning rate must not be negative, got {lr}")
        self.restart()

    def restart(self):
        """Forget all steps and what was gathered in them: for gradients of another size from now on."""
        self.steps = 0
        self.state = [{slot: np.zeros(parameter.shape, parameter.data.dtype) for slot in self.slots}
                      for parameter in self.parameters]

    @execution.layer("optimizer")
    def step(self):
        """Update every parameter once; what it is subject to (``Parameter.constraint``) follows."""
        self.steps += 1
        for parameter, state in zip(self.parameters, self.state, strict=True):
            if parameter.grad is not None:
                self.step_one(parameter, state)
                if parameter.constraint is not None:
                    parameter.constraint(parameter.data)

    def step_one(self, parameter, state):
        """Update one parameter, which has a gradient."""
        parameter.data = np.ascontiguousarray(parameter.data)  # updated in place, as it lies in memory
        self._update(parameter, parameter.data, state)

    def _update(self, parameter, data, state):
        grad = np.ascontiguousarray(parameter.grad, data.dtype)
        self.update(data, grad, self.lr * parameter.lr_factor, self.weight_decay + parameter.weight_decay, **state)

    def update(self, data, grad, lr, decay, **state):
        """Update one parameter's array in place."""
        raise NotImplementedError

    def zero_grad(self):
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self):
        """Everything that the next step depends on: arrays and numbers by name."""
        arrays = {f"{slot}.{i}": state[slot].copy() for i, state in enumerate(self.state) for slot in self.slots}
        return {"steps": self.steps, "lr": self.lr} | arrays

    def load_state_dict(self, state):
        """Take over a ``state_dict``; ValueError where it is not of this optimizer and these parameters."""
        own = self.state_dict()
        if own.keys() != state.keys() or any(np.shape(own[name]) != np.shape(state[name]) for name in own):
            raise ValueError("the optimizer's state is of another optimizer or of other parameters")
        self.steps, self.lr = int(state["steps"]), float(state["lr"])
        for i, arrays in enumerate(self.state):
            for slot in self.slots:
                arrays[slot][...] = state[f"{slot}.{i}"]


class SGD(Optimizer):
    """Stochastic gradient descent: v = momentum * v + g; w -= lr * v, or with Nesterov's momentum lr * (g + momentum * v)."""

    slots = ("velocity",)

    def __init__(self, parameters, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(parameters, lr, weight_decay)
        self.momentum, self.nesterov = momentum, nesterov

    def update(self, data, grad, lr, decay, velocity):
        update.sgd(data, grad, velocity, lr, self.momentum, self.nesterov, decay)


class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1)."""

    slots = ("mean", "square")

    def __init__(self, parameters, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
        super().__init__(parameters, lr, weight_decay)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def update(self, data, grad, lr, decay, mean, square):
        update.adam(data, grad, mean, square, self.steps, lr, self.beta1, self.beta2, self.eps, decay)


class ShiftAdaMax(Optimizer):
    """Shift-based AdaMax (Courbariaux, Hubara et al., arXiv:1602.02830): every product with a power of two.

        m = beta1 * m + (1 - beta1) * g
        v = AP2(max(beta2 * v, |g|)) + eps
        w -= AP2(lr / (1 - beta1**step)) * m / v

    beta1 = 1 - 2**-3, beta2 = 1 - 2**-10 and lr = 2**-10 are the paper's; the authors' Torch code has 0.9, 0.999 and 2**-6,
    and it is the code that keeps v rounded. ``paper=True`` keeps v as it is and rounds it where it divides.
    """

    slots = ("mean", "largest")

    def __init__(self, parameters, lr=2.0**-10, beta1=1 - 2.0**-3, beta2=1 - 2.0**-10, eps=2.0**-27, weight_decay=0.0,
                 paper=False):
        super().__init__(parameters, lr, weight_decay)
        self.beta1, self.beta2, self.eps, self.paper = beta1, beta2, eps, paper

    def update(self, data, grad, lr, decay, mean, largest):
        rate = float(ap2(lr / (1 - self.beta1**self.steps)))
        update.shift_adamax(data, grad, mean, largest, rate, self.beta1, self.beta2, self.eps, decay, self.paper)


class DST(Adam):
    """Discrete state transition (Deng et al., arXiv:1705.09283): Adam's step as the probability of a jump.

    A ``quantizers.gxnor.DiscreteParameter`` moves in its space by ``GXNORWeight.move`` of the step that Adam would take; only
    Adam's moments are floats. Other parameters (batch norm's) take the step itself. Weight decay does not reach discrete
    weights.
    """

    def step_one(self, parameter, state):
        space = parameter.space
        if space is None:
            super().step_one(parameter, state)
        else:
            step = np.zeros(parameter.shape, np.float32)  # what an update from 0 comes to is the step alone
            self._update(parameter, step, state)
            parameter.places[...] = space.move(parameter.places, step)


def glorot_factor(fan_in, fan_out, power_of_two=False):
    """1 / sqrt(1.5 / (fan_in + fan_out)): BinaryConnect's authors multiply the learning rate of a weight by it.

    ``power_of_two`` rounds it, as the shift-based optimizer of BNN's authors does.
    """
    factor = np.sqrt((fan_in + fan_out) / 1.5)
    return float(ap2(factor) if power_of_two else factor)
