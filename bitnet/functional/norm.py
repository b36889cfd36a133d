"""Batch normalisation of the last axis, in the forms of several papers."""

import numpy as np

from bitnet.functional.pointwise import ap2
from bitnet.kernels.pointwise.norm import channel_affine, channel_blend, channel_sums
from bitnet.tensor import Function


class BatchNorm(Function):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, each channel (last axis) by itself. arXiv:1502.03167."""

    def forward(self, x, gamma, beta, mean, var, eps, training):
        self.x, self.gamma, self.training = x, gamma, training
        self.mean, self.rstd = mean, 1 / np.sqrt(var + eps)
        scale = gamma * self.rstd
        return channel_affine(x, scale, beta - self.mean * scale)

    def backward(self, grad_output):
        g, x = np.ascontiguousarray(grad_output), self.x
        sum_g, sum_gx = channel_sums(g, x)
        grad_gamma, scale, slope, offset = batch_norm_grad(sum_g, sum_gx, self.mean, self.rstd, self.gamma,
                                                            x.size // x.shape[-1])
        if self.training:
            grad_x = channel_blend(g, x, scale, slope, offset)
        else:
            grad_x = channel_affine(g, scale, np.zeros_like(scale))
        return grad_x, grad_gamma.astype(self.gamma.dtype), sum_g.astype(self.gamma.dtype)


def batch_norm_grad(sum_g, sum_gx, mean, rstd, gamma, rows):
    """The gradient of gamma, and scale, slope and offset of dx = scale * g + slope * x + offset.

    slope and offset are there because the batch's own mean and variance depend on x too.
    """
    grad_gamma = (sum_gx - mean * sum_g) * rstd
    scale = gamma * rstd
    slope = -scale * rstd * grad_gamma / rows
    return grad_gamma, scale, slope, -scale * sum_g / rows - slope * mean


def moments(sums, rows):
    """Mean and biased variance of each channel from its sums and sums of squares (2, C)."""
    mean = sums[0] / rows
    return mean, np.maximum(sums[1] / rows - mean * mean, 0)


def batch_statistics(x):
    """Mean and biased variance of each channel (last axis) of an array: float64 arrays (C,)."""
    return moments(channel_sums(x, x), x.size // x.shape[-1])


def batch_norm(x, gamma, beta, mean, var, eps=1e-4, training=False):
    """Batch normalisation of the last axis (Ioffe and Szegedy, arXiv:1502.03167) with given statistics.

    Parameters
    ----------
    x : Tensor (..., C); gamma, beta : Tensor (C,)
    mean, var : float64 arrays (C,)
    eps : added to the variance
    training : are the statistics those of x itself? Then the gradient flows through them
    """
    return BatchNorm.apply(x, gamma, beta, mean=mean, var=var, eps=eps, training=training)


def _channel_means(x):
    return x.mean(axis=tuple(range(x.ndim - 1)), dtype=np.float64)


def shift_statistics(x, eps):
    """float64 arrays (C,): mean(x), and by shifts 1 / sqrt(mean(c * AP2(c)) + eps) with c = x - mean. arXiv:1602.02830."""
    mean = _channel_means(x)
    centred = x - mean.astype(x.dtype)
    return mean, 1 / np.sqrt(_channel_means(centred * ap2(centred)) + eps)


class ShiftBatchNorm(Function):
    """y = AP2(gamma) * c * AP2(rstd) + beta, c = x - mean: batch norm whose products are shifts. arXiv:1602.02830.

    Backward, as in the authors' Torch program, with s = AP2(rstd):
        dx     = (g - mean(g) - AP2(c) * s**2 * mean(AP2(c) * g)) * s * AP2(gamma)
        dgamma = sum(g * AP2(c * s)), dbeta = sum(g)
    With given statistics only dx = g * s * AP2(gamma).
    """

    def forward(self, x, gamma, beta, mean, rstd, training):
        self.centred, self.training = x - mean.astype(x.dtype), training
        self.gamma, self.rstd = ap2(gamma), ap2(rstd).astype(x.dtype)
        return self.centred * (self.rstd * self.gamma) + beta

    def backward(self, grad_output):
        g, axes = grad_output, tuple(range(grad_output.ndim - 1))
        grad_gamma = np.sum(g * ap2(self.centred * self.rstd), axis=axes, dtype=np.float64).astype(g.dtype)
        grad_beta = np.sum(g, axis=axes, dtype=np.float64).astype(g.dtype)
        if self.training:
            shifted = ap2(self.centred)
            slope = (_channel_means(shifted * g) * self.rstd.astype(np.float64) ** 2).astype(g.dtype)
            g = g - _channel_means(g).astype(g.dtype) - shifted * slope
        return g * (self.rstd * self.gamma), grad_gamma, grad_beta


def shift_batch_norm(x, gamma, beta, mean, rstd, training=False):
    """Shift-based batch norm: as ``batch_norm``, with rstd = 1 / sqrt(var + eps) given; see ``ShiftBatchNorm``."""
    return ShiftBatchNorm.apply(x, gamma, beta, mean=mean, rstd=rstd, training=training)


class LowPrecisionBatchNorm(Function):
    """y = gamma * q((x - mean) * rstd) + beta; of the activations only the codes of q are kept. arXiv:1702.08231.

    Backward is that of batch norm with q in the place of what it was rounded from; q itself passes the gradient on.
    """

    def forward(self, x, gamma, beta, mean, rstd, quantizer, training):
        self.gamma, self.rstd, self.training, self.quantizer = gamma, rstd, training, quantizer
        normal = channel_affine(np.ascontiguousarray(x), rstd, -mean * rstd)
        self.codes, self.saved = quantizer.encode_and_save(normal)
        return channel_affine(self.codes.decode(x.dtype), gamma, beta)

    def backward(self, grad_output):
        g, q = np.ascontiguousarray(grad_output), self.codes.decode(grad_output.dtype)
        sum_g, sum_gq = channel_sums(g, q)
        inner = self.quantizer.grad(self.saved, g)
        scale, rows = self.gamma * self.rstd, q.size // q.shape[-1]
        if self.training:
            sums = channel_sums(inner, q) if inner is not g else (sum_g, sum_gq)
            grad_x = channel_blend(inner, q, scale, -scale * sums[1] / rows, -scale * sums[0] / rows)
        else:
            grad_x = channel_affine(inner, scale, np.zeros_like(scale))
        return grad_x, sum_gq.astype(g.dtype), sum_g.astype(g.dtype)


def low_precision_batch_norm(x, gamma, beta, mean, var, quantizer, eps=1e-4, training=False):
    """As ``batch_norm``, quantized by ``quantizer`` before gamma and beta; see ``LowPrecisionBatchNorm``."""
    return LowPrecisionBatchNorm.apply(x, gamma, beta, mean=mean, rstd=1 / np.sqrt(var + eps), quantizer=quantizer,
                                       training=training)
