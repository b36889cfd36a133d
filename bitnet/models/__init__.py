"""Networks: a file in this folder is one, found by its name.

    build("lenet")                   a float tree, with initial weights
    svhn("A", (1, 2, 4))             DoReFa-Net's network for SVHN, in bits
    pretrained("svhn")               one that comes with the package, trained and frozen
"""

import importlib
import pkgutil

from bitnet.bits import parse_bits
from bitnet.methods.dorefa import DoReFa
from bitnet.models.alexnet import alexnet
from bitnet.models.bfcn import bfcn
from bitnet.models.mnist import lenet, mlp
from bitnet.models.resnet import resnet18
from bitnet.models.svhn import WIDTHS as SVHN_WIDTHS
from bitnet.networks import build, names, network

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["INNER_LAYERS", "SVHN_WIDTHS", "alexnet", "bfcn", "build", "lenet", "mlp", "names", "network", "parse_bits",
           "pretrained", "resnet18", "svhn"]

INNER_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")


def svhn(model="A", bits=(1, 2, 4), overrides=None, seed=0):
    """The SVHN network of DoReFa-Net (arXiv:1606.06160, section 3.1) in bits, for 40 x 40 x 3 images.

    Parameters
    ----------
    model : "A", "B", "C" or "D"
    bits : (W, A, G) of the inner layers, each 1 to 8 or 32
    overrides : other (W, A, G) for single inner layers, by name ("conv1" .. "conv6"); A is that of the layer's input
    seed : of the initial weights

    Raises
    ------
    ValueError : another model, other bits, or an override of another layer.
    """
    return DoReFa(bits, overrides=overrides).apply(build("svhn", model=model, seed=seed))


def pretrained(name):
    """A trained network that comes with the package, a FrozenNetwork; see ``bitnet.pretrained`` for names and recipes.

    Raises
    ------
    ValueError : there is none of that name.
    """
    return importlib.import_module("bitnet.pretrained").load(name)  # frozen networks are built on models: not known here
