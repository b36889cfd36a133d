"""Prepared images on disk: made once, then memory-mapped.

A cache file is named after its recipe, that is everything its pixels depend on (checksum of the source, size, version
of the code below), so a changed source simply asks for another file. In the file:

    images    uint8 (N, H, W, C)
    labels    little-endian integers (N,)
    tail      JSON: recipe, notes (told at every start), type and number of the labels, [index after a chunk, CRC-32] of images
    16 bytes  length of the tail, CRC-32 of labels and tail

Every start checks all of it, at 4 GB/s from memory; of images beyond 8 GB as many chunks as that, others at each start. What
is odd in any way is prepared again, and a message says so. Not HDF5: on a full disk it takes the process with it.

Files are written under a temporary name, flushed to the disk, then renamed. A reader therefore finds a whole file or
none; two processes that prepare the same file at once both succeed, and the later rename replaces an equal file.
"""

import contextlib
import hashlib
import json
import math
import os
import random
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pooch

from .dataset import DataError, printable

VERSION = 2  # of the file layout and of resize(); raise it when prepared pixels would change
_CHECKED = 1 << 33  # bytes of images whose checksums are compared at a start
_END = struct.Struct("<QQ")  # the last 16 bytes
_NOTES = 100  # at most
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


def cached(stem, recipe, build, shape, cache_dir=None, large=False, classes=None):
    """Images by their recipe: from the cache, or built into it.

    Parameters
    ----------
    stem : str                   # start of the file's name, for people
    recipe : dict                # JSON; everything that the pixels and labels depend on
    build : () -> Source         # called only where the cache does not have them
    shape : (int, int, int)      # (H, W, C) of an image
    cache_dir : str, Path or None
    large : bool                 # True where the images must not be held in memory
    classes : int or None        # labels are below it, where it is told
    Returns
    -------
    images : uint8 np.memmap (read-only), or ndarray where the cache cannot be written, (N, H, W, C)
    labels : integer array, shape (N,)
    messages : list of str       # the notes, and what went wrong with the cache
    Raises
    ------
    DataError : the cache cannot be written and `large` is set, or whatever `build` raises.
    """
    recipe = json.dumps({"version": VERSION, "shape": shape, **recipe}, sort_keys=True)
    name, path, odd = f"{stem}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.images", None, None
    try:
        path = cache_folder(cache_dir) / name
        found, odd = _read(path, recipe, shape, classes)
        if found:
            return found
        source = build()
        _write(path, recipe, source)
        found, failure = _read(path, recipe, shape, classes)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        failure, found = error, path and _read(path, recipe, shape, classes)[0]  # another process may have been faster
    if found:
        again = f"{path}: expected prepared images as they were written, found {odd}; prepared again"
        return *found[:2], found[2] + [again] * bool(odd)
    source, folder = build(), path.parent if path else "the cache"  # some chunks of the first source may be used up
    need = f"{len(source.labels):,} images, {len(source.labels) * np.prod(shape) / 1e9:.1f} GB"
    if large:
        raise DataError(
            f"{folder}: expected a cache folder with room for {need}, found that it cannot be written ({failure}); "
            "name another one in BITNET_CACHE"
        )
    images, start = np.empty((len(source.labels), *shape), np.uint8), 0
    for chunk in source.chunks:
        images[start : (start := start + len(chunk))] = chunk
    note = f"{folder}: the cache cannot be written ({failure}); {need} are kept in memory and prepared at every start"
    return images, source.labels, [*source.notes, note]


def _read(path, recipe, shape, classes):
    """(content of a cache file, None), or (None, what is odd about it); (None, None) where there is none."""
    if not os.path.lexists(path):
        return None, None
    if not os.path.isfile(path):
        return None, "no regular file"
    try:
        with open(path, "rb") as file:
            end = file.seek(-_END.size, os.SEEK_END)
            length, checksum = _END.unpack(file.read())
            file.seek(end - length)
            tail = file.read(length)
            about = json.loads(tail)
            labels = about["count"] * np.dtype(about["labels"]).itemsize
            start = file.seek(end - length - labels)
            labels = file.read(labels)
        right = about["recipe"] == recipe and start == about["count"] * math.prod(shape)
        if not right or zlib.crc32(tail, zlib.crc32(labels)) != checksum:
            return None, "other labels"
        images = np.memmap(path, np.uint8, "r", 0, (about["count"], *shape))
        chunks = list(zip([0] + [end for end, _ in about["chunks"]], *zip(*about["chunks"], strict=True), strict=False))
        if images.nbytes > _CHECKED:
            chunks = random.sample(chunks, int(len(chunks) * _CHECKED / images.nbytes) + 1)
        if any(zlib.crc32(images[start:end]) != checksum for start, end, checksum in chunks):
            return None, "other pixels"
        notes, labels = about["notes"], np.frombuffer(labels, about["labels"])
        if not isinstance(notes, list) or len(notes) > _NOTES or not all(isinstance(note, str) and note for note in notes):
            return None, "other notes"
        if labels.dtype.kind not in "iu" or (classes and not 0 <= labels.min() <= labels.max() < classes):
            return None, "other labels"
        return (images, labels, list(map(printable, notes))), None
    except Exception as error:  # of whatever a damaged file claims
        return None, f"a damaged file ({type(error).__name__})"


def _write(path, recipe, source):
    """Write a cache file so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("*.tmp"):
        with contextlib.suppress(OSError):  # its owner may finish at this moment
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()
    handle, temporary = tempfile.mkstemp(suffix=".tmp", prefix=f"{path.stem}-", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            start, chunks = 0, []
            for chunk in source.chunks:
                chunk = np.ascontiguousarray(chunk)
                file.write(chunk)
                start += len(chunk)
                chunks.append((start, zlib.crc32(chunk)))
            labels = source.labels.astype(source.labels.dtype.newbyteorder("<"))
            about = {"recipe": recipe, "notes": source.notes, "labels": labels.dtype.str, "count": start, "chunks": chunks}
            labels, tail = labels.tobytes(), json.dumps(about).encode()
            file.write(labels + tail + _END.pack(len(tail), zlib.crc32(tail, zlib.crc32(labels))))
            file.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
