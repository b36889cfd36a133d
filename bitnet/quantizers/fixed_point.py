"""Dynamic fixed point: numbers of a few bits whose unit is a power of two, chosen for a layer by what it meets."""

import math

import numpy as np

from bitnet.checks import whole
from bitnet.codes import Codes
from bitnet.quantizers.base import Quantizer


def exponent_for(largest, top):
    """The smallest whole e with ``largest <= top * 2**e``; 0 where there is nothing but zeros."""
    mantissa, exponent = math.frexp(largest / top)  # largest / top = mantissa * 2**exponent, mantissa from 1/2 to below 1
    return exponent - (mantissa == 0.5)


class FixedPointActivation(Quantizer):
    """Activations that are not negative, in dynamic fixed point.

    Forward:  a_q = 2**e * clip(rint(x / 2**e), 0, 2**bits - 1), halves to even
    Backward: dx = da_q where 0 <= x <= 2**e * (2**bits - 1), else 0

    Parameters
    ----------
    bits : 1 to 8
    exponent : e, see ``exponent_for``

    Raises
    ------
    ValueError : other bits, or an exponent that is no whole number from -99 to 99.
    """

    def __init__(self, bits, exponent=0):
        super().__init__(bits)
        self.exponent = whole("the exponent of a fixed point", exponent, -99, 99)

    def encode_and_save(self, array):
        levels = np.rint(array * array.dtype.type(2.0 ** -self.exponent))
        inside = (array >= 0) & (array <= self.top * 2.0 ** self.exponent)
        return Codes(np.clip(levels, 0, self.top).astype(np.uint8), self.bits, "unsigned", 2.0 ** self.exponent), inside


class FixedPointWeight(Quantizer):
    """Weights in dynamic fixed point, odd multiples of half a step, so that as many lie above 0 as below.

    Forward:  w_q = 2**e * (2 c - n), c = clip(rint((w / 2**e + n) / 2), 0, n), n = 2**bits - 1, e as ``exponent_for`` max |w|
    Backward: dw = dw_q, e being a constant

    Parameters
    ----------
    bits : 1 to 8
    """

    def encode_and_save(self, array):
        largest = float(np.abs(array).max())
        unit = 2.0 ** exponent_for(largest, self.top)
        values = np.rint((np.asarray(array, np.float64) / unit + self.top) / 2)
        # no level is 0: where all weights are, their scale says it
        return Codes(np.clip(values, 0, self.top).astype(np.uint8), self.bits, "bipolar", unit if largest else 0.0), None
