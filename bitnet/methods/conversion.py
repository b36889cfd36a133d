"""What methods that convert a trained network share: the layers they take, activations as codes, batch norm estimated anew."""

import numpy as np

from bitnet.layers import BatchNorm
from bitnet.methods.base import places_of
from bitnet.module import Signal, preserved
from bitnet.quantizers import FixedPointActivation, PixelInput, QNNLinear, Quantizer
from bitnet.quantizers.fixed_point import exponent_for
from bitnet.tensor import no_grad


def places_with_real_weights(tree, name):
    """The layers with weights, a list of Place; ValueError where there is none, or one whose weights are quantized already."""
    places = places_of(tree, ends=True)
    tree.name_layers()
    done = [place.layer for place in places if place.layer.weight_quantizer]
    if done:
        raise ValueError(f"{name} converts networks with real weights, got quantized ones in {done[0].name or 'its layer'}")
    return places


class _Range(Quantizer):
    """Lets real numbers pass and remembers the smallest and the largest one."""

    def __init__(self):
        super().__init__(8)
        self.low, self.high = np.inf, -np.inf

    def encode_and_save(self, array):
        self.low, self.high = min(self.low, float(array.min())), max(self.high, float(array.max()))
        return array, None


def quantize_inputs(tree, places, bits, images):
    """Layers that meet real numbers quantize them from here on, in dynamic fixed point for what they meet on some images.

    The first layer of a network of images gets the pixels as they are, 8 bits, whatever ``bits`` are. Inputs of either sign
    become odd levels from -largest to largest (``QNNLinear``). This project's choice: the unit is the smallest with which the
    largest number fits.

    Parameters
    ----------
    tree : Module; places : list of Place, of its layers
    bits : of the activations, 1 to 8; 32: they stay real
    images : array (N, H, W, C)
    """
    codes = set()
    tree.trace(Signal(), lambda module, before, after: codes.add(id(module)) if before.is_codes else None)
    layers = [place.layer for place in places if id(place.layer) not in codes and not place.layer.input_quantizer]
    if tree.input_shape is not None and places[0].layer in layers:
        layers.remove(places[0].layer)
        places[0].layer.input_quantizer = PixelInput()
    if bits == 32:
        return
    for layer in layers:
        layer.input_quantizer = _Range()
    with no_grad(), preserved(tree):
        tree.eval()(images)
    for layer in layers:
        low, high = layer.input_quantizer.low, layer.input_quantizer.high
        if low < 0:
            largest = max(-low, high)
            layer.input_quantizer = QNNLinear(bits, -largest, largest)
        else:
            layer.input_quantizer = FixedPointActivation(bits, exponent_for(high, (1 << bits) - 1))


def estimate_norms(tree, images):
    """Give batch norms the statistics of what they meet on these images, now that other layers compute something else.

    All of them at once, each on what comes from those before it, normalized by the statistics of these images; nothing else is
    in training meanwhile.
    """
    norms = [module for module in tree.modules() if isinstance(module, BatchNorm)]
    training, kept = tree.training, [norm.momentum for norm in norms]
    tree.eval()
    for norm in norms:
        norm.training, norm.momentum = True, 0.0
    with no_grad():
        tree(images)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    tree.train(training)
