"""The methods around DoReFa-Net: a file in this folder is a paper, with what it does to a network and how that is trained.

    net = TWN().apply(net)                    any float network
    net = build("twn", data="mnist")          the recipe's own, with initial weights
    Trainer(net, train, test, **training_of(net))
    names(), get("twn")                       every method; the class of one
    conversions()                             those to which a trained network is converted
"""

import importlib
import pkgutil

from bitnet import networks
from bitnet.methods.base import METHODS, Method, Recipe, falling, training_of

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
globals().update({method.__name__: method for method in METHODS.values()})

__all__ = ["Method", "Recipe", "build", "conversions", "falling", "get", "names", "training_of",
           *(m.__name__ for m in METHODS.values())]


def names():
    """All methods."""
    return list(METHODS)


def conversions():
    """The methods to which trained networks can be converted."""
    return [name for name, kind in METHODS.items() if kind.convert is not Method.convert]


def get(name):
    """The method of that name, a class; ValueError where there is none."""
    if name not in METHODS:
        raise ValueError(f"the method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


def build(method, data="mnist", bits=None, network=None, model="A", seed=0):
    """The network of a method, with initial weights.

    Parameters
    ----------
    method : name
    data : "mnist" (N, 28, 28, 1) or "svhn" (N, 40, 40, 3)
    bits : (W, A, G); None: the method's own
    network : "lenet" or "mlp"; None: the recipe's for MNIST, "svhn" for SVHN
    model : "A" to "D": of the SVHN network's widths
    seed : of the initial weights

    Raises
    ------
    ValueError : no such method, network, data set or model, or bits that the method does not have.
    """
    method = get(method)(*(() if bits is None else (bits,)))
    if data not in ("mnist", "svhn"):
        raise ValueError(f'the data set must be "mnist" or "svhn", got {data!r}')
    if data == "svhn":
        if network not in (None, "svhn"):
            raise ValueError(f"there is no network {network!r} for SVHN")
        return method.apply(networks.build("svhn", model=model), seed)
    network = network or method.recipe.network
    if network == "svhn":
        raise ValueError("there is no network 'svhn' for MNIST")
    options = method.recipe.options if network == method.recipe.network else {}
    return method.apply(networks.build(network, **options), seed)
