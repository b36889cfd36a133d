"""MNIST, handwritten digits of 28 x 28 grey pixels (LeCun, Cortes and Burges), from its idx files.

    FOLDER/train-images-idx3-ubyte[.gz]    magic 2051, N, 28, 28 (big-endian int32), then N * 784 bytes
    FOLDER/train-labels-idx1-ubyte[.gz]    magic 2049, N, then N bytes 0..9

and the same with t10k for the test set, or with a dot in the place of the second hyphen. They end as a Dataset: uint8
(N, 28, 28, 1) and labels 0..9, kept in the cache.
"""

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path

import numpy as np

from .cache import Source, cached
from .dataset import DataError, Digits
from .download import fetch
from .files import believe, describe_folder, find, resolved
from .generated import TEST_COUNT, TRAIN_COUNT, read_both

SIZE = 28
DEFAULT_FOLDER = Path("data", "mnist")  # below the folder in which a script is started
BASE_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"

# file -> md5 as published (gz), md5 of what it unpacks to, bytes as published
OFFICIAL = {
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb", 9_912_422),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624", 28_881),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea", 1_648_877),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637", 4_542),
}
_SPLITS = {"train": "train", "test": "t10k"}


def _names(split):
    return f"{_SPLITS[split]}-images-idx3-ubyte", f"{_SPLITS[split]}-labels-idx1-ubyte"


def _find(folder, name):
    """The plain or the gz file of that name, with a hyphen or a dot; None where there is none."""
    return find(folder, *(spelt + end for spelt in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")))


def _missing(folder):
    return [name for name in OFFICIAL if _find(folder, name) is None]


def has_split(folder, split):
    """True where the folder holds both files of this split."""
    return all(_find(folder, name) for name in _names(split))


def load_mnist(data=None, download=False, cache_dir=None, base_url=None):
    """A training set and a test set of 28 x 28 grey digits.

    Parameters
    ----------
    data : None, "synthetic", or a folder   # None: MNIST in data/mnist where it is found, else generated digits
    download : bool                         # first fetch what the folder lacks; nothing else touches a network
    cache_dir : str, Path or None           # None: BITNET_CACHE, else the platform's cache folder
    base_url : str or None                  # None: BITNET_MNIST_URL, else a public mirror
    Returns
    -------
    train : Dataset
    test : Dataset
    messages : list of str   # for the first lines of a script's output
    Raises
    ------
    DataError : the data named is missing or not what it should be, or the download failed.
    """
    if not isinstance(download, bool):
        raise DataError(f"load_mnist reads both sets, train and test, and its second argument, download, is True or False, "
                        f"found {download!r}")
    if data == "synthetic":
        if download:
            raise DataError("expected a folder of MNIST with download, found data 'synthetic'")
        return read_both((TRAIN_COUNT, TEST_COUNT), SIZE, cache_dir, "data: ", "MNIST", plain=True)
    folder, messages = resolved(data or DEFAULT_FOLDER), []
    if download:
        url = (base_url or os.environ.get("BITNET_MNIST_URL") or BASE_URL).rstrip("/") + "/"
        messages += [fetch(f"{url}{name}.gz", folder / f"{name}.gz", OFFICIAL[name][0], OFFICIAL[name][2], "BITNET_MNIST_URL")
                     for name in _missing(folder)]  # fmt: skip
    missing = _missing(folder)
    if data is None and len(missing) == len(OFFICIAL):
        start = f"data: no MNIST in {folder}, --download fetches it; using "
        return read_both((TRAIN_COUNT, TEST_COUNT), SIZE, cache_dir, start, "MNIST", plain=True)
    if missing:
        raise DataError(f"{folder}: expected {', '.join(missing)}, each with or without .gz, found {describe_folder(folder)}; "
                        "--download fetches what is missing")  # fmt: skip
    (train, train_messages), (test, test_messages) = (read_mnist(folder, split, cache_dir) for split in _SPLITS)
    first = f"data: {train.name}, {len(train):,} images; {test.name}, {len(test):,} images; from {folder}"
    return train, test, [first, *messages, *train_messages, *test_messages]


def read_mnist(folder, split, cache_dir=None):
    """One split, "train" or "test", of a folder that holds its two files: (digits, messages).

    Raises
    ------
    DataError : a file is missing, damaged or not idx, or images and labels differ in number.
    """
    folder = resolved(folder)
    if split not in _SPLITS:
        raise DataError(f"expected the split train or test of MNIST, found {split!r}")
    paths = [_find(folder, name) for name in _names(split)]
    if None in paths:
        raise DataError(f"{folder}: expected {' and '.join(_names(split))}, each with or without .gz, "
                        f"found {describe_folder(folder)}")  # fmt: skip
    content = [_read(path, axes) for path, axes in zip(paths, (3, 1), strict=True)]
    digests = [hashlib.md5(raw, usedforsecurity=False).hexdigest() for raw in content]
    images, labels, messages = cached(
        f"mnist-{split}", {"sources": ["idx", *digests]}, lambda: _source(split, paths, content, digests),
        (SIZE, SIZE, 1), cache_dir, classes=10,
    )  # fmt: skip
    modified = f" (modified, {len(images):,})" if messages else ""
    return Digits(images, labels, f"MNIST {split}{modified}"), messages


def _read(path, axes):
    """The bytes of an idx file with so many axes, unpacked where it is gz; no more of them than its head claims.

    Raises
    ------
    DataError : the file cannot be read, is not idx, or has another length than it claims.
    """
    packed, head = path.suffix == ".gz", 4 * (1 + axes)
    try:
        with (gzip.open if packed else open)(path, "rb") as file:
            raw = file.read(head)
            magic, *shape = (int.from_bytes(raw[at : at + 4], "big") for at in range(0, head, 4))
            if len(raw) < head or magic != 0x0800 + axes:
                raise DataError(
                    f"{path}: expected an idx file of bytes with {axes} axes (magic {0x0800 + axes}), found magic {magic}"
                )
            claimed = head + math.prod(shape)
            believe(path, claimed)
            raw += file.read(claimed - head + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a readable file{' in gz' * packed}, found {error}") from None
    if min(shape) < 1 or len(raw) != claimed:
        found = "more" if len(raw) > claimed else f"{len(raw):,}"
        raise DataError(f"{path}: expected {head} + {' * '.join(map(str, shape))} bytes, found {found}")
    return raw


def _idx(raw, axes):
    """The array in the bytes of an idx file with so many axes."""
    shape = np.frombuffer(raw, ">u4", axes, 4)
    return np.frombuffer(raw, np.uint8, offset=4 * (1 + axes)).reshape(shape)


def _source(split, paths, content, digests):
    images, labels = _idx(content[0], 3), _idx(content[1], 1)
    if images.shape[1:] != (SIZE, SIZE):
        raise DataError(f"{paths[0]}: expected images of 28 x 28 pixels, found {images.shape[1]} x {images.shape[2]}")
    if len(images) != len(labels):
        raise DataError(f"{paths[1]}: expected one label for each of {len(images):,} images, found {len(labels):,}")
    if labels.max() > 9:
        raise DataError(f"{paths[1]}: expected labels 0..9, found {labels.max()}")
    official = digests == [OFFICIAL[name][1] for name in _names(split)]
    notes = [] if official else [f"{split}: not MNIST's own {split} set, its md5 is another one: {len(labels):,} images"]
    return Source(labels.copy(), iter([images[..., None]]), notes)
