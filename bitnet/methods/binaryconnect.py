"""BinaryConnect (Courbariaux, Bengio and David, arXiv:1511.00363): weights of +-1, everything else real."""

from dataclasses import replace

from bitnet.functional import squared_hinge
from bitnet.methods.base import Method, Recipe, falling
from bitnet.quantizers import BinaryConnectWeight

HINGE_MLP = Recipe(network="mlp", loss=squared_hinge, schedule=falling(3e-3, 3e-5), lr=3e-3)


class BinaryConnect(Method):
    """BinaryConnect (arXiv:1511.00363): weights are the signs of latent ones, everything else is real."""

    name, title, paper = "binaryconnect", "BinaryConnect, deterministic", "1511.00363"
    own_bits, ends, last_norm, glorot, clip = (1, 32, 32), True, True, True, 1.0
    recipe = replace(HINGE_MLP, options={"width": 1024})
    published = {"mnist": (1.29, "MLP 3 x 1024"), "svhn": (2.30, "a VGG-like network")}

    def weight(self):
        return BinaryConnectWeight()


class BinaryConnectStochastic(BinaryConnect):
    """BinaryConnect with signs drawn at random in training (arXiv:1511.00363)."""

    name, title = "binaryconnect_stochastic", "BinaryConnect, stochastic"
    published = {"mnist": (1.18, "MLP 3 x 1024, about"), "svhn": (2.15, "a VGG-like network")}
    note = "evaluated with its real weights"

    def weight(self):
        return BinaryConnectWeight(stochastic=True)
