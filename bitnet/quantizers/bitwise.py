"""Bitwise Neural Networks (Kim and Smaragdis, arXiv:1601.06071): a network squeezed by tanh, then trained on bits with noise.

Stage 1 trains a float network whose weights, biases and activations all go through tanh. Stage 2 starts from its tanh(w) and
runs on bits forward and backward, while the real weights collect the updates. ``layers.BitwiseLinear`` does both.
"""

import numpy as np

from bitnet.codes import Codes
from bitnet.kernels.pointwise import elementary
from bitnet.quantizers.base import Quantizer
from bitnet.quantizers.binaryconnect import binarize
from bitnet.quantizers.twn import ternary


class BitwiseWeight(Quantizer):
    """Weights and biases of the second stage.

    Forward:  w_q = +1 where w > beta, -1 where w < -beta, else 0; beta such that a share ``zeros`` of the layer becomes 0.
        Without zeros: w_q = sign(w), sign(0) = +1, one bit
    Backward: dw = dw_q

    The weights that are 0 are not there in the final network: one bit each and a mask. The share is not told in the sources
    this follows.

    Parameters
    ----------
    zeros : share of weights that are 0, in [0, 1); more become 0 where magnitudes are equal

    Raises
    ------
    ValueError : a share outside these bounds.
    """

    def __init__(self, zeros=0.0):
        if not 0 <= zeros < 1:
            raise ValueError(f"the share of zeros must be in [0, 1), got {zeros}")
        super().__init__(2 if zeros else 1)
        self.zeros = zeros

    def encode_and_save(self, array):
        count = int(self.zeros * array.size)
        if count == 0:
            if self.bits == 1:
                return Codes(binarize(array), 1, "bipolar", 1.0), None
            return Codes(2 * binarize(array), 2, "ternary", 1.0), None
        beta = np.partition(np.abs(array).ravel(), count - 1)[count - 1]
        return Codes(ternary(array, beta), 2, "ternary", 1.0), None


class BitwiseActivation(Quantizer):
    """Activations of the second stage.

    Forward:  z = sign(a), sign(0) = +1
    Backward: da = (1 - tanh(slope * a)**2) * dz, the derivative of the first stage's tanh in the place of the sign's. The
        paper's equations, as public notes quote them, have no such factor: da = dz. That is a change of this project's; the
        bare formula learns worse here (MNIST, 8 epochs, one seed: 9.0 instead of 3.4 % errors)

    With weights of +-1 the sums are many times those of the first stage, whose weights are small, and tanh would be flat nearly
    everywhere. The sign does not mind a factor; ``slope`` brings the sums back to where tanh is not flat. It is this project's.

    Parameters
    ----------
    slope : positive, 1 / sqrt(number of inputs) for sums of that many signs

    Raises
    ------
    ValueError : a slope that is not positive.
    """

    def __init__(self, slope=1.0):
        super().__init__(1)
        if not slope > 0:
            raise ValueError(f"the slope must be positive, got {slope}")
        self.slope = slope

    def encode_and_save(self, array):
        return Codes(binarize(array), 1, "bipolar", 1.0), array

    def grad(self, saved, grad_output):
        t = elementary.tanh(saved * saved.dtype.type(self.slope))
        return grad_output * (1 - t * t)
