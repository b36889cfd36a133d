"""Images in folders named after their classes, as ImageNet is kept.

    FOLDER/train/CLASS/*.jpg    any number of classes, in alphabetical order; pictures of any kind, also in folders below CLASS
    FOLDER/test/CLASS/*.jpg     or val in the place of test, where there is no test: the same classes or some of them
    FOLDER/val/*.jpg            or this, with FOLDER/val.txt (or val/val.txt), a line "NAME.jpg CLASS" for each picture; CLASS
                                is a name, or a number from 0 in alphabetical order

They end as a Dataset: uint8 (N, H, W, 3) and the classes' numbers, scaled and cut to one size, kept in the cache; or as one
whose pictures stay in their files (``pictures.Pictures``), for sets as large as ImageNet. Pictures are known by what is in
them: a PNG may be called .JPEG, and be grey or CMYK.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .cache import Source, cached
from .dataset import DataError, Dataset, printable
from .files import describe_folder, left_by_systems, regular, resolved
from .images import fitted, open_rgb
from .pictures import Pictures

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_CHUNK = 1 << 26  # bytes of images prepared at a time
_LARGE = 1 << 31  # bytes of images that are not held in memory


def load_folder(folder, size=None, cache_dir=None, on_demand=False, workers=None):
    """A training set and a test set from class folders.

    Parameters
    ----------
    folder : str or Path
    size : int, (int, int) or None     # of an image, or its (H, W): scaled to cover it, what juts out cut off;
                                       # None: all pictures have one size already
    cache_dir : str, Path or None      # None: BITNET_CACHE, else the platform's cache folder
    on_demand : bool                   # True: nothing is kept in a cache, pictures are decoded whenever they are asked for, the
                                       # middle of each in a size x size square (crops.py), for CropAugmentation whole
    workers : int or None              # processes that decode on demand, see Pictures
    Returns
    -------
    train : Dataset
    test : Dataset
    messages : list of str   # for the first lines of a script's output
    Raises
    ------
    DataError : folders are missing or empty, test has a class that train lacks, or a picture cannot be read.
    """
    folder = resolved(folder)
    if on_demand and not isinstance(size, int):
        raise DataError(f"{folder}: expected the side of square images, where pictures are decoded on demand, found {size!r}")
    splits = ["train", next((split for split in ("test", "val") if _classes(folder / split)), "test")]
    classes, others = _classes(folder / "train"), _classes(folder / splits[1])
    labels = None if others else next(filter(os.path.isfile, (folder / "val.txt", folder / "val" / "val.txt")), None)
    if labels:
        splits[1] = "val"
    elif not classes or not others:
        where = folder / splits[not classes] if classes else folder / "train"
        raise DataError(f"{where}: expected a folder for each class, found {describe_folder(where)}")
    if strange := sorted(set(others) - set(classes)):
        raise DataError(f"{folder / splits[1]}: expected the {len(classes):,} classes of train, found {strange[0]}, too")
    listed = [_pictures(folder / "train", classes),
              _labelled(folder / "val", labels, classes) if labels else _pictures(folder / splits[1], classes)]
    if size is None:
        width, height = open_rgb(listed[0][0][0][0]).size
    else:
        height, width = (size, size) if np.ndim(size) == 0 else size
    if on_demand:
        sets = [_kept(folder, split, classes, *pictures, size, workers) for split, pictures in zip(splits, listed, strict=True)]
    else:
        sets = [_read(folder, split, classes, *pictures, (height, width, 3), size is None, cache_dir)
                for split, pictures in zip(splits, listed, strict=True)]  # fmt: skip
    (train, train_messages), (test, test_messages) = sets
    first = f"data: {train.name}, {len(train):,} images of {len(classes):,} classes; {test.name}, {len(test):,}; from {folder}"
    return train, test, [first, *train_messages, *test_messages]


def _classes(folder):
    """The names of the folders in a folder; none where there is no folder."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def _pictures(folder, classes):
    """([(path, class), ...], how many other files there are)."""
    found, others = [], 0
    for number, name in enumerate(classes):
        before = len(found)
        for where, below, files in os.walk(folder / name):
            below.sort()
            for file in sorted(files):
                if Path(file).suffix.lower() in SUFFIXES and not left_by_systems(file):
                    found.append((Path(where, file), number))
                else:
                    others += not left_by_systems(file)
        if len(found) == before and folder.name == "train":
            found = describe_folder(folder / name)
            raise DataError(f"{folder / name}: expected pictures ({', '.join(sorted(SUFFIXES))}), found {found}")
    if not found:
        raise DataError(f"{folder}: expected pictures in its folders, found none")
    return found, others


def _labelled(folder, labels, classes):
    """([(path, class), ...], 0) of a folder without folders, from lines "NAME CLASS"."""
    numbers, found = {name: number for number, name in enumerate(classes)}, []
    numbers |= {str(number): number for number in range(len(classes))}
    try:
        lines = regular(labels, "a list of labels").read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{labels}: expected lines of a picture's name and its class, found no text") from None
    for line, text in enumerate(lines, 1):
        words = text.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in numbers or Path(words[0]).name != words[0]:
            raise DataError(f"{labels}, line {line}: expected a picture's name and one of {len(classes):,} classes, by name "
                            f"or number from 0, found {text[:80]!r}")
        if not os.path.isfile(folder / words[0]):
            raise DataError(f"{labels}, line {line}: expected a picture in {folder}, found none of the name {words[0]}")
        found.append((folder / words[0], numbers[words[1]]))
    if not found:
        raise DataError(f"{labels}: expected a line for each picture, found none")
    return found, 0


def _left_out(split, others):
    return [f"{split}: {others:,} files that are no pictures by their names are left out"] * bool(others)


def _named(folder, split, classes, images, labels, **options):
    name = f"{printable(folder.resolve().name)} {split}"
    return Dataset(images, labels, tuple(map(printable, classes)), name, **options)


def _kept(folder, split, classes, pictures, others, size, workers):
    """The Dataset of pictures that stay in their files, and messages."""
    images = Pictures([path for path, _ in pictures], size, workers)
    labels = np.array([number for _, number in pictures])
    return _named(folder, split, classes, images, labels, kind="crop"), _left_out(split, others)


def _read(folder, split, classes, pictures, others, shape, exact, cache_dir):
    digest = hashlib.sha256()
    for path, _ in pictures:
        stat = regular(path, "an image file").stat()
        digest.update(f"{str(path.relative_to(folder))!a} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    labels = np.array([number for _, number in pictures], np.min_scalar_type(len(classes)))
    images, labels, messages = cached(
        f"folder-{split}-{shape[0]}x{shape[1]}",
        {"sources": ["folder", digest.hexdigest(), exact]},
        lambda: Source(labels, _chunks(split, pictures, shape, exact), _left_out(split, others)),
        shape,
        cache_dir,
        large=len(pictures) * np.prod(shape) > _LARGE,
        classes=len(classes),
    )
    return _named(folder, split, classes, images, labels), messages


def _chunks(split, pictures, shape, exact):
    height, width, _ = shape
    step, chunk = max(1, _CHUNK // int(np.prod(shape))), []
    for path, _ in tqdm(pictures, f"preparing {split}", unit=" pictures", disable=None):
        image = np.asarray(open_rgb(path)) if exact else fitted(path, height, width)
        if image.shape != shape:
            raise DataError(
                f"{path}: expected {width} x {height} pixels as the first picture has, found "
                f"{image.shape[1]} x {image.shape[0]}; a size makes them equal"
            )
        chunk.append(image)
        if len(chunk) == step:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)
