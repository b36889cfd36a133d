"""What a method is: a rewriting of trees, and a recipe.

    net = TWN().apply(net)              a float network with ternary weights
    TWN.recipe                          with which network, loss, optimizer and learning rate it is trained
    Trainer(net, train, test, **training_of(net))

A method says which quantizers a layer gets, in which order a block does its work and what its latent weights are subject to.
``Method.apply`` walks over the tree and asks; what is true of most methods is said here once. A new method is a class in a file
of its own in this folder, found by its name.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from bitnet import functional, optimizers
from bitnet.bits import parse_bits
from bitnet.constraints import Centre, Clip, Each
from bitnet.description import Described
from bitnet.layers import Activation, BatchNorm, Block, Dropout, Weighted
from bitnet.module import Residual, Sequential, Signal
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, PixelInput

METHODS = {}


@dataclass(frozen=True)
class Recipe:
    """How a method is trained. Where the sources at hand do not tell a number it is this project's, chosen for minutes on a
    processor instead of hours on a GPU: learning rates that are not ascribed to somebody, and all numbers of epochs.

    Parameters
    ----------
    network, options : for MNIST, a name in ``models`` and its options
    loss : (logits, labels) -> loss
    optimizer : (parameters, lr) -> Optimizer
    schedule : lr -> function of progress
    lr : learning rate at the start
    dropout : share of the pixels that a multilayer perceptron drops in training
    batch_size, epochs : for MNIST
    """

    network: str = "lenet"
    options: dict = field(default_factory=dict)
    loss: object = functional.softmax_cross_entropy
    optimizer: object = optimizers.Adam
    schedule: object = None
    lr: float = 1e-3
    dropout: float = 0.0
    batch_size: int = 100
    epochs: int = 15


def falling(first, last, times=1):
    """A schedule for a Recipe: from ``first`` to ``last`` by equal factors, ``times`` over again.

    Where training starts with another lr than ``first``, it ends with another one than ``last``, by the same factor.
    """
    return lambda lr: optimizers.ExponentialDecay(lr, last * lr / first, times)


class Method(Described):
    """A way to make a network of few bits. Subclasses set attributes and override the hooks.

    Parameters
    ----------
    bits : W, A, G as three numbers, a tuple or a text; none: the method's own

    Attributes
    ----------
    name : in lists and on command lines
    title, paper : for people; the arXiv number where there is one
    own_bits : (W, A, G) of the inner layers; A or G of 32 can mostly be given fewer as an extension, by DoReFa-Net's quantizers
    free : which of W, A and G may be chosen otherwise; a method without ``extends`` takes no others at all
    ends : are the first and the last layer quantized, too? Then the first one's pixels are codes
    order : of its blocks, see ``Block``; None: as they are
    bare_first : does a first block in float, of a network that has no batch norm there, stay without one?
    last_norm : batch norm after the last layer
    glorot : the learning rate of latent weights times ``optimizers.glorot_factor``, and uniform initial ones
    clip : bound of latent weights, or None; centre : subtract their mean over input channels
    weight_decay : the L2 penalty of latent weights; None: the network's own
    recipe : Recipe
    published : {data set: (error in per cent, setting)}
    note : what else to know
    examples : how many images ``convert`` should get

    Raises
    ------
    ValueError : bits that the method does not have.
    """

    prefix = "method."
    name = title = ""
    paper = note = ""
    own_bits, free, extends = (32, 32, 32), "", True
    ends, order, last_norm, bare_first = False, None, False, False
    glorot, clip, centre, weight_decay = False, None, False, None
    recipe = Recipe(schedule=falling(1e-3, 1e-5))
    published = {}
    examples = 500

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if not cls.name or (cls.name in METHODS and METHODS[cls.name].__module__ != cls.__module__):
            raise ValueError(f"a method needs a name of its own, got {cls.name!r} of {cls.__module__}")
        METHODS[cls.name] = cls

    def __init__(self, *bits):
        bits = bits[0] if len(bits) == 1 and not isinstance(bits[0], int) else bits
        self.bits = self.check_bits(parse_bits(bits)) if bits else self.own_bits

    def options(self):
        return {"bits": self.bits}

    @classmethod
    def rebuild(cls, bits):
        return cls(*bits)

    @classmethod
    def check_bits(cls, bits):
        """The bits themselves; ValueError where the method does not have them."""
        for kind, own, asked in zip("WAG", cls.own_bits, bits, strict=True):
            if asked != own and kind not in cls.free and (kind == "W" or own != 32 or not cls.extends):
                raise ValueError(f"{cls.name} has {own} bits for {kind}, got {asked}")
        return bits

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(map(str, self.bits))})"

    def describe(self):
        """Title and bits as text; says so where DoReFa-Net's quantizers extend what the method itself is."""
        pairs = zip("WAG", self.own_bits, self.bits, strict=True)
        extended = any(asked != own and kind not in self.free for kind, own, asked in pairs)
        bits = ",".join(map(str, self.bits))
        return f"{self.title} in ({bits}) bits" + ", an extension by DoReFa-Net's quantizers" * extended

    # Hooks

    def weight(self):
        """A quantizer of one layer's weights; None: real numbers."""
        return None

    def activation(self):
        """A quantizer of activations; None: ReLU. Here: DoReFa-Net's, the extension of methods with real activations."""
        return None if self.bits[1] == 32 else DoReFaActivation(self.bits[1])

    def before_float(self):
        """The activation, a module, between the last hidden layer and a last layer in float."""
        return Activation(self.activation())

    def gradient(self):
        """A quantizer of gradients; None: real numbers."""
        return None if self.bits[2] == 32 else DoReFaGradient(self.bits[2])

    def pixels(self):
        """A quantizer of images, where the first layer is quantized."""
        return PixelInput() if self.ends else None

    def norm(self, channels):
        """The batch norm of a hidden layer."""
        return BatchNorm(channels)

    def output_norm(self, channels):
        """The batch norm after the last layer."""
        return BatchNorm(channels)

    def block(self, block, place):
        """Rewrite a block. ``place`` tells which of the layers it holds: Place."""
        if self.bare_first and place.first and not place.quantized and block.norm is None:
            block.act = Activation(self.activation())
            return
        if block.norm is None:  # a bias beside a batch norm is the network's own wish
            block.conv.bias = None
        block.norm = self.norm(block.conv.weight.shape[-1])
        block.order = self.order or block.order
        block.act = self.before_float() if place.before_last else Activation(self.activation())

    def layer(self, layer, place, rng):
        """Quantize a layer with weights. ``rng`` draws initial weights, or is None where the layer's own ones stay."""
        if place.quantized:
            layer.quantize(self.weight() if self.bits[0] != 32 else None, layer.input_quantizer, self.gradient())
            if place.last and self.last_norm:
                layer.bias = None
            if layer.weight_quantizer:
                self.latent(layer, place, rng)

    def latent(self, layer, place, rng):
        """What the real weights under a quantized layer start from and are subject to."""
        weight = layer.weight
        if self.glorot:
            if rng is not None:
                weight.data = rng.uniform(-1, 1, weight.shape).astype(np.float32)
            weight.lr_factor = optimizers.glorot_factor(*place.fans, self.glorot == "power of two")
        if self.weight_decay is not None:
            weight.weight_decay = self.weight_decay
        rules = [Centre()] * self.centre + ([Clip(self.clip)] if self.clip is not None else [])
        if rules:
            weight.constraint = rules[0] if len(rules) == 1 else Each(rules)

    def finish(self, tree, places):
        """Whatever is left to do to a rewritten tree, a Sequential."""

    def convert(self, tree, data):
        """After training: the tree, changed in place, in the form of this method.

        Parameters
        ----------
        tree : Module    # trained, of the kind that the method tells
        data : with ``images`` (N, H, W, C) and their ``targets`` (N,), as a Dataset has them; about ``examples`` of them do

        Returns
        -------
        tree : Module, in eval mode or not as it was before

        Raises
        ------
        ValueError : another kind of network, or a method that is trained and not converted to.
        """
        raise ValueError(f"{self.name} is trained, not converted to")

    # Rewriting

    def apply(self, tree, seed=None):
        """Rewrite a tree in place.

        Parameters
        ----------
        tree : Module   # float
        seed : int      # draw all initial weights anew, layer by layer; None: keep those that are there

        Returns
        -------
        tree : Sequential, the tree itself where it is one

        Raises
        ------
        ValueError : the tree has no layer with weights, or one that is quantized already.
        """
        tree = tree if isinstance(tree, Sequential) else Sequential(tree)
        places = places_of(tree, self.ends)
        if any(place.layer.weight_quantizer or place.layer.input_quantizer for place in places):
            raise ValueError(f"{self.name} rewrites float networks, got one that is quantized already")
        rng = None if seed is None else np.random.default_rng(seed)
        for place in places:
            if rng is not None:
                place.layer.reset(rng)
            self.layer(place.layer, place, rng)
            if place.block is not None:
                self.block(place.block, place)
        self.stray_activations(tree, places)
        pixels = self.pixels()
        if pixels is not None:
            drop = {"drop": Dropout(self.recipe.dropout)} if self.recipe.dropout else {}
            tree.insert(_holder(tree, places[0].layer), pixels=Activation(pixels), **drop)
        if self.last_norm:
            tree.insert(None, bn=self.output_norm(places[-1].layer.weight.shape[-1]))
        self.finish(tree, places)
        self.meet_reals(tree)
        tree.method = self
        return tree

    def stray_activations(self, tree, places):
        """Rewrite activations outside of blocks."""
        inside = {id(module) for place in places if place.block for module in place.block.modules()}
        order = [module for module in tree.modules() if isinstance(module, (Weighted, Activation)) and id(module) not in inside]
        ends = {id(place.layer): place for place in places}
        for i, module in enumerate(order):
            following = next((ends[id(one)] for one in order[i:] if id(one) in ends), None)
            if isinstance(module, Activation) and module.quantizer is None and following is not None and not following.first:
                in_float = following.last and not following.quantized
                swap(tree, module, self.before_float() if in_float else Activation(self.activation()))

    def meet_reals(self, tree):
        """Quantized layers that still get real numbers quantize their input themselves: sums of residuals, for instance."""
        if self.activation() is None:
            return

        def visit(module, before, after):
            if isinstance(module, Weighted) and module.weight_quantizer and not module.input_quantizer and not before.is_codes:
                module.input_quantizer = self.activation()

        tree.trace(Signal(), visit)


