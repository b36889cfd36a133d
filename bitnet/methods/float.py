"""No method: real numbers everywhere."""

from bitnet.methods.base import Method


class Float(Method):
    """The network as it is."""

    name, title, extends = "float", "float32", False
    published = {"mnist": (0.59, "LeNet, as TWN's authors trained it"), "svhn": (2.5, "model A, about")}

    def block(self, block, place):
        pass

    def layer(self, layer, place, rng):
        pass
