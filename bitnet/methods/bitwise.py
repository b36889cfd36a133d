"""Bitwise Neural Networks (Kim and Smaragdis, arXiv:1601.06071)."""


import numpy as np

from bitnet.functional import squared_hinge
from bitnet.layers import Activation, BitwiseLinear, Dropout, Flatten
from bitnet.methods.base import Method, Recipe, falling, places_of
from bitnet.module import Sequential
from bitnet.quantizers import BinaryInput


class Bitwise(Method):
    """Bitwise Neural Network (arXiv:1601.06071): a perceptron squeezed by tanh, from half of a run on in bits."""

    name, title, paper = "bitwise", "Bitwise Neural Network", "1601.06071"
    own_bits, extends, ends = (1, 1, 32), False, True
    recipe = Recipe(network="mlp", options={"width": 1024}, loss=squared_hinge, schedule=falling(1e-3, 1e-5, times=2),
                    dropout=0.2, epochs=30)
    published = {"mnist": (1.33, "MLP 3 x 1024, +-1 pixels, about")}
    note = ("half of the run in float, half on bits; dropout is this project's. The paper counts bits that disagree "
            "(``functional.bitwise_disagreement``): of ten outputs all then go to -1, one wrong in ten, and stay there")

    def apply(self, tree, seed=None):
        layers = [place.layer for place in places_of(tree, True)]
        if any(np.prod(layer.weight.shape[:-2]) != 1 for layer in layers) or tree.input_shape is None:
            raise ValueError("a Bitwise Neural Network is a multilayer perceptron on images, got another kind of network")
        rng = None if seed is None else np.random.default_rng(seed)
        parts = {}
        for i, layer in enumerate(layers):
            inputs, outputs = layer.weight.shape[-2:]
            made = parts[f"fc{i}"] = BitwiseLinear(inputs, outputs, hidden=i < len(layers) - 1, rng=rng)
            if rng is None:
                made.weight.data = layer.weight.data.reshape(inputs, outputs)
        tree = Sequential(images=tree.images, pixels=Activation(BinaryInput()), drop=Dropout(self.recipe.dropout),
                          flatten=Flatten(), **parts)
        tree.method = self
        return tree