@dataclass(eq=False)
class Place:
    """Where in a tree a layer with weights stands.

    Attributes
    ----------
    layer : Weighted; block : the Block that it is the convolution of, or None
    first, last : of the layers with weights; quantized : is it to be
    before_last : is the layer after it the last one, and is that in float
    fans : (fan_in, fan_out)
    """

    layer: Weighted
    block: Block | None
    first: bool = False
    last: bool = False
    quantized: bool = True
    before_last: bool = False
    fans: tuple = (1, 1)


def places_of(tree, ends):
    """The layers with weights in the order of the tree, as a list of Place."""
    owner = {id(module.conv): module for module in tree.modules() if isinstance(module, Block)}
    layers = [module for module in tree.modules() if isinstance(module, Weighted)]
    if not layers:
        raise ValueError("there is no layer with weights in this network")
    places = [Place(layer, owner.get(id(layer))) for layer in layers]
    places[0].first = places[-1].last = True
    for place, following in pairwise(places):
        place.before_last = following.last and not ends
    sizes = {}
    tree.trace(Signal(tree.input_shape), lambda module, before, after: sizes.setdefault(id(module), before.shape))
    for place in places:
        place.quantized = ends or not (place.first or place.last)
        sides, size = place.layer.weight.shape[:-2], sizes.get(id(place.layer))
        area = int(np.prod(sides))
        # a filter that covers its image is a fully connected layer: each input meets each filter once
        covers = size is not None and len(size) == 3 and tuple(size[:2]) == tuple(sides)
        place.fans = int(np.prod(place.layer.weight.shape[:-1])), place.layer.weight.shape[-1] * (1 if covers else area)
    return places


