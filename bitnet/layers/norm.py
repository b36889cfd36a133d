"""Batch normalisation, in the forms of several papers."""

import math

import numpy as np

from bitnet import functional
from bitnet.checks import number, truth, whole
from bitnet.module import Module, Parameter, initial
from bitnet.quantizers import NormalizedActivation


def _follow(momentum, *pairs):
    """Move running statistics towards those of a batch, in place: pairs of both."""
    for running, batch in pairs:
        running *= momentum
        running += (1 - momentum) * batch


class _Norm(Module):
    """gamma and beta of the channels, and two running statistics."""

    def _make(self, channels, momentum, eps):
        self.channels, self.eps = whole("the channels of a batch norm", channels, 1), number("its eps", eps, 0)
        self.momentum = number("the momentum of a batch norm", momentum, 0, 1)
        shape = (channels,)
        self.gamma = Parameter(initial(shape, lambda: np.ones(shape, np.float32)))
        self.beta = Parameter(initial(shape, lambda: np.zeros(shape, np.float32)))
        return [initial(shape, lambda: np.zeros(shape), np.float64), initial(shape, lambda: np.ones(shape), np.float64)]

    def flow(self, signal, visit):
        if signal.shape is not None:
            self._fits(signal.shape)
        return signal.real()

    def _fits(self, shape):
        if tuple(shape[-1:]) != (self.channels,):
            raise ValueError(f"{self.name or 'the batch norm'} takes {self.channels} channels, got shape {tuple(shape)}")

    def check(self, shape):
        """ValueError where there are other channels, or where training meets one value a channel: each would be its own mean,
        and all results 0.
        """
        self._fits(shape)
        if self.training and math.prod(shape[:-1]) == 1:
            raise ValueError(f"{self.name or 'batch norm'} needs more than one value a channel in training, got a batch of "
                             f"shape {tuple(shape)}: a larger batch size helps")


class BatchNorm(_Norm):
    """Batch normalisation of the last axis (Ioffe and Szegedy, arXiv:1502.03167).

    Parameters
    ----------
    channels : size of the last axis
    momentum : share of the running statistics that a training step keeps, in [0, 1]
    eps : added to the variance
    unbiased : let the running variance follow N / (N - 1) times that of the N values of a batch, as TensorFlow's and PyTorch's
        does, and with it tensorpack's
    """

    def __init__(self, channels, momentum=0.9, eps=1e-4, unbiased=False):
        self.running_mean, self.running_var = self._make(channels, momentum, eps)
        self.unbiased = truth("unbiased", unbiased)

    @property
    def is_affine(self):
        """Is it the batch norm of fused blocks? Not where a subclass has a rule of its own."""
        own = type(self)
        return (own.forward, own.statistics) == (BatchNorm.forward, BatchNorm.statistics)

    def statistics(self, batch_statistics, count=None):
        """Mean and variance to normalise with: in training those of the batch of ``count`` values a channel, which the running
        ones then follow.
        """
        if not self.training:
            return self.running_mean.copy(), self.running_var.copy()  # a later training step changes them in place
        mean, var = batch_statistics()
        followed = var * (count / (count - 1)) if self.unbiased else var
        _follow(self.momentum, (self.running_mean, mean), (self.running_var, followed))
        return mean, var

    def forward(self, x):
        self.check(x.shape)
        mean, var = self.statistics(lambda: functional.batch_statistics(x.data), math.prod(x.shape[:-1]))
        return functional.batch_norm(x, self.gamma, self.beta, mean, var, self.eps, self.training)


class ShiftBatchNorm(_Norm):
    """Shift-based batch normalisation of the last axis (arXiv:1602.02830): every product with a power of two.

    Parameters
    ----------
    channels : size of the last axis
    momentum : share of the running statistics that a training step keeps. The authors' program keeps running means and
        inverse deviations and moves them by 1/8 a step
    eps : added to the variance
    """

    is_affine = False

    def __init__(self, channels, momentum=0.875, eps=1e-5):
        self.running_mean, self.running_rstd = self._make(channels, momentum, eps)

    def forward(self, x):
        self.check(x.shape)
        if not self.training:
            return functional.shift_batch_norm(x, self.gamma, self.beta, self.running_mean, self.running_rstd)
        mean, rstd = functional.shift_statistics(x.data, self.eps)
        _follow(self.momentum, (self.running_mean, mean), (self.running_rstd, rstd))
        return functional.shift_batch_norm(x, self.gamma, self.beta, mean, rstd, training=True)


class LowPrecisionBatchNorm(BatchNorm):
    """Batch normalisation whose activations are quantized in its middle (Graham, arXiv:1702.08231).

    Parameters
    ----------
    channels, momentum, eps : see ``BatchNorm``
    bits, step, mask : of the grid, see ``NormalizedActivation``
    """

    def __init__(self, channels, bits=2, step=None, mask=False, momentum=0.9, eps=1e-4):
        super().__init__(channels, momentum, eps)
        self.quantizer = NormalizedActivation(bits, step, mask)

    def options(self):
        kept = {name: getattr(self.quantizer, name) for name in ("bits", "step", "mask")}
        return {"channels": self.channels, "momentum": self.momentum, "eps": self.eps} | kept

    def forward(self, x):
        self.check(x.shape)
        mean, var = self.statistics(lambda: functional.batch_statistics(x.data), math.prod(x.shape[:-1]))
        return functional.low_precision_batch_norm(x, self.gamma, self.beta, mean, var, self.quantizer, self.eps, self.training)
