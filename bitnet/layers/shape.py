"""Layers that change or check shapes: the input of a network, pooling, flattening."""

import math

import numpy as np

from bitnet import functional
from bitnet.checks import whole, wholes
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


class _Pool(Module):
    def __init__(self, size, stride=None, padding=0):
        self.size, self.padding = whole("the size of a pooling window", size, 1), whole("the padding of a pooling", padding)
        self.stride = None if stride is None else whole("the stride of a pooling", stride, 1)

    def _shape_after(self, shape):
        if shape is None:
            return None
        stride = self.stride or self.size
        height, width = ((length + 2 * self.padding - self.size) // stride + 1 for length in shape[:2])
        if min(height, width) < 1:
            raise ValueError(f"{self.name or 'the pool'}: a window of {self.size} does not fit shape {shape}")
        return height, width, shape[2]


class MaxPool(_Pool):
    """Max pooling; codes stay codes."""

    def forward(self, x):
        return functional.max_pool(x, self.size, self.stride, self.padding)

    def flow(self, signal, visit):
        return signal.with_shape(self._shape_after(signal.shape))

    @property
    def side_by_side(self):
        """Do its windows lie side by side, with a place in each that fits a byte?"""
        return self.stride in (None, self.size) and self.padding == 0 and self.size < 16


class AvgPool(_Pool):
    """Average pooling."""

    def forward(self, x):
        return functional.avg_pool(x, self.size, self.stride, self.padding)

    def flow(self, signal, visit):
        return signal.real(self._shape_after(signal.shape))


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
