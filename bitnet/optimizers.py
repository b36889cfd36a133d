"""Optimizers and learning-rate schedules."""

import numpy as np

from bitnet import execution
from bitnet.kernels import elementwise


class Optimizer:
    """Updates parameters from their gradients; one that has no gradient stays as it is.

    Parameters
    ----------
    parameters : list of Parameter
    lr : learning rate, may be set at any time
    weight_decay : L2 penalty, added to each parameter's own ``weight_decay``
    """

    slots = ()  # names of the arrays kept for each parameter

    def __init__(self, parameters, lr, weight_decay=0.0):
        self.parameters, self.lr, self.weight_decay, self.steps = list(parameters), lr, weight_decay, 0
        if not lr >= 0:
            raise ValueError(f"the learning rate must not be negative, got {lr}")
        self.state = [{slot: np.zeros(parameter.shape, parameter.data.dtype) for slot in self.slots}
                      for parameter in self.parameters]

    @execution.layer("optimizer")
    def step(self):
        """Update every parameter once."""
        self.steps += 1
        for parameter, state in zip(self.parameters, self.state, strict=True):
            if parameter.grad is not None:
                parameter.data = np.ascontiguousarray(parameter.data)  # updated in place, as it lies in memory
                grad = np.ascontiguousarray(parameter.grad, parameter.data.dtype)
                self.update(parameter.data, grad, self.weight_decay + getattr(parameter, "weight_decay", 0.0), **state)

    def update(self, data, grad, decay, **state):
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

    def update(self, data, grad, decay, velocity):
        elementwise.sgd(data, grad, velocity, self.lr, self.momentum, self.nesterov, decay)


class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1)."""

    slots = ("mean", "square")

    def __init__(self, parameters, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
        super().__init__(parameters, lr, weight_decay)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def update(self, data, grad, decay, mean, square):
        elementwise.adam(data, grad, mean, square, self.steps, self.lr, self.beta1, self.beta2, self.eps, decay)


class StepDecay:
    """Learning rate ``lr * factor**(epoch // epochs)`` for 0-based epochs: multiplied by ``factor`` every ``epochs``."""

    def __init__(self, lr, factor=1.0, epochs=1):
        if epochs < 1 or factor <= 0:
            raise ValueError("a step schedule needs a positive factor and at least one epoch a step, "
                             f"got {factor} and {epochs}")
        self.lr, self.factor, self.epochs = lr, factor, epochs

    def __call__(self, epoch):
        return self.lr * self.factor ** (epoch // self.epochs)


class ExponentialDecay:
    """Learning rate that falls from ``lr`` in the first of ``epochs`` to ``last`` in the last one, by equal factors."""

    def __init__(self, lr, last, epochs):
        if epochs < 1 or lr <= 0 or last <= 0:
            raise ValueError(f"an exponential schedule needs positive rates and epochs, got {lr}, {last} and {epochs}")
        self.lr, self.last, self.epochs = lr, last, epochs

    def __call__(self, epoch):
        return self.lr * (self.last / self.lr) ** (epoch / max(1, self.epochs - 1))
