"""Checkpoints of version 1, which held a configuration of one of three networks, in the terms of today.

    {"name": "svhn", "model", "bits", "overrides", "seed"}                 models.svhn
    {"name": "method", "method", "data", "bits", "network", "model", ...}  methods.build; on SVHN in blocks of the method's own
    {"name": "bitwise", "width", "zeros", "seed"}                          methods.Bitwise

Parameters have the same order as then, so an optimizer's arrays keep their numbers; only names moved.
"""

import json
import re

from bitnet import description, methods, models
from bitnet.layers import Block, Conv2d, Flatten, Images, Sequential
from bitnet.module import without_values
from bitnet.storage.door import CheckpointError, plain


def described(config, arrays, path):
    """The description of the network of an old configuration, and {old: new} names of a file's arrays.

    Raises
    ------
    CheckpointError : no such network.
    """
    try:
        with without_values():
            tree = _tree(dict(config))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: no model is known for its configuration {plain(config)}: {plain(error)}") from None
    names = {name: _renamed(name, "overrides" in config) for name in arrays}
    return json.loads(json.dumps(description.describe(tree))), names


def _tree(config):
    builder = {"svhn": models.svhn, "method": _of_method, "bitwise": _bitwise}[config.pop("name")]
    return builder(**config | {"seed": None})


def _of_method(data, model, **config):
    if data != "svhn":
        return methods.build(data=data, model=model, **config)
    return methods.get(config["method"])(config["bits"]).apply(_svhn_of_methods(model))


def _bitwise(width, zeros, seed):
    if zeros:
        raise ValueError("zeros of bitwise weights are not read any more")
    return methods.Bitwise().apply(models.build("mlp", width=width))


def _svhn_of_methods(model):
    """The SVHN network that methods had: no dropout, no penalty, and conv6 a fully connected layer."""
    widths = [int(size * models.SVHN_WIDTHS[model]) for size in (48, 64, 64, 128, 128, 128, 512)]
    shapes = ((5, 0, 2), (3, "same", 1), (3, "same", 2), (3, 0, 1), (3, "same", 1), (3, 0, 1), ((5, 5), 0, 1))
    blocks = {f"block{i}": Block(inputs, outputs, kernel, padding=padding, pool=pool, order="conv pool norm act")
              for i, (inputs, outputs, (kernel, padding, pool)) in enumerate(zip([3, *widths], widths, shapes, strict=False))}
    return Sequential(images=Images(40, 40, 3), **blocks, fc=Conv2d(widths[-1], 10, 1, bias=True), flatten=Flatten())


def _renamed(name, svhn):
    if not name.startswith("model/"):
        return name
    name = name.replace(".weight_scales", ".weight_quantizer.scales")
    if svhn:
        name = re.sub(r"^model/conv(\d)\.", r"model/conv\1.conv.", name)
        name = re.sub(r"^model/bn(\d)\.", r"model/conv\1.norm.", name)
    return name
