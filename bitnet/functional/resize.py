"""Images (N, H, W, C) made larger by a whole factor."""

import numpy as np

from bitnet.codes import Codes
from bitnet.tensor import Function, as_tensor


class Nearest(Function):
    """Each pixel as a square of ``factor`` x ``factor``; its gradient is the sum over the square. Codes stay codes."""

    takes_codes = True

    def forward(self, x, factor):
        self.shape, self.factor = x.shape, factor
        values = x.values if isinstance(x, Codes) else x
        n, h, w, c = self.shape
        y = np.empty((n, h, factor, w, factor, c), values.dtype)
        y[...] = values[:, :, None, :, None]
        y = y.reshape(n, h * factor, w * factor, c)
        return x.with_values(y) if isinstance(x, Codes) else y

    def backward(self, grad_output):
        n, h, w, c = self.shape
        squares = grad_output.reshape(n, h, self.factor, w, self.factor, c)
        return np.ascontiguousarray(squares.sum(axis=(2, 4)))


class Bilinear(Function):
    """Between the centres of neighbouring pixels linear, along both axes; beyond the outermost centres constant.

    Pixel i of the result lies at (i + 1/2) / factor - 1/2 among the pixels of x. Along one axis, and then along the other.
    """

    def forward(self, x, factor):
        self.shape, self.factor = x.shape, factor
        n, h, w, c = x.shape
        wide = stretch(x.reshape(n * h, w, c), factor)  # short runs of memory, so while there are few
        return stretch(wide.reshape(n, h, w * factor * c), factor).reshape(n, h * factor, w * factor, c)

    def backward(self, grad_output):
        n, h, w, c = self.shape
        wide = stretch_grad(grad_output.reshape(n, h * self.factor, w * self.factor * c), self.factor)
        return stretch_grad(wide.reshape(n * h, w * self.factor, c), self.factor).reshape(self.shape)


def _phases(factor):
    """(first, share) of the pixels i * factor + p of a stretched axis, for each p: among the pixels of x with the outermost
    ones repeated, they lie between ``first + i`` and the next one, and ``share`` of the way."""
    for phase in range(factor):
        place = (phase + 0.5) / factor + 0.5
        yield phase, int(place), place - int(place)


def stretch(x, factor):
    """(A, L, B) to (A, L * factor, B), bilinear along the middle axis."""
    outer, length, inner = x.shape
    padded = np.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
    y = np.empty((outer, length, factor, inner), x.dtype)
    for phase, first, share in _phases(factor):
        y[:, :, phase] = padded[:, first:first + length] * (1 - share) + padded[:, first + 1:first + 1 + length] * share
    return y.reshape(outer, length * factor, inner)


def stretch_grad(grad, factor):
    """The gradient of ``stretch``: (A, L * factor, B) to (A, L, B)."""
    outer, length, inner = grad.shape[0], grad.shape[1] // factor, grad.shape[2]
    grad = grad.reshape(outer, length, factor, inner)
    padded = np.zeros((outer, length + 2, inner), grad.dtype)
    for phase, first, share in _phases(factor):
        padded[:, first:first + length] += grad[:, :, phase] * (1 - share)
        padded[:, first + 1:first + 1 + length] += grad[:, :, phase] * share
    padded[:, 1] += padded[:, 0]
    padded[:, -2] += padded[:, -1]
    return np.ascontiguousarray(padded[:, 1:-1])


def upsample(x, factor, smooth=False):
    """Images ``factor`` times as high and as wide.

    Parameters
    ----------
    x : Tensor (N, H, W, C)
    factor : whole number of 1 and more
    smooth : bilinear between the centres of pixels, real numbers; else each pixel is repeated, and codes stay codes

    Raises
    ------
    ValueError : no images, or another factor.
    """
    x = as_tensor(x)
    if len(x.shape) != 4 or not isinstance(factor, int) or factor < 1:
        raise ValueError(f"upsampling takes images (N, H, W, C) and a whole factor, got shape {x.shape} and {factor!r}")
    return (Bilinear if smooth else Nearest).apply(x, factor=factor)
