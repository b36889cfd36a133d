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
    lr : learning rate, not negative, may be set at any time; multiplied by each parameter's own ``lr_factor``
    weight_decay : L2 penalty, added to each parameter's own ``weight_decay``
    """

    slots = ()  # names of the arrays kept for each parameter

    def __init__(self, parameters, lr, weight_decay=0.0):
        self.parameters, self.lr, self.weight_decay = list(parameters), lr, weight_decay
        if not lr >= 0:
            raise ValueError(f"the learning rate must not be negative, got {lr}")
        self.restart()

    def restart(self):
        """Forget all steps and the averages of their gradients: from here on gradients are of another size."""
        self.steps = 0
        self.state = [{slot: np.zeros(parameter.shape, parameter.data.dtype) for slot in self.slots}
                      for parameter in self.parameters]

    @execution.layer("optimizer")
    def step(self):
        """Update every parameter once; what it is subject to (``Parameter.constraint``) follows."""
        self.steps += 1
        moving = [pair for pair in zip(self.parameters, self.state, strict=True) if pair[0].grad is not None]
        arrays = [self.target(parameter) for parameter, _ in moving]
        self.move([(array, np.ascontiguousarray(parameter.grad, array.dtype), self.lr * parameter.lr_factor,
                    self.weight_decay + parameter.weight_decay, state)
                   for array, (parameter, state) in zip(arrays, moving, strict=True)])
        for array, (parameter, _) in zip(arrays, moving, strict=True):
            self.settle(parameter, array)
            if parameter.constraint is not None:
                parameter.constraint(parameter.data)

    def target(self, parameter):
        """The array that is updated in place for a parameter: its own numbers."""
        parameter.data = np.ascontiguousarray(parameter.data)
        return parameter.data

    def settle(self, parameter, array):
        """Whatever a parameter makes of its updated ``target``."""

    def move(self, entries):
        """Update arrays in place: a list of (array, gradient, learning rate, penalty, state)."""
        for array, grad, lr, decay, state in entries:
            self.update(array, grad, lr, decay, **state)

    def update(self, data, grad, lr, decay, **state):
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
    """Stochastic gradient descent: v = momentum * v + g; w -= lr * v, or with ``nesterov`` w -= lr * (g + momentum * v).

    Parameters
    ----------
    parameters, lr, weight_decay : see ``Optimizer``
    momentum : share of v that a step keeps, in [0, 1)
    """

    slots = ("velocity",)

    def __init__(self, parameters, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(parameters, lr, weight_decay)
        self.momentum, self.nesterov = momentum, nesterov

    def update(self, data, grad, lr, decay, velocity):
        update.sgd(data, grad, velocity, lr, self.momentum, self.nesterov, decay)


class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1).

    Parameters
    ----------
    parameters, lr, weight_decay : see ``Optimizer``
    beta1, beta2 : share of the mean of gradients, and of that of their squares, that a step keeps
    eps : added to the root of the mean of squares
    epsilon_hat : add it before that mean is corrected for its first steps, as TensorFlow does, and with it tensorpack. Where
        gradients are not much larger than eps, first steps are shorter then
    """

    slots = ("mean", "square")

    def __init__(self, parameters, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, epsilon_hat=False):
        super().__init__(parameters, lr, weight_decay)
        self.beta1, self.beta2, self.eps, self.epsilon_hat = beta1, beta2, eps, epsilon_hat

    def move(self, entries):
        update.adam([(array, grad, state["mean"], state["square"], lr, decay) for array, grad, lr, decay, state in entries],
                    self.steps, self.beta1, self.beta2,
                    self.eps / (1 - self.beta2**self.steps) ** 0.5 if self.epsilon_hat else self.eps)


class ShiftAdaMax(Optimizer):
    """Shift-based AdaMax (Courbariaux, Hubara et al., arXiv:1602.02830): every product with a power of two.

        m = beta1 * m + (1 - beta1) * g
        v = AP2(max(beta2 * v, |g|)) + eps
        w -= AP2(lr / (1 - beta1**step)) * m / v

    beta1 = 1 - 2**-3, beta2 = 1 - 2**-10 and lr = 2**-10 are the paper's; the authors' Torch program has 0.9, 0.999 and
    2**-6, and it is the program that keeps v rounded. ``paper=True`` keeps v as it is and rounds it where it divides.
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

    def target(self, parameter):
        if parameter.space is None:
            return super().target(parameter)
        return np.zeros(parameter.shape, np.float32)  # what an update from 0 comes to is the step alone

    def settle(self, parameter, array):
        if parameter.space is not None:
            parameter.places[...] = parameter.space.move(parameter.places, array)


def glorot_factor(fan_in, fan_out, power_of_two=False):
    """1 / sqrt(1.5 / (fan_in + fan_out)): BinaryConnect's authors multiply the learning rate of a weight by it.

    ``power_of_two`` rounds it, as the shift-based optimizer of BNN's authors does.
    """
    factor = np.sqrt((fan_in + fan_out) / 1.5)
    return float(ap2(factor) if power_of_two else factor)
