"""What is asked of files that strangers made before anything of them is believed."""

import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

import bitnet
from bitnet import models
from bitnet.storage import CheckpointError, door


@pytest.fixture
def file(tmp_path):
    """A frozen network: its path, and its arrays."""
    path = tmp_path / "net.npz"
    bitnet.freeze(models.svhn("D", seed=1).eval()).save(path)
    with np.load(path) as content:
        return path, {name: content[name] for name in content.files}


def written(path, arrays, how=zipfile.ZIP_DEFLATED, **pieces):
    """An .npz of arrays, in which some names hold other bytes: (head, how many MiB of zeros)."""
    with zipfile.ZipFile(path, "w", how, compresslevel=1) as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as stream:
                if name not in pieces:
                    np.save(stream, array)
                    continue
                head, count = pieces[name]
                stream.write(head)
                for _ in range(count):
                    stream.write(bytes(1 << 20))


def head(descr, shape):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode()


LARGE = 1 << 8  # MiB; the files take 1 MB


@pytest.mark.parametrize("pieces, message", [
    ({"fc.bias": (head("|u1", (LARGE << 20,)), LARGE)}, r"expected fc.bias as float32 of shape \(10,\), found uint8"),
    ({"network": (head(f"<U{LARGE << 18}", ()), LARGE)}, "found no text of that name|not a valid dtype"),
    ({"fc.bias": (b"\x93NUMPY\x02\0" + struct.pack("<I", LARGE << 20), LARGE)}, "a header of 268,435,456 bytes"),
], ids=["array", "text", "header"])
def test_what_deflates_to_much_is_not_inflated(file, pieces, message):
    path, arrays = file
    written(path, arrays, **pieces)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        bitnet.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_arrays_are_packed_by_deflate_or_not_at_all(file, how):
    path, arrays = file
    written(path, arrays, how)
    with pytest.raises(CheckpointError, match=r"net.npz: .*packed in another way than by deflate"):
        bitnet.load(path)
    written(path, arrays, zipfile.ZIP_STORED)
    assert bitnet.load(path).output_shape == (10,)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_and_folders_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for name, found in (("pipe.npz", "something that is no regular file"), (".", "a folder")):
        with pytest.raises(CheckpointError, match=f"expected a network, found {found}"):
            bitnet.load(tmp_path / name)


def test_the_home_folder(file, monkeypatch):
    path, _ = file
    monkeypatch.setenv("HOME", str(path.parent))
    bitnet.save(path.parent / "net.h5", models.svhn("D"))
    assert bitnet.load("~/net.npz").input_shape == bitnet.load("~/net.h5").input_shape == (40, 40, 3)
    with pytest.raises(CheckpointError, match=r"~nobody-here/net.npz: expected a network, found a path whose home folder"):
        bitnet.load("~nobody-here/net.npz")


def test_errors_are_one_printable_line_of_bounded_length():
    for text in ("\x1b[2J\n" * 10, "x" * 100_000, "\ud800" * 100_000):
        message = str(CheckpointError(f"a.h5: found {text}"))
        assert message.startswith("a.h5: found ") and message.isprintable() and len(message) < 2010


def test_a_header_is_read_in_pieces_as_far_as_it_may_go():
    stream = door._Bounded(io.BytesIO(b"abcdef"), 5)
    assert stream.read(2) + stream.read(3) == b"abcde"
    with pytest.raises(ValueError, match="a header of 1 bytes"):
        stream.read(1)
