"""A staircase of tanh bricks that hardens while a network trains ("Lego-Net"): see ``quantizers.staircase``."""

from bitnet.methods.base import Method
from bitnet.quantizers import StaircaseWeight


class Staircase(Method):
    """Weights that become those of DoReFa-Net, gradually: see ``quantizers.StaircaseWeight``."""

    name, title = "staircase", 'Hardening tanh staircase ("Lego-Net")'
    own_bits, free, bare_first = (1, 32, 32), "W", True
    published = {"alexnet": (42.82, "a fork of tensorpack, (1,32,32), settings unknown")}
    note = "weights are real until the last step; evaluated in their hard form"

    def weight(self):
        return StaircaseWeight(self.bits[0])
