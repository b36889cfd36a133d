"""One ``load`` and one ``save`` for whatever a network is: trained and trainable, or frozen."""

import zipfile
from pathlib import Path

from bitnet import pretrained
from bitnet.deploy import FrozenNetwork, load_frozen
from bitnet.exchange import load_onnx
from bitnet.storage import checkpoint
from bitnet.storage.door import regular


def save(path, model, **more):
    """Save a network: a tree as a description of its modules and their arrays, or a frozen network in its packed format.

    Parameters
    ----------
    path : str or Path
    model : Module or FrozenNetwork
    **more   # anything JSON-able that should lie beside a tree

    Raises
    ------
    OSError : the file cannot be written; an older file of that name is kept.
    ValueError : a tree with a module that cannot be described.
    """
    if isinstance(model, FrozenNetwork):
        model.save(path)
    else:
        checkpoint.save(path, model, **more)


def load(path):
    """The network in a file of ``save``, in the checkpoint of a run, in a frozen.npz or in an .onnx, in eval mode.

    Parameters
    ----------
    path : str or Path, or a name in ``pretrained.names()`` where there is no file of that name

    Raises
    ------
    CheckpointError : there is none, or it is damaged, or of modules that this program does not know.
    """
    if str(path) in pretrained.names() and not Path(path).exists():
        return pretrained.load(str(path))
    if Path(path).suffix == ".onnx":
        return load_onnx(path)
    path = regular(path, "a network")
    if zipfile.is_zipfile(path):
        return load_frozen(path)
    return checkpoint.load(path)
