"""XNOR-Net (Rastegari et al., arXiv:1603.05279): +-1 filters and inputs, and the scales of both."""

from dataclasses import replace

from bitnet.layers import Activation, BatchNorm, Conv2d, XNORConv2d
from bitnet.methods.base import Method, swap
from bitnet.module import without_values
from bitnet.quantizers import XNORGradient


class XNOR(Method):
    """XNOR-Net (arXiv:1603.05279): binary inner convolutions after batch norm and sign, scales of weights and inputs."""

    name, title, paper = "xnor", "XNOR-Net", "1603.05279"
    own_bits, clip, centre = (1, 1, 32), 1.0, True
    recipe = replace(Method.recipe, epochs=25)
    note = "with the map K, the paper's gradient"
    scale_map, weight_gradient = True, "paper"

    def layer(self, layer, place, rng):
        if not place.quantized:
            return
        if not isinstance(layer, Conv2d) or layer.groups != 1:
            raise ValueError(f"XNOR-Net's layers are convolutions without groups, got {layer!r}")
        with without_values():  # the weight is the layer's own
            conv = XNORConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                              self.scale_map, gradient=self.weight_gradient, grad_quantizer=self.gradient())
        conv.weight, place.layer = layer.weight, conv
        if place.block is not None:
            place.block.conv = conv
        else:
            swap(self.tree, layer, conv)
        self.latent(conv, place, rng)

    def apply(self, tree, seed=None):
        self.tree = tree
        return super().apply(tree, seed)

    def block(self, block, place):
        channels = block.conv.weight.shape
        block.conv.bias, block.act = None, None
        if place.first:
            block.norm, block.act, block.order = BatchNorm(channels[-1]), Activation(), "conv norm act pool"
        else:  # the convolution binarizes its input itself
            block.norm, block.order = BatchNorm(block.conv.in_channels), "norm act conv pool"

    def finish(self, tree, places):
        last = places[-1].layer
        tree.insert(next(name for name, module in tree.children().items() if last in module.modules()),
                    last_bn=BatchNorm(last.weight.shape[-2]), last_act=Activation())


class XNORRelease(XNOR):
    """XNOR-Net as the authors' program has it (arXiv:1603.05279)."""

    name, title = "xnor_release", "XNOR-Net as released"
    note = "without the map K, the program's gradient"
    scale_map, weight_gradient = False, "code"


class XNORGradients(XNOR):
    """XNOR-Net with gradients of few bits, too: their signs times the largest magnitude (arXiv:1603.05279v4, section 3.2)."""

    name, title = "xnor_gradients", "XNOR-Net with binary gradients"
    own_bits, free = (1, 1, 1), "G"
    note = "deterministic gradients of G bits; a scale for each sample"

    def gradient(self):
        return None if self.bits[2] == 32 else XNORGradient(self.bits[2])
