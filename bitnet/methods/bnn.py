"""Binarized Neural Networks (Courbariaux, Hubara et al., arXiv:1602.02830): +-1 everywhere but in the pixels."""

from dataclasses import replace
from functools import partial

from bitnet.layers import ShiftBatchNorm
from bitnet.methods.base import Method, falling
from bitnet.methods.binaryconnect import HINGE_MLP
from bitnet.optimizers import ShiftAdaMax
from bitnet.quantizers import BNNActivation, BNNWeight


class BNN(Method):
    """Binarized Neural Network (arXiv:1602.02830): weights and activations are signs."""

    name, title, paper = "bnn", "Binarized Neural Network", "1602.02830"
    own_bits, ends, last_norm, glorot, clip = (1, 1, 32), True, True, True, 1.0
    recipe = HINGE_MLP
    published = {"mnist": (0.96, "MLP 3 x 4096, 1000 epochs; 1.40 with 3 x 2048, shift-based"),
                 "svhn": (2.80, "a VGG-like network; 2.53 shift-based")}
    note = "no dropout: the authors drop 0.2 of the pixels and 0.5 of the hidden outputs, for 1000 epochs"

    def weight(self):
        return BNNWeight()

    def activation(self):
        return BNNActivation()


class BNNShift(BNN):
    """BNN with shifts for products in batch norm and optimizer, activations drawn at random (arXiv:1602.02830)."""

    name, title, glorot = "bnn_shift", "Binarized Neural Network, shift-based", "power of two"
    recipe = replace(HINGE_MLP, lr=2.0**-6, schedule=falling(2.0**-6, 2.0**-13),
                     optimizer=partial(ShiftAdaMax, beta1=0.9, beta2=0.999))
    published = {"mnist": (1.40, "MLP 3 x 2048"), "svhn": (2.53, "a VGG-like network")}
    note = "activations are drawn at random in training, as in the authors' Torch program, whose numbers these are"

    def activation(self):
        return BNNActivation(stochastic=True)

    def norm(self, channels):
        return ShiftBatchNorm(channels)

    output_norm = norm
