"""A picture of a digit becomes what MNIST would have made of it, whatever its colours, size and margins."""

import numpy as np
import pytest
from PIL import Image

from bitnet.datasets import DataError, prepare_digit, prepare_for


@pytest.fixture(scope="module")
def digit():
    """A seven in MNIST's manner: ink in 20 x 20, its mass in the middle of 28 x 28."""
    image = np.zeros((28, 28), np.uint8)
    image[4:7, 6:21] = 255
    for row in range(7, 24):
        image[row, 20 - row // 2:23 - row // 2] = 255
    return prepare_digit(image)


def difference(one, other):
    return float(np.abs(one.astype(float) - other).mean())


VIEWS = {
    "as MNIST": lambda d: d, "black on white": lambda d: 255 - d,
    "grey on yellow": lambda d: np.where(d[:, :, None] > 100, np.array([70, 70, 80]), np.array([240, 230, 150])),
    "large": lambda d: np.kron(255 - d, np.ones((9, 9), np.uint8)),
    "wide margins": lambda d: np.pad(255 - d, ((60, 10), (5, 90)), constant_values=255),
    "cropped to the ink": lambda d: (255 - d)[np.ix_((d > 0).any(axis=1), (d > 0).any(axis=0))],
}


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_a_digit_becomes_the_same(digit, view, tmp_path):
    picture = VIEWS[view](digit[:, :, 0]).astype(np.uint8)
    made = prepare_digit(picture)
    assert made.shape == (28, 28, 1) and made.dtype == np.uint8
    assert difference(made, digit) < 8 < difference(255 - digit, digit)
    Image.fromarray(picture).save(tmp_path / "digit.png")
    assert difference(prepare_for(tmp_path / "digit.png", "ink", (28, 28, 1)), digit) < 8


def test_an_empty_sheet_holds_no_digit():
    with pytest.raises(DataError):
        prepare_digit(np.full((40, 40), 200, np.uint8))
