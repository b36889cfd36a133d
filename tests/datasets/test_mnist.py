"""MNIST's idx files, packed or not, genuine, damaged and made up."""

import gzip
import hashlib

import numpy as np
import pytest

from bitnet.datasets import DataError, load_mnist, mnist


def idx(array):
    head = (0x0800 + array.ndim).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """30 training and 20 test images of noise, the training set's files packed."""
    rng = np.random.default_rng(0)
    for name, count, suffix in (("train", 30, ".gz"), ("t10k", 20, "")):
        for kind, array in (("images-idx3", rng.integers(0, 256, (count, 28, 28))), ("labels-idx1", np.arange(count) % 10)):
            raw = idx(array.astype(np.uint8))
            (tmp_path / f"{name}-{kind}-ubyte{suffix}").write_bytes(gzip.compress(raw) if suffix else raw)
    return tmp_path


def test_both_splits_packed_or_not(folder):
    train, test, messages = load_mnist(folder)
    assert train.images.shape == (30, 28, 28, 1) and test.images.shape == (20, 28, 28, 1) and not train.generated
    assert test.labels.tolist() == list(range(10)) * 2
    expected = np.random.default_rng(0).integers(0, 256, (30, 28, 28)).astype(np.uint8)
    np.testing.assert_array_equal(train.images[..., 0], expected)
    assert "MNIST train (modified, 30)" in messages[0] and any("its md5 is another one" in m for m in messages)


def test_a_second_start_reads_the_cache(folder, monkeypatch):
    first = load_mnist(folder)
    monkeypatch.setattr(mnist, "_source", None)
    second = load_mnist(folder)
    np.testing.assert_array_equal(first[0].images, second[0].images)
    assert first[2] == second[2]


def test_genuine(genuine):
    train, test, messages = load_mnist(genuine / "mnist")
    assert (len(train), len(test), train.name, test.name) == (60000, 10000, "MNIST train", "MNIST test")
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4] and len(messages) == 1
    assert train.images.mean() == pytest.approx(33.318, abs=0.001)


def test_without_mnist_generated_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mnist, "TRAIN_COUNT", 12)
    monkeypatch.setattr(mnist, "TEST_COUNT", 10)
    train, test, messages = load_mnist()
    assert train.images.shape == (12, 28, 28, 1) and sorted(test.labels) == list(range(10)) and train.generated
    assert "no MNIST in data/mnist, --download fetches it" in messages[0] and "say nothing about MNIST" in messages[0]
    np.testing.assert_array_equal(load_mnist("synthetic")[0].images, train.images)
    assert train.images.std() > 10


def break_file(name, content):
    def change(folder):
        (folder / name).write_bytes(content)
    return change


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize("change, message", [
    (lambda f: (f / IMAGES).unlink(), r"expected t10k-images-idx3-ubyte, each with or without .gz, found t10k-labels"),
    (break_file(IMAGES, b"\0\0"), "expected an idx file of bytes with 3 axes .* found magic 0"),
    (break_file(IMAGES, idx(np.zeros((20, 28), np.uint8))), "magic 2050"),
    (break_file(IMAGES, idx(np.zeros((20, 28, 28), np.uint8))[:-1]), r"expected 16 \+ 20 \* 28 \* 28 bytes, found 15,695"),
    (break_file(IMAGES, idx(np.zeros((20, 32, 32), np.uint8))), "expected images of 28 x 28 pixels, found 32 x 32"),
    (break_file(LABELS, idx(np.zeros(19, np.uint8))), "expected one label for each of 20 images, found 19"),
    (break_file(LABELS, idx(np.full(20, 10, np.uint8))), "expected labels 0..9, found 10"),
    (break_file("train-images-idx3-ubyte.gz", b"\x1f\x8b damaged"), "expected a readable file in gz, found"),
])
def test_what_is_wrong_is_said(folder, change, message):
    change(folder)
    with pytest.raises(DataError, match=message):
        load_mnist(folder)


def test_a_download_is_checked(tmp_path, monkeypatch):
    fetched = []

    def fetch(address, path, md5, size, variable):
        fetched.append((address, path.name, md5, size, variable))
        return f"{path.name}: fetched"

    monkeypatch.setattr(mnist, "fetch", fetch)
    with pytest.raises(DataError, match="expected train-images-idx3-ubyte, "):  # nothing was really fetched
        load_mnist(tmp_path, download=True, base_url="http://mirror")
    assert [f[1] for f in fetched] == [f"{name}.gz" for name in mnist.OFFICIAL]
    assert fetched[0] == ("http://mirror/train-images-idx3-ubyte.gz", "train-images-idx3-ubyte.gz",
                          "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422, "BITNET_MNIST_URL")
    with pytest.raises(DataError, match="with download, found data 'synthetic'"):
        load_mnist("synthetic", download=True)


def test_the_md5_of_what_the_published_files_unpack_to(genuine):
    for name, (_, unpacked, _) in mnist.OFFICIAL.items():
        raw = mnist._read(mnist._find(genuine / "mnist", name), 3 if "images" in name else 1)
        assert hashlib.md5(raw, usedforsecurity=False).hexdigest() == unpacked
