"""Checkpoints of versions 1 and 2.

Both have a checksum inside, which the library of HDF5 must read, and not before everything. That library may crash or hang on
a damaged file, so that another process opens such a file first.

Version 1 held a configuration of one of three networks, which is told in the terms of today:

    {"name": "svhn", "model", "bits", "overrides", "seed"}                 models.svhn
    {"name": "method", "method", "data", "bits", "network", "model", ...}  methods.build; on SVHN in blocks of the method's own
    {"name": "bitwise", "width", "zeros", "seed"}                          methods.Bitwise

Parameters have the same order as then, so an optimizer's arrays keep their numbers; only names moved.
"""

import json
import re
import subprocess
import sys
import zlib

import numpy as np

from bitnet import description, methods, models
from bitnet.layers import BatchNorm, Block, Conv2d, Flatten, Images, Sequential, ShiftBatchNorm, Weighted
from bitnet.models.mnist import ORDER
from bitnet.module import without_values
from bitnet.storage.door import CheckpointError, plain

PATIENCE = 20  # seconds that HDF5 may take for a file
_WALK = """
import os, sys
sys.path[:] = {path}
import h5py
def read(name, one):
    if isinstance(one, h5py.Dataset) and not one.external and not one.is_virtual and one.nbytes <= os.path.getsize(sys.argv[1]):
        one[()]
with h5py.File(sys.argv[1], "r") as file:
    dict(file.attrs)
    file.visititems(read)
"""


def rehearse(path):
    """CheckpointError for a file that makes the library of HDF5 crash or hang; whatever else is wrong, its reader will tell."""
    if not sys.executable:  # Python inside another program
        return
    try:
        command = [sys.executable, "-c", _WALK.format(path=sys.path), path]
        ended = subprocess.run(command, timeout=PATIENCE, capture_output=True).returncode
    except subprocess.TimeoutExpired:
        ended = None
    if ended not in (0, 1):
        raise CheckpointError(f"{path}: expected a checkpoint, found one cut short or damaged: HDF5 cannot read it")


def checksum(meta, arrays):
    """CRC-32 of the text and of every array."""
    checksum = zlib.crc32(meta.encode())
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        checksum = zlib.crc32(f"{name} {value.dtype} {value.shape}".encode(), checksum)
        checksum = zlib.crc32(value.view(np.uint8) if value.ndim else value.tobytes(), checksum)
    return checksum


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
    _as_it_was(tree, set(names.values()))
    return json.loads(json.dumps(description.describe(tree))), names


def _tree(config):
    builder = {"svhn": models.svhn, "method": _of_method, "bitwise": _bitwise}[config.pop("name")]
    return builder(**config | {"seed": None})


def _of_method(data, model, **config):
    if data != "svhn":
        tree = methods.build(data=data, model=model, **config)
        for block in tree if "order" in tree.method.recipe.options else ():  # pooling stood elsewhere then
            if isinstance(block, Block):
                block.order = ORDER
        return tree
    return methods.get(config["method"])(config["bits"]).apply(_svhn_of_methods(model))


def _as_it_was(tree, arrays):
    """Some last layers had no bias, and a shift-based network's last batch norm was of shifts, too."""
    for name, module in tree.named_modules().items():
        if isinstance(module, Weighted) and module.bias is not None and f"model/{name}.bias" not in arrays:
            module.bias = None
        if isinstance(module, BatchNorm) and f"model/{name}.running_rstd" in arrays:
            tree.replace(name, ShiftBatchNorm(module.channels))


def _bitwise(width, zeros, seed):
    if zeros:
        raise ValueError("zeros of bitwise weights are not read any more")
    return methods.Bitwise().apply(models.build("mlp", width=width))


def _svhn_of_methods(model):
    """The SVHN network that methods had: no dropout, no penalty, and conv6 a fully connected layer."""
    widths = [int(size * models.SVHN_WIDTHS[model]) for size in (48, 64, 64, 128, 128, 128, 512)]
    shapes = ((5, 0, 2), (3, "same", 1), (3, "same", 2), (3, 0, 1), (3, "same", 1), (3, 0, 1), ((5, 5), 0, 1))
    blocks = {f"block{i}": Block(inputs, outputs, kernel, padding=padding, pool=pool, order=ORDER)
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
