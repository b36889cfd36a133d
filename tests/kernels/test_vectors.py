"""Each operation on vectors, compiled by itself, against NumPy.

A vector cannot leave compiled code. What is in it is told by how many of its bits differ from words that we expect.
"""

import numba
import numpy as np
import pytest

from bitnet.kernels import vectors as v

WORDS = np.random.default_rng(0).integers(0, 2**64, 48, dtype=np.uint64)
NOTHING = np.zeros(8, np.int32)


@numba.njit
def _differing(words, index, expected, out):
    v.store_difference(out, 0, NOTHING, 0, v.xor_popcount(v.load(words, index), v.load(expected, 0)), 8)


@numba.njit
def _zero(expected, out):
    v.store_difference(out, 0, NOTHING, 0, v.xor_popcount(v.zero(), v.load(expected, 0)), 8)


@numba.njit
def _broadcast(words, index, expected, out):
    v.store_difference(out, 0, NOTHING, 0, v.xor_popcount(v.broadcast(words, index), v.load(expected, 0)), 8)


@numba.njit
def _add(words, i, j, expected, out):
    total = v.add(v.load(words, i), v.load(words, j))
    v.store_difference(out, 0, NOTHING, 0, v.xor_popcount(total, v.load(expected, 0)), 8)


def differing(function, *args):
    out = np.full(8, 99, np.int32)
    function(*args, out)
    return (-out).tolist()


@pytest.mark.parametrize("index", [0, 3, 40])
def test_load_xor_and_popcount(index):
    expected = np.bitwise_count(WORDS[index:index + 8] ^ WORDS[:8]).tolist()
    assert differing(_differing, WORDS, index, WORDS) == expected


def test_every_bit_of_a_word_counts():
    words = np.uint64(1) << np.arange(64, dtype=np.uint64)
    for first in range(0, 64, 8):
        assert differing(_differing, words, first, np.zeros(8, np.uint64)) == [1] * 8
    assert differing(_differing, ~np.zeros(8, np.uint64), 0, np.zeros(8, np.uint64)) == [64] * 8


def test_zero():
    assert differing(_zero, np.zeros(8, np.uint64)) == [0] * 8
    assert differing(_zero, WORDS) == np.bitwise_count(WORDS[:8]).tolist()


@pytest.mark.parametrize("index", [0, 5, 47])
def test_broadcast(index):
    assert differing(_broadcast, WORDS, index, np.full(8, WORDS[index])) == [0] * 8


def test_add_carries_through_all_64_bits():
    assert differing(_add, WORDS, 0, 17, WORDS[:8] + WORDS[17:25]) == [0] * 8
    ones = np.concatenate([~np.zeros(8, np.uint64), np.ones(8, np.uint64)])
    assert differing(_add, ones, 0, 8, np.zeros(8, np.uint64)) == [0] * 8


@numba.njit
def _copy(source, i, target, j):
    v.put(target, j, v.at(source, i))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64, np.float64])
def test_at_and_put(dtype):
    source, target = np.arange(100, 110).astype(dtype), np.zeros(6, dtype)
    _copy(source, 7, target, 2)
    assert target.tolist() == [0, 0, 107, 0, 0, 0]


def test_put_casts_to_the_type_of_the_array():
    target = np.zeros(3, np.uint8)
    _copy(np.array([0x1FE], np.int64), 0, target, 1)
    assert target.tolist() == [0, 0xFE, 0]


@numba.njit
def _store(out, index, table, table_index, words, count):
    v.store_difference(out, index, table, table_index, v.load(words, 0), count)


@pytest.mark.parametrize("count", [-100, -1, 0, 1, 5, 8, 20])
def test_store_difference_writes_the_first_lanes_only(count):
    table = np.arange(1000, 1020, dtype=np.int32)
    words = np.array([0, 1, 2, 1000, 2000, 2**31, 2**33 + 4, 3], np.uint64)
    expected = np.full(12, 7, np.int32)
    kept = min(max(count, 0), 8)
    expected[2:2 + kept] = (table[4:12].astype(np.int64) - words.astype(np.int64)).astype(np.int32)[:kept]
    out = np.full(12, 7, np.int32)
    _store(out, 2, table, 4, words, count)
    np.testing.assert_array_equal(out, expected)


@numba.njit
def _add_scaled(out, index, table, table_index, words, scale):
    v.add_scaled_difference(out, index, table, table_index, v.load(words, 0), scale)


@pytest.mark.parametrize("scale", [1.0, -0.3, 1e-30, 0.0])
def test_add_scaled_difference_rounds_as_numpy(scale):
    integers = np.array([0, 1, -1, 12345, -2**31, 2**31, 2**50, -2**50], np.int64)
    words = np.array([0, 3, 2**32, 1, 5, 2**40, 2**20, 7], np.uint64)
    table = np.zeros(10, np.int64)
    table[1:9] = integers + words.astype(np.int64) + v.MAGIC
    start = np.random.default_rng(1).standard_normal(11)
    out = start.copy()
    _add_scaled(out, 2, table, 1, words, scale)
    expected = start.copy()
    expected[2:10] += integers * scale  # two roundings: a fused multiply-add would differ
    np.testing.assert_array_equal(out, expected)


