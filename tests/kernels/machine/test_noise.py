"""Counter-based noise: a known function of key and counter, uniform, and without memory."""

import numpy as np
import pytest

from bitnet.kernels.machine.noise import key_of

COUNT = 1 << 18


def mixed(x):
    """The integer mixer in Python's unbounded integers."""
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def test_every_number_is_a_hash_of_key_and_counter(draw):
    # checkpoints resume in the middle of this sequence: another one is another training run
    first, step = key = key_of(3, 5)
    expected = []
    for i in range(1000):
        bits = mixed((int(first) + i * int(step)) & 0xFFFFFFFF) >> 9
        expected.append((bits + 0.5) / 2**23 - 0.5)
    np.testing.assert_array_equal(draw(key, 1000), expected)


def test_keys_are_words_that_differ():
    keys = [key_of(seed, draw) for seed in range(60) for draw in range(60)]
    assert all(half.dtype == np.uint32 for half in keys[0])
    assert len(set(keys)) == len(keys)
    assert key_of(-1, 0) != key_of(1, 0) and key_of(2**70, 0) is not None


def test_uniform_between_minus_and_plus_one_half(draw):
    numbers = draw(key_of(0, 0), COUNT).astype(np.float64)
    assert np.abs(numbers).max() < 0.5
    assert abs(numbers.mean()) < 5 * np.sqrt(1 / 12 / COUNT)
    assert abs(numbers.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / COUNT)
    counts = np.histogram(numbers, 64, (-0.5, 0.5))[0]
    chi_squared = ((counts - COUNT / 64) ** 2).sum() / (COUNT / 64)
    assert 63 - 5 * np.sqrt(126) < chi_squared < 63 + 5 * np.sqrt(126)


@pytest.mark.parametrize("other", [(0, 1), (1, 0), (0, 2**40)])
def test_draws_are_independent(draw, other):
    a, b = draw(key_of(0, 0), COUNT), draw(key_of(*other), COUNT)
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(COUNT)
    # nor are they the same sequence, shifted
    assert np.intersect1d(a[:100].view(np.uint32), b[:100].view(np.uint32)).size < 3


@pytest.mark.parametrize("lag", [1, 2, 3, 16, 1000])
def test_neighbours_are_independent(draw, lag):
    numbers = draw(key_of(1, 7), COUNT)
    assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 5 / np.sqrt(COUNT - lag)


@pytest.mark.parametrize("number", range(8))
def test_pairs_of_neighbours_fill_the_square_evenly(draw, number):
    cells = np.floor((draw(key_of(2, number), COUNT).astype(np.float64) + 0.5) * 16).astype(int)
    counts = np.bincount(cells[::2] * 16 + cells[1::2], minlength=256)
    chi_squared = ((counts - COUNT / 512) ** 2).sum() / (COUNT / 512)
    assert 255 - 5 * np.sqrt(510) < chi_squared < 255 + 5 * np.sqrt(510)
