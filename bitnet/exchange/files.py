"""Files of ONNX: written, and read as files of strangers are."""

from bitnet.deploy import FrozenNetwork, freeze
from bitnet.deploy.freezing import read
from bitnet.storage.atomic import write_atomically
from bitnet.storage.door import CheckpointError, plain, regular

FORMS = ("onnx", "qonnx")
MISSING = "files of ONNX need the package onnx: expected it, found none; python -m pip install 'bitnet-dorefa[onnx]' brings it"
LARGEST = 1 << 30  # bytes of a file that is read: what its format allows is twice that


def export(path, network, form="onnx", shape=None):
    """Write a network for programs that read ONNX.

    Parameters
    ----------
    path : str or Path
    network : Module, or for "onnx" also a FrozenNetwork
    form : "onnx", what ``freeze`` gives, integers as integers; or "qonnx", layers with Quant nodes, see ``exchange.qonnx``
    shape : of a sample, where the network does not tell it itself; see ``freeze``

    Raises
    ------
    ValueError : another form, a part of the network that cannot be exported (it is named), or no package onnx.
    OSError : the file cannot be written; an older file of that name is kept.
    """
    if form not in FORMS:
        raise ValueError(f"the form must be one of {', '.join(FORMS)}, got {form!r}")
    try:
        from bitnet.exchange.graph import check
        from bitnet.exchange.plain import plain as frozen_form
        from bitnet.exchange.quantized import quantized
    except ModuleNotFoundError as error:
        raise _missing(error, ValueError) from None
    if form == "qonnx":
        model = quantized(*read(network, shape, fuses=False))
    else:
        model = frozen_form(network if isinstance(network, FrozenNetwork) else freeze(network, shape))
        check(model)
    write_atomically(path, model.SerializeToString())


def load_onnx(path):
    """The network in a file of QONNX, or a float one of ONNX, as a tree in eval mode.

    Raises
    ------
    CheckpointError : there is none, or it is damaged, or has a node that no layer here expresses, which is named.
    """
    path = regular(path, "a network in ONNX")
    try:
        import onnx

        from bitnet.exchange.reading import tree_of
    except ModuleNotFoundError as error:
        raise _missing(error, CheckpointError) from None
    if path.stat().st_size > LARGEST:
        raise CheckpointError(f"{path}: expected a file of at most {LARGEST:,} bytes, found {path.stat().st_size:,}")
    try:
        model = onnx.load_model_from_string(path.read_bytes())  # arrays in other files stay unread
        return tree_of(model)
    except Exception as error:  # protobuf and onnx meet damage with almost any exception
        raise CheckpointError(f"{path}: expected a network that layers here express, found another one: "
                              f"{plain(error, 300)}") from None


def _missing(error, kind):
    return kind(MISSING) if (error.name or "").split(".")[0] == "onnx" else error
