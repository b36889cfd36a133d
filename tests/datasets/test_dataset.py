"""Dataset: what it takes, what it refuses, its slices."""

import numpy as np
import pytest

from bitnet.datasets import DataError, Dataset, Digits
from bitnet.datasets.dataset import printable

NAMES = ("cat", "dog", "bird")


def images(count=5, height=6, width=9, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def test_labels_of_pictures_that_are_not_square():
    data = Dataset(images(), np.array([0, 1, 2, 1, 0]), NAMES, "mine")
    assert len(data) == 5 and data.shape == (6, 9, 3) and data.classes == NAMES and not data.generated
    assert data.labels is data.targets and data.targets.dtype == np.uint8 and data.void is None


def test_label_maps_with_void():
    maps = np.zeros((5, 6, 9), np.int64)
    maps[0, 0] = 2
    maps[1, 1] = 255
    data = Dataset(images(), maps, list(NAMES), "mine", void=255)
    assert data.targets.shape == (5, 6, 9) and data.targets.dtype == np.uint8 and data.classes == NAMES
    with pytest.raises(DataError, match=r"mine: expected labels 0..2, found 255$"):
        Dataset(images(), maps, NAMES, "mine")
    with pytest.raises(DataError, match=r"expected labels 0..2 or 11 \(void\), found 255"):
        Dataset(images(), maps, NAMES, "mine", void=11)
    maps[maps == 255] = -1
    assert Dataset(images(), maps, NAMES, "mine", void=-1).targets.dtype == np.int32


@pytest.mark.parametrize("given", [np.int8, np.int16, np.uint32, np.int64, ">i4"])
@pytest.mark.parametrize(("count", "stored"), [(2, np.uint8), (256, np.uint8), (257, np.uint16), (70_000, np.int32)])
def test_targets_of_any_integer_type_take_little_memory(given, count, stored):
    labels = np.array([0, 1, 1, 0, min(count - 1, np.iinfo(given).max)], given)
    data = Dataset(images(), labels, [str(i) for i in range(count)], "mine")
    assert data.targets.dtype == stored and data.targets.tolist() == labels.tolist()


@pytest.mark.parametrize(("pictures", "targets", "match"), [
    (images() / 255, np.zeros(5, int), r"expected uint8 images of shape \(N, H, W, 3\) or .*, found float64 \(5, 6, 9, 3\)"),
    (images(channels=2), np.zeros(5, int), r"found uint8 \(5, 6, 9, 2\)"),
    (images()[0], np.zeros(6, int), r"found uint8 \(6, 9, 3\)"),
    (images(0), np.zeros(0, int), r"found uint8 \(0, 6, 9, 3\)"),
    (images(5, 0), np.zeros(5, int), r"found uint8 \(5, 0, 9, 3\)"),
    (images(), np.zeros(5), r"expected integer labels of shape \(5,\) or \(5, 6, 9\), found float64 \(5,\)"),
    (images(), np.zeros(5, bool), "found bool"),
    (images(), np.zeros(4, int), r"found int64 \(4,\)"),
    (images(), np.zeros((5, 9, 6), int), r"found int64 \(5, 9, 6\)"),
    (images(), np.array([0, 1, 3, 0, 0]), "expected labels 0..2, found 3"),
    (images(), np.array([0, 1, -1, 0, 0]), "expected labels 0..2, found -1"),
    (images(), np.array([0, 1, 2**63 + 1, 0, 0], np.uint64), "found 9223372036854775809"),
])  # fmt: skip
def test_refused(pictures, targets, match):
    with pytest.raises(DataError, match=f"mine: .*{match}"):
        Dataset(pictures, targets, NAMES, "mine")


@pytest.mark.parametrize("classes", ["0123456789", (), []])
def test_classes_are_names(classes):
    with pytest.raises(DataError, match="expected a tuple of the classes' names, found"):
        Dataset(images(), np.zeros(5, int), classes, "mine")


def test_slices_are_views_of_the_same_names():
    data = Dataset(images(), np.array([0, 1, 2, 1, 0]), NAMES, "mine", generated=True, void=7)
    part = data[1:4]
    assert len(part) == 3 and np.shares_memory(part.images, data.images) and np.shares_memory(part.targets, data.targets)
    assert (part.name, part.classes, part.generated, part.void) == ("mine", NAMES, True, 7)
    assert data[:100].targets.tolist() == data.targets.tolist() and data[::2].labels.tolist() == [0, 2, 0]
    with pytest.raises(DataError, match="mine: expected a slice with at least one of 5 images"):
        data[7:]
    with pytest.raises(TypeError, match="expected a slice"):
        data[3]


def test_ten_digits_by_the_name_of_old():
    digits = Digits(images(channels=1), np.arange(5, dtype=np.uint8), "mine", True)
    assert isinstance(digits, Dataset) and digits.classes == tuple("0123456789") and digits.generated
    assert (digits.kind, Digits(images(), np.arange(5), "mine").kind) == ("ink", "photo")


def test_errors_hold_nothing_that_a_terminal_would_obey():
    assert str(DataError("a\x1b[31m\n\u202eb\udcffc é ü")) == r"a\x1b[31m\n\u202eb\udcffc é ü"
    assert printable("train 1") == "train 1"


def test_errors_of_any_text_are_a_line_of_bounded_length():
    for text in (10_000 * "x", 10_000 * "\x1b", "\ud800" * 10_000):
        assert len(str(DataError(f"a.mat: {text} is the end"))) == 2000
        assert str(DataError(f"a.mat: {text} is the end")).startswith("a.mat: ")
        assert str(DataError(f"a.mat: {text} is the end")).endswith(" is the end")
    assert printable("abcdefghijklmnopqrst", 16) == "abcdefgh ... rst"
