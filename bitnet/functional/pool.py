"""Pooling of images (N, H, W, C)."""

import numpy as np

from bitnet.codes import Codes
from bitnet.functional.conv import paddings
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


def pooling(shape, size, stride=None, padding=0):
    """(stride, ((top, bottom), (left, right))) of windows on images (H, W, C); see ``max_pool``.

    Raises
    ------
    ValueError : windows that do not fit.
    """
    stride, given = size if stride is None else stride, padding
    if len(shape) == 3 and stride >= 1:
        padding = paddings(padding, shape[:2], (size, size), (stride, stride))
        # more around an image than there is of it would take any memory that a file asks for
        fits = all(0 <= 2 * side <= min(size, 2 * max(8, *shape[:2])) for pair in padding for side in pair)
        if fits and min(length + sum(pair) for length, pair in zip(shape, padding, strict=False)) >= size:
            return stride, padding
    raise ValueError(f"a pooling window of {size} with stride {stride} and padding {given} does not fit shape {tuple(shape)}")


def max_pool(x, size, stride=None, padding=0):
    """Max pooling; codes stay codes.

    Parameters
    ----------
    x : Tensor (N, H, W, C)
    size : pixels of a window's side, at most 16
    stride : pixels between windows; None: ``size``
    padding : pixels around the image that count as minus infinity, at most half of ``size``, and 8 or the image; as that of
        ``conv2d``: one number, ((top, bottom), (left, right)), or "same" for ceil(H / stride) windows, an odd pixel at the end

    Raises
    ------
    ValueError : a window that does not fit.
    """
    if size > 16:  # a byte tells where in the window a maximum was
        raise ValueError(f"a max-pooling window has at most 16 pixels a side, got {size}")
    x = as_tensor(x)
    stride, padding = pooling(x.shape[1:], size, stride, padding)
    return MaxPool.apply(x, size=size, stride=stride, padding=padding)


class AvgPool(Function):
    """Mean, or with ``total`` sum, of each window, padding counting as zeros."""

    def forward(self, x, size, stride, padding, total):
        self.shape, self.window, self.area = x.shape, (size, stride, padding), 1 if total else size * size
        padded = np.pad(x, ((0, 0), *padding, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
        return np.ascontiguousarray((windows.sum if total else windows.mean)(axis=(-2, -1), dtype=x.dtype))

    def backward(self, grad_output):
        size, stride, ((top, bottom), (left, right)) = self.window
        samples, height, width, channels = self.shape
        grad = np.zeros((samples, height + top + bottom, width + left + right, channels), grad_output.dtype)
        share = grad_output / self.area
        rows, columns = grad_output.shape[1] * stride, grad_output.shape[2] * stride
        for y in range(size):
            for x in range(size):
                grad[:, y:y + rows:stride, x:x + columns:stride][:, :share.shape[1], :share.shape[2]] += share
        return np.ascontiguousarray(grad[:, top:top + height, left:left + width])


def avg_pool(x, size, stride=None, padding=0, total=False):
    """Average pooling; see ``max_pool``. Padding counts as zeros, and ``size`` is not limited. ``total``: sums, not means."""
    x = as_tensor(x)
    stride, padding = pooling(x.shape[1:], size, stride, padding)
    return AvgPool.apply(x, size=size, stride=stride, padding=padding, total=total)
