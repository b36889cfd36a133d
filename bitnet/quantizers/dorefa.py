"""The three quantizers of DoReFa-Net (Zhou et al., arXiv:1606.06160): weights, activations, gradients.

All rest on quantize_k (section 2.2): r in [0, 1] goes to rint(n * r) / n with n = 2**k - 1, and its gradient is passed on as
if it had been the identity (the straight-through estimator).
"""

import numpy as np

from bitnet import random
from bitnet.codes import Codes
from bitnet.kernels.pointwise import elementary, quantize
from bitnet.quantizers.base import Quantizer


def quantize_k(r, bits):
    """rint(n * r) / n, n = 2**bits - 1, halves to even: the nearest of 2**bits levels of an array in [0, 1]."""
    top = (1 << bits) - 1
    return np.rint(top * r) / top


def nearest_levels(array, bits):
    """Codes of the nearest of 2**bits levels from -M to M, M = max |array|; and M, 1 where all are 0: codes in the middle."""
    largest = quantize.max_magnitude(array.reshape(-1, array.shape[-1])).max() or array.dtype.type(1)
    return quantize.encode_symmetric(array, largest, bits), largest


class DoReFaWeight(Quantizer):
    """Weights of k bits (section 2.3).

    Forward, k = 1:   w_q = E * sign(w), sign(0) = +1, E = mean |w| over the whole layer
    Forward, k >= 2:  w_q = 2 * quantize_k(t / (2 m) + 1/2) - 1, t = tanh(w), m = max |t| over the layer
    Backward, k = 1:  dw = dw_q, E being a constant
    Backward, k >= 2: dw = (1 - t**2) * (dw_q / m - share), where the gradient through m subtracts sum(dw_q * t) / m**2 *
        sign(t) from the entries that attain the maximum, in equal shares

    One scale for the layer, not one for each filter, because the sum over filters in the backward pass must be a product of
    codes. The common implementation differentiates through m, and so does this one; ``through_max=False`` does not.

    Parameters
    ----------
    bits : 1 to 8
    through_max : differentiate through m (k >= 2)
    """

    def __init__(self, bits, through_max=True):
        super().__init__(bits)
        self.through_max = through_max

    def encode_and_save(self, array):
        array = np.ascontiguousarray(array)
        if self.bits == 1:
            values, scale = quantize.encode_sign(array)
            return Codes(values, 1, "bipolar", scale), None
        t = elementary.tanh(array)
        values, largest = nearest_levels(t, self.bits)
        return Codes(values, self.bits, "bipolar", 1 / self.top), (t, largest)

    def grad(self, saved, grad_output):
        if self.bits == 1:
            return grad_output
        t, largest = saved
        grad = grad_output / largest
        if self.through_max:
            attained = np.abs(t) == largest
            total = np.sum(grad_output * t, dtype=np.float64) / (float(largest) ** 2 * max(1, int(attained.sum())))
            grad[attained] -= (total * np.sign(t[attained])).astype(grad.dtype)
        return grad * (1 - t * t)


class DoReFaActivation(Quantizer):
    """Activations of k bits: clipped, then rounded (section 2.4).

    Forward:  a_q = quantize_k(clip(x, 0, 1))
    Backward: dx = da_q where 0 <= x <= 1, else 0

    One bit means {0, 1}, not {-1, +1}.
    """

    @property
    def rounds_unit(self):
        """Is this the rounding of fused blocks? Not where a subclass has one of its own."""
        own = type(self)
        return (own.encode_and_save, own.grad) == (DoReFaActivation.encode_and_save, DoReFaActivation.grad)

    def encode_and_save(self, array):
        values, mask = quantize.encode_activation(np.ascontiguousarray(array), self.bits)
        return Codes(values, self.bits, "unsigned", 1 / self.top), mask

    def grad(self, saved, grad_output):
        return quantize.apply_mask(np.ascontiguousarray(grad_output), saved)


class DoReFaGradient(Quantizer):
    """Gradients of k bits, with noise, used in backward passes alone (section 2.5).

    g_q = 2 M * (quantize_k(clip(g / (2 M) + 1/2 + N, 0, 1)) - 1/2), M = max |g| of each sample,
    N = sigma / n with sigma uniform in (-1/2, 1/2) for each element.

    The noise makes the rounding right on average: E[g_q] = g. Weights and activations can do without, gradients cannot. The
    clip matters: at g = M, n + sigma just below n + 1/2 may round up in floats. A sample whose gradient is 0 stays exactly 0.
    """

    @property
    def rounds_samples(self):
        """Is this the rounding of fused blocks? Not where a subclass has one of its own."""
        own = type(self)
        return (own.encode, own.codes) == (DoReFaGradient.encode, DoReFaGradient.codes)

    def encode(self, array):
        array = np.ascontiguousarray(array)
        largest = quantize.max_magnitude(array)
        values = quantize.encode_gradient(array, largest, self.bits, random.next_key())
        return self.codes(values, largest)

    def codes(self, values, largest):
        """Codes of gradients whose values and max |g| of each sample are known."""
        return Codes(values, self.bits, "bipolar", largest.astype(np.float64) / self.top)
