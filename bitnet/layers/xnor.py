"""XNOR-Net's convolution (Rastegari et al., arXiv:1603.05279)."""

import numpy as np

from bitnet import execution, functional
from bitnet.layers.weighted import Conv2d
from bitnet.quantizers import XNORActivation, XNORWeight
from bitnet.tensor import Tensor


class XNORConv2d(Conv2d):
    """+-1 filters and inputs, multiplied by both their scales.

        y = (sign(x) * sign(W)) . alpha . K,  alpha = mean |W| of each filter,  K = mean over channels of |x|, box-filtered:
        averaged over the filter's window (zeros count where it leaves the image)

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, grad_quantizer, rng : see ``Conv2d``
    scale_map : multiply by K, as in the paper; the authors' program does not, which costs less than one per cent according to
        them
    through_map : let the gradient flow through K; False takes it for a constant. The sources this follows do not tell
    gradient : of the weight, see ``XNORWeight``
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, scale_map=True, through_map=True,
                 gradient="paper", grad_quantizer=None, rng=None):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, weight_quantizer=XNORWeight(gradient),
                         input_quantizer=XNORActivation(), grad_quantizer=grad_quantizer, rng=rng)
        self.scale_map, self.through_map, self.gradient = scale_map, through_map, gradient

    def options(self):
        kept = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "scale_map", "through_map", "gradient",
                "grad_quantizer")
        return {name: getattr(self, name) for name in kept}

    def forward(self, x):
        y = super().forward(x)
        if not self.scale_map:
            return y
        sides = self.weight.shape[:2]
        magnitude = functional.mean_magnitude(x if self.through_map else x.detach())
        box = Tensor(np.full((*sides, 1, 1), 1 / (sides[0] * sides[1]), x.data.dtype))
        with execution.layer(f"{self.name}.map"):
            return y * functional.conv2d(magnitude, box, None, self.stride, self.padding)
