"""The quantizers of BFCN (arXiv:1612.00212), whose bits fall in the course of a run.

Of the paper only the abstract and the first page were at hand. The weights' formula is from memory (about), the shares of a run
that each width gets are this project's.
"""

from itertools import pairwise

import numpy as np

from bitnet.checks import number
from bitnet.codes import Codes
from bitnet.kernels.pointwise import quantize
from bitnet.quantizers.base import Quantizer
from bitnet.quantizers.dorefa import DoReFaActivation, nearest_levels


class _Decaying(Quantizer):
    """A quantizer with fewer and fewer bits.

    Parameters
    ----------
    bits : 1 to 8, those that it has now
    decay : pairs (share of the run, bits from there on), in order, the first from 0 on; none: the bits stay
    """

    changing = ("bits",)

    def __init__(self, bits, decay=()):
        super().__init__(bits)
        self.decay = tuple((number("a share of a run", share, 0, 1), width) for share, width in decay)
        for _, width in self.decay:
            super().__init__(width)
        if self.decay and (self.decay[0][0] != 0 or any(one[0] >= other[0] for one, other in pairwise(self.decay))):
            raise ValueError(f"bits fall at rising shares of a run, the first of them 0, got {decay!r}")
        self.bits = bits

    def about(self):
        last = self.decay[-1][1] if self.decay else self.bits
        return f"bits={self.bits}" + f", falling to {last}" * (last != self.bits)

    def advance(self, progress):
        bits = next((width for share, width in reversed(self.decay) if share <= progress), self.bits)
        changed, self.bits = bits != self.bits, bits
        return changed


class BFCNWeight(_Decaying):
    """Weights of k bits on a grid that reaches to the largest of them.

    Forward, k = 1:   w_q = E * sign(w), sign(0) = +1, E = mean |w| over the whole layer
    Forward, k >= 2:  w_q = 2 m * (quantize_k(w / (2 m) + 1/2) - 1/2), m = max |w| over the layer
    Backward:         dw = dw_q; E and m are constants

    Parameters
    ----------
    bits, decay : 1 to 8, and how they fall: pairs (share of the run, bits from there on), the first from 0 on; none: they stay

    Raises
    ------
    ValueError : other bits, or shares that do not rise from 0.
    """

    def encode_and_save(self, array):
        array = np.ascontiguousarray(array)
        if self.bits == 1:
            values, scale = quantize.encode_sign(array)
            return Codes(values, 1, "bipolar", scale), None
        values, largest = nearest_levels(array, self.bits)
        return Codes(values, self.bits, "bipolar", float(largest) / self.top), None


class BFCNActivation(_Decaying, DoReFaActivation):
    """Activations of DoReFa-Net, whose bits may fall; see ``DoReFaActivation`` and ``BFCNWeight``."""
