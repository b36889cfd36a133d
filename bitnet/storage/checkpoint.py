"""Networks and runs on disk: one HDF5 file each, no pickle, never half written.

    512 bytes    a line of text: what the file is, and the SHA-256 of all that follows. The rest is HDF5
    /            attributes: format, version
    /meta        a JSON text: the network as a description of its modules (``bitnet.description``), and everything else that is
                 not an array
    /model/*     parameters and buffers, by dotted name
    /optimizer/* the optimizer's arrays; only in the checkpoint of a run

The file is made in memory, written beside its target and then renamed: a full disk or a kill leaves the old one.
JSON keeps float64 exactly (shortest text that reads back as the same number), so a resumed run repeats every bit.

A file is not believed: the tree is built without values, what it must hold is compared with what the file says it holds, and
that with the file's size, before any array is read. The library of HDF5 may crash or hang on a damaged file, so it sees none:
the digest comes first.
"""

import hashlib
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from bitnet import description
from bitnet.module import Module, without_values
from bitnet.storage import legacy
from bitnet.storage.atomic import write_atomically
from bitnet.storage.door import LARGEST_TEXT, CheckpointError, parsed, plain, regular

FORMAT = "bitnet checkpoint"
VERSION = 3  # 1: a configuration in the place of the description; 1 and 2: no digest, see ``legacy``
ARRAYS = 100_000
_SEAL = 512  # bytes before the HDF5 part, which its readers skip ("user block")
_TITLE = b"bitnet checkpoint, SHA-256 of byte 512 and on: "
_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # the first bytes of every HDF5 file


@dataclass
class Checkpoint:
    """What a file holds. Of a file made by ``save``, ``optimizer`` is empty.

    Parameters
    ----------
    path : Path
    description : dict           # of the network, see ``bitnet.description``
    model : dict of str: array   # for Module.load_state_dict
    optimizer : dict             # for Optimizer.load_state_dict
    more : dict                  # what else was saved, JSON-able
    """

    path: Path
    description: dict
    model: dict
    optimizer: dict = field(default_factory=dict)
    more: dict = field(default_factory=dict)

    def load_into(self, model):
        """Give ``model`` the parameters and buffers of this checkpoint, and the options that a run changes.

        Raises
        ------
        CheckpointError : they are of another model.
        """
        # through JSON: floats as the file has them
        where = description.differing(json.loads(json.dumps(description.describe(model))), self.description)
        if where:
            raise CheckpointError(f"{self.path}: expected a checkpoint of the same network, found one that differs in "
                                  f"{plain(where)}")
        try:
            model.load_state_dict(self.model)
        except ValueError as error:
            raise CheckpointError(f"{self.path}: its arrays do not fit the model: {plain(error)}") from None
        with without_values():
            saved = _built(self.description, self.path).named_modules()
        for name, module in model.named_modules().items():
            for option in set(module.changing) & vars(module).keys() & module.options().keys():
                setattr(module, option, getattr(saved[name], option))


def save(path, model, **more):
    """Save a network for ``load``: its modules as a description, and their arrays.

    Parameters
    ----------
    path : str or Path
    model : Module
    **more   # anything JSON-able that should lie beside it

    Raises
    ------
    OSError : the file cannot be written; an older file of that name is kept.
    ValueError : a module that cannot be described, or that stands in two places.
    """
    save_checkpoint(path, model, None, **more)


def load(path):
    """The network in a file of ``save`` or in the checkpoint of a run, in eval mode.

    Raises
    ------
    CheckpointError : there is none, or it is damaged, or of modules that this program does not know.
    """
    checkpoint = load_checkpoint(path)
    with without_values():
        model = _built(checkpoint.description, checkpoint.path)
    try:
        model.load_state_dict(checkpoint.model)
    except ValueError as error:
        raise CheckpointError(f"{path}: its arrays do not fit its modules: {plain(error)}") from None
    return model.eval()


