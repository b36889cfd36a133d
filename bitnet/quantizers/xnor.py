"""Binary-Weight-Networks and XNOR-Net (Rastegari et al., arXiv:1603.05279): +-1 times the mean magnitude.

The scale of a layer (DoReFa-Net's reading, its equation for one bit) or of each filter (XNOR-Net's). XNOR-Net binarizes the
inputs too, and multiplies the result by a map K of their magnitudes: ``layers.XNORConv2d``.
"""

import numpy as np

from bitnet.codes import Codes
from bitnet.kernels.pointwise import quantize
from bitnet.quantizers.base import Quantizer
from bitnet.quantizers.binaryconnect import binarize
from bitnet.quantizers.dorefa import DoReFaWeight
from bitnet.quantizers.twn import ternary

GRADIENTS = ("paper", "code", "exact")


class BWNWeight(DoReFaWeight):
    """Weights of one bit with one scale a layer, the Binary-Weight-Network of DoReFa-Net and of tensorpack's example.

    Forward:  w_q = E * sign(w), sign(0) = +1, E = mean |w| over the whole layer
    Backward: dw = dw_q, E being a constant
    """

    def __init__(self):
        super().__init__(1)


class XNORWeight(Quantizer):
    """Weights of one bit with one scale for each filter.

    Forward:  w_q = alpha * sign(w), sign(0) = +1, alpha = mean |w| over the n weights of a filter
    Backward: with g = dw_q and m = (|w| < 1),
        "paper"  dw = g * (1/n + alpha * m)
        "code"   dw = g * (1/n + alpha * m) * (1 - 1/in_channels) * n, as in the authors' Torch program for SGD (for Adam times
                 another 1e9, which moves no step but for eps and weight decay)
        "exact"  dw = sign(w) / n * sum over the filter of g * sign(w) + alpha * m * g, the derivative with a straight-through
                 sign: the paper's formula with its sum over the filter carried out

    Each step, the authors' program also subtracts from the latent weights their mean over input channels and clips them to
    [-1, 1] (``constraints.Centre``, ``constraints.Clip``). Where there is a single input channel, that leaves zeros, and the
    "code" gradient is 0.

    Parameters
    ----------
    gradient : "paper", "code" or "exact"

    Raises
    ------
    ValueError : another gradient.
    """

    one_scale = False

    def __init__(self, gradient="paper"):
        super().__init__(1)
        if gradient not in GRADIENTS:
            raise ValueError(f"XNOR-Net's weight gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
        self.gradient = gradient

    def encode_and_save(self, array):
        axes = tuple(range(array.ndim - 1))
        alpha = np.abs(array).mean(axis=axes, dtype=np.float64)
        return Codes(binarize(array), 1, "bipolar", alpha, per="filter"), (array, alpha)

    def grad(self, saved, grad_output):
        w, alpha = saved
        n = w.size // w.shape[-1]
        passed = alpha.astype(w.dtype) * (np.abs(w) < 1)
        if self.gradient == "exact":
            sign = np.where(w >= 0, w.dtype.type(1), w.dtype.type(-1))
            total = np.sum(grad_output * sign, axis=tuple(range(w.ndim - 1)), dtype=np.float64) / n
            return sign * total.astype(w.dtype) + passed * grad_output
        factor = w.dtype.type(1 / n) + passed
        if self.gradient == "code":
            factor *= w.dtype.type((1 - 1 / w.shape[-2]) * n)
        return grad_output * factor


class XNORActivation(Quantizer):
    """Activations of one bit, +-1, of XNOR-Net.

    Forward:  a_q = sign(x), sign(0) = +1 (the authors' Torch program has sign(0) = 0, which no bit can say)
    Backward: dx = da_q where |x| < 1, else 0
    """

    def __init__(self):
        super().__init__(1)

    def encode_and_save(self, array):
        return Codes(binarize(array), 1, "bipolar", 1.0), np.abs(array) < 1


class XNORGradient(Quantizer):
    """Gradients of k bits of XNOR-Net, used in backward passes alone (arXiv:1603.05279v4, section 3.2).

    g_q = M * q_k(g / M), M = max |g| of each sample,
    q_k(x) = 2 * ([n * (x + 1) / 2] / n - 1/2), n = 2**k - 1, [] the nearest integer, halves up
    k = 1:  g_q = M * sign(g), sign(0) = +1

    The scale is the largest magnitude, not the mean one as of weights: it keeps the largest change in all directions, as the
    paper says, which tells of 1.4 % less top-1 accuracy with AlexNet. That each sample has a scale of its own is this project's
    reading. There is no noise: unlike ``DoReFaGradient`` it is wrong on average, and has no level for 0.

    Parameters
    ----------
    bits : 1 to 8
    keep_zeros : k = 1 with sign(0) = 0, as in Torch: ternary codes. Below a max pooling most gradients are exactly 0. This
        project's option

    Raises
    ------
    ValueError : other bits, or zeros of more than one bit.
    """

    def __init__(self, bits=1, keep_zeros=False):
        super().__init__(bits)
        if keep_zeros and bits != 1:
            raise ValueError(f"zeros are kept in gradients of 1 bit, got {bits} bits")
        self.keep_zeros = keep_zeros

    def encode_and_save(self, array):
        array = np.ascontiguousarray(array)
        largest = quantize.max_magnitude(array)
        scale = largest.astype(np.float64) / self.top
        if self.keep_zeros:
            return Codes(ternary(array, 0), 2, "ternary", scale), None
        values = binarize(array) if self.bits == 1 else quantize.nearest_gradient(array, largest, self.bits)
        return Codes(values, self.bits, "bipolar", scale), None
