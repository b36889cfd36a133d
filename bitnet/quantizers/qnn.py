"""Quantized Neural Networks (Hubara, Courbariaux et al., arXiv:1609.07061): linear and logarithmic quantization."""

import numpy as np

from bitnet import random
from bitnet.checks import whole
from bitnet.codes import Codes
from bitnet.functional import ap2
from bitnet.kernels.pointwise import elementary
from bitnet.quantizers.base import Quantizer


def _rounded(x, stochastic):
    """Nearest integers, halves to even; or the two next to x with probabilities that make x the mean."""
    return np.floor(x + random.uniform(x.shape)) if stochastic else np.rint(x)


class QNNLinear(Quantizer):
    """Equally spaced levels between two bounds, for weights or activations.

    Forward, without ``step``: the nearest of 2**bits levels, low and high the outermost: integer codes
    Forward, with ``step``:    clip(rint(x / step) * step, low, high), the paper's formula (which calls step the bit width)
    Backward:                  dx = dq where low <= x <= high, else 0

    The formula's own levels are codes where low is 0, and where they are -step, 0 and step (ternary); otherwise they are an odd
    number of levels around 0, which no encoding holds, and the layer that they meet runs in float. Without ``step`` the levels
    are symmetric without a 0, as a +-1 of more bits would be.

    Parameters
    ----------
    bits : 1 to 8
    low, high : bounds; low is 0 or -high
    step : distance of levels, or None
    stochastic : in training, round to one of the two next levels, right on average (the paper: zero-mean noise before rounding)

    Raises
    ------
    ValueError : other bits or bounds; a step of which ``high`` is no multiple, or which makes more than 2**bits levels.
    """

    def __init__(self, bits, low=-1.0, high=1.0, step=None, stochastic=False):
        super().__init__(bits)
        if not high > 0 or low not in (0, -high):
            raise ValueError(f"linear quantization needs high > 0 and low = 0 or -high, got {low} and {high}")
        if step is not None and not (0 < step <= high and np.isclose(high / step, np.rint(high / step))
                                     and np.rint((high - low) / step) < 1 << bits):
            raise ValueError(f"steps of {step} from {low} to {high} must meet {high} and make 2 to {1 << bits} levels")
        self.count = None if step is None else int(np.rint(high / step))  # levels above 0
        self.one_scale = step is None or low == 0 or self.count == 1  # else real numbers
        self.low, self.high, self.step, self.stochastic = low, high, step, stochastic

    def encode_and_save(self, array):
        inside = (array >= self.low) & (array <= self.high)
        noisy = self.stochastic and self.training
        if self.step is None:
            clipped = np.clip(array, array.dtype.type(self.low), array.dtype.type(self.high))
            step = (self.high - self.low) / self.top
            codes = _rounded((clipped - array.dtype.type(self.low)) / array.dtype.type(step), noisy)
            values = np.clip(codes, 0, self.top).astype(np.uint8)
            encoding = "bipolar" if self.low else "unsigned"
            return Codes(values, self.bits, encoding, self.high / self.top), inside
        levels = _rounded(array / array.dtype.type(self.step), noisy)
        levels = np.clip(levels, -self.count if self.low else 0, self.count)
        if self.low == 0:
            return Codes(levels.astype(np.uint8), self.bits, "unsigned", self.step), inside
        if self.count == 1:
            return Codes((levels + 1).astype(np.uint8), 2, "ternary", self.step), inside
        return (levels * self.step).astype(array.dtype), inside


class QNNLogarithmic(Quantizer):
    """Powers of two: products become shifts.

    Forward:  q = clip(AP2(x), low, high), AP2(x) = sign(x) * 2**rint(log2 |x|); high = 2**largest, and what is smaller than the
        smallest power (its exponent would be rounded below it) is 0
    Backward: dx = dq where |x| <= high (and, unsigned, x >= 0), else 0

    With ``bits`` bits there are 0 and 2**bits - 1 powers, or, signed, 2**(bits - 1) - 1 of them with either sign. How the
    smallest ones are treated is not told in the sources this follows; a 0 is this project's reading.

    Unsigned values of up to 8 powers are integer codes, one bit plane a power, so that a popcount product adds up each power's
    bits and shifts: bits 1 to 3. Others are real numbers, and the layer that they meet runs in float.

    Parameters
    ----------
    bits : 1 to 8, signed 2 to 8
    signed : both signs (weights), or what is below 0 becomes 0 (activations)
    largest : exponent of the largest power
    stochastic : in training, round the exponent to one of the two next ones at random

    Raises
    ------
    ValueError : bits outside these bounds.
    """

    def __init__(self, bits, signed=False, largest=0, stochastic=False):
        super().__init__(bits)
        if signed and bits < 2:
            raise ValueError(f"signed powers of two need 2 to 8 bits, one of them for the sign, got {bits}")
        self.signed, self.largest, self.stochastic = signed, whole("the largest power", largest, -99, 99), stochastic
        self.powers = (1 << (bits - signed)) - 1
        self.one_scale = not signed and self.powers <= 8  # else real numbers

    def encode_and_save(self, array):
        high = 2.0 ** self.largest
        inside = (array >= (-high if self.signed else 0)) & (array <= high)
        x = array if self.signed else np.maximum(array, 0)
        magnitude = np.clip(np.abs(x), 0, high)
        smallest = self.largest - self.powers + 1
        if self.stochastic and self.training:
            with np.errstate(divide="ignore"):
                exponent = np.floor(elementary.log(magnitude) * elementary.LOG2_E + random.uniform(array.shape))
            power = np.where(magnitude > 0, np.exp2(np.minimum(exponent, self.largest)), 0)  # exact: of whole numbers
        else:
            power = ap2(magnitude)
        power = np.where(power >= 2.0 ** smallest, power, 0)
        if not self.one_scale:
            return (np.sign(x) * power).astype(array.dtype), inside
        return Codes((power * 2.0 ** -smallest).astype(np.uint8), self.powers, "unsigned", 2.0 ** smallest), inside
