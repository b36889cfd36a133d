"""The methods around DoReFa-Net: each with its network, its way of training and what was published.

    names()                                  every method
    get("twn")                               its recipe: a Method
    model = build("twn", data="mnist")       its network, with initial weights
    training_of(model)                       optimizer, schedule, loss, ...: options of ``training.Trainer``

A network is a list of layers (kind, channels, filter, padding, pool); which numbers in it have how many bits, and in which
order a block does its work, is the method's. Numbers that the sources at hand did not tell are this project's, chosen for
minutes on a processor instead of hours on a GPU: all learning rates that are not ascribed to somebody, and all numbers of
epochs.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from bitnet import functional, models, optimizers
from bitnet.layers import (
    Activation,
    BatchNorm,
    BitwiseLinear,
    Conv2d,
    DiscreteParameter,
    Dropout,
    LowPrecisionBatchNorm,
    MaxPool,
    Module,
    ShiftBatchNorm,
    XNORConv2d,
    conv_block,
)
from bitnet.models import SVHN_WIDTHS, parse_bits
from bitnet.quantizers import (
    BinaryInput,
    BitwiseActivation,
    DoReFaActivation,
    DoReFaGradient,
    GXNORWeight,
    PixelInput,
    StaircaseWeight,
)
from bitnet.quantizers import get as quantizer
from bitnet.quantizers.staircase import hardness
from bitnet.tensor import no_grad

# kind of network -> image shape and hidden layers: channels, filter (0: fully connected), padding, pool
NETWORKS = {
    "mlp": ((28, 28, 1), [(2048, 0, 0, 1)] * 3),
    "lenet": ((28, 28, 1), [(32, 5, 0, 2), (64, 5, 0, 2), (512, 0, 0, 1)]),
    "svhn": ((40, 40, 3), [(48, 5, 0, 2), (64, 3, "same", 1), (64, 3, "same", 2), (128, 3, 0, 1), (128, 3, "same", 1),
                           (128, 3, 0, 1), (512, 0, 0, 1)]),
}  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A recipe.

    Parameters
    ----------
    title, paper : for people; the arXiv number where there is one
    bits : (W, A, G) of the inner layers; A or G of 32 can mostly be given fewer as an extension, by DoReFa-Net's quantizers
    weight, activation : name in ``quantizers`` and options; None: real numbers, ReLU
    free : which of W, A and G may be chosen; W and A are then the ``bits`` of weight and activation
    network, width : of its MNIST network, and what its channels are multiplied by
    ends : are the first and the last layer quantized, too? Then the first one's pixels are codes
    order : of a block: "conv pool norm act", "conv norm pool act", or "norm act conv pool"
    norm : "batch", "shift" or "low precision"
    last_norm : batch norm after the last layer
    dropout : shares of the pixels and of each hidden layer's outputs that a multilayer perceptron drops in training
    loss : "cross entropy", "squared hinge" or "disagreement"
    optimizer, options : "adam", "sgd", "shift adamax" or "dst"
    lr, last_lr : exponential decay over the run; last_lr None: tenths at 1/2 and 5/6 of it
    weight_decay : of quantized weights
    glorot : the learning rate of quantized weights times ``optimizers.glorot_factor``; "power of two" rounds the factor
    clip : bound of quantized weights, or None; centre : subtract their mean over input channels
    batch_size, epochs : for MNIST
    published : {data set: (error in per cent, setting)}
    note : what else to know
    """

    title: str
    paper: str
    bits: tuple
    weight: tuple | None = None
    activation: tuple | None = None
    free: str = ""
    network: str = "lenet"
    width: float = 1.0
    ends: bool = False
    order: str = "conv pool norm act"
    norm: str = "batch"
    last_norm: bool = False
    dropout: tuple = (0.0, 0.0)
    loss: str = "cross entropy"
    optimizer: str = "adam"
    options: dict = field(default_factory=dict)
    lr: float = 1e-3
    last_lr: float | None = 1e-5
    weight_decay: float = 0.0
    glorot: bool | str = False
    clip: float | None = None
    centre: bool = False
    batch_size: int = 100
    epochs: int = 15
    published: dict = field(default_factory=dict)
    note: str = ""


