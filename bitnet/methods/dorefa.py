"""DoReFa-Net (Zhou et al., arXiv:1606.06160): weights, activations and gradients of a few bits."""

from functools import partial
from itertools import pairwise

from bitnet.bits import parse_bits
from bitnet.layers import Activation, Clip
from bitnet.methods.base import Method, Recipe, falling
from bitnet.optimizers import Adam, Steps
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight

# Accuracies of DoReFa-Net on SVHN by (W, A, G), models A to D: the paper's Table 1, from memory and not looked up.
TABLE_1 = {
    (1, 1, 2): (0.934, 0.924, 0.910, 0.803), (1, 1, 4): (0.968, 0.961, 0.916, 0.846), (1, 1, 8): (0.970, 0.962, 0.902, 0.828),
    (1, 1, 32): (0.971, 0.963, 0.921, 0.841), (1, 2, 2): (0.909, 0.930, 0.900, 0.808), (1, 2, 3): (0.968, 0.964, 0.934, 0.878),
    (1, 2, 4): (0.975, 0.969, 0.939, 0.878), (2, 1, 2): (0.927, 0.928, 0.909, 0.846), (2, 1, 4): (0.969, 0.957, 0.904, 0.827),
    (1, 2, 8): (0.975, 0.971, 0.946, 0.866), (1, 2, 32): (0.976, 0.970, 0.950, 0.865), (1, 3, 3): (0.968, 0.964, 0.946, 0.887),
    (1, 3, 4): (0.974, 0.974, 0.959, 0.897), (1, 3, 6): (0.977, 0.974, 0.949, 0.916), (1, 4, 2): (0.815, 0.898, 0.911, 0.868),
    (1, 4, 4): (0.975, 0.974, 0.962, 0.915), (1, 4, 8): (0.977, 0.975, 0.955, 0.895), (2, 2, 2): (0.900, 0.919, 0.856, 0.842),
    (32, 32, 32): (0.975, 0.975, 0.972, 0.950),
}  # fmt: skip


# tensorpack's AlexNet (examples/DoReFa-Net/alexnet-dorefa.py): 90 epochs of 5,000 batches of 256, the rate lowered at 60 and 75
IMAGENET = Recipe(optimizer=partial(Adam, eps=1e-5, epsilon_hat=True), lr=2e-4, batch_size=256, epochs=90, network="alexnet",
                  schedule=lambda lr: Steps(lr, (60 / 90, 0.2), (75 / 90, 0.04)))

# top-1 errors in per cent on ImageNet, by tensorpack's README and ResNet script, with the pixels' mean and deviation taken off
IMAGENET_ERRORS = {
    "alexnet": {(32, 32, 32): 40.3, (1, 32, 32): 44.3, (1, 1, 32): 51.5, (8, 8, 8): 42.0, (1, 2, 32): 46.6, (1, 2, 6): 46.8,
                (1, 2, 4): 54.0},
    "resnet18": {(1, 4, 32): 40.8},
}  # fmt: skip


class DoReFa(Method):
    """DoReFa-Net (arXiv:1606.06160): weights, activations and gradients of a few bits in the inner layers.

    The first and the last layer are float. The first block has a bias instead of batch norm; the last hidden layer's
    activations are clipped, not quantized.

    Parameters
    ----------
    bits : W, A, G, each 1 to 8 or 32
    overrides : other (W, A, G) for single layers, by name; A is that of the layer's input

    Raises
    ------
    ValueError : other bits; ``apply``: an override of a layer that is not quantized or not there.
    """

    name, title, paper = "dorefa", "DoReFa-Net", "1606.06160"
    own_bits, free = (1, 2, 4), "WAG"
    order = "conv norm pool act"
    recipe = Recipe(optimizer=partial(Adam, eps=1e-5, epsilon_hat=True), schedule=falling(1e-3, 1e-5))  # tensorpack's Adam
    published = {"svhn": (2.5, "model A, (1,2,4), about; 3.0 to 3.1 in tensorpack")}

    def __init__(self, *bits, overrides=None):
        super().__init__(*bits)
        self.overrides = {name: parse_bits(value) for name, value in (overrides or {}).items()}

    def options(self):
        return {"bits": self.bits, "overrides": self.overrides}

    @classmethod
    def rebuild(cls, bits, overrides=None):
        return cls(*bits, overrides=overrides)

    def weight(self):
        return DoReFaWeight(self.bits[0])

    def before_float(self):
        return Activation() if self.bits[1] == 32 else Clip()

    def block(self, block, place):
        if place.first:
            if block.norm is not None:
                block.norm, block.conv.bias = None, block.conv.zero_bias()
            block.act = Activation(self.activation())
        else:
            super().block(block, place)

    def finish(self, tree, places):
        if not self.overrides:
            return
        tree.name_layers()
        inner = [place for place in places if place.quantized]
        found = {place.layer.name: place for place in inner}
        if not self.overrides.keys() <= found.keys():
            raise ValueError(f"bits can be overridden for {', '.join(found)}, got {', '.join(self.overrides)}")
        for before, place in pairwise(places):
            if place.layer.name in self.overrides:
                w, a, g = self.overrides[place.layer.name]
                place.layer.quantize(None if w == 32 else DoReFaWeight(w), None, None if g == 32 else DoReFaGradient(g))
                before.block.act = Activation(None if a == 32 else DoReFaActivation(a))
