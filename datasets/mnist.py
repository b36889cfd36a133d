"""MNIST, handwritten digits of 28 x 28 grey pixels (LeCun, Cortes and Burges), from its idx files.

    FOLDER/train-images-idx3-ubyte[.gz]    magic 2051, N, 28, 28 (big-endian int32), then N * 784 bytes
    FOLDER/train-labels-idx1-ubyte[.gz]    magic 2049, N, then N bytes 0..9

and the same with t10k for the test set. They end as Digits: uint8 (N, 28, 28, 1) and labels 0..9, kept in the cache.
"""

import gzip
import hashlib
import os
import zlib
from pathlib import Path

import numpy as np

from .cache import Source, cached
from .digits import DataError, Digits
from .download import fetch
from .generated import TEST_COUNT, TRAIN_COUNT, read_both
from .svhn import describe_folder

SIZE = 28
DEFAULT_FOLDER = Path("data", "mnist")  # below the folder in which a script is started
BASE_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"

# file -> md5 as published (gz), md5 of what it unpacks to
OFFICIAL = {
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
}
_SPLITS = {"train": "train", "test": "t10k"}


def _names(split):
    return f"{_SPLITS[split]}-images-idx3-ubyte", f"{_SPLITS[split]}-labels-idx1-ubyte"


def _find(folder, name):
    """The plain or the gz file of that name; None where there is neither."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _missing(folder):
    return [name for name in OFFICIAL if _find(folder, name) is None]


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
    train : Digits
    test : Digits
    messages : list of str   # for the first lines of a script's output
    Raises
    ------
    DataError : the data named is missing or not what it should be, or the download failed.
    """
    if data == "synthetic":
        if download:
            raise DataError("expected a folder of MNIST with download, found data 'synthetic'")
        return read_both((TRAIN_COUNT, TEST_COUNT), SIZE, cache_dir, "data: ", "MNIST", plain=True)
    folder, messages = Path(data or DEFAULT_FOLDER).expanduser(), []
    if download:
        url = (base_url or os.environ.get("BITNET_MNIST_URL") or BASE_URL).rstrip("/") + "/"
        messages += [fetch(f"{url}{name}.gz", folder / f"{name}.gz", OFFICIAL[name][0], "BITNET_MNIST_URL")
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
    folder = Path(folder).expanduser()
    if split not in _SPLITS:
        raise DataError(f"expected the split train or test of MNIST, found {split!r}")
    paths = [_find(folder, name) for name in _names(split)]
    if None in paths:
        raise DataError(f"{folder}: expected {' and '.join(_names(split))}, each with or without .gz, "
                        f"found {describe_folder(folder)}")  # fmt: skip
    content = [_read(path) for path in paths]
    digests = [hashlib.md5(raw, usedforsecurity=False).hexdigest() for raw in content]
    images, labels, messages = cached(
        f"mnist-{split}", {"sources": ["idx", *digests]}, lambda: _source(split, paths, content, digests), SIZE, cache_dir,
        channels=1,
    )  # fmt: skip
    modified = f" (modified, {len(images):,})" if messages else ""
    return Digits(images, labels, f"MNIST {split}{modified}"), messages


def _read(path):
    """The bytes of a file, unpacked where it is gz."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a readable file{' in gz' if path.suffix == '.gz' else ''}, found {error}") from None


def _idx(path, raw, axes):
    """The array in an idx file of bytes with so many axes."""
    head = 4 * (1 + axes)
    magic = int.from_bytes(raw[:4], "big")
    if len(raw) < head or magic != 0x0800 + axes:
        raise DataError(f"{path}: expected an idx file of bytes with {axes} axes (magic {0x0800 + axes}), found magic {magic}")
    shape = tuple(np.frombuffer(raw, ">i4", axes, 4).tolist())
    if min(shape) < 1 or len(raw) != head + int(np.prod(shape)):
        raise DataError(f"{path}: expected {head} + {' * '.join(map(str, shape))} bytes, found {len(raw):,}")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def _source(split, paths, content, digests):
    images, labels = (_idx(path, raw, axes) for path, raw, axes in zip(paths, content, (3, 1), strict=True))
    if images.shape[1:] != (SIZE, SIZE):
        raise DataError(f"{paths[0]}: expected images of 28 x 28 pixels, found {images.shape[1]} x {images.shape[2]}")
    if len(images) != len(labels):
        raise DataError(f"{paths[1]}: expected one label for each of {len(images):,} images, found {len(labels):,}")
    if labels.max() > 9:
        raise DataError(f"{paths[1]}: expected labels 0..9, found {labels.max()}")
    official = digests == [OFFICIAL[name][1] for name in _names(split)]
    notes = [] if official else [f"{split}: not MNIST's own {split} set, its md5 is another one: {len(labels):,} images"]
    return Source(labels.copy(), iter([images[..., None]]), notes)
