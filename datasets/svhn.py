"""SVHN, The Street View House Numbers (Netzer et al., 2011), in both formats in which it is published.

    format 2   FOLDER/train_32x32.mat          X uint8 (32, 32, 3, N), y (N, 1) with 1..10, where 10 means 0
    format 1   FOLDER/train/digitStruct.mat    boxes of the digits (HDF5), beside the photographs 1.png, 2.png, ...

and the same for "test" and "extra". Both end as a Dataset: uint8 (N, size, size, 3) and labels 0..9, resized once and
kept in the cache. The set is for non-commercial use.
"""

import hashlib
import os
import warnings
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from tqdm import tqdm

from .cache import Source, cached
from .dataset import DataError, Digits
from .files import believe, describe_folder, find, kind, left_by_systems, resolved
from .images import CROP, open_rgb, resize, square_crop
from .matlab import claims_of, digit_struct

# split -> (md5 of the official format 2 file, its number of images, its number of bytes)
OFFICIAL = {
    "train": ("e26dedcc434d2e4c54c9b2d4a06d8373", 73_257, 182_040_794),
    "test": ("eb5a983be6a315427106f1b164d9cef3", 26_032, 64_275_384),
    "extra": ("a93ce644f1a588dc4d68dda5feec44a7", 531_131, 1_329_278_602),
}
_CHUNK = 4096  # images prepared at a time: 20 MB at 40 x 40


def format2_file(folder, split):
    """The file where it lies, else where it is expected."""
    name = f"{split}_32x32.mat"
    return find(folder, name) or Path(folder, name)


def format1_file(folder, split):
    return Path(folder) / split / "digitStruct.mat"


def has_split(folder, split):
    """True where the folder holds this split in one of the two formats."""
    return format2_file(folder, split).is_file() or format1_file(folder, split).is_file()


def load_svhn(folder, split, size=40, cache_dir=None):
    """One split of SVHN from a folder that holds it in format 2 or in format 1; format 2 where it holds both.

    What is worth telling (a subset, skipped photographs, an unwritable cache) is given as warnings.

    Parameters
    ----------
    folder : str or Path
    split : "train", "test" or "extra"
    size : int                         # side of the images; SVHN's are 32, DoReFa-Net trains on 40
    cache_dir : str, Path or None      # None: BITNET_CACHE, else the platform's cache folder
    Returns
    -------
    digits : Dataset
    Raises
    ------
    DataError : the split is missing, or its files are not what they should be.
    """
    digits, messages = read_splits(folder, [split], size, cache_dir)
    for message in messages:
        warnings.warn(message, stacklevel=2)
    return digits


def read_splits(folder, splits, size=40, cache_dir=None):
    """Like load_svhn for several splits, one after the other in one set of images: (digits, messages)."""
    readers = [_reader(folder, split) for split in splits]
    # "extra" has half a million images: prepared in chunks, then memory-mapped, never held in memory as a whole
    images, labels, messages = cached(
        f"svhn-{'+'.join(splits)}-{size}",
        {"sources": [reader.fingerprint() for reader in readers]},
        lambda: _join([reader.source() for reader in readers], size),
        (size, size, 3),
        cache_dir,
        large="extra" in splits,
        classes=10,
    )
    total = sum(OFFICIAL[split][1] for split in splits)
    if all(reader.official for reader in readers):
        detail = ""
    elif len(images) == total and all(reader.official is not False for reader in readers):
        detail = " (format 1)"
    else:
        detail = f" (subset of {len(images):,})" if len(images) < total else f" (modified, {len(images):,})"
    return Digits(images, labels, f"SVHN {' + '.join(splits)}{detail}"), messages


def _reader(folder, split):
    folder = resolved(folder)
    if split not in OFFICIAL:
        raise DataError(f"expected the split train, test or extra, found {split!r}")
    if format2_file(folder, split).is_file():
        return _Format2(format2_file(folder, split), split)
    if format1_file(folder, split).is_file():
        return _Format1(format1_file(folder, split), split)
    raise DataError(
        f"{folder}: expected {split}_32x32.mat (SVHN format 2) or {split}/digitStruct.mat (format 1), "
        f"found {describe_folder(folder)}"
    )


def _join(sources, size):
    """Several sources as one, their crops resized."""
    return Source(
        np.concatenate([source.labels for source in sources]),
        (resize(chunk, size) for source in sources for chunk in source.chunks),
        [note for source in sources for note in source.notes],
    )


def _labels(path, values):
    """SVHN's labels -> 0..9, exactly. values: any numeric array (N,) with 1..10."""
    wrong = ~np.isin(values, np.arange(1, 11))
    if wrong.any():
        where = int(np.argmax(wrong))
        raise DataError(f"{path}: expected labels 1..10 (10 means 0), found {values[where]} at index {where}")
    return (values.astype(np.int64) % 10).astype(np.uint8)


# --- format 2 ------------------------------------------------------------------------------------------------------


