"""Gated XNOR Networks (Deng, Jiao, Pei, Wu and Li, arXiv:1705.09283)."""

from bitnet.functional import squared_hinge
from bitnet.methods.base import Method, Recipe, falling
from bitnet.optimizers import DST
from bitnet.quantizers import GXNORActivation, GXNORWeight


class GXNOR(Method):
    """Gated XNOR (arXiv:1705.09283): weights and activations in {-1, 0, 1}; weights jump, none has a float copy."""

    name, title, paper = "gxnor", "Gated XNOR", "1705.09283"
    own_bits, ends, last_norm = (2, 2, 32), True, True
    recipe = Recipe(loss=squared_hinge, optimizer=DST, schedule=falling(1e-1, 1e-5), lr=1e-1, batch_size=200, epochs=20)
    published = {"mnist": (0.68, "LeNet, about"), "svhn": (5.88, "about")}
    note = "no float copy of a weight anywhere"

    def weight(self):
        return GXNORWeight()

    def activation(self):
        return GXNORActivation()

    def latent(self, layer, place, rng):
        if rng is not None:
            layer.weight.data = rng.uniform(-1, 1, layer.weight.shape)
