"""Binary-Weight-Networks: a bit times the mean magnitude, of a layer (DoReFa-Net's reading) or of each filter (XNOR-Net's)."""

from bitnet.methods.base import Method
from bitnet.methods.twn import TWN
from bitnet.quantizers import BWNWeight, XNORWeight


class BWN(TWN):
    """Binary weights with one scale a layer, in all layers (Binary-Weight-Network, arXiv:1606.06160), trained as TWN is."""

    name, title, paper = "bwn", "Binary-Weight-Network, one scale a layer", "1606.06160"
    own_bits = (1, 32, 32)
    published = {"mnist": (0.95, "LeNet, trained by TWN's authors, about")}

    def weight(self):
        return BWNWeight()


class BWNFilter(Method):
    """Binary weights with one scale a filter (Binary-Weight-Network, arXiv:1603.05279)."""

    name, title, paper = "bwn_filter", "Binary-Weight-Network, one scale a filter", "1603.05279"
    own_bits, clip, centre = (1, 32, 32), 1.0, True
    note = "latent weights are centred and clipped after each step"

    def weight(self):
        return XNORWeight()
