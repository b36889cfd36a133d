"""BFCN, a bit fully convolutional network (Wen et al., arXiv:1612.00212): few bits, reached step by step."""

from bitnet.methods.base import Method, Recipe, falling
from bitnet.quantizers import BFCNActivation, BFCNWeight


def falling_bits(bits):
    """How bits fall to ``bits``, as pairs for ``BFCNWeight``: 8 for half of a run, 4 for a quarter, then ``bits``."""
    higher = [(share, width) for share, width in ((0.0, 8), (0.5, 4)) if width > bits]
    return (*higher, ((0.0, 0.5, 0.75)[len(higher)], bits)) if higher else ()


class BFCN(Method):
    """BFCN (arXiv:1612.00212): weights and activations of a few bits, the first and the last layer in float.

    *Bit-width decay*: training begins with many bits, and goes on with fewer and fewer; the optimizer starts anew each time. Of
    the paper only the abstract and the first page were at hand: 8, 4, and then the bits asked for, and for how long each, are
    this project's choice, and so is the learning rate.

    Parameters
    ----------
    bits : W, A, G, each 1 to 8 or 32
    decay : do bits fall in the course of a run? Otherwise they are what they are from the start

    Raises
    ------
    ValueError : other bits.
    """

    name, title, paper = "bfcn", "BFCN", "1612.00212"
    own_bits, free = (2, 2, 32), "WAG"
    recipe = Recipe(schedule=falling(2e-3, 2e-4), lr=2e-3)
    note = "published for segmentation: mean IoU 67.0 % in (2,2) bits and 62.8 % in (1,2), 69.8 % in float, on PASCAL VOC 2012"

    def __init__(self, *bits, decay=True):
        super().__init__(*bits)
        self.decay = decay

    def options(self):
        return {"bits": self.bits, "decay": self.decay}

    @classmethod
    def rebuild(cls, bits, decay=True):
        return cls(*bits, decay=decay)

    def weight(self):
        return self._decaying(BFCNWeight, self.bits[0])

    def activation(self):
        return None if self.bits[1] == 32 else self._decaying(BFCNActivation, self.bits[1])

    def _decaying(self, kind, bits):
        decay = falling_bits(bits) if self.decay else ()
        return kind(decay[0][1] if decay else bits, decay)