class _Format2:
    """One .mat file of crops."""

    def __init__(self, path, split):
        self.path, self.split = path, split
        try:
            with open(path, "rb") as file:
                self.md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise DataError(f"{path}: expected a readable file, found {error}") from None
        self.official = self.md5 == OFFICIAL[split][0]

    def fingerprint(self):
        return ["format 2", self.md5]

    def source(self):
        """The file's crops, checked: Source of (n, 32, 32, 3) chunks."""
        path, (official, total, size) = self.path, OFFICIAL[self.split]
        if h5py.is_hdf5(path):
            raise DataError(f"{path}: expected a MATLAB file of version 5 (saved with -v7), found version 7.3 (HDF5)")
        try:
            claims = claims_of(path)
            for name in {"X", "y"} & claims.keys():
                believe(path, claims[name])
            content = scipy.io.loadmat(path, variable_names=["X", "y"])
        except DataError:
            raise
        except MemoryError:
            raise DataError(f"{path}: expected memory for its images (1.6 GB for extra), found too little") from None
        except Exception as error:  # a damaged file makes SciPy raise nearly anything
            raise DataError(
                f"{path}: expected a MATLAB file of version 5, found {path.stat().st_size:,} bytes that SciPy cannot "
                f"read ({type(error).__name__}: {error}); the official file has {size:,} bytes"
            ) from None
        for name in ("X", "y"):
            if name not in content:
                raise DataError(f"{path}: expected the variables X and y, found {', '.join(sorted(claims)[:9]) or 'none'}")
        images, labels = content["X"], content["y"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (CROP, CROP, 3) or not images.size:
            raise DataError(f"{path}: expected X as uint8 (32, 32, 3, N), found {images.dtype} {images.shape}")
        if labels.dtype.kind not in "uif" or labels.ndim != 2 or labels.shape[1] != 1:
            raise DataError(f"{path}: expected y as numbers (N, 1), found {labels.dtype} {labels.shape}")
        count = images.shape[3]
        if len(labels) != count:
            raise DataError(f"{path}: expected one label for each of {count:,} images, found {len(labels):,}")
        notes = []  # kept in the cache, which outlives a move of the folder: no path in them
        if not self.official:
            notes.append(
                f"{path.name}: a subset or a modified file, its md5 is not the official one: {count:,} images, "
                f"not the official {total:,}" if count != total else
                f"{path.name}: a modified file of {count:,} images, its md5 {self.md5} is not the official {official}"
            )  # fmt: skip
        # MATLAB keeps the last axis slowest, so an image's bytes lie together: .T -> (N, 3, W, H), a view
        turned = images.T
        chunks = (
            np.ascontiguousarray(turned[start : start + _CHUNK].transpose(0, 3, 2, 1))  # -> (n, H, W, 3)
            for start in range(0, count, _CHUNK)
        )
        return Source(_labels(path, labels[:, 0]), chunks, notes)


# --- format 1 ------------------------------------------------------------------------------------------------------


def digit_crops(folder, split):
    """The digits of SVHN's format 1, cut out of the photographs as in format 2 (see images.square_crop).

    Parameters
    ----------
    folder : str or Path   # holds SPLIT/digitStruct.mat and SPLIT/*.png
    split : "train", "test" or "extra"
    Returns
    -------
    images : uint8 array, shape (N, 32, 32, 3)
    labels : uint8 array, shape (N,)   # 0..9
    messages : list of str             # how many entries were skipped because their photograph is absent
    Raises
    ------
    DataError : digitStruct.mat is missing or damaged, no photograph is there, or one cannot be read.
    """
    path = format1_file(resolved(folder), split)
    if not path.is_file():
        raise DataError(f"{path.parent}: expected digitStruct.mat, found {describe_folder(path.parent)}")
    source = _Format1(path, split).source()
    return np.concatenate(list(source.chunks)), source.labels, source.notes


class _Format1:
    """A folder of photographs with the boxes of their digits."""

    official = None  # unknown: the official checksums are of the archives

    def __init__(self, path, split):
        self.path, self.split = path, split

    def fingerprint(self):
        """The checksum of the boxes, and the names, sizes and times of all files beside them: photographs have any suffix."""
        try:
            digest = hashlib.sha256(self.path.read_bytes())
            for entry in sorted(os.scandir(self.path.parent), key=lambda entry: entry.name):
                if entry.is_file() and not left_by_systems(entry.name):
                    stat = entry.stat()
                    digest.update(f"{entry.name!a} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n".encode())
        except OSError as error:
            raise DataError(f"{self.path.parent}: expected readable files, found {error}") from None
        return ["format 1", digest.hexdigest()]

    def source(self):
        """The digits of all photographs that are there: Source of (n, 32, 32, 3) chunks."""
        entries = digit_struct(self.path)
        present = []
        for name, boxes in entries:
            photograph = self.path.parent / name
            if os.path.isfile(photograph):
                present.append((name, boxes))
            elif os.path.lexists(photograph):
                raise DataError(f"{photograph}: expected a photograph, found {kind(photograph)}")
        if not present:
            raise DataError(
                f"{self.path.parent}: expected the photographs that digitStruct.mat names ({entries[0][0]}, ...), "
                f"found none of {len(entries):,}"
            )
        labels = _labels(self.path, np.array([box[4] for _, boxes in present for box in boxes]))
        absent = len(entries) - len(present)
        note = f"{self.split}/digitStruct.mat (SVHN format 1): {len(labels):,} digits from {len(present):,} photographs"
        if absent:
            note += f", {absent:,} entries skipped because theirs are absent"
        return Source(labels, self._chunks(present), [note])

    def _chunks(self, present):
        crops = []
        for name, boxes in tqdm(present, f"cutting {self.split}", unit=" photographs", disable=None):
            path = self.path.parent / name
            pixels = np.asarray(open_rgb(path, upright=False))  # the boxes are of the pixels as they lie in the file
            high, wide, _ = pixels.shape
            for left, top, width, height, _ in boxes:
                inside = -width < left < wide and -height < top < high
                if not inside or max(width, height) > 4 * max(wide, high):
                    raise DataError(
                        f"{path}: expected boxes on its {wide} x {high} pixels, found {width} x {height} at ({left}, {top})"
                    )
                crops.append(square_crop(pixels, left, top, width, height))
            if len(crops) >= _CHUNK:
                yield np.stack(crops)
                crops = []
        if crops:
            yield np.stack(crops)