def _holder(tree, layer):
    """The name of the part of a Sequential that holds a layer."""
    return next(name for name, module in tree.children().items() if layer in module.modules())


def swap(tree, old, new):
    """Put a module in the place of another one, wherever in the tree that is."""
    for parent in tree.modules():
        for name, child in parent.children().items():
            if child is old:
                if isinstance(parent, (Sequential, Residual)):
                    parent.replace(name, new)
                elif "." in name:
                    raise ValueError(f"{name} stands in a list or dict, where it cannot be replaced: a Sequential lets it")
                else:
                    setattr(parent, name, new)


def training_of(net, lr=None, schedule=None):
    """Optimizer, schedule and loss of a network's method: options of ``Trainer(net, train, test, **options)``.

    Parameters
    ----------
    net : a tree that a method has rewritten; any other gets the recipe of a float network
    lr : positive; None: the recipe's
    schedule : another one than the recipe's, a function of progress; None: the recipe's

    Raises
    ------
    ValueError : a learning rate that is not positive.
    """
    recipe = (getattr(net, "method", None) or Method).recipe
    lr = recipe.lr if lr is None else lr
    if not lr > 0:
        raise ValueError(f"the learning rate must be positive, got {lr}")
    return {"optimizer": recipe.optimizer(net.parameters(), lr), "schedule": schedule or recipe.schedule(lr),
            "loss": recipe.loss}
