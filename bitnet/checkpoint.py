"""Models and runs on disk: one HDF5 file each, no pickle, never half written.

    /            attributes: format, version, checksum
    /meta        a JSON text: the model's configuration and everything else that is not an array
    /model/*     parameters and buffers, by dotted name
    /optimizer/* the optimizer's arrays; only in the checkpoint of a run

The file is made in memory, written beside its target and then renamed: a full disk or a kill leaves the old one.
JSON keeps float64 exactly (shortest text that reads back as the same number), so a resumed run repeats every bit.
"""

import contextlib
import io
import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from bitnet import models

FORMAT = "bitnet checkpoint"
VERSION = 1
_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # the first bytes of every HDF5 file


class CheckpointError(ValueError):
    """A file that cannot be loaded or continued. One clear sentence with what was expected and what was found."""


@dataclass
class Checkpoint:
    """What a file holds. Of a file made by :func:`save`, ``optimizer`` is empty.

    Parameters
    ----------
    path : Path
    config : dict                # for models.build
    model : dict of str: array   # for Module.load_state_dict
    optimizer : dict             # for Optimizer.load_state_dict
    more : dict                  # what else was saved, JSON-able
    """

    path: Path
    config: dict
    model: dict
    optimizer: dict = field(default_factory=dict)
    more: dict = field(default_factory=dict)

    def load_into(self, model):
        """Give ``model`` the parameters and buffers of this checkpoint.

        Raises
        ------
        CheckpointError : they are of another model.
        """
        # through JSON: tuples become lists, like the file's. The seed made initial weights, which are replaced now
        own = json.loads(json.dumps(model.config)) | {"seed": None}
        if own != self.config | {"seed": None}:
            raise CheckpointError(f"{self.path}: expected a checkpoint of {model.config}, found one of {self.config}")
        try:
            model.load_state_dict(self.model)
        except ValueError as error:
            raise CheckpointError(f"{self.path}: its arrays do not fit the model {self.config}: {error}") from None


def save(path, model, **more):
    """Save a model for :func:`load`.

    Parameters
    ----------
    path : str or Path
    model : Module
    **more   # anything JSON-able that should lie beside it
    Raises
    ------
    OSError : the file cannot be written; an older file of that name is kept.
    """
    save_checkpoint(path, model, None, **more)


def load(path):
    """The model in a file of :func:`save` or in the checkpoint of a run, in eval mode.

    Raises
    ------
    CheckpointError : there is none, or it is damaged, or of an unknown model.
    """
    checkpoint = load_checkpoint(path)
    try:
        model = models.build(checkpoint.config)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: no model is known for its configuration {checkpoint.config}: {error}") from None
    checkpoint.load_into(model)
    return model.eval()


def save_checkpoint(path, model, optimizer, **more):
    """Save everything that a run needs to go on: model, optimizer and whatever else is given.

    Parameters
    ----------
    path : str or Path
    model : Module
    optimizer : Optimizer or None
    **more   # JSON-able: progress, random state, history, configuration
    Raises
    ------
    OSError : the file cannot be written; an older file of that name is kept.
    """
    state = {} if optimizer is None else optimizer.state_dict()
    arrays = {f"optimizer/{name}": value for name, value in state.items() if isinstance(value, np.ndarray)}
    arrays |= {f"model/{name}": np.asarray(value) for name, value in model.state_dict().items()}
    scalars = {name: _plain(value) for name, value in state.items() if not isinstance(value, np.ndarray)}
    meta = json.dumps({"model": model.config, "optimizer": scalars, "more": more}, default=_plain)

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs.update(format=FORMAT, version=VERSION, checksum=_checksum(meta, arrays))
        file["meta"] = meta
        for name, value in arrays.items():
            file[name] = value
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(path):
    """Read a file of :func:`save` or :func:`save_checkpoint`.

    Returns
    -------
    checkpoint : Checkpoint
    Raises
    ------
    CheckpointError : missing, not HDF5, damaged or cut short, or of another program or version.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: expected a checkpoint, but it cannot be read: {error.strerror}") from None
    if not content.startswith(_SIGNATURE):
        raise CheckpointError(f"{path}: expected a checkpoint in HDF5, found another kind of file")
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            found = file.attrs.get("format", "no format"), file.attrs.get("version", "none")
            if found != (FORMAT, VERSION):
                raise CheckpointError(
                    f"{path}: expected {FORMAT!r} of version {VERSION}, found {str(found[0])!r} of version {found[1]}"
                )
            text = file["meta"][()].decode()
            groups = [group for group in file if group != "meta"]
            arrays = {f"{group}/{name}": data[()] for group in groups for name, data in file[group].items()}
            whole = file.attrs["checksum"] == _checksum(text, arrays)
        meta = json.loads(text)
    except CheckpointError:
        raise
    except Exception as error:  # h5py meets damage with almost any exception
        raise CheckpointError(f"{path}: expected a checkpoint, found one cut short or damaged: {error}") from None
    if not whole:
        raise CheckpointError(f"{path}: expected a checkpoint, found one whose checksum does not match")
    parts = {"model": {}, "optimizer": meta["optimizer"]}
    for name, value in arrays.items():
        group, name = name.split("/", 1)
        parts[group][name] = np.asarray(value)
    return Checkpoint(path, meta["model"], parts["model"], parts["optimizer"], meta["more"])


def write_atomically(path, content):
    """Write a file whole or not at all, and safe against a power cut once this returns.

    Parameters
    ----------
    path : str or Path
    content : bytes-like
    Raises
    ------
    OSError : with ``filename`` set to ``path``; what was there before is kept and nothing is left behind.
    """
    path = Path(path)
    # one fixed name: what a kill leaves behind is overwritten by the next attempt
    temporary = path.with_name(path.name + ".tmp")
    try:
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        if hasattr(os, "O_DIRECTORY"):  # the rename itself is in the folder
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def _checksum(meta, arrays):
    checksum = zlib.crc32(meta.encode())
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        checksum = zlib.crc32(f"{name} {value.dtype} {value.shape}".encode(), checksum)
        checksum = zlib.crc32(value.view(np.uint8) if value.ndim else value.tobytes(), checksum)
    return checksum


def _plain(value):
    """NumPy's scalars as Python's own, which JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, list, tuple, dict)):
        return value
    raise TypeError(f"cannot save {type(value).__name__}: expected numbers, texts, lists and dicts")
