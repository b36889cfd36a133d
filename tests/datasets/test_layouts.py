"""MNIST under the names that people have it under, and files of it that claim too much."""

import gzip

import numpy as np
import pytest

from bitnet.datasets import DataError, load


def idx(array):
    return np.array([0x0800 + array.ndim, *array.shape], ">i4").tobytes() + array.astype(np.uint8).tobytes()


def write(folder, name):
    """The four files, each at ``name(split, kind)`` below the folder."""
    for split, count in (("train", 30), ("t10k", 20)):
        for kind, array in (("images-idx3", np.full((count, 28, 28), 9)), ("labels-idx1", np.arange(count) % 10)):
            path = folder / name(split, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(idx(array)) if path.suffix == ".gz" else idx(array))


@pytest.mark.filterwarnings("ignore:.*not MNIST's own")
@pytest.mark.parametrize("name", [
    lambda split, kind: f"{split}-{kind}-ubyte", lambda split, kind: f"{split}-{kind}-ubyte.gz",
    lambda split, kind: f"{split}-{kind.replace('-', '.')}-ubyte",
    lambda split, kind: f"{split}-{kind}-ubyte/{split}-{kind}-ubyte",  # as Kaggle unpacks it
], ids=["plain", "packed", "with a dot", "a folder of a file's name"])
def test_every_layout_is_read(tmp_path, name):
    write(tmp_path / "mnist", name)
    train, test = load("mnist", tmp_path / "mnist")
    assert len(train) == 30 and len(test) == 20 and (train.images == 9).all() and train.targets[13] == 3


def test_a_file_that_inflates_to_more_than_it_claims(tmp_path):
    write(tmp_path, lambda split, kind: f"{split}-{kind}-ubyte.gz")
    bomb = gzip.compress(idx(np.zeros((30, 28, 28))) + bytes(1 << 26))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(bomb)
    with pytest.raises(DataError, match="expected"):
        load("mnist", tmp_path)


def test_a_file_that_claims_more_than_it_holds(tmp_path):
    write(tmp_path, lambda split, kind: f"{split}-{kind}-ubyte")
    head = np.array([0x0803, 2**31 - 1, 28, 28], ">i4").tobytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(head + bytes(1000))
    with pytest.raises(DataError, match="expected"):
        load("mnist", tmp_path)