def test_magic_is_one_number_seen_two_ways():
    assert np.array(v.MAGIC, np.int64).view(np.float64) == v.MAGIC_FLOAT == 2.0**52 + 2.0**51


CODES = np.random.default_rng(2).integers(0, 256, 80).astype(np.uint8)


@numba.njit
def _gather(codes, index, plane):
    return v.bits_of_64(codes, index, plane), v.bits_of_16(codes, index, plane)


@pytest.mark.parametrize("index", [0, 1, 16])
@pytest.mark.parametrize("plane", range(8))
def test_bits_gathered_into_words(plane, index):
    bits = CODES >> plane & 1
    expected = [sum(int(bit) << i for i, bit in enumerate(bits[index:index + lanes])) for lanes in (64, 16)]
    assert list(map(int, _gather(CODES, index, plane))) == expected


@numba.njit
def _mark(octet, target, codes, source, plane, position):
    v.mark_positions(octet, target, codes, source, plane, position)


@pytest.mark.parametrize("plane, position", [(0, 0), (7, 7), (3, 5), (5, 0)])
def test_mark_positions_adds_to_what_is_there(plane, position):
    start = np.random.default_rng(3).integers(0, 256, 24).astype(np.uint8)
    octet = start.copy()
    _mark(octet, 3, CODES, 9, plane, position)
    expected = start.copy()
    expected[3:19] |= (CODES[9:25] >> plane & 1) << position
    np.testing.assert_array_equal(octet, expected)


@numba.njit
def _store16(out, index, table, table_index, ints, factor, count):
    v.store_sum(out, index, table, table_index, v.load16(ints, 1), factor, count)


@pytest.mark.parametrize("count", [-100, 0, 1, 9, 16, 40])
@pytest.mark.parametrize("factor", [1, 2, -3])
def test_store_sum_writes_the_first_lanes_only(factor, count):
    table = np.arange(1000, 1030, dtype=np.int32)
    ints = np.random.default_rng(4).integers(-2**31, 2**31, 20).astype(np.int32)
    kept = min(max(count, 0), 16)
    expected = np.full(24, 7, np.int32)
    expected[2:2 + kept] = (table[5:21] + np.int32(factor) * ints[1:17])[:kept]  # wraps, as int32 does
    out = np.full(24, 7, np.int32)
    _store16(out, 2, table, 5, ints, factor, count)
    np.testing.assert_array_equal(out, expected)


@numba.njit
def _zero16(out):
    v.store_sum(out, 0, np.zeros(16, np.int32), 0, v.zero16(), 1, 16)


def test_zero16():
    out = np.full(17, 7, np.int32)
    _zero16(out)
    assert out.tolist() == [0] * 16 + [7]


@numba.njit
def _shift(ints, bits, out):
    v.store_sum(out, 0, np.zeros(16, np.int32), 0, v.shift_left(v.load16(ints, 0), bits), 1, 16)


@pytest.mark.parametrize("bits", [0, 1, 4, 31])
def test_shift_left(bits):
    ints = np.random.default_rng(5).integers(-2**31, 2**31, 16).astype(np.int32)
    out = np.empty(16, np.int32)
    _shift(ints, bits, out)
    np.testing.assert_array_equal(out, ints << np.int32(bits))


@numba.njit
def _dot(start, codes, index, signed, out):
    total = v.dot(v.load16(start, 0), v.broadcast_bytes(codes, index), v.load16(signed, 0))
    v.store_sum(out, 0, np.zeros(16, np.int32), 0, total, 1, 16)


@pytest.mark.parametrize("index", [0, 1, 7, 60])
def test_dot_of_four_bytes(index):
    rng = np.random.default_rng(6)
    start = rng.integers(-10**6, 10**6, 16).astype(np.int32)
    signed = rng.integers(-128, 128, (16, 4)).astype(np.int8)
    out = np.empty(16, np.int32)
    _dot(start, CODES, index, signed.view(np.int32).ravel(), out)
    np.testing.assert_array_equal(out, start + signed.astype(np.int32) @ CODES[index:index + 4].astype(np.int32))


@pytest.mark.parametrize("byte", [-128, -1, 127])
def test_dot_does_not_saturate(byte):
    # 16 bits would not hold two products of 255 and -128
    out = np.empty(16, np.int32)
    _dot(np.zeros(16, np.int32), np.full(4, 255, np.uint8), 0, np.full(64, byte, np.int8).view(np.int32), out)
    assert out.tolist() == [4 * 255 * byte] * 16


@numba.njit
def _add_scaled16(out, index, table, table_index, ints, factor, scale):
    v.add_scaled_sum(out, index, table, table_index, v.load16(ints, 0), factor, scale)


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("scale", [1.0, -0.3, 1e-30, 0.0])
def test_add_scaled_sum_rounds_as_numpy(scale, factor):
    rng = np.random.default_rng(7)
    ints, table = rng.integers(-2**29, 2**29, 16).astype(np.int32), rng.integers(-2**29, 2**29, 20).astype(np.int32)
    start = rng.standard_normal(19)
    out, expected = start.copy(), start.copy()
    _add_scaled16(out, 2, table, 3, ints, factor, scale)
    expected[2:18] += (table[3:19].astype(np.int64) + factor * ints) * scale  # two roundings
    np.testing.assert_array_equal(out, expected)
