"""What is done to numbers one by one: limits, activations, dropout."""

import numpy as np

from bitnet import random
from bitnet.codes import Codes
from bitnet.kernels.pointwise import elementary, quantize
from bitnet.kernels.pointwise.norm import channel_affine
from bitnet.kernels.pointwise.update import ap2_constants
from bitnet.tensor import Function, as_tensor


def pair(value):
    """(vertical, horizontal) from one number or two."""
    return tuple(value) if isinstance(value, (list, tuple, np.ndarray)) else (value, value)


class Clip(Function):
    """min(max(x, low), high); the gradient passes where low <= x <= high."""

    def forward(self, x, low, high):
        self.x, self.bounds = x, (low, high)
        return quantize.clip(np.ascontiguousarray(x), low, high)

    def backward(self, grad_output):
        return quantize.clip_grad(np.ascontiguousarray(grad_output), np.ascontiguousarray(self.x), *self.bounds)


def clip(x, low=0.0, high=1.0):
    """Limit to [low, high]; the gradient passes within, both bounds included."""
    return Clip.apply(as_tensor(x), low=low, high=high)


class ReLU(Function):
    """max(x, 0); the gradient passes where x > 0."""

    def forward(self, x):
        self.y = quantize.clip(np.ascontiguousarray(x), 0, np.inf)
        return self.y

    def backward(self, grad_output):
        smallest = np.nextafter(self.y.dtype.type(0), self.y.dtype.type(1))
        return quantize.clip_grad(np.ascontiguousarray(grad_output), self.y, smallest, np.inf)


def relu(x):
    """max(x, 0); the gradient passes where x > 0."""
    return ReLU.apply(as_tensor(x))


class Standardize(Function):
    """y[..., i] = (256 * x[..., order[i]] - mean[i]) / std[i]; codes stay codes where there is no mean."""

    takes_codes = True

    def forward(self, x, mean, std, order):
        self.order, self.factor = order, None
        if mean is None:
            return x.with_values(self._ordered(x.values)) if isinstance(x, Codes) else self._ordered(x)
        y = self._ordered(x.decode() if isinstance(x, Codes) else x)
        self.factor, shift = standard_constants(mean, std, y.dtype)
        return channel_affine(y, self.factor, shift)

    def _ordered(self, x):
        return np.ascontiguousarray(x if self.order is None else x[..., list(self.order)])

    def backward(self, grad_output):
        grad = grad_output if self.factor is None else grad_output * self.factor
        return grad if self.order is None else np.ascontiguousarray(grad[..., np.argsort(self.order)])


def standard_constants(mean, std, dtype):
    """scale and shift, arrays of a number a channel, with (256 * x - mean) / std = scale * x + shift."""
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    return (256 / std).astype(dtype), (-mean / std).astype(dtype)


def standardize(x, mean=None, std=None, order=None):
    """Images in [0, 1) as (256 * x - mean) / std, channels in another order; see ``layers.Standardize``."""
    return Standardize.apply(as_tensor(x), mean=mean, std=std, order=order)


class Dropout(Function):
    """Zero each value with probability ``drop`` and divide the others by 1 - drop. Codes stay codes.

    A +-1 code has no zero: it becomes a ternary one.
    """

    takes_codes = True

    def forward(self, x, drop):
        self.mask, self.keep = quantize.keep_mask(x.shape, drop, random.next_key()), 1 - drop
        if isinstance(x, Codes):
            scale = x.scale / self.keep
            if x.encoding == "unsigned":
                return x.with_values(x.values * self.mask, scale)
            if x.encoding == "ternary":
                return x.with_values(np.where(self.mask, x.values, np.uint8(1)), scale)
            if x.bits == 1:
                return Codes(np.where(self.mask, 2 * x.values, np.uint8(1)), 2, "ternary", scale)
            raise ValueError(f"dropout needs codes that can be zero, got {x.bits}-bit {x.encoding} ones")
        return x * self.mask * x.dtype.type(1 / self.keep)

    def backward(self, grad_output):
        return grad_output * self.mask * grad_output.dtype.type(1 / self.keep)


def dropout(x, drop=0.5):
    """Zero each value with probability ``drop``, divide the others by 1 - drop. Takes the next draw of ``bitnet.random``.

    Raises
    ------
    ValueError : a share outside [0, 1), or bipolar codes of several bits, among which there is no 0.
    """
    if not 0 <= drop < 1:
        raise ValueError(f"the share to drop must be in [0, 1), got {drop}")
    return Dropout.apply(as_tensor(x), drop=drop)


class Tanh(Function):
    def forward(self, x):
        self.y = elementary.tanh(x)
        return self.y

    def backward(self, grad_output):
        return grad_output * (1 - self.y * self.y)


def tanh(x):
    """Hyperbolic tangent of a tensor."""
    return Tanh.apply(as_tensor(x))


class MeanMagnitude(Function):
    """Mean over channels of |x|: (N, H, W, C) to (N, H, W, 1)."""

    def forward(self, x):
        self.x = x
        return np.abs(x).mean(axis=-1, keepdims=True, dtype=x.dtype)

    def backward(self, grad_output):
        return np.sign(self.x) * (grad_output / self.x.shape[-1])


def mean_magnitude(x):
    """Mean over channels (last axis) of |x|, which stays an axis of size 1."""
    return MeanMagnitude.apply(as_tensor(x))


def ap2(x):
    """The approximate power of two AP2(x) = sign(x) * 2**rint(log2 |x|) of a float array; AP2(0) = 0.

    Without a logarithm: x = m * 2**e with m in [1, 2) goes to 2**e where m < sqrt(2), else to 2**(e + 1). Added to the bits of
    m, 2 - sqrt(2) carries into those of e just then. Numbers below the smallest normal one become 0 or that one.
    """
    x = np.asarray(x)
    if x.dtype != np.float32:
        x = x.astype(np.float64, copy=False)
    carry, exponent = ap2_constants(x.dtype)
    bits = x.view(carry.dtype)
    sign = np.iinfo(bits.dtype).min
    with np.errstate(over="ignore"):  # a NaN's bits
        power = ((bits & ~sign) + carry) & exponent | (bits & sign)
    return np.where(np.isnan(x), x, power.view(x.dtype))
