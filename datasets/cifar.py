"""CIFAR-10 (Krizhevsky, 2009), 32 x 32 photographs in ten classes, from its binary version.

    FOLDER/data_batch_1.bin .. data_batch_5.bin    10,000 records: a byte 0..9, then 3 * 1,024 bytes, red, green, blue planes
    FOLDER/test_batch.bin                          10,000 more

also in FOLDER/cifar-10-batches-bin, as they are unpacked, or in FOLDER/cifar-10-binary.tar.gz, as it is fetched. The version
for Python is not read: its files are pickles. They end as a Dataset: uint8 (N, 32, 32, 3), kept in the cache.
"""

import hashlib
import os
import tarfile
import zlib
from pathlib import Path

import numpy as np

from .cache import Source, cached
from .dataset import DataError, Dataset
from .download import fetch
from .files import describe_folder, regular, resolved

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DEFAULT_FOLDER = Path("data", "cifar10")  # below the folder in which a program is started
BASE_URL = "https://www.cs.toronto.edu/~kriz/"
ARCHIVE, MD5, SIZE = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170_052_171
_INNER, _SIDE, _RECORD = "cifar-10-batches-bin", 32, 3073
_SPLITS = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_LARGEST = 10_000 * _RECORD  # bytes of a batch


def _place(folder):
    """Where the six files are: a folder, or the archive; None where they are not."""
    names = [*_SPLITS["train"], *_SPLITS["test"]]
    for place in (folder, folder / _INNER):
        if all((place / name).is_file() for name in names):
            return place
    return folder / ARCHIVE if (folder / ARCHIVE).is_file() else None


def has_cifar(folder):
    """True where the folder holds CIFAR-10's binary version."""
    return _place(folder) is not None


def load_cifar10(folder=None, download=False, cache_dir=None, base_url=None):
    """A training set and a test set of 32 x 32 photographs.

    Parameters
    ----------
    folder : str, Path or None      # None: data/cifar10
    download : bool                 # first fetch what the folder lacks (170 MB); nothing else touches a network
    cache_dir : str, Path or None   # None: BITNET_CACHE, else the platform's cache folder
    base_url : str or None          # None: BITNET_CIFAR_URL, else its authors' address
    Returns
    -------
    train : Dataset
    test : Dataset
    messages : list of str   # for the first lines of a script's output
    Raises
    ------
    DataError : a file is missing or not what it should be, or the download failed.
    """
    folder, messages = resolved(folder or DEFAULT_FOLDER), []
    if download and _place(folder) is None:
        url = (base_url or os.environ.get("BITNET_CIFAR_URL") or BASE_URL).rstrip("/") + "/"
        messages.append(fetch(url + ARCHIVE, folder / ARCHIVE, MD5, SIZE, "BITNET_CIFAR_URL"))
    place = _place(folder)
    if place is None:
        raise DataError(f"{folder}: expected {ARCHIVE}, or data_batch_1.bin to data_batch_5.bin and test_batch.bin, found "
                        f"{describe_folder(folder)}; download fetches what is missing")
    train, test = (_read(place, split, cache_dir) for split in _SPLITS)
    first = f"data: {train[0].name}, {len(train[0]):,} images; {test[0].name}, {len(test[0]):,}; from {folder}"
    return train[0], test[0], [first, *messages, *train[1], *test[1]]


def _read(place, split, cache_dir):
    """One split: (dataset, messages)."""
    names = _SPLITS[split]
    stamps = [(str(path.name), path.stat().st_size, path.stat().st_mtime_ns)
              for path in ([place] if place.name == ARCHIVE else [place / name for name in names])]
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()
    images, labels, messages = cached(f"cifar10-{split}", {"sources": ["cifar10", digest, split]},
                                      lambda: _source(place, names), (_SIDE, _SIDE, 3), cache_dir, classes=len(CLASSES))
    return Dataset(images, labels, CLASSES, f"CIFAR-10 {split}"), messages


def _source(place, names):
    parts = [_records(place, name, content) for name, content in _contents(place, names)]
    return Source(np.concatenate([labels for labels, _ in parts]), iter([images for _, images in parts]))


def _contents(place, names):
    """(name, bytes) of each file, no more of them than a batch has."""
    if place.name != ARCHIVE:
        for name in names:
            with open(regular(place / name, "a batch of CIFAR-10"), "rb") as file:
                yield name, file.read(_LARGEST + 1)
        return
    found = {}
    try:
        with tarfile.open(place, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix(f"{_INNER}/")
                if name in names and member.isfile() and member.size <= _LARGEST:
                    found[name] = archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{place}: expected CIFAR-10's archive, found a damaged one ({error})") from None
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{place}: expected {missing[0]} in it, found none of that name and size")
    yield from ((name, found[name]) for name in names)


def _records(place, name, content):
    """(labels, images) of a batch."""
    if not content or len(content) % _RECORD or len(content) > _LARGEST:
        raise DataError(f"{place / name}: expected up to 10,000 records of {_RECORD:,} bytes, found {len(content):,} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    if records[:, 0].max() > 9:
        raise DataError(f"{place / name}: expected labels 0..9, found {records[:, 0].max()}")
    planes = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE)
    return records[:, 0].copy(), np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
