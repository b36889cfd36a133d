"""The one call of the training script: what it finds, what it says."""

import re
import socket

import numpy as np
import pytest

from bitnet.datasets import DataError, catalog, generated, load_digits


@pytest.fixture(autouse=True)
def small_and_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "TRAIN_COUNT", 40)
    monkeypatch.setattr(catalog, "TEST_COUNT", 20)
    monkeypatch.chdir(tmp_path)

    def refuse(*_):
        raise AssertionError("a network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_generated_digits_where_there_is_no_svhn():
    train, test, messages = load_digits()
    assert train.generated and test.generated and (len(train), len(test)) == (40, 20)
    assert messages == [
        "data: no SVHN in data/svhn, --download fetches it; using the built-in generated digits, 40 for training and "
        "20 for testing. They are drawn by a program: accuracies on them say nothing about SVHN"
    ]


def test_generated_digits_by_name(tmp_path, write_mat):
    write_mat(tmp_path / "data" / "svhn", "train")
    write_mat(tmp_path / "data" / "svhn", "test")
    train, _, messages = load_digits("synthetic")
    assert train.generated and messages[0].startswith("data: the built-in generated digits, 40 for training")


def test_svhn_where_it_is_found(tmp_path, write_mat):
    images = write_mat(tmp_path / "data" / "svhn", "train")
    write_mat(tmp_path / "data" / "svhn", "test", count=20)
    train, test, messages = load_digits(size=32)
    assert not train.generated and np.array_equal(train.images, images) and len(test) == 20
    assert messages == [
        "data: SVHN train (subset of 30), 30 images; SVHN test (subset of 20), 20 images; from data/svhn",
        "train_32x32.mat: a subset or a modified file, its md5 is not the official one: "
        "30 images, not the official 73,257",
        "test_32x32.mat: a subset or a modified file, its md5 is not the official one: "
        "20 images, not the official 26,032",
    ]


def test_the_messages_come_from_the_cache_too(tmp_path, write_mat):
    write_mat(tmp_path / "d", "train")
    write_mat(tmp_path / "d", "test")
    first = load_digits("d")[2]
    (tmp_path / "d").rename(tmp_path / "moved")
    assert load_digits("moved")[2][1:] == first[1:]


def test_format1_in_a_folder(tmp_path, write_struct, write_photograph):
    for split in ("train", "test"):
        write_struct(tmp_path / "d", split, [("1.png", [(1, 2, 8, 9, 4)]), ("2.png", [(1, 2, 8, 9, 4)])])
        write_photograph(tmp_path / "d", split, "1.png")
    train, _, messages = load_digits(tmp_path / "d")
    assert train.labels.tolist() == [4] and sum("1 entries skipped" in message for message in messages) == 2


def test_extra_is_train_and_extra_in_one_memory_map(tmp_path, write_mat):
    images = [write_mat(tmp_path / "d", split, seed=seed) for seed, split in enumerate(("train", "extra", "test"))]
    train, test, messages = load_digits("d", extra=True, size=32)
    assert isinstance(train.images, np.memmap) and train.name == "SVHN train + extra (subset of 60)"
    assert np.array_equal(train.images, np.concatenate(images[:2])) and np.array_equal(test.images, images[2])
    assert len(messages) == 4


def test_errors(tmp_path, write_mat):
    def fails(match, *arguments, **options):
        with pytest.raises(DataError, match=match):
            load_digits(*arguments, **options)

    fails(r"none: expected train_32x32.mat and test_32x32.mat \(SVHN format 2\) or .*, found no such folder", "none")
    (tmp_path / "empty").mkdir()
    fails("found an empty folder; --download", "empty")
    fails(re.escape(str(tmp_path)) + ": expected .* found empty", tmp_path)
    # half of SVHN in the default place is not silently replaced by generated digits
    write_mat(tmp_path / "data" / "svhn", "train")
    fails("data/svhn: expected test_32x32.mat .* found train_32x32.mat")
    write_mat(tmp_path / "data" / "svhn", "test")
    fails("expected extra_32x32.mat", extra=True)
    fails("expected a folder of SVHN with extra, found data 'synthetic'", "synthetic", extra=True)
    fails("expected a folder of SVHN with download", "synthetic", download=True)


def test_extra_without_any_svhn_is_an_error():
    with pytest.raises(DataError, match=r"data/svhn: expected train_32x32.mat and test_32x32.mat and extra_32x32.mat"):
        load_digits(extra=True)


def test_the_default_sizes():
    assert (generated.TRAIN_COUNT, generated.TEST_COUNT) == (8000, 1000)
