"""Binarized Neural Networks (Courbariaux, Hubara et al., arXiv:1602.02830): +-1 everywhere but in the pixels."""

import numpy as np

from bitnet.checks import number
from bitnet.codes import Codes
from bitnet.quantizers.base import Quantizer
from bitnet.quantizers.binaryconnect import binarize


class BNNWeight(Quantizer):
    """Weights of one bit, +-1, without a scale.

    Forward, deterministic: w_q = sign(w), sign(0) = +1
    Forward, stochastic:    w_q = +1 with probability hard_sigmoid(w), else -1; evaluation takes the sign
    Backward:               dw = dw_q; the latent weight is clipped to [-1, 1] after each update (``constraints.Clip``)

    Parameters
    ----------
    stochastic : draw the signs in training
    """

    def __init__(self, stochastic=False):
        super().__init__(1)
        self.stochastic = stochastic

    def encode_and_save(self, array):
        return Codes(binarize(array, self.stochastic and self.training), 1, "bipolar", 1.0), None


class BNNActivation(Quantizer):
    """Activations of one bit, +-1.

    Forward, deterministic: a_q = sign(x), sign(0) = +1
    Forward, stochastic:    a_q = +1 with probability hard_sigmoid(x), else -1; evaluation takes the sign
    Backward:               dx = da_q where |x| <= 1, else 0: the gradient of the hard tanh

    The authors' Theano program is deterministic throughout; their Torch program draws the activations in training by default.
    The two published sets of results differ by that.

    Parameters
    ----------
    stochastic : draw the signs in training
    """

    def __init__(self, stochastic=False):
        super().__init__(1)
        self.stochastic = stochastic

    def encode_and_save(self, array):
        return Codes(binarize(array, self.stochastic and self.training), 1, "bipolar", 1.0), np.abs(array) <= 1


class BinaryInput(Quantizer):
    """Pixels of one bit, +-1.

    Forward:  a_q = +1 where x >= threshold, else -1
    Backward: none, there is nothing to train before the first layer; the gradient is passed on

    Parameters
    ----------
    threshold : of the pixels, which are in [0, 1)
    """

    def __init__(self, threshold=0.5):
        super().__init__(1)
        self.threshold = number("the threshold of pixels", threshold)

    def encode_and_save(self, array):
        return Codes((array >= self.threshold).view(np.uint8), 1, "bipolar", 1.0), None


class PixelInput(Quantizer):
    """Pixels as the 8-bit numbers that they were, so that a first layer runs on integers too.

    Forward:  a_q = rint(256 * x) / 256 for x in [0, 1): exact for pixels / 256; values outside are clipped
    Backward: none, there is nothing to train before the first layer; the gradient is passed on

    A layer's sum is then that of 8 bit planes, s = sum over n of 2**(n - 1) * (x^n . w_q), the formula of the paper's section
    on the first layer. Its pixels in [-1, 1] are (2 / 255) times these 8-bit numbers minus 1, which a batch norm after the
    layer takes back as long as no zeros are padded.
    """

    def __init__(self):
        super().__init__(8)

    def __call__(self, x):
        pixels = x.codes is not None and (x.codes.bits, x.codes.encoding, x.codes.scale) == (8, "unsigned", 1 / 256)
        return x if pixels else super().__call__(x)

    def encode_and_save(self, array):
        return Codes(np.rint(np.clip(array * 256, 0, 255)).astype(np.uint8), 8, "unsigned", 1 / 256), None
