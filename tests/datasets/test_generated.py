"""The generated digits: repeatable, balanced, disjoint, neither trivial nor noise."""

import hashlib

import numpy as np
import pytest

from bitnet.datasets import DataError, generated, load_generated


def test_repeatable_and_cached(tmp_path, monkeypatch):
    first = load_generated("train", 30)
    other = load_generated("train", 30, cache_dir=tmp_path / "other")
    assert np.array_equal(first.images, other.images) and np.array_equal(first.labels, other.labels)
    assert first.images.shape == (30, 40, 40, 3) and first.images.dtype == np.uint8
    assert first.generated and first.name == "generated digits, train"
    monkeypatch.setattr(generated, "draw_digit", None)  # from here on it cannot draw
    assert np.array_equal(load_generated("train", 30).images, first.images)


def test_a_longer_set_begins_with_the_shorter_one():
    short, long = load_generated("test", 7), load_generated("test", 25)
    assert np.array_equal(short.images, long.images[:7]) and np.array_equal(short.labels, long.labels[:7])


def test_seeds_and_splits_differ():
    sets = [load_generated(*which) for which in [("train", 20), ("test", 20), ("train", 20, 40, 1)]]
    pictures = {hashlib.sha256(image.tobytes()).digest() for digits in sets for image in digits.images}
    assert len(pictures) == 60
    assert not np.array_equal(sets[0].labels, sets[1].labels)


@pytest.mark.parametrize("count", [1, 10, 47])
def test_balanced(count):
    counts = np.bincount([generated._label(3, "train", i) for i in range(count)], minlength=10)
    assert counts.max() - counts.min() <= 1


def test_size():
    large, native = load_generated("train", 3, size=48), load_generated("train", 3, size=32)
    assert large.images.shape == (3, 48, 48, 3)
    assert np.array_equal(native.images[2], generated.draw_digit(0, "train", 2))


def test_all_fonts_draw_ten_different_digits():
    for name in set(generated._FONTS):
        shapes = [np.asarray(generated._glyph(name, digit, 0)) for digit in range(10)]
        assert all(shape.max() > 200 and abs(shape.shape[0] - generated._HEIGHT) < 12 for shape in shapes), name
        assert len({shape.tobytes() for shape in shapes}) == 10, name


def test_errors():
    with pytest.raises(DataError, match="expected the split train or test of the generated digits, found 'extra'"):
        load_generated("extra")
    for count, seed in ((0, 0), (5, -1)):
        with pytest.raises(DataError, match=f"found {count} and {seed}"):
            load_generated("train", count, seed=seed)


def test_pixels_are_as_spread_as_street_photographs():
    images = load_generated("train", 200).images.astype(np.float64)
    assert 100 < images.mean() < 145 and 45 < images.std() < 75  # SVHN: 115..122 and 50..58
    contrast = np.median(images.mean(-1).std(axis=(1, 2)))
    assert 22 < contrast < 45  # SVHN: 29


def test_not_solved_by_comparing_pixels_but_not_noise():
    train, test = load_generated("train", 1500), load_generated("test", 300)

    def features(digits):
        grey = digits.images.mean(-1).reshape(len(digits), -1)
        return (grey - grey.mean(1, keepdims=True)) / grey.std(1, keepdims=True)

    centres = np.stack([features(train)[train.labels == digit].mean(0) for digit in range(10)])
    scores = features(test) @ centres.T
    plain = (scores.argmax(1) == test.labels).mean()
    assert plain < 0.6
    # dark on light and light on dark alike: nearest neighbour in the absolute correlation does it often
    nearest = np.abs(features(test) @ features(train).T).argmax(1)
    assert (train.labels[nearest] == test.labels).mean() > 0.6


def test_digits_in_the_place_of_mnist():
    images = np.stack([generated.draw_plain(0, "train", index) for index in range(200)])
    assert images.shape == (200, 28, 28, 1) and np.array_equal(images[7], generated.draw_plain(0, "train", 7))
    rows, columns = images.max(axis=(2, 3)) > 0, images.max(axis=(1, 3)) > 0
    longest = np.maximum(rows.sum(axis=1), columns.sum(axis=1))
    assert (longest >= 18).all() and (longest <= 20).all()  # the ink fills 20 pixels, as MNIST's does
    mass = images[..., 0].astype(np.float64)
    mass /= mass.sum(axis=(1, 2), keepdims=True)
    for axis in (1, 2):
        assert (np.abs(mass.sum(axis=axis) @ (np.arange(28) - 13.5)) <= 0.51).mean() > 0.95
    assert 25 < images.mean() < 50  # MNIST: 33


def test_digits_in_the_place_of_mnist_are_as_easy():
    def features(split, count):
        images = [generated.draw_plain(0, split, index).ravel().astype(np.float64) for index in range(count)]
        return images / np.linalg.norm(images, axis=1, keepdims=True), [generated._label(0, split, i) for i in range(count)]

    (train, labels), (test, expected) = features("train", 1500), features("test", 300)
    nearest = np.take(labels, (test @ train.T).argmax(axis=1))
    assert 0.85 < (nearest == expected).mean() < 1  # MNIST, as many: about 0.92
