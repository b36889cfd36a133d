"""Equally spaced levels whose distance is given: quantizers of networks that other programs have trained.

A network of Brevitas or QKeras, say, comes with a scale beside each of its quantizers (``bitnet.exchange``). The levels are
those of QONNX's Quant and BipolarQuant (Pappalardo et al., arXiv:2206.07527).

    unsigned    0, 1, .. n                   times scale, n = 2**bits - 1
    bipolar     -n, -n + 2, .. n             times scale
    ternary     -1, 0, 1                     times scale, 2 bits
    signed      -2**(bits - 1), .., 0, ..    times scale; narrow: without the lowest
"""

import math

import numpy as np

from bitnet.checks import truth
from bitnet.codes import Codes
from bitnet.quantizers.base import Quantizer

ENCODINGS = ("unsigned", "bipolar", "ternary", "signed")


class _Uniform(Quantizer):
    def _make(self, bits, encoding, scale, narrow):
        Quantizer.__init__(self, bits)
        if encoding not in ENCODINGS or (encoding == "ternary" and bits != 2) or (encoding == "signed" and bits < 2):
            raise ValueError(f"equally spaced levels are {', '.join(ENCODINGS)} (ternary of 2 bits, signed of 2 and more), got "
                             f"{encoding!r} of {bits} bits")
        scales = scale if isinstance(scale, tuple) else (scale,)
        if not scales or not all(isinstance(one, float) and 0 < one < math.inf for one in scales):
            raise ValueError(f"the distance of levels must be positive, got {str(scale)[:60]}")
        self.encoding, self.scale, self.narrow = encoding, scale, truth("narrow", narrow)

    @property
    def ends(self):
        """The lowest and the highest level."""
        if self.encoding == "signed":
            return self.narrow - (1 << self.bits - 1), (1 << self.bits - 1) - 1
        return {"unsigned": (0, self.top), "bipolar": (-self.top, self.top), "ternary": (-1, 1)}[self.encoding]

    def _levels(self, array):
        """Integer levels, as floats, and where they are not clipped."""
        x = array / np.asarray(self.scale, array.dtype)
        low, high = self.ends
        inside = (x >= low) & (x <= high)
        if self.bits == 1 and self.encoding == "bipolar":
            return np.where(array >= 0, array.dtype.type(1), array.dtype.type(-1)), inside
        if self.encoding == "bipolar":
            code = np.rint(np.clip(x / 2 + array.dtype.type(self.top / 2), 0, self.top))
            return 2 * code - self.top, inside
        return np.rint(np.clip(x, low, high)), inside

    def _codes(self, levels, scale, per):
        values = (levels + self.top) / 2 if self.encoding == "bipolar" else levels + 1 if self.encoding == "ternary" else levels
        return Codes(values.astype(np.uint8), self.bits, self.encoding, scale, per)


class UniformWeight(_Uniform):
    """Weights on equally spaced levels.

    Forward:  w_q = scale * level, the nearest one, halves to even; of one bit the sign, sign(0) = +1
    Backward: dw = dw_q between the outermost levels, else 0

    Signed levels, a number of them around 0 that no encoding holds, are a sum of ternary codes, a bit of the magnitude each, so
    that products run on integers, one for each bit.

    Parameters
    ----------
    bits : 1 to 8
    encoding : "unsigned", "bipolar", "ternary" or "signed"
    scale : what a level is worth, a float, or a tuple of one for each filter
    narrow : signed: without the lowest level

    Raises
    ------
    ValueError : other bits, encodings or scales.
    """

    def __init__(self, bits, encoding="bipolar", scale=1.0, narrow=True):
        self._make(bits, encoding, scale, narrow)
        if encoding == "unsigned":
            raise ValueError("weights are bipolar, ternary or signed, got unsigned ones")
        self.one_scale = encoding != "signed" and not isinstance(scale, tuple)

    def encode_and_save(self, array):
        levels, inside = self._levels(array)
        scale = np.asarray(self.scale, np.float64)
        if self.encoding != "signed":
            return self._codes(levels, scale if scale.ndim else float(scale), "filter" if scale.ndim else "sample"), inside
        count = max(-self.ends[0], self.ends[1]).bit_length()
        magnitude, sign = np.abs(levels).astype(np.int64), np.sign(levels).astype(np.int64)
        values = np.stack([(magnitude >> bit & 1) * sign + 1 for bit in range(count)]).astype(np.uint8)
        powers = 2.0 ** np.arange(count)
        return Codes(values, 2, "ternary", powers * scale if not scale.ndim else powers[:, None] * scale, "term"), inside


class UniformActivation(_Uniform):
    """Activations on equally spaced levels.

    Forward:  a_q = scale * level, the nearest one, halves to even; bipolar of one bit the sign, sign(0) = +1
    Backward: dx = da_q between the outermost levels, else 0

    Signed levels are real numbers, and the layer that they meet runs in float.

    Parameters
    ----------
    bits : 1 to 8
    encoding : "unsigned", "bipolar", "ternary" or "signed"
    scale : what a level is worth
    narrow : signed: without the lowest level

    Raises
    ------
    ValueError : other bits, encodings or scales.
    """

    def __init__(self, bits, encoding="unsigned", scale=1.0, narrow=True):
        self._make(bits, encoding, scale, narrow)
        if isinstance(scale, tuple):
            raise ValueError(f"activations have one scale, got {len(scale)}")

    def encode_and_save(self, array):
        levels, inside = self._levels(array)
        if self.encoding == "signed":
            return (levels * array.dtype.type(self.scale)).astype(array.dtype), inside
        return self._codes(levels, self.scale, "sample"), inside
