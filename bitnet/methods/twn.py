"""Ternary Weight Networks (Li, Zhang and Liu, arXiv:1605.04711)."""

from functools import partial

import numpy as np

from bitnet.methods.base import Method, Recipe
from bitnet.optimizers import SGD, Tenths
from bitnet.quantizers import TWNWeight


class TWN(Method):
    """Ternary Weight Network (arXiv:1605.04711): weights in {-alpha, 0, alpha} in all layers.

    As in the authors' program for MNIST (fengfu-chris/caffe-twns): pooling after batch norm, Xavier's initial weights, a float
    bias of the last layer, which learns twice as fast, and a penalty on all parameters.
    """

    name, title, paper = "twn", "Ternary Weight Network", "1605.04711"
    own_bits, ends = (2, 32, 32), True
    recipe = Recipe(optimizer=partial(SGD, momentum=0.9, weight_decay=1e-4), schedule=Tenths, lr=0.01, batch_size=50,
                    options={"order": "conv norm pool act"})  # ReLU and max pooling may change places
    published = {"mnist": (0.65, "LeNet")}

    def weight(self):
        return TWNWeight()

    def latent(self, layer, place, rng):
        super().latent(layer, place, rng)
        if rng is not None:
            bound = np.sqrt(3 / place.fans[0])
            layer.weight.data = rng.uniform(-bound, bound, layer.weight.shape).astype(np.float32)
        if layer.bias is not None:
            layer.bias.lr_factor = 2.0
