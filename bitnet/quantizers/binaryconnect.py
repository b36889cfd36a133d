"""BinaryConnect (Courbariaux, Bengio and David, arXiv:1511.00363): weights of +-H in every layer, everything else real."""

import numpy as np

from bitnet import random
from bitnet.codes import Codes
from bitnet.quantizers.base import Quantizer


def hard_sigmoid(x):
    return np.clip((x + 1) / 2, 0, 1)


def binarize(x, stochastic=False):
    """+-1 codes of an array: its signs, sign(0) = +1; or +1 with probability ``hard_sigmoid(x)``."""
    values = random.uniform(x.shape) < hard_sigmoid(x) if stochastic else x >= 0
    return values.view(np.uint8)


class BinaryConnectWeight(Quantizer):
    """Weights of one bit, +-H.

    Forward, deterministic: w_q = H * sign(w), sign(0) = +1
    Forward, stochastic:    w_q = +H with probability hard_sigmoid(w / H), else -H
    Backward:               dw = dw_q, no mask

    The latent weight is clipped to [-H, H] after each update (``constraints.Clip``), where the hard sigmoid is not
    constant. A network trained with stochastic weights is evaluated with its real ones, as in the authors' program.

    Parameters
    ----------
    stochastic : draw the signs in training
    H : the magnitude, 1 in the paper
    """

    def __init__(self, stochastic=False, H=1.0):
        super().__init__(1)
        self.stochastic, self.H = stochastic, float(H)
        self.one_scale = not stochastic

    def encode_and_save(self, array):
        if self.stochastic and not self.training:
            return array, None
        return Codes(binarize(array / array.dtype.type(self.H), self.stochastic), 1, "bipolar", self.H), None
