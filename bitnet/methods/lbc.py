"""Local Binary Convolution (Juefei-Xu, Boddeti and Savvides, arXiv:1608.06049): convolutions of which little is learned."""

import numpy as np

from bitnet.layers import Activation, AnchorConv2d, Conv2d, Sequential
from bitnet.methods.base import Method, Recipe, falling, swap
from bitnet.optimizers import Adam


class LBC(Method):
    """Local Binary Convolution (arXiv:1608.06049): fixed ternary anchors, ReLU, and a learned 1 x 1 convolution.

    Takes the place of each inner convolution whose filters are larger than a pixel; everything else stays float. Activations
    are real in the paper, and products with anchors then run in float32; with A bits, DoReFa-Net's, they run on codes.

    Parameters
    ----------
    bits : W, A, G; W is 2, of the anchors
    anchors : filters in the place of one convolution
    density : of the anchors, see ``quantizers.AnchorWeight``
    """

    name, title, paper = "lbc", "Local Binary Convolution", "1608.06049"
    own_bits = (2, 32, 32)
    recipe = Recipe(network="lbc", optimizer=Adam, schedule=falling(4e-3, 4e-5), lr=4e-3, epochs=3)
    published = {"mnist": (0.49, "75 blocks with 512 anchors, about")}
    note = "10 blocks with 128 anchors here; the authors train for 80 epochs, by momentum with steps of 1e-4"

    def __init__(self, *bits, anchors=128, density=0.5):
        super().__init__(*bits)
        self.anchors, self.density = anchors, density

    def options(self):
        return {"bits": self.bits, "anchors": self.anchors, "density": self.density}

    @classmethod
    def rebuild(cls, bits, anchors=128, density=0.5):
        return cls(*bits, anchors=anchors, density=density)

    def apply(self, tree, seed=None):
        self.made = []
        return super().apply(tree, seed)

    def layer(self, layer, place, rng):
        if not place.quantized or not isinstance(layer, Conv2d) or layer.weight.shape[:2] == (1, 1):
            return
        if layer.groups != 1:
            raise ValueError(f"local binary convolutions have no groups, got {layer!r}")
        seed = len(self.made) if rng is None else int(rng.integers(1 << 28))
        anchors = AnchorConv2d(layer.in_channels, self.anchors, layer.kernel_size, layer.stride, layer.padding, self.density,
                               seed, grad_quantizer=self.gradient())
        point = Conv2d(self.anchors, layer.out_channels, 1, bias=True, rng=rng)
        if rng is not None:  # as Torch begins
            bound = self.anchors ** -0.5
            point.weight.data = rng.uniform(-bound, bound, point.weight.shape).astype(np.float32)
        self.made.append((place, Sequential(anchors=anchors, relu=Activation(), point=point)))

    def finish(self, tree, places):
        for place, made in self.made:
            if place.block is None:
                swap(tree, place.layer, made)
            else:
                place.block.conv = made
        self.made = []
