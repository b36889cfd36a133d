"""Checks of files that strangers made: what may be read, and how large that may be, before anything is read.

Only regular files come in. Sizes that a file claims are compared with what it can hold and with what is expected. Texts of a
file stand in error messages as plain characters, and shortened.
"""

import json
import math
import stat
import zipfile
from pathlib import Path

import numpy as np

FROZEN = "a frozen network"
LARGEST_TEXT = 1 << 22  # characters of a JSON text
HEADER = 1 << 16  # bytes of the head of an array in an .npz


def plain(text, length=200):
    """A text from a file for a message: one line, no control characters."""
    text = str(text)
    text = "".join(c if c.isprintable() else " " for c in text[:4 * length])
    return text if len(text) <= length else f"{text[:length]} ..."


class CheckpointError(ValueError):
    """A file that cannot be loaded or continued. One clear sentence with what was expected and what was found."""

    def __init__(self, message):
        super().__init__(plain(message, 2000))


def parsed(text):
    """What a JSON text of a file says; ValueError for none, and for whole numbers that no float is near to."""
    return json.loads(text, parse_int=_whole)


def _whole(digits):
    if len(digits) > 300:
        raise ValueError(f"expected numbers, found one of {len(digits):,} digits")
    return int(digits)


def regular(path, what):
    """The path of a regular file that can be read, ~ replaced; CheckpointError where it is none: a pipe would wait for ever."""
    path = Path(path)
    try:
        path = path.expanduser()
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "something that is no regular file"
            raise CheckpointError(f"{path}: expected {what}, found {kind}")
        with open(path, "rb"):
            pass
    except OSError as error:
        raise CheckpointError(f"{path}: expected {what}, but it cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: expected {what}, found a path that there cannot be") from None
    except RuntimeError:
        raise CheckpointError(f"{path}: expected {what}, found a path whose home folder is unknown") from None
    return path


class _Bounded:
    """The first bytes of a stream: a header may claim to have any length."""

    def __init__(self, stream, most=HEADER):
        self.stream, self.left = stream, most

    def read(self, size):
        if size > self.left:
            raise ValueError(f"a header of {size:,} bytes")
        self.left -= size
        return self.stream.read(size)


def _header(stream):
    stream = _Bounded(stream)
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise ValueError("an array of objects, or not in C order")
    return dtype, shape


def _open(path, what):
    path = regular(path, what)
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: expected {what}, found another kind of file or one cut short: {plain(error)}") from None


def headers_of(path, what):
    """Headers of the arrays in an .npz, nothing of which is inflated: {name: (dtype, shape)}.

    Raises
    ------
    CheckpointError : it is no such file, or damaged, or holds objects; ``what`` it should have been.
    """
    try:
        with _open(path, what) as file:
            headers = {}
            for info in file.infolist():
                name = info.filename.removesuffix(".npy")
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others have no largest ratio
                    raise ValueError("packed in another way than by deflate")
                if name in headers or len(headers) > 10_000:
                    raise CheckpointError(f"{path}: expected arrays of different names, found {plain(name)} twice")
                with file.open(info) as stream:
                    headers[name] = _header(stream)
            return headers
    except CheckpointError:
        raise
    except Exception as error:  # damage meets with almost any exception
        raise CheckpointError(f"{path}: expected {what}, found a damaged one: {plain(error)}") from None


def peek_npz(path):
    """Headers of the arrays in an .npz, and its text ``network``; nothing else is inflated.

    Returns
    -------
    headers : {name: (dtype, shape)}
    text : str

    Raises
    ------
    CheckpointError : it is no such file, damaged, or holds something else.
    """
    try:
        headers = headers_of(path, FROZEN)
        dtype, shape = headers.pop("network", (np.dtype("V"), None))
        if shape != () or dtype.kind != "U" or dtype.itemsize > 4 * LARGEST_TEXT:
            raise CheckpointError(f"{path}: expected a frozen network, found no text of that name")
        with _open(path, FROZEN) as file, file.open("network.npy") as stream:
            return headers, str(np.lib.format.read_array(stream, allow_pickle=False))
    except CheckpointError:
        raise
    except Exception as error:  # damage meets with almost any exception
        raise CheckpointError(f"{path}: expected a frozen network, found a damaged one: {plain(error)}") from None


def read_arrays(path, expected):
    """The arrays of an .npz, which must be those that are expected: {name: (dtype, shape)}.

    Raises
    ------
    CheckpointError : others, or damaged ones; no more than what is expected is inflated.
    """
    headers, _ = peek_npz(path)
    if headers.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - headers.keys()), sorted(headers.keys() - expected.keys())
        raise CheckpointError(f"{path}: expected other arrays: missing {plain(missing[:5])}, unexpected {plain(extra[:5])}")
    for name, (dtype, shape) in expected.items():
        if headers[name] != (dtype, shape):
            found = headers[name]
            raise CheckpointError(f"{path}: expected {name} as {np.dtype(dtype)} of shape {shape}, found {found[0]} of "
                                  f"{found[1]}")
    return inflated(path, expected, FROZEN)


def inflated(path, expected, what):
    """The arrays of an .npz by name, whose headers are known: {name: (dtype, shape)}.

    Raises
    ------
    CheckpointError : the file is damaged, or too small to hold them.
    """
    path = regular(path, what)
    # deflate makes a byte of at most 1,032: what claims more is not in there
    claimed, taken = sum(np.dtype(d).itemsize * math.prod(s) for d, s in expected.values()), path.stat().st_size
    if claimed > 1032 * taken:
        raise CheckpointError(f"{path}: expected arrays of {claimed:,} bytes, found a file of {taken:,} that cannot hold them")
    try:
        with _open(path, what) as file:
            arrays = {}
            for name in expected:
                with file.open(f"{name}.npy") as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
            return arrays
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: expected {what}, found a damaged one: {plain(error)}") from None
