"""Quantized Neural Networks (Hubara, Courbariaux et al., arXiv:1609.07061)."""

from dataclasses import replace

from bitnet.methods.base import Method
from bitnet.methods.binaryconnect import HINGE_MLP
from bitnet.quantizers import BNNWeight, QNNLinear, QNNLogarithmic


class QNN(Method):
    """Quantized Neural Network (arXiv:1609.07061): weights of +-1, activations of equally spaced levels."""

    name, title, paper = "qnn", "Quantized Neural Network, linear", "1609.07061"
    own_bits, free = (1, 2, 32), "A"
    ends, last_norm, glorot, clip = True, True, True, 1.0
    recipe = replace(HINGE_MLP, dropout=0.2, epochs=20)
    published = {"mnist": (0.96, "the BNN of the paper")}
    note = ("a fifth of the pixels dropped, to black. BNN's authors drop as many, but of pixels in [-1, 1], to mid grey, and "
            "half of the hidden outputs, too")

    def weight(self):
        return BNNWeight()

    def activation(self):
        return None if self.bits[1] == 32 else QNNLinear(self.bits[1])

    def block(self, block, place):
        super().block(block, place)
        if 1 < self.bits[1] < 32:
            block.drop = None  # codes around 0 without a 0 cannot be dropped


class QNNLog(QNN):
    """Quantized Neural Network (arXiv:1609.07061): weights of +-1, activations 0 and powers of two."""

    name, title = "qnn_log", "Quantized Neural Network, logarithmic"
    recipe, published = HINGE_MLP, {}
    note = "activations 0 and powers of two; A bits are 2**A - 1 powers"

    def activation(self):
        return None if self.bits[1] == 32 else QNNLogarithmic(self.bits[1])