def _built(tree, path):
    try:
        model = description.rebuild(tree)
    except ValueError as error:
        raise CheckpointError(f"{path}: expected a network, found modules that cannot be made: {plain(error)}") from None
    if not isinstance(model, Module):
        raise CheckpointError(f"{path}: expected a network, found {plain(type(model).__name__)}")
    return model


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
    ValueError : a module that cannot be described, or that stands in two places.
    """
    named = list(model.named_modules().items())
    seen = {}
    for name, module in named:
        if seen.setdefault(id(module), name) != name:
            raise ValueError(f"{seen[id(module)]} and {name} are one module: a file would make two of it")
    state = {} if optimizer is None else optimizer.state_dict()
    arrays = {f"optimizer/{name}": value for name, value in state.items() if isinstance(value, np.ndarray)}
    arrays |= {f"model/{name}": np.asarray(value) for name, value in model.state_dict().items()}
    scalars = {name: _plain(value) for name, value in state.items() if not isinstance(value, np.ndarray)}
    meta = json.dumps({"model": description.describe(model), "optimizer": scalars, "more": more}, default=_plain)

    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=_SEAL) as file:
        file.attrs.update(format=FORMAT, version=VERSION)
        file["meta"] = meta
        for name, value in arrays.items():
            file[name] = value
    content = buffer.getbuffer()
    content[:_SEAL] = _seal(hashlib.sha256(content[_SEAL:]))
    write_atomically(path, content)


def _seal(digest):
    """The 512 bytes that stand before the HDF5 part of a file, whose digest this is."""
    return (_TITLE + digest.hexdigest().encode() + b"\n").ljust(_SEAL, b"\0")


def _sealed(path):
    """Whether a file begins with a digest, which is compared; CheckpointError where it differs, or for no checkpoint."""
    with open(path, "rb") as file:
        seal = file.read(_SEAL)
        if seal.startswith(_SIGNATURE):
            return False
        if not seal.startswith(_TITLE):
            raise CheckpointError(f"{path}: expected a checkpoint in HDF5, found another kind of file")
        if seal != _seal(hashlib.file_digest(file, "sha256")):
            raise CheckpointError(f"{path}: expected a checkpoint, found one cut short or damaged: its SHA-256 does not match")
        return True


def load_checkpoint(path):
    """Read a file of ``save`` or ``save_checkpoint``.

    Returns
    -------
    checkpoint : Checkpoint

    Raises
    ------
    CheckpointError : missing, not HDF5, damaged or cut short, of another program or version, or larger than its network.
    """
    path = regular(path, "a checkpoint")
    try:
        sealed = _sealed(path)
        if not sealed:
            legacy.rehearse(path)
        with h5py.File(path, "r") as file:
            return _read(path, file, sealed)
    except CheckpointError:
        raise
    except Exception as error:  # h5py meets damage with almost any exception, and a disk may fail
        raise CheckpointError(f"{path}: expected a checkpoint, found one cut short or damaged: {plain(error)}") from None


def _read(path, file, sealed):
    found = file.attrs.get("format", "no format"), file.attrs.get("version", "none")
    expected = (VERSION,) if sealed else (1, 2)
    if found[0] != FORMAT or found[1] not in expected:
        raise CheckpointError(f"{path}: expected {FORMAT!r} of version {' or '.join(map(str, expected))}, found "
                              f"{plain(found[0], 40)!r} of version {plain(found[1], 40)}")
    meta = _dataset(file, "meta", path)
    if meta.shape != () or not h5py.check_string_dtype(meta.dtype) or path.stat().st_size < meta.nbytes:
        raise CheckpointError(f"{path}: expected a text meta, found something else")
    text = meta[()].decode()
    if len(text) > LARGEST_TEXT:
        raise CheckpointError(f"{path}: expected a text of at most {LARGEST_TEXT:,} characters, found {len(text):,}")
    arrays = {}
    for group in file:
        if group == "meta":
            continue
        if group not in ("model", "optimizer"):
            raise CheckpointError(f"{path}: expected model and optimizer, found {plain(group, 40)!r}")
        for name in _group(file, group, path):
            arrays[f"{group}/{name}"] = _dataset(file[group], name, path)
    if len(arrays) > ARRAYS or sum(data.nbytes for data in arrays.values()) > path.stat().st_size:
        raise CheckpointError(f"{path}: expected arrays that the file can hold, found {len(arrays):,} that claim "
                              f"{sum(data.nbytes for data in arrays.values()):,} bytes in a file of {path.stat().st_size:,}")
    meta = parsed(text)
    if not (isinstance(meta, dict) and meta.keys() == {"model", "optimizer", "more"} and isinstance(meta["optimizer"], dict)
            and isinstance(meta["more"], dict) and isinstance(meta["model"], dict)):
        raise CheckpointError(f"{path}: expected model, optimizer and more, found {plain(text, 80)}")
    old = found[1] == 1
    names = {name: name for name in arrays}
    if old:
        meta["model"], names = legacy.described(meta["model"], list(arrays), path)
    _check_model(path, meta["model"], {names[name].partition("/")[2]: data for name, data in arrays.items()
                                       if name.startswith("model/")}, old)
    values = {name: data[()] for name, data in arrays.items()}
    if not sealed and file.attrs["checksum"] != legacy.checksum(text, values):
        raise CheckpointError(f"{path}: expected a checkpoint, found one whose checksum does not match")
    parts = {"model": {}, "optimizer": meta["optimizer"]}
    for name, value in values.items():
        group, new = names[name].split("/", 1)
        parts[group][new] = np.asarray(value)
    return Checkpoint(path, meta["model"], parts["model"], parts["optimizer"], meta["more"])


def _group(file, name, path):
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink) or file.get(name, getclass=True) is not h5py.Group:
        raise CheckpointError(f"{path}: expected a group {plain(name, 40)}, found something else")
    return file[name]


def _dataset(group, name, path):
    """A dataset as this program writes them: in the file itself, in one piece, not compressed."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink) or group.get(name, getclass=True) is not h5py.Dataset:
        raise CheckpointError(f"{path}: expected an array {plain(name, 40)}, found a link or something else")
    data = group[name]
    if data.external or data.is_virtual or data.chunks or data.compression:
        raise CheckpointError(f"{path}: expected {plain(name, 40)} in the file itself and in one piece, found other storage")
    if data.dtype.kind not in "fiub" and name != "meta":
        raise CheckpointError(f"{path}: expected numbers in {plain(name, 40)}, found {plain(data.dtype, 40)}")
    return data


