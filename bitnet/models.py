"""Networks, built from a small configuration that a checkpoint can hold."""

import numpy as np

from bitnet import functional
from bitnet.layers import Activation, BatchNorm, Conv2d, Dropout, Flatten, Linear, MaxPool, Module, conv_block, first_block
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight

SVHN_WIDTHS = {"A": 1.0, "B": 0.5, "C": 0.25, "D": 0.125}
INNER_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")


def parse_bits(bits):
    """(W, A, G) from "1,2,4" or three numbers, each 1 to 8 or 32 (float).

    Raises
    ------
    ValueError : anything else.
    """
    parts = bits.split(",") if isinstance(bits, str) else list(bits)
    try:
        widths = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        widths = ()
    if len(widths) != 3 or not all(width == 32 or 1 <= width <= 8 for width in widths):
        raise ValueError(f"bits must be three numbers W,A,G, each 1 to 8 or 32 (float), got {bits!r}")
    return widths


def quantizer(kind, bits):
    """A quantizer of that kind; None, for float, where bits is 32."""
    return None if bits == 32 else kind(bits)


class SVHN(Module):
    """The SVHN network of DoReFa-Net (arXiv:1606.06160, section 3.1) for 40 x 40 x 3 images with values in [0, 1).

    conv -> gradient quantizer -> batch norm -> [max pool] -> clip and quantize, six times; the first and the last layer are
    float. Models B, C and D have 1/2, 1/4 and 1/8 of model A's channels.

    Parameters
    ----------
    model : "A", "B", "C" or "D"
    bits : (W, A, G) of the inner layers, each 1 to 8 or 32
    overrides : other (W, A, G) for single inner layers, by name ("conv1" .. "conv6"); A is that of the layer's input
    seed : of the initial weights
    """

    def __init__(self, model="A", bits=(1, 2, 4), overrides=None, seed=0):
        if model not in SVHN_WIDTHS:
            raise ValueError(f"the model must be one of {', '.join(SVHN_WIDTHS)}, got {model!r}")
        bits, overrides = parse_bits(bits), {name: parse_bits(value) for name, value in (overrides or {}).items()}
        if not overrides.keys() <= set(INNER_LAYERS):
            raise ValueError(f"bits can be overridden for {', '.join(INNER_LAYERS)}, got {', '.join(overrides)}")
        self.config = {"name": "svhn", "model": model, "bits": list(bits),
                       "overrides": {name: list(value) for name, value in overrides.items()}, "seed": seed}
        rng = np.random.default_rng(seed)
        c0, c1, c2, c3, c4, c5, c6 = (int(channels * SVHN_WIDTHS[model]) for channels in (48, 64, 64, 128, 128, 128, 512))

        def widths(name):
            return overrides.get(name, bits)

        def conv(name, inputs, outputs, size, padding):
            w_bits, _, g_bits = widths(name)
            return Conv2d(inputs, outputs, size, padding=padding, weight_quantizer=quantizer(DoReFaWeight, w_bits),
                          grad_quantizer=quantizer(DoReFaGradient, g_bits), rng=rng)

        def activation(name):
            return Activation(quantizer(DoReFaActivation, widths(name)[1]))

        self.conv0 = Conv2d(3, c0, 5, bias=True, rng=rng)
        self.pool0, self.act0 = MaxPool(2), activation("conv1")
        self.conv1, self.bn1, self.act1 = conv("conv1", c0, c1, 3, "same"), BatchNorm(c1), activation("conv2")
        self.conv2, self.bn2 = conv("conv2", c1, c2, 3, "same"), BatchNorm(c2)
        self.pool2, self.act2 = MaxPool(2), activation("conv3")
        self.conv3, self.bn3, self.act3 = conv("conv3", c2, c3, 3, 0), BatchNorm(c3), activation("conv4")
        self.conv4, self.bn4, self.act4 = conv("conv4", c3, c4, 3, "same"), BatchNorm(c4), activation("conv5")
        self.conv5, self.bn5, self.act5 = conv("conv5", c4, c5, 3, 0), BatchNorm(c5), activation("conv6")
        self.drop5 = Dropout(0.5)
        self.conv6, self.bn6 = conv("conv6", c5, c6, 5, 0), BatchNorm(c6)
        self.flatten = Flatten()
        self.fc = Linear(c6, 10, weight_decay=1e-7, rng=rng)
        self.clip_last = bits[1] != 32
        self.name_layers()

    def forward(self, x):
        if x.shape[1:] != (40, 40, 3):
            raise ValueError(f"the network takes images of shape (N, 40, 40, 3), got {x.shape}")
        x = first_block(x, self.conv0, self.act0, self.pool0)                # 36 x 36, then 18 x 18
        x = conv_block(x, self.conv1, self.bn1, self.act1)                   # 18 x 18
        x = conv_block(x, self.conv2, self.bn2, self.act2, self.pool2)       # 18 x 18, then 9 x 9
        x = conv_block(x, self.conv3, self.bn3, self.act3)                   # 7 x 7
        x = conv_block(x, self.conv4, self.bn4, self.act4)                   # 7 x 7
        x = self.drop5(conv_block(x, self.conv5, self.bn5, self.act5))       # 5 x 5
        x = self.bn6(self.conv6(x))                                          # 1 x 1
        x = functional.clip(x) if self.clip_last else functional.relu(x)
        return self.fc(self.flatten(x))


def svhn(model="A", bits=(1, 2, 4), overrides=None, seed=0):
    """The SVHN network of DoReFa-Net; see ``SVHN``."""
    return SVHN(model, bits, overrides, seed)


BUILDERS = {"svhn": SVHN}


def build(config):
    """The network that a configuration (``model.config``) describes, with initial weights.

    Raises
    ------
    ValueError : no network of that name, or values that it does not take.
    """
    options = dict(config)
    name = options.pop("name", None)
    if name not in BUILDERS:
        raise ValueError(f"the network must be one of {', '.join(BUILDERS)}, got {name!r}")
    try:
        return BUILDERS[name](**options)
    except TypeError as error:
        raise ValueError(f"the network {name!r} does not take these options: {options}") from error
