"""Photographs with a label for each pixel, in folders of images and of label maps, as CamVid (Brostow et al., 2009) is kept.

    FOLDER/train/NAME.jpg    FOLDER/trainannot/NAME.png     pictures of any kind; pictures, grey or of a palette, of numbers
    FOLDER/test/NAME.jpg     FOLDER/testannot/NAME.png      or val and valannot
    FOLDER/classes.txt       names of classes 0, 1, ..., a line each; without it, those of CamVid

The number after the last class, and 255, are void: pixels that count for nothing. They end as a Dataset: uint8 (N, H, W, 3) and
label maps uint8 (N, H, W), scaled and cut to one size, kept in the cache.
"""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from .cache import Source, cached
from .dataset import DataError, Dataset, printable
from .files import describe_folder, left_by_systems, regular, resolved
from .folder import SUFFIXES
from .images import open_labels, open_rgb

CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
LABELS = "annot"  # what the folder of a split's label maps has after its name
_CHUNK, _LARGE = 1 << 26, 1 << 31  # bytes of images prepared at a time; that are not held in memory
_MOST = 255  # classes


def load_segmentation(folder, size=None, test="test", cache_dir=None):
    """A training set and a test set of photographs with label maps.

    Parameters
    ----------
    folder : str or Path
    size : (int, int) or None   # (H, W): scaled to cover it, what juts out cut off; None: all pictures have one size already
    test : str                  # the split to test on, "test" or "val"; another one's name is a folder like them
    cache_dir : str, Path or None   # None: BITNET_CACHE, else the platform's cache folder
    Returns
    -------
    train, test : Dataset    # ``void`` is the number after the last class
    messages : list of str   # for the first lines of a script's output
    Raises
    ------
    DataError : folders are missing or empty, pictures without labels or labels without pictures, sizes that differ, numbers
        that are no class, or a picture that cannot be read.
    """
    folder = resolved(folder)
    classes = _classes(folder)
    pairs = {split: _pairs(folder, split) for split in ("train", test)}
    if size is None:
        width, height = open_rgb(pairs["train"][0][0], upright=False).size
        size = height, width
    sets = {split: _read(folder, split, classes, found, tuple(size), cache_dir) for split, found in pairs.items()}
    (train, notes), (held, more) = sets["train"], sets[test]
    first = (f"data: {train.name}, {len(train):,} images of {size[1]} x {size[0]} pixels, {len(classes)} classes; {held.name}, "
             f"{len(held):,}; from {folder}")
    return train, held, [first, *notes, *more]


def _classes(folder):
    path = folder / "classes.txt"
    if not path.exists():
        return CAMVID
    try:
        text = regular(path, "a list of classes").read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected names of classes in UTF-8, a line each, found another encoding") from None
    names = tuple(printable(line.strip()) for line in text.splitlines() if line.strip())
    if not 2 <= len(names) < _MOST or len(set(names)) < len(names):
        raise DataError(f"{path}: expected the names of 2 to {_MOST - 1} classes, a line each, found {len(names)} lines, "
                        f"{len(set(names))} of them different")
    return names


def _pictures(folder):
    """{name without suffix: path} of the pictures in a folder, in the order of their names."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of pictures, found {describe_folder(folder)}")
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not left_by_systems(path.name):
            if path.stem in found:
                raise DataError(f"{path}: expected one picture of that name, found {found[path.stem].name}, too")
            found[path.stem] = path
    if not found:
        raise DataError(f"{folder}: expected pictures ({', '.join(sorted(SUFFIXES))}), found {describe_folder(folder)}")
    return found


def _pairs(folder, split):
    """[(picture, label map), ...] of a split."""
    pictures, labels = _pictures(folder / split), _pictures(folder / f"{split}{LABELS}")
    names = split, f"{split}{LABELS}"
    for here, there, (one, other) in ((pictures, labels, names), (labels, pictures, names[::-1])):
        if alone := sorted(here.keys() - there.keys()):
            raise DataError(f"{folder / other}: expected a picture for each of {one}, found none of the name {alone[0]}")
    return [(path, labels[name]) for name, path in pictures.items()]


def _read(folder, split, classes, pairs, size, cache_dir):
    digest = hashlib.sha256()
    for path in (one for pair in pairs for one in pair):
        stat = regular(path, "an image file").stat()
        digest.update(f"{str(path.relative_to(folder))!a} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    count, void = len(pairs), len(classes)
    large = count * size[0] * size[1] * 3 > _LARGE
    stem, key = f"segmentation-{split}-{size[0]}x{size[1]}", ["segmentation", digest.hexdigest(), void]
    none = np.zeros(count, np.uint8)  # an image's own label: there is none

    def kept(stem, chunks, channels):
        images, _, notes = cached(stem, {"sources": key}, lambda: Source(none, chunks()), (*size, channels), cache_dir, large)
        return images, notes

    images, notes = kept(stem, lambda: _chunks(split, pairs, size), 3)
    maps, more = kept(f"{stem}-labels", lambda: _label_chunks(f"{split}{LABELS}", pairs, size, void), 1)
    name = f"{printable(Path(folder).resolve().name)} {split}"
    return Dataset(images, maps[..., 0], classes, name, void=void), [*notes, *more]


def _stacked(arrays, size):
    """Arrays as stacks of some, of about _CHUNK bytes."""
    step, chunk = max(1, _CHUNK // (3 * size[0] * size[1])), []
    for array in arrays:
        chunk.append(array)
        if len(chunk) == step:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)


def _fit(image, size, filter):
    """Scaled to cover a size, what juts out cut off at both ends: the same place of a picture and of its labels."""
    return np.asarray(image if image.size == size[::-1] else ImageOps.fit(image, size[::-1], filter))


def _chunks(split, pairs, size):
    def prepared():
        for path, labels in tqdm(pairs, f"preparing {split}", unit=" pictures", disable=None):
            image, other = open_rgb(path, upright=False), open_labels(labels)  # labels know nothing of EXIF's orientation
            if image.size != other.size:
                raise DataError(f"{labels}: expected labels of {image.width} x {image.height} pixels, as {path.name} has, "
                                f"found {other.width} x {other.height}")
            yield _fit(image, size, Image.Resampling.BICUBIC)
    return _stacked(prepared(), size)


def _label_chunks(split, pairs, size, void):
    def prepared():
        for _, path in tqdm(pairs, f"preparing {split}", unit=" pictures", disable=None):
            labels = _fit(open_labels(path), size, Image.Resampling.NEAREST)
            labels = np.where(labels == _MOST, np.uint8(void), labels)
            if labels.max() > void:
                raise DataError(f"{path}: expected pixels of 0 to {void - 1}, {void} (void) or {_MOST} (void), found "
                                f"{labels.max()}")
            yield labels[..., None]
    return _stacked(prepared(), size)
