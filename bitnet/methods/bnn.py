"""Binarized Neural Networks (Courbariaux, Hubara et al., arXiv:1602.02830): +-1 everywhere but in the pixels."""

from dataclasses import replace
from functools import partial

import numpy as np

from bitnet.layers import BatchNorm, ShiftBatchNorm
from bitnet.methods.base import Method, falling, places_of
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
    """BNN with shifts for products in batch norm and optimizer, activations drawn at random (arXiv:1602.02830).

    As in the authors' Torch programs (itayhubara/BinaryNet): the batch norm after the last layer is the plain one; networks
    with convolutions round the factor of ``optimizers.glorot_factor`` to a power of two; the perceptron does not, and gives the
    gammas of a batch norm of n outputs sqrt(n / 1.5) times the learning rate.
    """

    name, title = "bnn_shift", "Binarized Neural Network, shift-based"
    recipe = replace(HINGE_MLP, lr=2.0**-6, schedule=falling(2.0**-6, 2.0**-13),
                     optimizer=partial(ShiftAdaMax, beta1=0.9, beta2=0.999))
    published = {"mnist": (1.40, "MLP 3 x 2048"), "svhn": (2.53, "a VGG-like network")}
    note = ("activations are drawn at random in training, as in the authors' Torch program, which halves its learning rate "
            "every 20 epochs; here it falls by equal factors within a run of minutes")

    def activation(self):
        return BNNActivation(stochastic=True)

    def norm(self, channels):
        return ShiftBatchNorm(channels)

    def output_norm(self, channels):
        return BatchNorm(channels, eps=1e-5)

    def apply(self, tree, seed=None):
        self.perceptron = all(np.prod(place.layer.weight.shape[:-2]) == 1 for place in places_of(tree, self.ends))
        self.glorot = True if self.perceptron else "power of two"
        return super().apply(tree, seed)

    def finish(self, tree, places):
        for module in tree.modules():
            if self.perceptron and isinstance(module, (BatchNorm, ShiftBatchNorm)):
                module.gamma.lr_factor = float(np.sqrt(module.channels / 1.5))
