"""Sets in MNIST's format with other pictures: Fashion-MNIST and EMNIST, from their idx files as they are published.

    Fashion-MNIST (Xiao et al., arXiv:1708.07747)    MNIST's own file names; ten kinds of clothes
    EMNIST (Cohen et al., arXiv:1702.05373)          emnist-SPLIT-train-images-idx3-ubyte[.gz] and so on, and
                                                     emnist-SPLIT-mapping.txt, a line a class: label, codes of characters

EMNIST keeps its pictures lying on their side (rows and columns exchanged); they are turned upright here. Its split "letters"
has labels from 1 on, which become 0 and on. Nothing is fetched.
"""

import hashlib

import numpy as np

from .cache import Source, cached
from .dataset import DataError, Dataset, printable
from .files import describe_folder, regular, resolved
from .mnist import SIZE, _find, _idx, _read

CLOTHES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_LARGEST = 1 << 16  # bytes of a mapping


def load_fashion(folder, cache_dir=None):
    """Fashion-MNIST: a training set and a test set of 28 x 28 grey pictures of clothes.

    Parameters
    ----------
    folder : str or Path            # with train-images-idx3-ubyte and the other three, each with or without .gz
    cache_dir : str, Path or None   # None: BITNET_CACHE, else the platform's cache folder
    Returns
    -------
    train : Dataset
    test : Dataset
    messages : list of str
    Raises
    ------
    DataError : a file is missing or not what it should be.
    """
    return _load(folder, {"train": "train", "test": "t10k"}, CLOTHES, "Fashion-MNIST", cache_dir)


def load_emnist(folder, cache_dir=None):
    """EMNIST, any of its splits: a training set and a test set of 28 x 28 grey letters and digits, bright on black.

    Parameters, results and errors are those of ``load_fashion``; the folder holds the files of one split and its mapping.
    """
    folder = resolved(folder)
    mappings = sorted(folder.glob("emnist-*-mapping.txt"))
    if len(mappings) != 1:
        found = ", ".join(path.name for path in mappings) or describe_folder(folder)
        raise DataError(f"{folder}: expected one emnist-SPLIT-mapping.txt and the four files of that split, found {found}")
    split = mappings[0].name.removeprefix("emnist-").removesuffix("-mapping.txt")
    first, classes = _mapping(mappings[0])
    return _load(folder, {one: f"emnist-{split}-{one}" for one in ("train", "test")}, classes, f"EMNIST {printable(split)}",
                 cache_dir, first, upright=True)


def _mapping(path):
    """(the first label, the classes' names) of a mapping."""
    with open(regular(path, "a mapping"), "rb") as file:
        lines = file.read(_LARGEST).split(b"\n")
    try:
        rows = [[int(number) for number in line.split()] for line in lines if line.strip()]
        names = tuple("/".join(dict.fromkeys(map(chr, row[1:]))) for row in rows)
        if [row[0] for row in rows] != list(range(rows[0][0], rows[0][0] + len(rows))) or not all(names):
            raise ValueError
    except (ValueError, IndexError, OverflowError):
        raise DataError(f"{path}: expected lines of a label, rising by one, and codes of characters, found others") from None
    return rows[0][0], tuple(map(printable, names))


def _load(folder, prefixes, classes, name, cache_dir, first=0, upright=False):
    folder = resolved(folder)
    sets = {}
    for split, prefix in prefixes.items():
        paths = []
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            file = f"{prefix}-{kind}"
            paths.append(_find(folder, file))
            if paths[-1] is None:
                raise DataError(f"{folder}: expected {file}, with or without .gz, found {describe_folder(folder)}")
        content = [_read(path, axes) for path, axes in zip(paths, (3, 1), strict=True)]
        digests = [hashlib.md5(raw, usedforsecurity=False).hexdigest() for raw in content]
        build = lambda paths=paths, content=content: _source(paths, content, len(classes), first, upright)  # noqa: E731
        images, labels, messages = cached(f"idx-{split}", {"sources": ["idx set", first, upright, len(classes), *digests]},
                                          build, (SIZE, SIZE, 1), cache_dir, classes=len(classes))
        sets[split] = Dataset(images, labels, classes, f"{name} {split}"), messages
    train, test = sets["train"], sets["test"]
    told = f"data: {train[0].name}, {len(train[0]):,} images; {test[0].name}, {len(test[0]):,}; from {folder}"
    return train[0], test[0], [told, *train[1], *test[1]]


def _source(paths, content, count, first, upright):
    images, labels = _idx(content[0], 3), _idx(content[1], 1).astype(np.int64) - first
    if images.shape[1:] != (SIZE, SIZE) or len(images) != len(labels):
        raise DataError(f"{paths[0]}: expected {len(labels):,} images of 28 x 28 pixels, found {len(images):,} of "
                        f"{images.shape[1]} x {images.shape[2]}")
    if labels.min() < 0 or labels.max() >= count:
        raise DataError(f"{paths[1]}: expected labels {first}..{first + count - 1}, found {labels.min() + first} to "
                        f"{labels.max() + first}")
    images = images.transpose(0, 2, 1) if upright else images
    return Source(labels.astype(np.uint8), iter([np.ascontiguousarray(images)[..., None]]))