_LATENT = {"glorot": True, "clip": 1.0}
_BINARY_MLP = {"network": "mlp", "ends": True, "last_norm": True, "loss": "squared hinge", "lr": 3e-3, "last_lr": 3e-5}
_SGD = {"optimizer": "sgd", "options": {"momentum": 0.9}, "lr": 0.01, "last_lr": None, "weight_decay": 1e-4, "batch_size": 50}

METHODS = {
    "float": Method(
        "float32", "", (32, 32, 32), published={"mnist": (0.59, "LeNet, as TWN's authors trained it"),
                                               "svhn": (2.5, "model A, about")}),
    "dorefa": Method(
        "DoReFa-Net", "1606.06160", (1, 2, 4), ("dorefa_weight", {}), ("dorefa_activation", {}), free="WAG",
        order="conv norm pool act", options={"eps": 1e-5},
        published={"svhn": (2.5, "model A, (1,2,4), about; 3.0 to 3.1 in tensorpack")},
        note="without the dropout and the L2 penalty of models.SVHN, which is the network of the paper's SVHN results"),
    "bwn": Method(
        "Binary-Weight-Network, one scale a layer", "1606.06160", (1, 32, 32), ("bwn", {}), ends=True, **_SGD,
        published={"mnist": (0.95, "LeNet, trained by TWN's authors, about")}),
    "bwn_filter": Method(
        "Binary-Weight-Network, one scale a filter", "1603.05279", (1, 32, 32), ("bwn_filter", {}), clip=1.0, centre=True,
        note="latent weights are centred and clipped after each step"),
    "binaryconnect": Method(
        "BinaryConnect, deterministic", "1511.00363", (1, 32, 32), ("binaryconnect", {}), width=0.5, **_BINARY_MLP, **_LATENT,
        published={"mnist": (1.29, "MLP 3 x 1024"), "svhn": (2.30, "a VGG-like network")}),
    "binaryconnect_stochastic": Method(
        "BinaryConnect, stochastic", "1511.00363", (1, 32, 32), ("binaryconnect_stochastic", {}), width=0.5, **_BINARY_MLP,
        **_LATENT, published={"mnist": (1.18, "MLP 3 x 1024, about"), "svhn": (2.15, "a VGG-like network")},
        note="evaluated with its real weights"),
    "bnn": Method(
        "Binarized Neural Network", "1602.02830", (1, 1, 32), ("bnn_weight", {}), ("bnn_activation", {}), **_BINARY_MLP,
        **_LATENT, published={"mnist": (0.96, "MLP 3 x 4096, 1000 epochs; 1.40 with 3 x 2048, shift-based"),
                              "svhn": (2.80, "a VGG-like network; 2.53 shift-based")},
        note="no dropout: the authors drop 0.2 of the pixels and 0.5 of the hidden outputs, for 1000 epochs"),
    "bnn_shift": Method(
        "Binarized Neural Network, shift-based", "1602.02830", (1, 1, 32), ("bnn_weight", {}),
        ("bnn_activation_stochastic", {}), **_BINARY_MLP | {"lr": 2.0**-6, "last_lr": 2.0**-13}, norm="shift",
        optimizer="shift adamax", options={"beta1": 0.9, "beta2": 0.999}, glorot="power of two", clip=1.0,
        published={"mnist": (1.40, "MLP 3 x 2048"), "svhn": (2.53, "a VGG-like network")},
        note="activations are drawn at random in training, as in the authors' Torch program, whose numbers these are"),
    "xnor": Method(
        "XNOR-Net", "1603.05279", (1, 1, 32), ("xnor_weight", {}), ("xnor_activation", {}), order="norm act conv pool",
        clip=1.0, centre=True, epochs=25, note="with the map K, the paper's gradient"),
    "xnor_release": Method(
        "XNOR-Net as released", "1603.05279", (1, 1, 32), ("xnor_weight", {"gradient": "code"}), ("xnor_activation", {}),
        order="norm act conv pool", clip=1.0, centre=True, epochs=25,
        note="without the map K, the program's gradient"),
    "twn": Method(
        "Ternary Weight Network", "1605.04711", (2, 32, 32), ("twn", {}), ends=True, **_SGD,
        published={"mnist": (0.65, "LeNet")}),
    "ttq": Method(
        "Trained Ternary Quantization", "1612.01064", (2, 32, 32), ("ttq", {}),
        note="published on CIFAR-10 and ImageNet only"),
    "qnn": Method(
        "Quantized Neural Network, linear", "1609.07061", (1, 2, 32), ("bnn_weight", {}), ("qnn_linear", {}), free="A",
        **_BINARY_MLP, **_LATENT, dropout=(0.2, 0.0), epochs=20, published={"mnist": (0.96, "the BNN of the paper")},
        note="a fifth of the pixels dropped, as by BNN's authors, who also drop half of the hidden outputs"),
    "qnn_log": Method(
        "Quantized Neural Network, logarithmic", "1609.07061", (1, 2, 32), ("bnn_weight", {}), ("qnn_logarithmic", {}),
        free="A", **_BINARY_MLP, **_LATENT, note="activations 0 and powers of two; A bits are 2**A - 1 powers"),
    "gxnor": Method(
        "Gated XNOR", "1705.09283", (2, 2, 32), ("gxnor_weight", {}), ("gxnor_activation", {}), ends=True, last_norm=True,
        loss="squared hinge", optimizer="dst", lr=1e-1, last_lr=1e-5, batch_size=200, epochs=20,
        published={"mnist": (0.68, "LeNet, about"), "svhn": (5.88, "about")}, note="no float copy of a weight anywhere"),
    "graham": Method(
        "Low-precision batch-normalized activations", "1702.08231", (32, 2, 32), norm="low precision", free="A",
        note="a layer's input takes 2**A values a channel, but no common codes: products run in float"),
    "bitwise": Method(
        "Bitwise Neural Network", "1601.06071", (1, 1, 32), network="mlp", width=0.5, loss="squared hinge",
        dropout=(0.2, 0.0), lr=1e-3, last_lr=1e-5, epochs=30,
        published={"mnist": (1.33, "MLP 3 x 1024, +-1 pixels, about")},
        note="half of the run in float, half on bits; dropout is this project's. The paper counts bits that disagree "
             "(``bitwise_disagreement``): of ten outputs all then go to -1, one wrong in ten, and stay there"),
    "staircase": Method(
        "Hardening tanh staircase (\"Lego-Net\")", "", (1, 32, 32), ("staircase", {}), free="W",
        note="weights are real until the last step; evaluated in their hard form"),
}  # fmt: skip


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


