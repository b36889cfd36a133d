"""A user's own data, and sets in the formats of MNIST and CIFAR-10: made up, genuine in form, damaged."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitnet.datasets import DataError, cifar, load, load_digits, load_mnist, load_test

RNG = np.random.default_rng(0)


def idx(array):
    head = (0x0800 + array.ndim).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def noise(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


# Arrays

def test_arrays():
    x, x_test = noise(9, 6, 5, 3), noise(4, 6, 5, 3)
    train, test = load("arrays", ((x, np.arange(9) % 3), (x_test, [[0], [1], [2], [0]])))
    assert train.classes == ("0", "1", "2") and test.labels.tolist() == [0, 1, 2, 0] and train.shape == (6, 5, 3)
    np.testing.assert_array_equal(test.images, x_test)


def test_arrays_with_names_and_grey(tmp_path):
    x, names = noise(6, 8, 8), np.array(["cat", "dog", "ant"] * 2)
    train, test = load("arrays", ((x, names), (x[:2], names[:2])))
    assert train.classes == ("ant", "cat", "dog") and test.labels.tolist() == [1, 2] and test.shape == (8, 8, 1)
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=names, x_test=x[:2], y_test=names[:2])
    again = load("arrays", tmp_path / "mine.npz")
    assert again[0].classes == train.classes and np.array_equal(again[1].images, test.images)
    assert load("arrays", ((x, np.arange(6) % 2), (x, np.arange(6) % 2)), classes=("off", "on"))[0].classes == ("off", "on")


X = noise(3, 8, 8, 3)


@pytest.mark.parametrize(("source", "words"), [
    ("none.npz", "expected an .npz of arrays, found nothing"), (5, "expected arrays as .*, found int"),
    ((X, X), "expected arrays as"), (((X.astype(float), [0, 1, 0]), (X, [0, 1, 0])), "expected uint8 images"),
    (((X, [0, 1]), (X, [0, 1, 0])), "expected integer labels of shape"),
    (((X, ["a", "b", "a"]), (X, ["a", "b", "c"])), "expected labels among a, b, found 'c'"),
    (((X, [0, 1, 0]), (X[:, :4], [0, 1, 0])), r"expected test images of \(8, 8, 3\)"), (None, "found none named")])
def test_what_arrays_must_be(source, words):
    with pytest.raises(DataError, match=words):
        load("arrays", source)


def test_a_folder_of_pictures_in_three_lines(tmp_path):
    for split in ("train", "test"):
        for name in ("cats", "dogs"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(noise(20, 30, 3)).save(tmp_path / split / name / "a.png")
    train, test = load("folder", tmp_path, size=16)
    assert train.classes == ("cats", "dogs") and test.shape == (16, 16, 3)


# MNIST's format

def write_idx(folder, prefix, images, labels):
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.asarray(labels)))


def test_fashion(tmp_path):
    images = noise(10, 28, 28)
    write_idx(tmp_path, "train", images, np.arange(10))
    write_idx(tmp_path, "t10k", images[:3], [9, 0, 8])
    train, test = load("fashion", tmp_path)
    assert train.classes[9] == "ankle boot" and test.name == "Fashion-MNIST test" and test.labels.tolist() == [9, 0, 8]
    np.testing.assert_array_equal(train.images[..., 0], images)


def emnist(folder):
    images = noise(4, 28, 28)
    for split in ("train", "test"):
        write_idx(folder, f"emnist-letters-{split}", images, [1, 2, 3, 1])
    (folder / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 67\n")
    return images


def test_emnist_is_upright_and_has_characters(tmp_path):
    images = emnist(tmp_path)
    train, test = load("emnist", tmp_path)
    assert train.classes == ("A/a", "B/b", "C") and test.labels.tolist() == [0, 1, 2, 0]
    np.testing.assert_array_equal(train.images[..., 0], images.transpose(0, 2, 1))
    assert load_test(tmp_path, (28, 28, 1))[0].classes == train.classes


@pytest.mark.parametrize(("change", "words"), [
    (lambda f: (f / "emnist-letters-mapping.txt").unlink(), "expected one emnist-SPLIT-mapping.txt"),
    (lambda f: (f / "emnist-letters-mapping.txt").write_text("1 65\n3 66\n"), "expected lines of a label, rising by one"),
    (lambda f: (f / "emnist-letters-mapping.txt").write_text("1 65\n2 66\n"), "expected labels 1..2, found 1 to 3"),
    (lambda f: (f / "emnist-letters-test-labels-idx1-ubyte").unlink(), "expected emnist-letters-test-labels-idx1-ubyte"),
    (lambda f: (f / "emnist-balanced-mapping.txt").write_text("0 48\n"), "found emnist-balanced-mapping.txt, emnist-letters")])
def test_what_emnist_must_be(tmp_path, change, words):
    emnist(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError, match=words):
        load("emnist", tmp_path)


# CIFAR-10

def batches(folder, count=4):
    """The six files of noise; the images of the first batch, and its labels."""
    folder.mkdir(parents=True, exist_ok=True)
    first = None
    for i, name in enumerate([f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]):
        images, labels = np.random.default_rng(i).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8), np.arange(count) + i
        records = np.concatenate([labels[:, None].astype(np.uint8), images.transpose(0, 3, 1, 2).reshape(count, -1)], axis=1)
        (folder / name).write_bytes(records.tobytes())
        first = first or (images, labels)
    return first


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10(tmp_path, packed):
    images, labels = batches(tmp_path / "cifar-10-batches-bin")
    if packed:
        with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
        for path in (tmp_path / "cifar-10-batches-bin").iterdir():
            path.unlink()
    train, test = load("cifar10", tmp_path)
    assert (len(train), len(test), train.classes[0], test.labels.tolist()) == (20, 4, "airplane", [5, 6, 7, 8])
    np.testing.assert_array_equal(train.images[:4], images)
    np.testing.assert_array_equal(train.labels[:4], labels)
    assert load_test(tmp_path, (32, 32, 3))[0].name == "CIFAR-10 test"


def archive_without_a_batch(folder):
    with tarfile.open(folder / cifar.ARCHIVE, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin"), io.BytesIO())


@pytest.mark.parametrize(("make", "words"), [
    (lambda f: None, "expected cifar-10-binary.tar.gz, or data_batch_1.bin"),
    (lambda f: (batches(f), (f / "test_batch.bin").write_bytes(bytes(3072))), r"expected up to 10,000 records of 3,073 bytes"),
    (lambda f: (batches(f), (f / "test_batch.bin").write_bytes(b"\x0a" * 3073)), "expected labels 0..9, found 10"),
    (lambda f: (f / cifar.ARCHIVE).write_bytes(b"no archive"), "found a damaged one"),
    (archive_without_a_batch, "expected data_batch_2.bin in it")])
def test_what_cifar10_must_be(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(DataError, match=words):
        load("cifar10", tmp_path)


def test_a_download_of_cifar10_is_checked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cifar, "fetch", lambda *args: asked.append(args) or "fetched")
    with pytest.raises(DataError, match="expected cifar-10-binary"):  # nothing was really fetched
        load("cifar10", tmp_path, download=True)
    assert asked == [(cifar.BASE_URL + cifar.ARCHIVE, tmp_path / cifar.ARCHIVE, cifar.MD5, cifar.SIZE, "BITNET_CIFAR_URL")]


# One signature

@pytest.mark.parametrize(("call", "words"), [
    (lambda: load_mnist("x", "train"), "load_mnist reads both sets, train and test.* found 'train'"),
    (lambda: load_digits("x", "train"), "load_digits reads both sets.* found 'train'"),
    (lambda: load("fashion", "x", download=True), "expected fashion with source only, found download"),
    (lambda: load("arrays", "x", size=3), "expected arrays with classes or source only, found size"),
    (lambda: load("imagenet"), "expected the name mnist, fashion, emnist, svhn, cifar10, folder.* found 'imagenet'")])
def test_what_is_asked_for_wrongly(call, words):
    with pytest.raises(DataError, match=words):
        call()


@pytest.mark.skipif("BITNET_TEST_DATA" not in os.environ, reason="no genuine data")
def test_genuine_mnist_by_name():
    train, _ = load("mnist", Path(os.environ["BITNET_TEST_DATA"], "mnist"))
    assert len(train) == 60000