def _check_model(path, tree, arrays, old):
    """CheckpointError where the arrays, not read yet, are not those of the tree."""
    with without_values():
        model = _built(tree, path)
        shapes = {name: (array.dtype, array.shape) for name, array in
                  [*((name, one.stored) for name, one in model.named_parameters().items()), *model.named_buffers().items()]}
    missing, unexpected = sorted(shapes.keys() - arrays.keys()), sorted(arrays.keys() - shapes.keys())
    if missing or unexpected:
        raise CheckpointError(f"{path}: expected the arrays of its network, found {plain(missing or 'nothing')} missing and "
                              f"{plain(unexpected or 'nothing')} in excess")
    for name, data in arrays.items():
        dtype, shape = shapes[name]
        if data.dtype != dtype or data.shape != shape:
            raise CheckpointError(f"{path}: expected {name} as {dtype} of shape {shape}, found {data.dtype} of {data.shape}")


def _plain(value):
    """NumPy's scalars as Python's own, which JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, list, tuple, dict)):
        return value
    raise TypeError(f"cannot save {type(value).__name__}: expected numbers, texts, lists and dicts")


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def validated_run(path, more):
    """What a run's checkpoint says of its progress; CheckpointError where that cannot be.

    Returns
    -------
    more : dict, the same
    """
    if "history" not in more:
        raise CheckpointError(f"{path}: expected the checkpoint of a run, found a saved model without its training")
    whole = {"epoch": 0, "step": 0, "epochs": 1, "seen": 0}
    good = all(_is_whole(more.get(name)) and more[name] >= least for name, least in whole.items())
    good = good and all(isinstance(more.get(name), (int, float)) and math.isfinite(more[name])
                        for name in ("loss_sum", "correct", "step_seconds", "seconds"))
    good = good and isinstance(more.get("config"), dict) and isinstance(more.get("notes"), dict)
    random, history = more.get("random"), more.get("history")
    good = good and isinstance(random, list) and len(random) == 2 and all(map(_is_whole, random))
    numbers = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "images_per_second", "seconds")
    good = good and isinstance(history, list) and len(history) == more["epoch"] and all(
        isinstance(record, dict) and record.get("epoch") == i + 1 and all(isinstance(record.get(name), (int, float))
                                                                         for name in numbers)
        for i, record in enumerate(history))
    if not good:
        raise CheckpointError(f"{path}: expected the progress of a run, found one that does not hold together")
    return more
