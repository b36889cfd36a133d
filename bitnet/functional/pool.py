"""Pooling of images (N, H, W, C)."""

import numpy as np

from bitnet.codes import Codes
from bitnet.kernels.pointwise import pool
from bitnet.tensor import Function, as_tensor


class MaxPool(Function):
    """Largest value of each window; the gradient goes to where it came from, the first place on ties. Codes stay codes."""

    takes_codes = True

    def forward(self, x, size, stride, padding):
        self.shape, self.window = x.shape, (size, stride, padding)
        values = x.values if isinstance(x, Codes) else x
        y, self.taps = pool.max_pool(values, size, stride, padding)
        return x.with_values(y) if isinstance(x, Codes) else y

    def backward(self, grad_output):
        return pool.max_pool_grad(np.ascontiguousarray(grad_output), self.taps, self.shape, *self.window)


def _check_window(x, size, stride, padding):
    stride = size if stride is None else stride
    if len(x.shape) != 4 or not 0 <= 2 * padding <= size or min(x.shape[1:3]) + 2 * padding < size or stride < 1:
        raise ValueError(f"a pooling window of {size} with stride {stride} and padding {padding} does not fit shape {x.shape}")
    return stride


def max_pool(x, size, stride=None, padding=0):
    """Max pooling; codes stay codes.

    Parameters
    ----------
    x : Tensor (N, H, W, C)
    size : pixels of a window's side, at most 16
    stride : pixels between windows; None: ``size``
    padding : pixels around the image that count as minus infinity, at most half of ``size``

    Raises
    ------
    ValueError : a window that does not fit.
    """
    if size > 16:  # a byte tells where in the window a maximum was
        raise ValueError(f"a max-pooling window has at most 16 pixels a side, got {size}")
    x = as_tensor(x)
    return MaxPool.apply(x, size=size, stride=_check_window(x, size, stride, padding), padding=padding)


class AvgPool(Function):
    """Mean of each window, padding counting as zeros."""

    def forward(self, x, size, stride, padding):
        self.shape, self.window = x.shape, (size, stride, padding)
        padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
        return np.ascontiguousarray(windows.mean(axis=(-2, -1), dtype=x.dtype))

    def backward(self, grad_output):
        size, stride, padding = self.window
        samples, height, width, channels = self.shape
        grad = np.zeros((samples, height + 2 * padding, width + 2 * padding, channels), grad_output.dtype)
        share = grad_output / (size * size)
        rows, columns = grad_output.shape[1] * stride, grad_output.shape[2] * stride
        for y in range(size):
            for x in range(size):
                grad[:, y:y + rows:stride, x:x + columns:stride][:, :share.shape[1], :share.shape[2]] += share
        return np.ascontiguousarray(grad[:, padding:padding + height, padding:padding + width])


def avg_pool(x, size, stride=None, padding=0):
    """Average pooling; see ``max_pool``. Padding counts as zeros, and ``size`` is not limited."""
    x = as_tensor(x)
    return AvgPool.apply(x, size=size, stride=_check_window(x, size, stride, padding), padding=padding)
