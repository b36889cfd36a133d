"""Networks that the authors of DoReFa-Net published: .npz files of tensorpack's examples/DoReFa-Net, {name: array}.

What of them is not in the names (traps that their programs' history holds; told here, and what is checked):

- The weights are the latent, real ones: the network's own quantizers turn them into codes.
- The rows of ``fc0/W`` of the AlexNet are in the order C, H, W where the program ran with channels first, from May 2018 on, and
  H, W, C before.
- ``conv0/b`` and ``fc0/b`` came in 2018; a file without them means zeros.
- With ``conv0/b``, the AlexNet takes BGR pixels minus a mean, divided by a deviation; without it, BGR pixels / 255. That the
  presence of ``conv0/b`` tells both this and the order of rows is this project's reading: the changes were days apart.
- Variances come without the eps of batch norm. Scales of weights are those of a whole layer, both groups of it together.
"""

import numpy as np

from bitnet.layers import BatchNorm, Block, Standardize, Weighted
from bitnet.methods.dorefa import DoReFa
from bitnet.models import build
from bitnet.module import without_values
from bitnet.storage.door import CheckpointError, headers_of, inflated, plain, regular

BITS = {"alexnet": (1, 2, 6), "resnet18": (1, 4, 32), "svhn": (1, 2, 4)}  # what their authors' scripts ask for
WHAT = "an .npz of tensorpack"
NORM = {"gamma": "gamma", "beta": "beta", "running_mean": "mean/EMA", "running_var": "variance/EMA"}


def load_tensorpack(path, network, method=None, channels_first=None, **options):
    """A network that was trained by tensorpack's examples/DoReFa-Net, in eval mode.

    Parameters
    ----------
    path : .npz of {name: array}; a name may end in ":0", and what no layer asks for (slots of optimizers, steps) is ignored
    network : "alexnet", "resnet18" or "svhn"
    method : Method   # whose bits the file does not tell; None: DoReFa-Net in (1,2,6), (1,4,32) or (1,2,4)
    channels_first : bool   # are the rows of the AlexNet's fc0/W in the order C, H, W; None: where the file has conv0/b
    **options   # of the network: classes, size, model

    Raises
    ------
    CheckpointError : there is no such file, it is damaged, holds a pickle, or lacks arrays, or has them of another shape.
    ValueError : another network, or options that it does not take.
    """
    if network not in BITS:
        raise ValueError(f"tensorpack published the networks {', '.join(BITS)}, got {network!r}")
    try:
        with open(regular(path, WHAT), "rb") as file:
            start = file.read(6)
    except OSError as error:
        raise CheckpointError(f"{path}: expected {WHAT}, but it cannot be read: {error.strerror}") from None
    if start == b"\x93NUMPY":
        raise CheckpointError(f"{path}: expected {WHAT}, found a single .npy: as tensorpack wrote them these are pickles, "
                              "which run code when they are read; save its arrays by numpy.savez where you trust it")
    headers = _by_name(path, headers_of(path, WHAT))
    with without_values():
        net = (method or DoReFa(*BITS[network])).apply(build(network, **options))
    wanted = published_names(net)
    biased = "conv0/b" in headers
    optional = {name for name in ("conv0/b", "fc0/b") if name in wanted and name not in headers}
    missing = sorted(wanted.keys() - headers.keys() - optional)
    if missing:
        raise CheckpointError(f"{path}: expected the arrays of {network}, found {len(missing)} missing: {plain(missing[:5])}")
    by_channels = {"fc0/W"} if (biased if channels_first is None else channels_first) else set()
    state, known = net.state_dict(), {}  # zeros all: what stays of them are biases that a file lacks
    left = sorted(state.keys() - {place if isinstance(place, str) else place[0] for place in wanted.values()})
    if left:
        raise ValueError(f"a file of tensorpack does not tell {', '.join(left)}: expected DoReFa-Net, TTQ or the float network")
    for name in wanted.keys() - optional:
        shape = _published_shape(name, state, wanted[name])
        stored, (dtype, found) = headers[name]
        if dtype.kind != "f" or found != shape:
            raise CheckpointError(f"{path}: expected {name} as floats of shape {shape}, found {dtype} of shape {found}")
        known[name] = stored
    arrays = inflated(path, {stored: headers[name][1] for name, stored in known.items()}, WHAT)
    for name, stored in known.items():
        array = arrays[stored]
        if not np.isfinite(array).all() or (name.endswith("variance/EMA") and (array < 0).any()):
            raise CheckpointError(f"{path}: expected finite numbers, and no negative variance, found others in {name}")
        if name in by_channels:
            height, width, channels, _ = state[wanted[name]].shape
            array = array.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)  # (C * H * W, F) -> (H, W, C, F)
        _take(state, wanted[name], array)
    net.load_state_dict(state)
    if network == "alexnet" and not biased:
        net.replace("pixels", Standardize((0, 0, 0), (255, 255, 255), net.pixels.order))
    net.trained_on, net.pictures = net.images.shape, "photo" if network.startswith("svhn") else "crop"
    return net.eval()


def _by_name(path, headers):
    """{name without ":0": (name in the file, (dtype, shape))}."""
    names = {}
    for stored, header in headers.items():
        name = stored.removesuffix(":0")
        if name in names:
            raise CheckpointError(f"{path}: expected arrays of different names, found {plain(name)} twice")
        names[name] = stored, header
    return names


def published_names(net):
    """Names in a file of tensorpack, {name: name of the parameter or buffer}; of TTQ's scales, {name: (its name, place)}."""
    names = {}
    for path, module in net.named_modules().items():
        # a block goes by its convolution's name; what holds the two ways of a sum has no name there
        parts = [part for part in path.split(".") if part not in ("conv", "stem")]
        if isinstance(module, Weighted):
            layer = "fc1" if parts == ["fc"] else "/".join(parts)
            names[f"{layer}/W"] = f"{path}.weight"
            if module.bias is not None:
                names[f"{layer}/b"] = f"{path}.bias"
            if getattr(module.weight_quantizer, "scales", None) is not None:
                scales = f"{path}.weight_quantizer.scales"
                names |= {f"{layer}/Wp": (scales, 0), f"{layer}/Wn": (scales, 1)}
        elif isinstance(module, BatchNorm):
            block = net.named_modules()[path.rpartition(".")[0]]
            if isinstance(block, Block):
                *above, layer = parts[:-1]
                parts = [*above, "stembn" if above else f"bn{layer.removeprefix('conv')}"]
            names |= {f"{'/'.join(parts)}/{theirs}": f"{path}.{ours}" for ours, theirs in NORM.items()}
    return names


def _published_shape(name, state, place):
    if not isinstance(place, str):
        return ()
    shape = state[place].shape
    # the authors' fully connected layers are matrices, ours may be filters that cover their image
    return (int(np.prod(shape[:-1])), shape[-1]) if name.startswith("fc") and len(shape) == 4 else shape


def _take(state, place, array):
    """Put an array where it belongs, in the type and shape that are there."""
    if isinstance(place, str):
        state[place] = array.astype(state[place].dtype).reshape(state[place].shape)
    else:
        state[place[0]][place[1]] = array
