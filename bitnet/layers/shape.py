"""Layers that change or check shapes: the input of a network, pooling, upsampling, flattening."""

import math

import numpy as np

from bitnet import checks, functional
from bitnet.checks import number, truth, whole, wholes
from bitnet.kernels.pointwise.pool import pooled
from bitnet.module import Module
from bitnet.tensor import Tensor

ONE = np.float32(1).view(np.uint32)  # the bits of floats from 0 to 1, and of no others, are integers up to this


def _bounds(images):
    """Smallest and largest number, or (0, 1) for all between these: the usual case, seen in one walk."""
    if images.dtype == np.float32 and images.flags.c_contiguous and images.view(np.uint32).max(initial=0) <= ONE:
        return 0.0, 1.0
    return np.min(images, initial=0), np.max(images, initial=0)


class Images(Module):
    """The input of a network: lets images (N, height, width, channels) pass, uint8 or floats in [0, 1), and refuses
    others with a ValueError.
    """

    is_input = True

    def __init__(self, height, width, channels):
        self.height, self.width, self.channels = wholes("the size of images", (height, width, channels), low=1)

    @property
    def shape(self):
        return self.height, self.width, self.channels

    def check(self, x):
        """A tensor of images; ValueError where they are of another shape, type or range."""
        if len(x.shape) != 4 or tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"the network takes images of shape (N, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        if x.codes is None:
            if x.data.dtype.kind != "f":
                raise ValueError(f"the network takes images of uint8, or floats in [0, 1), got {x.data.dtype}")
            low, high = _bounds(x.data)
            if not (low >= 0 and high <= 1):
                raise ValueError(f"the network takes floats in [0, 1), which are pixels / 256, got {low:g} to {high:g}")
        return x

    def forward(self, x):
        return self.check(x)

    def flow(self, signal, visit):
        if signal.shape is not None and signal.shape != self.shape:
            raise ValueError(f"the network takes images of shape {self.shape}, got {signal.shape}")
        return signal.with_shape(self.shape)


class Standardize(Module):
    """Images in [0, 1) as numbers of about mean 0 and deviation 1, their channels in an order that authors had.

        y[..., i] = (256 * x[..., order[i]] - mean[i]) / std[i]

    Parameters
    ----------
    mean, std : a number for each channel of y, in units of a pixel, 0 to 255; None: y = x in that order, and codes stay codes
    order : the channels of x, (2, 1, 0) to make BGR of RGB; None: as they are
    """

    def __init__(self, mean=None, std=None, order=None):
        if (mean is None) != (std is None):
            raise ValueError(f"a standardization needs a mean and a deviation, or neither, got {mean!r} and {std!r}")
        self.order = order and wholes("an order of channels", order)
        self.mean, self.std = mean and _numbers("a mean", mean), std and _numbers("a deviation", std, 1e-3)
        counts = {len(one) for one in (mean, std, order) if one is not None}
        if len(counts) > 1 or (order and sorted(order) != list(range(len(order)))):
            raise ValueError(f"expected a mean, a deviation and a place for each channel, got {mean!r}, {std!r} and {order!r}")

    def forward(self, x):
        return functional.standardize(x, self.mean, self.std, self.order)

    def flow(self, signal, visit):
        channels = len(self.order or self.mean or ())
        if signal.shape is not None and channels and signal.shape[-1] != channels:
            raise ValueError(f"{self.name or 'the standardization'} takes {channels} channels, got shape {signal.shape}")
        return signal if self.mean is None else signal.real()


def _numbers(what, values, low=-math.inf):
    return tuple(number(what, value, low) for value in values)


class _Pool(Module):
    """size, stride, padding: see ``functional.max_pool``."""

    def __init__(self, size, stride=None, padding=0):
        self.size = whole("the size of a pooling window", size, 1)
        self.padding = checks.padding("the padding of a pooling", padding)
        self.stride = None if stride is None else whole("the stride of a pooling", stride, 1)

    def _shape_after(self, shape):
        if shape is None:
            return None
        stride, padding = functional.pooling(shape, self.size, self.stride, self.padding)
        return *pooled(shape[:2], self.size, stride, padding), shape[2]


class MaxPool(_Pool):
    """Max pooling; codes stay codes.

    Of equal values in a window the first one counts, and gets the gradient. Sums of codes are integers, of which several are
    often the largest: in 2 to 5 of 100 windows with 2-bit activations, in 4 to 19 with 1-bit ones. A simulation in float breaks
    such ties by its rounding errors, so its gradients below a pooling differ, by a fifth of their length or so.
    """

    def forward(self, x):
        return functional.max_pool(x, self.size, self.stride, self.padding)

    def flow(self, signal, visit):
        return signal.with_shape(self._shape_after(signal.shape))

    @property
    def side_by_side(self):
        """Do its windows lie side by side, with a place in each that fits a byte?"""
        return self.stride in (None, self.size) and self.padding == 0 and self.size < 16


class AvgPool(_Pool):
    """Average pooling; with ``total`` the sums of windows, not their means."""

    def __init__(self, size, stride=None, padding=0, total=False):
        super().__init__(size, stride, padding)
        self.total = truth("total", total)

    def forward(self, x):
        return functional.avg_pool(x, self.size, self.stride, self.padding, self.total)

    def flow(self, signal, visit):
        return signal.real(self._shape_after(signal.shape))


class Upsample(Module):
    """Images ``factor`` times as high and as wide: each pixel repeated, and codes stay codes; or ``smooth``, bilinear."""

    def __init__(self, factor, smooth=False):
        self.factor, self.smooth = whole("the factor of an upsampling", factor, 1, 16), truth("smooth", smooth)

    def forward(self, x):
        return functional.upsample(x, self.factor, self.smooth)

    def flow(self, signal, visit):
        shape = signal.shape
        if shape is not None:
            if len(shape) != 3:
                raise ValueError(f"{self.name or 'the upsampling'} takes images (H, W, C), got shape {shape}")
            shape = shape[0] * self.factor, shape[1] * self.factor, shape[2]
        return signal.real(shape) if self.smooth else signal.with_shape(shape)


class Reshape(Module):
    """(N, ...) to (N, *shape); codes stay codes."""

    def __init__(self, shape):
        self.shape = wholes("a shape", tuple(shape), low=1)

    def forward(self, x):
        return x.reshape(x.shape[0], *self.shape)

    def flow(self, signal, visit):
        if signal.shape is not None and math.prod(signal.shape) != math.prod(self.shape):
            raise ValueError(f"shape {signal.shape} cannot become {self.shape}")
        return signal.with_shape(self.shape)


class Flatten(Module):
    """(N, H, W, C) to (N, H * W * C); codes stay codes."""

    def forward(self, x):
        return x.reshape(x.shape[0], int(np.prod(x.shape[1:])))

    def flow(self, signal, visit):
        return signal if signal.shape is None else signal.with_shape((math.prod(signal.shape),))


class Lambda(Module):
    """A function of a tensor as a module. It cannot be saved: a file holds no code."""

    def __init__(self, function):
        self.function = function

    def forward(self, x):
        result = self.function(x)
        return result if isinstance(result, Tensor) else Tensor(result)

    def options(self):
        raise ValueError("a Lambda cannot be saved: expected modules of their own kind, found a function")

    def about(self):
        return getattr(self.function, "__name__", "")
