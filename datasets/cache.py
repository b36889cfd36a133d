"""Prepared images on disk: made once, then memory-mapped.

A cache file is named after its recipe, that is everything its pixels depend on (checksum of the source, size, version
of the code below), so a changed source simply asks for another file. In the file:

    images  uint8 (N, size, size, channels), contiguous: a plain run of bytes from images.id.get_offset(), as np.memmap wants
    labels  uint8 (N,)
    recipe, notes   attributes: JSON text; the notes are told at every start (e.g. skipped entries)

Files are written under a temporary name, flushed to the disk, then renamed. A reader therefore finds a whole file or
none; two processes that prepare the same file at once both succeed, and the later rename replaces an equal file.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pooch

from .digits import DataError

VERSION = 1  # of the file layout and of resize(); raise it when prepared pixels would change
_ABANDONED = 86400  # seconds after which another process's temporary file is taken as left over


@dataclass
class Source:
    """Images on their way into the cache.

    labels : uint8 array, shape (N,)
    chunks : iterator of uint8 arrays, shape (n, size, size, channels)   # N images in all, never all at once
    notes : list of str                                           # kept with the images, told at every start
    """

    labels: np.ndarray
    chunks: Iterator[np.ndarray]
    notes: list[str] = field(default_factory=list)


def cache_folder(cache_dir=None):
    """The argument, else the environment's BITNET_CACHE, else the platform's folder for caches (~/.cache/bitnet)."""
    return Path(cache_dir or os.environ.get("BITNET_CACHE") or pooch.os_cache("bitnet")).expanduser()


def cached(stem, recipe, build, size, cache_dir=None, large=False, channels=3):
    """Images by their recipe: from the cache, or built into it.

    Parameters
    ----------
    stem : str                 # start of the file's name, for people
    recipe : dict              # JSON; everything that the pixels and labels depend on
    build : () -> Source       # called only where the cache does not have them
    size : int                 # side of the images
    cache_dir : str, Path or None
    large : bool               # True where the images must not be held in memory
    channels : int             # 3: RGB, 1: grey
    Returns
    -------
    images : uint8 np.memmap (read-only), or ndarray where the cache cannot be written, (N, size, size, channels)
    labels : uint8 array, shape (N,)
    messages : list of str     # the notes, and what went wrong with the cache
    Raises
    ------
    DataError : the cache cannot be written and `large` is set, or whatever `build` raises.
    """
    recipe = json.dumps({"version": VERSION, "size": size, **({} if channels == 3 else {"channels": channels}), **recipe},
                        sort_keys=True)  # fmt: skip
    shape = (size, size, channels)
    folder = cache_folder(cache_dir)
    path = folder / f"{stem}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.h5"
    if found := _read(path, recipe, shape):
        return found
    source = build()
    try:
        _write(path, recipe, source, shape)
        if found := _read(path, recipe, shape):
            return found
        raise OSError("what was written there does not read back")
    except (OSError, RuntimeError) as error:  # h5py reports a full disk as either
        if found := _read(path, recipe, shape):  # another process was faster
            return found
        need = f"{len(source.labels):,} images, {len(source.labels) * size * size * channels / 1e9:.1f} GB"
        if large:
            raise DataError(
                f"{folder}: expected a cache folder with room for {need}, found that it cannot be written ({error}); "
                "name another one in BITNET_CACHE"
            ) from None
        source = build()  # some of the first one's chunks may be used up
        note = f"{folder}: the cache cannot be written ({error}); {need} are kept in memory and prepared at every start"
        return np.concatenate(list(source.chunks)), source.labels, [*source.notes, note]


def _read(path, recipe, shape):
    """The content of a cache file; None where it is missing, damaged, or of another recipe."""
    try:
        # no lock: the file never changes under its final name, and some file systems have no locks
        with h5py.File(path, "r", locking=False) as file:
            images, labels, notes = file["images"], file["labels"][:], json.loads(file.attrs["notes"])
            offset, found = images.id.get_offset(), images.shape
            right = file.attrs["recipe"] == recipe and images.dtype == np.uint8 and labels.dtype == np.uint8
        right = right and offset is not None and found == (len(labels), *shape)
        if not right:
            return None
        return np.memmap(path, np.uint8, "r", offset, found), labels, notes  # raises where the file is too short
    except (OSError, KeyError, ValueError, RuntimeError):
        return None


def _write(path, recipe, source, shape):
    """Write a cache file so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("*.tmp"):
        with contextlib.suppress(OSError):  # its owner may finish at this moment
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()
    handle, temporary = tempfile.mkstemp(suffix=".tmp", prefix=f"{path.stem}-", dir=path.parent)
    os.close(handle)
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["recipe"], file.attrs["notes"] = recipe, json.dumps(source.notes)
            file["labels"] = source.labels
            images = file.create_dataset("images", (len(source.labels), *shape), np.uint8)
            start = 0
            for chunk in source.chunks:
                images[start : start + len(chunk)] = chunk
                start += len(chunk)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
