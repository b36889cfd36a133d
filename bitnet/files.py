"""One ``load`` and one ``save`` for whatever a network is: trained and trainable, or frozen."""

import zipfile
from pathlib import Path

from bitnet import checkpoint
from bitnet.frozen import FrozenNetwork, load_frozen


def save(path, model, **more):
    """Save a model, or a frozen network in its own packed format.

    Parameters
    ----------
    path : str or Path
    model : Module or FrozenNetwork
    **more   # anything JSON-able that should lie beside a model

    Raises
    ------
    OSError : the file cannot be written; an older file of that name is kept.
    """
    if isinstance(model, FrozenNetwork):
        model.save(path)
    else:
        checkpoint.save(path, model, **more)


def load(path):
    """The network in a file of ``save``, in the checkpoint of a run or in a frozen.npz, in eval mode.

    Raises
    ------
    CheckpointError : there is none, or it is damaged, or of an unknown model.
    """
    if zipfile.is_zipfile(path):
        return load_frozen(Path(path).read_bytes(), path)
    return checkpoint.load(path)
