"""The anchors of Local Binary Convolution (Juefei-Xu, Boddeti and Savvides, arXiv:1608.06049)."""

import numpy as np

from bitnet.checks import number, whole
from bitnet.codes import Codes
from bitnet.quantizers.base import Quantizer
from bitnet.quantizers.twn import ternary


class AnchorWeight(Quantizer):
    """Weights in {-1, 0, 1} that are drawn once and never change.

    Forward:  w_q = sign(w), sign(0) = 0
    Backward: dw = dw_q; nobody asks for it where weights are fixed

    All are 0 at first; then int(density * count) places are drawn uniformly, with replacement, and each is set to +1 or -1, a
    later draw overwriting an earlier one, as in the authors' program (juefeix/lbcnn.torch). So a share of about
    1 - exp(-density) is not 0. The authors call the density "sparsity".

    Parameters
    ----------
    density : draws a weight, positive
    seed : of the draws
    """

    def __init__(self, density=0.5, seed=0):
        super().__init__(2)
        self.density, self.seed = number("the density of anchors", density, 0), whole("the seed of anchors", seed)

    def draw(self, shape):
        """Codes of anchors of a shape, 0, 1 and 2 for -1, 0 and 1: uint8 array."""
        rng = np.random.default_rng(self.seed)
        values = np.ones(shape, np.uint8)
        count = int(self.density * values.size)
        # in the order of the draws: where a place comes twice, NumPy keeps the last
        values.reshape(-1)[rng.integers(0, values.size, count)] = 2 * rng.integers(0, 2, count, np.uint8)
        return values

    def encode_and_save(self, array):
        return Codes(ternary(array, 0), 2, "ternary", 1.0), None
