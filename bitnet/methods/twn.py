"""Ternary Weight Networks (Li, Zhang and Liu, arXiv:1605.04711)."""

from bitnet.methods.base import Method
from bitnet.methods.bwn import MOMENTUM
from bitnet.quantizers import TWNWeight


class TWN(Method):
    """Ternary Weight Network (arXiv:1605.04711): weights in {-alpha, 0, alpha} in all layers."""

    name, title, paper = "twn", "Ternary Weight Network", "1605.04711"
    own_bits, ends, weight_decay, recipe = (2, 32, 32), True, 1e-4, MOMENTUM
    published = {"mnist": (0.65, "LeNet")}

    def weight(self):
        return TWNWeight()