def names():
    """All methods."""
    return list(METHODS)


def get(name):
    """The recipe of that name; ValueError where there is none."""
    if name not in METHODS:
        raise ValueError(f"the method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


def bits_of(name, bits=None):
    """(W, A, G) of a method where ``bits`` (or None: its own) are asked for.

    Raises
    ------
    ValueError : it does not have these bits.
    """
    method = get(name)
    if bits is None:
        return method.bits
    bits = parse_bits(bits)
    for kind, own, asked in zip("WAG", method.bits, bits, strict=True):
        if asked != own and kind not in method.free and (kind == "W" or own != 32 or name in ("bitwise", "float")):
            raise ValueError(f"{name} has {own} bits for {kind}, got {asked}")
    return bits


def describe(name, bits):
    """Title and bits of a method as text; says so where DoReFa-Net's quantizers extend what the method itself is."""
    method, text = get(name), ",".join(map(str, bits))
    extended = any(asked != own and kind not in method.free for kind, own, asked in zip("WAG", method.bits, bits, strict=True))
    return f"{method.title} in ({text}) bits" + ", an extension by DoReFa-Net's quantizers" * extended


class Block(Module):
    """A convolution (or a fully connected layer as one) with what surrounds it, in the order of a method."""

    def __init__(self, order, conv, norm, act, pool, drop=0.0):
        self.order, self.conv, self.norm, self.act = order, conv, norm, act
        self.pool, self.drop = MaxPool(pool) if pool > 1 else None, Dropout(drop)

    def forward(self, x):
        if self.order == "conv norm pool act" and self.norm is not None:
            x = conv_block(x, self.conv, self.norm, self.act, self.pool)
        else:
            for name in self.order.split():
                part = functional.clip if name == "clip" else getattr(self, name)
                x = x if part is None else part(x)
        return self.drop(x)


class MethodNetwork(Module):
    """The network of a method.

    Parameters
    ----------
    method : name
    data : "mnist" (N, 28, 28, 1) or "svhn" (N, 40, 40, 3)
    bits : (W, A, G), see ``bits_of``
    network : "mlp", "lenet" or "svhn"; None: the method's own for MNIST, "svhn" for SVHN
    model : "A" to "D": of the svhn network's widths
    seed : of the initial weights

    Raises
    ------
    ValueError : no such method, network, data set or model, or bits that the method does not have.
    """

    def __init__(self, method, data="mnist", bits=None, network=None, model="A", seed=0):
        recipe, bits = get(method), bits_of(method, bits)
        network = network or ("svhn" if data == "svhn" else recipe.network)
        if method == "bitwise":
            raise ValueError("bitwise has a network of its own, BitwiseNetwork")
        if data not in ("mnist", "svhn") or network not in NETWORKS or model not in SVHN_WIDTHS or (network == "svhn") != (
                data == "svhn"):
            raise ValueError(f"there is no network {network!r} of model {model!r} for the data set {data!r}")
        self.config = {"name": "method", "method": method, "data": data, "bits": list(bits), "network": network, "model": model,
                       "seed": seed}
        self.recipe, (self.image, hidden) = recipe, NETWORKS[network]
        self.flatten, self.latent = network == "mlp", []  # latent: layers whose quantized weights are kept as floats
        self._rng, self._method, self._bits = np.random.default_rng(seed), method, bits
        self.pixels = Activation(PixelInput()) if recipe.ends else None  # an 8-bit pixel is a code
        self._dropout = recipe.dropout if self.flatten else (0.0, 0.0)
        self.drop = Dropout(self._dropout[0])
        width = SVHN_WIDTHS[model] if network == "svhn" else recipe.width if network == "mlp" else 1.0
        size, channels = ((1, 1), int(np.prod(self.image))) if self.flatten else (self.image[:2], self.image[2])
        for i, (outputs, filter_size, padding, pool) in enumerate(hidden):
            outputs = int(outputs * width)
            block = self._block(channels, outputs, filter_size or size, padding, pool, i == 0, i == len(hidden) - 1)
            setattr(self, f"block{i}", block)
            size = _size_after(size, filter_size, padding, pool)
            channels = outputs
        if recipe.order == "norm act conv pool":
            self.last_bn, self.last_act = BatchNorm(channels), Activation(None)
        self.fc = self._conv(channels, 10, 1, 0, recipe.ends, bias=not recipe.ends)
        if recipe.last_norm:
            self.bn = ShiftBatchNorm(10) if recipe.norm == "shift" else BatchNorm(10)
        self.name_layers()

    def _block(self, channels, outputs, kernel, padding, pool, first, last):
        recipe, a_bits = self.recipe, self._bits[1]
        quantized = recipe.ends or not first
        conv = self._conv(channels, outputs, kernel, padding, quantized, bias=first and self._method == "dorefa")
        if recipe.order == "norm act conv pool":
            if first:  # float, with a batch norm and ReLU of its own
                return Block("conv norm act pool", conv, BatchNorm(outputs), Activation(None), pool)
            return Block("norm conv pool", conv, BatchNorm(channels), None, pool)  # the layer binarizes its input itself
        if self._method == "dorefa" and first:  # as in DoReFa-Net: a bias instead of batch norm
            return Block("conv pool act", conv, None, Activation(self._activation()), pool)
        if self._method == "dorefa" and last and a_bits != 32:  # clipped, not quantized, before a last layer in float
            return Block("conv norm pool clip", conv, BatchNorm(outputs), None, pool)
        return Block(recipe.order, conv, self._norm(recipe, outputs, a_bits), Activation(self._activation()), pool,
                     self._dropout[1])

    def _activation(self):
        recipe, a_bits = self.recipe, self._bits[1]
        if recipe.activation:
            name, options = recipe.activation
            return None if a_bits == 32 else quantizer(name, **options | ({"bits": a_bits} if "A" in recipe.free else {}))
        return None if a_bits == 32 or recipe.norm == "low precision" else DoReFaActivation(a_bits)

    def _conv(self, channels, outputs, kernel, padding, quantized, bias):
        recipe, (w_bits, _, g_bits), rng = self.recipe, self._bits, self._rng
        gradient = DoReFaGradient(g_bits) if quantized and g_bits != 32 else None
        name, options = recipe.weight or (None, {})
        if not quantized or name is None or w_bits == 32:
            return Conv2d(channels, outputs, kernel, 1, padding, 1, bias, grad_quantizer=gradient, rng=rng)
        if name == "xnor_weight":
            layer = XNORConv2d(channels, outputs, kernel, 1, padding, scale_map=self._method == "xnor", grad_quantizer=gradient,
                               rng=rng, **options)
        else:
            weight = quantizer(name, **options | ({"bits": w_bits} if "W" in recipe.free else {}))
            discrete = isinstance(weight, GXNORWeight)
            layer = Conv2d(channels, outputs, kernel, 1, padding, 1, bias, None if discrete else weight, None, gradient, rng)
            if discrete:
                layer.weight = DiscreteParameter(rng.uniform(-1, 1, layer.weight.shape), weight)
                return layer
        if recipe.glorot:
            layer.weight.data = rng.uniform(-1, 1, layer.weight.shape).astype(np.float32)
            area = int(np.prod(layer.weight.shape[:2]))
            fan_in, fan_out = area * channels, outputs * (1 if kernel == layer.weight.shape[:2] else area)
            layer.weight.lr_factor = optimizers.glorot_factor(fan_in, fan_out, recipe.glorot == "power of two")
        layer.weight.weight_decay = recipe.weight_decay
        self.latent.append(layer)
        return layer

    @staticmethod
    def _norm(recipe, channels, a_bits):
        if recipe.norm == "shift":
            return ShiftBatchNorm(channels)
        if recipe.norm == "low precision" and a_bits != 32:
            return LowPrecisionBatchNorm(channels, a_bits)
        return BatchNorm(channels)

    @property
    def blocks(self):
        """The hidden layers' blocks, in order."""
        return [module for name, module in vars(self).items() if isinstance(module, Block)]

    def forward(self, x):
        if x.shape[1:] != self.image:
            raise ValueError(f"the network takes images of shape (N, {', '.join(map(str, self.image))}), got {x.shape}")
        if self.flatten:
            x = x.reshape(x.shape[0], 1, 1, int(np.prod(x.shape[1:])))
        x = self.drop(self.pixels(x) if self.pixels else x)
        for block in self.blocks:
            x = block(x)
        if hasattr(self, "last_bn"):
            x = self.last_act(self.last_bn(x))
        x = self.fc(x)
        x = x.reshape(x.shape[0], 10)
        return self.bn(x) if hasattr(self, "bn") else x


def _size_after(size, filter_size, padding, pool):
    """(height, width) of what a hidden layer hands on."""
    if filter_size == 0:
        return (1, 1)
    return tuple((length if padding == "same" else length - filter_size + 1 + 2 * padding) // pool for length in size)


class BitwiseNetwork(Module):
    """The multilayer perceptron of Bitwise Neural Networks: stage 1 in float, stage 2 on bits; see ``layers.BitwiseLinear``.

    Parameters
    ----------
    width : units of each of the three hidden layers
    zeros : share of weights that are 0 in stage 2
    seed : of the initial weights

    In stage 2 the logits are divided by sqrt(width), which changes no class but the loss: this project's choice.
    """

    def __init__(self, width=1024, zeros=0.0, seed=0):
        self.config = {"name": "bitwise", "width": width, "zeros": zeros, "seed": seed}
        self.recipe, self.image, self.latent, rng = METHODS["bitwise"], NETWORKS["mlp"][0], [], np.random.default_rng(seed)
        sizes = [int(np.prod(self.image)), width, width, width, 10]
        self.pixels, self.drop = Activation(BinaryInput()), Dropout(self.recipe.dropout[0])
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            setattr(self, f"fc{i}", BitwiseLinear(inputs, outputs, zeros, rng))
            setattr(self, f"act{i}", Activation(BitwiseActivation(1 / np.sqrt(inputs))))
            setattr(self, f"drop{i}", Dropout(self.recipe.dropout[1]))
        self.name_layers()

    @property
    def layers(self):
        """The fully connected layers, in order."""
        return [module for module in vars(self).values() if isinstance(module, BitwiseLinear)]

    def start_bits(self):
        """Go on to stage 2; False where it was reached before."""
        started = [layer.start_bits() for layer in self.layers]
        return any(started)

    def forward(self, x):
        if x.shape[1:] != self.image:
            raise ValueError(f"the network takes images of shape (N, {', '.join(map(str, self.image))}), got {x.shape}")
        x = self.drop(self.pixels(x)).reshape(x.shape[0], int(np.prod(x.shape[1:])))
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < len(self.layers) - 1:
                x = functional.tanh(x) if layer.stage == 1 else getattr(self, f"act{i}")(x)
                x = getattr(self, f"drop{i}")(x)
        # in stage 2 the sums are many times those of stage 1
        return x if layer.stage == 1 else x * float(1 / np.sqrt(layer.weight.shape[0]))


models.BUILDERS |= {"method": MethodNetwork, "bitwise": BitwiseNetwork}


def build(method, data="mnist", bits=None, network=None, model="A", seed=0):
    """The network of a method, with initial weights; see ``MethodNetwork``.

    Raises
    ------
    ValueError : no such method, or it does not have these bits or this network.
    """
    if method == "bitwise":
        bits_of(method, bits)
        if data != "mnist" or network not in (None, "mlp"):
            raise ValueError(f"bitwise is a multilayer perceptron for MNIST, got {network or data!r}")
        return BitwiseNetwork(seed=seed)
    return MethodNetwork(method, data, bits, network, model, seed)


def exponential(lr, last):
    """Learning rate from ``lr`` to ``last`` by equal factors, as a function of progress (0 to 1)."""
    return lambda progress: lr * (last / lr) ** progress


def tenths(lr):
    """A tenth of ``lr`` from half of the run on, a hundredth from 5/6 on."""
    return lambda progress: lr * 0.1 ** ((progress >= 1 / 2) + (progress >= 5 / 6))


def twice(lr, last):
    """``exponential`` over each half of the run."""
    return lambda progress: lr * (last / lr) ** (2 * progress % 1)


def bitwise_disagreement(logits, labels):
    """Mean over the batch of the sum of (1 - t * tanh(logit)) / 2, t = +1 for the label and -1 for the others.

    logits (N, classes), integer labels (N,). arXiv:1601.06071's count of wrong bits, with tanh for the sign.
    """
    targets = -np.ones(logits.shape, logits.data.dtype)
    targets[np.arange(len(labels)), labels] = 1
    agreement = (functional.tanh(logits) * targets).sum()
    return (agreement * (-1 / len(labels)) + float(logits.shape[1])) * 0.5


def training_of(model, lr=None, by_epoch=None, teacher=None, temperature=2.0):
    """Optimizer, schedule, loss and what else the ``Trainer`` of a method's network needs.

    Parameters
    ----------
    model : MethodNetwork or BitwiseNetwork
    lr : positive; None: the method's own
    by_epoch : another schedule than the method's: 0-based epoch -> learning rate, or None
    teacher : a network whose classes are learned, too: a third of the run from labels, a third from the teacher alone, a third
        from the mean of both (after the outline of Wu et al., arXiv:1604.03058, who do not tell temperature, weights or phases
        in the sources at hand), or None; a Module is switched to evaluation
    temperature : of the teacher's classes

    Returns
    -------
    options : dict for ``Trainer(model, train, test, **options)``

    Raises
    ------
    ValueError : a learning rate that is not positive.
    """
    recipe = model.recipe
    lr = recipe.lr if lr is None else lr
    if not lr > 0:
        raise ValueError(f"the learning rate must be positive, got {lr}")
    if isinstance(teacher, Module):
        teacher.eval()
    last = None if recipe.last_lr is None else recipe.last_lr * lr / recipe.lr
    kind = {"adam": optimizers.Adam, "sgd": optimizers.SGD, "shift adamax": optimizers.ShiftAdaMax, "dst": optimizers.DST}
    optimizer = kind[recipe.optimizer](model.parameters(), lr, **recipe.options)
    rules = []
    for layer in model.latent:
        functions = [optimizers.centre_rule()] if recipe.centre else []
        if recipe.clip is not None:
            functions.append(optimizers.clip_rule(recipe.clip))
        if functions:
            rules.append((layer.weight, *functions))
    schedule = twice(lr, last) if isinstance(model, BitwiseNetwork) else tenths(lr) if last is None else exponential(lr, last)
    return {
        "optimizer": optimizers.Latent(optimizer, rules) if rules else optimizer, "schedule": by_epoch,
        "loss": _loss_of(recipe, teacher, temperature), "prepare": preparation_of(model, None if by_epoch else schedule),
    }  # fmt: skip


def _loss_of(recipe, teacher, temperature):
    losses = {"cross entropy": functional.softmax_cross_entropy, "squared hinge": functional.squared_hinge,
              "disagreement": bitwise_disagreement}
    hard = losses[recipe.loss]

    def loss(logits, batch, trainer):
        if teacher is None or trainer.progress < 1 / 3:
            return hard(logits, batch.labels)
        with no_grad():
            targets = teacher(batch.images).data
        soft = functional.soft_targets(logits, targets, temperature)
        if trainer.progress < 2 / 3:
            return soft
        return hard(logits, batch.labels) * 0.5 + soft * 0.5

    return loss


def preparation_of(model, schedule=None):
    """A function for ``Trainer(prepare=)``: what changes in the course of a run.

    Parameters
    ----------
    model : Module
    schedule : callable or None   # progress (0 to 1) -> learning rate
    """
    soft = [q for module in model.named_modules().values() for q in vars(module).values() if isinstance(q, StaircaseWeight)]

    def prepare(trainer):
        if schedule is not None:  # every step: runs may have few epochs
            trainer.optimizer.lr = schedule(trainer.progress)
        if isinstance(model, BitwiseNetwork) and trainer.progress >= 0.5 and model.start_bits():
            # the gradients of bits are many times those at the end of stage 1: by Adam's mean of squares of these, the first
            # steps would be so long that signs could not come back
            trainer.optimizer.restart()
        for staircase in soft:
            staircase.c = hardness(trainer.progress)

    return prepare
