"""Prepared images on disk: made once, then memory-mapped.

A cache file is named after its recipe, that is everything its pixels depend on (checksum of the source, size, version
of the code below), so a changed source simply asks for another file. In the file:

    images      uint8 (N, H, W, C), contiguous: a plain run of bytes from images.id.get_offset(), as np.memmap wants
    labels      integers (N,)
    checksums   uint32 (chunks, 2): index of the image after a chunk, CRC-32 of its images
    recipe, notes, checksum   attributes: JSON text, and the CRC-32 of notes and labels; the notes are told at every start

Every start checks all of it: reading from memory and checksum run at 4 GB/s together. Only of images beyond 8 GB it takes as
many chunks as that, others at each start. What is odd in any way is prepared again, and a message says so.

Files are written under a temporary name, flushed to the disk, then renamed. A reader therefore finds a whole file or
none; two processes that prepare the same file at once both succeed, and the later rename replaces an equal file.
"""

import contextlib
import hashlib
import json
import os
import random
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pooch

from .dataset import DataError

VERSION = 2  # of the file layout and of resize(); raise it when prepared pixels would change
_CHECKED = 1 << 33  # bytes of images whose checksums are compared at a start
_ABANDONED = 86400  # seconds after which another process's temporary file is taken as left over


@dataclass
class Source:
    """Images on their way into the cache.

    labels : integer array, shape (N,)
    chunks : iterator of uint8 arrays, shape (n, H, W, C)   # N images in all, never all at once
    notes : list of str                                     # kept with the images, told at every start
    """

    labels: np.ndarray
    chunks: Iterator[np.ndarray]
    notes: list[str] = field(default_factory=list)


def cache_folder(cache_dir=None):
    """The argument, else the environment's BITNET_CACHE, else the platform's folder for caches (~/.cache/bitnet)."""
    return Path(cache_dir or os.environ.get("BITNET_CACHE") or pooch.os_cache("bitnet")).expanduser()


def cached(stem, recipe, build, shape, cache_dir=None, large=False):
    """Images by their recipe: from the cache, or built into it.

    Parameters
    ----------
    stem : str                   # start of the file's name, for people
    recipe : dict                # JSON; everything that the pixels and labels depend on
    build : () -> Source         # called only where the cache does not have them
    shape : (int, int, int)      # (H, W, C) of an image
    cache_dir : str, Path or None
    large : bool                 # True where the images must not be held in memory
    Returns
    -------
    images : uint8 np.memmap (read-only), or ndarray where the cache cannot be written, (N, H, W, C)
    labels : integer array, shape (N,)
    messages : list of str       # the notes, and what went wrong with the cache
    Raises
    ------
    DataError : the cache cannot be written and `large` is set, or whatever `build` raises.
    """
    recipe, folder = json.dumps({"version": VERSION, "shape": shape, **recipe}, sort_keys=True), "the cache"
    name = f"{stem}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.h5"
    failure = source = odd = None
    try:
        folder = cache_folder(cache_dir)
        found, odd = _read(folder / name, recipe, shape)
        if found:
            return found
    except RuntimeError as error:  # no home folder
        failure = error
    source = build()
    if not failure:
        try:
            _write(folder / name, recipe, source, shape)
            found, wrong = _read(folder / name, recipe, shape)
            if not found:
                raise OSError(f"what was written there reads back as {wrong}")
        except (OSError, RuntimeError) as error:  # h5py reports a full disk as either
            failure, (found, _) = error, _read(folder / name, recipe, shape)  # another process may have been faster
        if found:
            again = f"{folder / name}: expected prepared images as they were written, found {odd}; prepared again"
            return *found[:2], found[2] + [again] * bool(odd)
    need = f"{len(source.labels):,} images, {len(source.labels) * np.prod(shape) / 1e9:.1f} GB"
    if large:
        raise DataError(
            f"{folder}: expected a cache folder with room for {need}, found that it cannot be written ({failure}); "
            "name another one in BITNET_CACHE"
        )
    source = build()  # some of the first one's chunks may be used up
    images = np.empty((len(source.labels), *shape), np.uint8)
    _fill(images, source.chunks)
    note = f"{folder}: the cache cannot be written ({failure}); {need} are kept in memory and prepared at every start"
    return images, source.labels, [*source.notes, note]


def _read(path, recipe, shape):
    """(content of a cache file, None), or (None, what is odd about it); (None, None) where there is none."""
    if not os.path.lexists(path):
        return None, None
    if not path.is_file():
        return None, "no regular file"
    try:
        # no lock: the file never changes under its final name, and some file systems have no locks
        with h5py.File(path, "r", locking=False) as file:
            images, labels, sums = (file[key] for key in ("images", "labels", "checksums"))
            offset, found, stored = images.id.get_offset(), images.shape, dict(file.attrs)
            right = offset is not None and images.dtype == np.uint8 and max(labels.nbytes, sums.nbytes) < path.stat().st_size
            if not right or stored["recipe"] != recipe or found != (len(labels), *shape):
                return None, "others"
            labels, sums = labels[:], sums[:].tolist()
        images = np.memmap(path, np.uint8, "r", offset, found)  # raises where the file is too short
        chunks = list(zip([0] + [end for end, _ in sums], *zip(*sums, strict=True), strict=False))
        if images.nbytes > _CHECKED:
            chunks = random.sample(chunks, int(len(chunks) * _CHECKED / images.nbytes) + 1)
        if stored["checksum"] != _checksum(stored["notes"], labels) or sums[-1][0] != len(images):
            return None, "a wrong checksum of the labels"
        if any(zlib.crc32(images[start:end]) != checksum for start, end, checksum in chunks):
            return None, "a wrong checksum of the images"
        return (images, labels, json.loads(stored["notes"])), None
    except Exception as error:  # a damaged file makes h5py raise nearly anything
        return None, f"a damaged file ({type(error).__name__})"


def _checksum(notes, labels):
    return zlib.crc32(labels, zlib.crc32(notes.encode()))


def _fill(images, chunks):
    """Put the chunks one after the other into images: [(index after a chunk, its CRC-32), ...]."""
    start, sums = 0, []
    for chunk in chunks:
        chunk = np.ascontiguousarray(chunk)
        images[start : start + len(chunk)] = chunk
        start += len(chunk)
        sums.append((start, zlib.crc32(chunk)))
    return sums


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
            labels, notes = np.ascontiguousarray(source.labels), json.dumps(source.notes)
            file.attrs["recipe"], file.attrs["notes"], file.attrs["checksum"] = recipe, notes, _checksum(notes, labels)
            file["labels"] = labels
            images = file.create_dataset("images", (len(labels), *shape), np.uint8)
            file["checksums"] = np.array(_fill(images, source.chunks), np.uint32)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
