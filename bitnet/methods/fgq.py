"""Fine-grained ternary quantization (Mellempudi, Kundu, Mudigere, Das, Kaul and Dubey, arXiv:1705.01462)."""

from bitnet.methods.base import Method
from bitnet.methods.conversion import estimate_norms, places_with_real_weights, quantize_inputs
from bitnet.quantizers import FGQWeight, FixedPointWeight


class FGQ(Method):
    """Fine-Grained Quantization (arXiv:1705.01462): ternary weights with a scale for each group of N, no training.

    ``convert`` takes a trained network whose weights are real. The first layer's weights become 8-bit ones, all others ternary;
    activations of A bits get a unit for what they meet on calibration images (``conversion.quantize_inputs``); batch norms are
    estimated anew on these, before and after. A few hundred images do. The steps are the paper's from memory; that the last
    layer is ternary, too, is this project's choice. To go on training it is the paper's fine-tuning for large groups: the real
    weights stay, are made ternary each step, and get the gradient straight through. ``apply`` begins with that.

    Parameters
    ----------
    bits : W, A, G; A of 4 and 8 are the paper's
    group : N, or "filter" or "layer", see ``quantizers.FGQWeight``
    """

    name, title, paper = "fgq", "Fine-Grained Quantization", "1705.01462"
    own_bits, free, ends = (2, 8, 32), "A", True
    note = "made for networks that are trained already (examples/convert.py); trained from scratch here"

    def __init__(self, *bits, group=4):
        super().__init__(*bits)
        self.group = FGQWeight(group).group

    def options(self):
        return {"bits": self.bits, "group": self.group}

    @classmethod
    def rebuild(cls, bits, group=4):
        return cls(*bits, group=group)

    def weight(self):
        return FGQWeight(self.group)

    def layer(self, layer, place, rng):
        super().layer(layer, place, rng)
        if place.first:
            layer.quantize(FixedPointWeight(8), layer.input_quantizer, layer.grad_quantizer)

    def convert(self, tree, data):
        places = places_with_real_weights(tree, self.name)
        for place in places:
            place.layer.quantize(FixedPointWeight(8) if place.first else self.weight(), place.layer.input_quantizer,
                                 self.gradient())
        estimate_norms(tree, data.images)
        quantize_inputs(tree, places, self.bits[1], data.images)
        estimate_norms(tree, data.images)
        tree.method = self
        return tree
