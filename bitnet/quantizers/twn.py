"""Ternary Weight Networks (Li, Zhang and Liu, arXiv:1605.04711)."""

import numpy as np

from bitnet.checks import number
from bitnet.codes import Codes
from bitnet.kernels.pointwise.quantize import sums_by_code
from bitnet.quantizers.base import Quantizer


def ternary(array, threshold):
    """Ternary code values of an array: 2 above ``threshold``, 0 below its negative, 1 between, the threshold included."""
    return (array > threshold).view(np.uint8) + np.uint8(1) - (array < -threshold).view(np.uint8)


class TWNWeight(Quantizer):
    """Weights in {-alpha, 0, alpha}.

    Forward:  T = sign(w) where |w| > Delta, else 0; Delta = 0.7 * mean |w|; w_q = alpha * T, alpha = mean |w| over |w| > Delta
    Backward: dw = dw_q, Delta and alpha being constants, no clipping

    0.7 lies between the best factors for uniform and for normal weights. One Delta and one alpha a layer, the default, is what
    the authors' program has; several other implementations have one for each filter.

    Parameters
    ----------
    factor : of the mean magnitude
    per : "layer" or "filter"

    Raises
    ------
    ValueError : another ``per``.
    """

    def __init__(self, factor=0.7, per="layer"):
        super().__init__(2)
        if per not in ("layer", "filter"):
            raise ValueError(f'TWN has a threshold per "layer" or per "filter", got {per!r}')
        self.factor, self.per, self.one_scale = number("TWN's factor", factor, 0), per, per == "layer"

    def encode_and_save(self, array):
        axes = tuple(range(array.ndim - (self.per == "filter")))
        magnitude = np.abs(array)
        delta = (self.factor * magnitude.mean(axis=axes, dtype=np.float64)).astype(array.dtype)
        codes = ternary(array, delta)
        if self.per == "layer":
            sums, counts = sums_by_code(magnitude, codes, 2)
            alpha = float(sums[[0, 2]].sum() / max(counts[[0, 2]].sum(), 1))
        else:
            large = codes != 1
            alpha = np.sum(magnitude, axis=axes, dtype=np.float64, where=large) / np.maximum(large.sum(axis=axes), 1)
        return Codes(codes, 2, "ternary", alpha, per="filter"), None
