"""Files of frozen networks: read, checked before anything is built or inflated, and brought up to date.

Compiled kernels do not look at bounds, so a file must not lie about a shape: first the JSON text becomes stages without arrays,
which checks its geometry and tells which arrays there must be; then the headers of the arrays are compared; then the arrays are
read, and their values checked.

Version 1 held the SVHN network of ``models.svhn``: {"format", "version": 1, "config", "layers": name, shape and bits of conv1
to conv6}, and the arrays of today under the same names, but for conv6.kappa (float32, what one unit of a sum is worth),
conv6.scale and conv6.shift (batch norm).
"""

from itertools import pairwise
from pathlib import Path

import numpy as np

from bitnet.bits import parse_bits
from bitnet.checks import truth
from bitnet.deploy.network import FORMAT, VERSION, FrozenNetwork
from bitnet.deploy.products import Product
from bitnet.deploy.stages import Wire, build, every, shape_of
from bitnet.models import INNER_LAYERS, SVHN_WIDTHS
from bitnet.storage.door import CheckpointError, parsed, peek_npz, plain, read_arrays


def load_frozen(path):
    """The network in a file of ``FrozenNetwork.save``, of this version or an earlier one.

    Raises
    ------
    CheckpointError : there is none, or it is damaged, or holds something else; one sentence.
    """
    _, text = peek_npz(path)
    try:
        network = parsed(text)
        if not isinstance(network, dict) or network.get("format") != FORMAT or network.get("version") not in (1, VERSION):
            raise CheckpointError(f"{path}: expected {FORMAT!r} of version 1 or {VERSION}, found {plain(text, 80)!r}")
        old = network["version"] == 1
        if old:
            network = _description_of_version_1(network)
        shape = shape_of("the input", network["input"])
        images = truth("images", network["images"])
        frozen = FrozenNetwork(shape, build(network["stages"], Wire(shape)), images, network["classes"],
                               network.get("pictures"))
        arrays = read_arrays(path, _layout_of_version_1(frozen.layout) if old else frozen.layout)
        return frozen.fill(_arrays_of_version_1(arrays, frozen) if old else arrays)
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{path}: expected a frozen network, found one without {plain(error)}") from None
    except (ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a frozen network, found one that does not hold together: "
                              f"{plain(error, 300)}") from None


def size_report(network, path):
    """One sentence: what the file of a frozen network takes beside its weights in float32."""
    products = [stage for stage in every(network.stages) if isinstance(stage, Product)]
    floats = sum(4 * int(np.prod(stage.conv.weight_shape)) for stage in products)
    floats += sum(stage["bias"].nbytes for stage in products if stage["bias"] is not None)
    taken = Path(path).stat().st_size
    return (f"{path}: {taken / 1e3:.1f} kB, {floats / taken:.1f} times smaller than its weights in float32 "
            f"({floats / 1e6:.2f} MB)")


def _description_of_version_1(network):
    """What version 2 would say."""
    config, sizes = network["config"], dict(zip(("conv0", *INNER_LAYERS), (48, 64, 64, 128, 128, 128, 512), strict=True))
    widths = {name: parse_bits(config["overrides"].get(name, config["bits"])) for name in INNER_LAYERS}
    if any(32 in widths[name][:2] for name in INNER_LAYERS) or config["overrides"].keys() - widths.keys():
        raise ValueError(f"expected 1 to 8 bits for {', '.join(INNER_LAYERS)}, got {config['bits']} and {config['overrides']}")
    outs = {name: int(size * SVHN_WIDTHS[config["model"]]) for name, size in sizes.items()}
    kernels = {name: {"conv0": 5, "conv6": 5}.get(name, 3) for name in outs}
    layers = [{"name": name, "shape": [kernels[name]] * 2 + [outs[before], outs[name]], "bits": widths[name][0]}
              for before, name in zip(outs, INNER_LAYERS, strict=False)]
    if network["layers"] != layers:
        raise ValueError(f"expected the layers {layers}, got {str(network['layers'])[:200]}")

    def product(name, kind, kernel, out, scales=None, **more):
        padding = 1 if name in ("conv1", "conv2", "conv4") else 0
        weight = None if scales is None else {"bits": widths[name][0], "encoding": "bipolar", "scales": scales}
        return {"kind": kind, "name": name, "kernel": [kernel, kernel], "stride": [1, 1], "padding": [[padding] * 2] * 2,
                "groups": 1, "out": out, "bias": scales is None, "weight": weight} | more

    stages = [product("conv0", "first", 5, outs["conv0"], pool=2, bits=widths["conv1"][1])]
    for name, following in pairwise(INNER_LAYERS):
        bits = widths[following][1]
        codes = {"bits": bits, "encoding": "unsigned", "scale": 1 / ((1 << bits) - 1)}
        stages.append(product(name, "thresholds", 3, outs[name], "none", codes=codes, pool={"conv2": [2, 2, 0]}.get(name),
                              pool_sums=False))
    stages += [product("conv6", "product", 5, outs["conv6"], "one"), {"kind": "affine", "name": "conv6.norm"},
               {"kind": "clip", "name": "conv6.act", "low": 0.0, "high": 1.0},
               {"kind": "reshape", "name": "flatten", "shape": [outs["conv6"]]}, product("fc", "product", 1, 10)]
    return {"input": [40, 40, 3], "images": True, "classes": None, "stages": stages}


def _layout_of_version_1(layout):
    """{array: (dtype, shape)} as version 1 has it."""
    norm = layout["conv6.norm.scale"]
    same = {name: kind for name, kind in layout.items() if not name.startswith(("conv6.scale", "conv6.norm", "fc.weight"))}
    return same | {"conv6.kappa": (norm[0], ()), "conv6.scale": norm, "conv6.shift": norm,
                   "fc.weight": (norm[0], layout["fc.weight"][1][2:])}


def _arrays_of_version_1(arrays, frozen):
    """The arrays of version 2; a scale times that of the codes which enter gives kappa again, in float32."""
    entering = {stage.name: stage for stage in frozen.stages}["conv6"].before.scale
    return arrays | {"conv6.norm.scale": arrays["conv6.scale"], "conv6.norm.shift": arrays["conv6.shift"],
                     "conv6.scale": np.float64(arrays["conv6.kappa"]) / entering, "fc.weight": arrays["fc.weight"][None, None]}
