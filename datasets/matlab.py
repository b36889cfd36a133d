"""What is in MATLAB files, told or read without believing them: versions 5 (format 2 of SVHN) and 7.3 (format 1)."""

import math
import struct
import zlib

import h5py
import numpy as np

from .dataset import DataError
from .files import believe

_FARTHEST = 1_000_000  # pixels from 0, of any side of a box


def claims_of(path):
    """The variables of a MATLAB 5 file by name, each with the bytes that reading it would take, as its head claims them.

    A file is a head of 128 bytes and elements, an element a tag (type, bytes) and what it counts, packed where the type is
    15. A variable has flags, dimensions, a name and numbers, each an element; the tag of a short one holds it as well.
    """
    found = {}
    with open(path, "rb") as file:
        order = {b"IM": "<", b"MI": ">"}[file.read(128)[126:]]
        while len(tag := file.read(8)) == 8:
            packed, length = struct.unpack(f"{order}2I", tag)
            end = file.tell() + length
            head = file.read(min(length, 1024))
            if packed == 15:
                head = zlib.decompressobj().decompress(head, 1024)[8:]
            flags, _, _, size = struct.unpack(f"{order}4I", head[8:24])
            shape, at = struct.unpack(f"{order}{size // 4}i", head[24 : 24 + size]), 24 + -(-size // 8) * 8
            word, size = struct.unpack(f"{order}2I", head[at : at + 8])
            short = word >> 16
            name = head[at + 4 : at + 4 + short] if short else head[at + 8 : at + 8 + size]
            at += 8 if short else 8 + -(-size // 8) * 8
            name = name.decode("latin-1")
            if name in found or min(shape) < 0:
                raise ValueError(f"variable {name} twice or of shape {shape}")
            if name in ("X", "y"):
                if flags & 0xFF not in (4, *range(6, 16)) or flags & 0x800:
                    raise ValueError(f"variable {name} is no array of real numbers")
                word, size = struct.unpack(f"{order}2I", head[at : at + 8])
                found[name] = math.prod(shape) + (word >> 16 or size)
            else:
                found[name] = 0  # is not read
            file.seek(end)
    return found


def digit_struct(path):
    """Entries of digitStruct.mat: list of (file name, [(left, top, width, height, label), ...]).

    MATLAB 7.3 keeps a struct array as one dataset of references a field. A field of a single box is stored as the
    number itself, of several boxes as references to numbers.

    Raises
    ------
    DataError : the file is not that, holds no entry, leads out of itself or of its folder, or claims more than it can hold.
    """
    entries = []
    try:
        with h5py.File(path, "r", locking=False) as file:
            reader = _Reader(path, file)
            fields = [reader.numbers(reader.inside(reader.inside(file, "digitStruct"), key)) for key in ("name", "bbox")]
            for name, box in zip(*fields, strict=True):
                columns = []
                for key in ("left", "top", "width", "height", "label"):
                    values = reader.numbers(reader.inside(file[box], key))
                    columns.append([reader.numbers(file[v])[0] if isinstance(v, h5py.Reference) else v for v in values])
                columns = np.array(columns, np.float64)  # a ragged one raises here
                if not (np.abs(columns) <= _FARTHEST).all():  # not of NaN either
                    raise ValueError(f"a box that is not finite or farther than {_FARTHEST:,} pixels")
                entries.append(("".join(map(chr, reader.numbers(file[name]))), columns.round().astype(np.int64).T.tolist()))
    except DataError:
        raise
    except Exception as error:  # a damaged file makes h5py raise nearly anything
        raise DataError(
            f"{path}: expected HDF5 (MATLAB 7.3) with digitStruct/name and digitStruct/bbox, found otherwise ({error})"
        ) from None
    if not entries:
        raise DataError(f"{path}: expected at least one entry, found none")
    for name, boxes in entries:
        if name in ("", ".", "..") or set(name) & set("/\\:\0"):
            raise DataError(f"{path}: expected names of files beside it, found {name[:80]!r}")
        for box in boxes:
            if box[2] < 1 or box[3] < 1:
                raise DataError(f"{path}: expected boxes of 1 x 1 pixels or more, found {box[2]} x {box[3]} for {name}")
    return entries


class _Reader:
    """Reads what lies in one HDF5 file and nowhere else, and no more in all than the file can hold."""

    def __init__(self, path, file):
        self.path, self.file, self.claimed = path, file, 0

    def inside(self, group, key):
        """A member of a group; a link may lead to any file."""
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"no {key} of its own")
        return group[key]

    def numbers(self, dataset):
        """The first column of a dataset, shape (N, 1)."""
        if dataset.external or dataset.is_virtual:
            raise ValueError("numbers that lie in other files")
        self.claimed += dataset.nbytes
        believe(self.path, self.claimed)
        return dataset[:, 0]
