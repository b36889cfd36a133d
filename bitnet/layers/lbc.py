"""Local Binary Convolution's fixed layer (Juefei-Xu, Boddeti and Savvides, arXiv:1608.06049)."""

import numpy as np

from bitnet.codes import Codes
from bitnet.layers.weighted import Conv2d
from bitnet.module import initial
from bitnet.quantizers import AnchorWeight
from bitnet.tensor import Tensor


class AnchorConv2d(Conv2d):
    """A convolution with anchors: ternary weights that are drawn once, kept as codes and never learned.

    Its input gets the exact gradient. There is no parameter; the anchors are a buffer and travel with the network.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, input_quantizer, grad_quantizer : see ``Conv2d``
    density, seed : of the anchors, see ``AnchorWeight``

    Attributes
    ----------
    anchors : uint8 array (kh, kw, in_channels, out_channels), 0, 1 and 2 for -1, 0 and 1
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, density=0.5, seed=0, input_quantizer=None,
                 grad_quantizer=None):
        self.density, self.seed = density, seed
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, weight_quantizer=AnchorWeight(density, seed),
                         input_quantizer=input_quantizer, grad_quantizer=grad_quantizer)

    def options(self):
        options = super().options()
        del options["bias"]
        return options

    def _make(self, shape, fan_in, bias, weight_decay, quantizers, rng):
        self.fan_in, self.bias = fan_in, None
        self.anchors = initial(shape, lambda: quantizers[0].draw(shape), np.uint8)
        self.weight_quantizer, self.input_quantizer, self.grad_quantizer = quantizers

    def quantize(self, weight=None, input=None, gradient=None):
        raise ValueError("the weights of a convolution with anchors are fixed, and cannot be quantized otherwise")

    def reset(self, rng):
        """Nothing: anchors are those of the seed."""

    @property
    def weight(self):
        """The anchors as a Tensor of codes, which wants no gradient."""
        return Tensor(Codes(np.minimum(self.anchors, 2), 2, "ternary", 1.0))  # whatever a file may hold

    def quantized_weight(self):
        return self.weight
