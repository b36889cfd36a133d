"""DoReFa-Net (Zhou et al., arXiv:1606.06160): weights, activations and gradients of a few bits."""

from functools import partial
from itertools import pairwise

from bitnet.bits import parse_bits
from bitnet.layers import Activation, Clip
from bitnet.methods.base import Method, Recipe, falling
from bitnet.optimizers import Adam
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight


class DoReFa(Method):
    """The first and the last layer are float; the first block has a bias instead of batch norm, the last hidden layer's
    activations are clipped, not quantized.

    Parameters
    ----------
    bits : W, A, G, each 1 to 8 or 32
    overrides : other (W, A, G) for single layers, by name; A is that of the layer's input

    Raises
    ------
    ValueError : other bits; ``apply``: an override of a layer that is not quantized or not there.
    """

    name, title, paper = "dorefa", "DoReFa-Net", "1606.06160"
    own_bits, free = (1, 2, 4), "WAG"
    order = "conv norm pool act"
    recipe = Recipe(optimizer=partial(Adam, eps=1e-5), schedule=falling(1e-3, 1e-5))
    published = {"svhn": (2.5, "model A, (1,2,4), about; 3.0 to 3.1 in tensorpack")}

    def __init__(self, *bits, overrides=None):
        super().__init__(*bits)
        self.overrides = {name: parse_bits(value) for name, value in (overrides or {}).items()}

    def options(self):
        return {"bits": self.bits, "overrides": self.overrides}

    @classmethod
    def rebuild(cls, bits, overrides=None):
        return cls(*bits, overrides=overrides)

    def weight(self):
        return DoReFaWeight(self.bits[0])

    def before_float(self):
        return Activation() if self.bits[1] == 32 else Clip()

    def block(self, block, place):
        if place.first:
            if block.norm is not None:
                block.norm, block.conv.bias = None, block.conv.zero_bias()
            block.act = Activation(self.activation())
        else:
            super().block(block, place)

    def finish(self, tree, places):
        if not self.overrides:
            return
        tree.name_layers()
        inner = [place for place in places if place.quantized]
        found = {place.layer.name: place for place in inner}
        if not self.overrides.keys() <= found.keys():
            raise ValueError(f"bits can be overridden for {', '.join(found)}, got {', '.join(self.overrides)}")
        for before, place in pairwise(places):
            if place.layer.name in self.overrides:
                w, a, g = self.overrides[place.layer.name]
                place.layer.quantize(None if w == 32 else DoReFaWeight(w), None, None if g == 32 else DoReFaGradient(g))
                before.block.act = Activation(None if a == 32 else DoReFaActivation(a))
