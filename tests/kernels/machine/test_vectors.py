"""Each operation on vectors, compiled by itself, against NumPy."""

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

from bitnet.kernels.machine import vectors as v

WORDS = np.random.default_rng(0).integers(0, 2**32, 80, dtype=np.uint32)
CODES = np.random.default_rng(2).integers(0, 256, 120).astype(np.uint8)


@numba.njit
def _load_and_store(words, index, out):
    v.store(out, 1, v.load(words, index))


@pytest.mark.parametrize("index", [0, 3, 64])
def test_load_and_store(index):
    out = np.full(18, 7, np.uint32)
    _load_and_store(WORDS, index, out)
    assert out.tolist() == [7, *WORDS[index:index + 16], 7]


@numba.njit
def _at_and_put(bytes_, indices, out):
    for i in range(indices.size):
        v.put(out, v.at(indices, i), v.at(bytes_, v.at(indices, i)))


def test_at_and_put_at_unsigned_bytes():
    indices, out = np.array([0, 100, 200, 255], np.uint8), np.zeros(256, np.uint8)
    numbers = np.random.default_rng(1).integers(1, 256, 256).astype(np.uint8)
    _at_and_put(numbers, indices, out)
    assert out[indices].tolist() == numbers[indices].tolist() and (out > 0).sum() == 4


@numba.njit
def _zero(out):
    v.store(out, 0, v.zero())


def test_zero():
    out = np.full(17, 7, np.uint32)
    _zero(out)
    assert out.tolist() == [0] * 16 + [7]


@numba.njit
def _broadcast(array, index, out):
    v.store(out, 0, v.broadcast(array, index))


@pytest.mark.parametrize("index", [0, 5, 79])
def test_broadcast_of_a_word(index):
    out = np.empty(16, np.uint32)
    _broadcast(WORDS, index, out)
    assert (out == WORDS[index]).all()


@pytest.mark.parametrize("index", [0, 1, 7, 116])
def test_broadcast_of_four_bytes_from_anywhere(index):
    out = np.empty(16, np.uint32)
    _broadcast(CODES, index, out)
    assert (out == CODES[index:index + 4].copy().view("<u4")).all()


@numba.njit
def _add(words, i, j, out):
    v.store(out, 0, v.add(v.load(words, i), v.load(words, j)))


def test_add_wraps_at_32_bits():
    out = np.empty(16, np.uint32)
    _add(WORDS, 0, 17, out)
    np.testing.assert_array_equal(out, WORDS[:16] + WORDS[17:33])


@numba.njit
def _shift(words, bits, out):
    v.store(out, 0, v.shift_left(v.load(words, 0), bits))


@pytest.mark.parametrize("bits", [0, 1, 4, 31])
def test_shift_left(bits):
    out = np.empty(16, np.uint32)
    _shift(WORDS, bits, out)
    np.testing.assert_array_equal(out, WORDS[:16] << np.uint32(bits))


@numba.njit
def _xor_popcount(words, i, j, k, out):
    v.store(out, 0, v.multiply(words, v.load(words, i), v.load(words, j), v.load(words, k)))


def test_xor_popcount():
    out = np.empty(16, np.uint32)
    _xor_popcount(WORDS, 0, 20, 50, out)
    np.testing.assert_array_equal(out, WORDS[:16] + np.bitwise_count(WORDS[20:36] ^ WORDS[50:66]))


def test_every_bit_of_a_word_counts():
    words = np.concatenate([np.uint32(1) << np.arange(32, dtype=np.uint32), np.zeros(16, np.uint32),
                            np.full(16, 2**32 - 1, np.uint32)])
    out = np.empty(16, np.uint32)
    for first, bits in ((0, 1), (16, 1), (32, 0), (48, 32)):
        _xor_popcount(words, 32, first, 32, out)
        assert out.tolist() == [bits] * 16


@numba.njit
def _dot(start, codes, index, signed, out):
    v.store(out, 0, v.multiply(codes, v.load(start, 0), v.broadcast(codes, index), v.load(signed, 0)))


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
def _multiply(start, codes, index, columns, out):
    v.store(out, 0, v.multiply_codes(v.load(start, 0), codes, index, v.load(columns, 0)))


def test_multiply_codes_follows_the_type_of_the_codes():
    start, out, bits = np.arange(16, dtype=np.uint32), np.empty(16, np.uint32), np.empty(16, np.uint32)
    _multiply(start, WORDS, 33, WORDS, out)
    np.testing.assert_array_equal(out, start + np.bitwise_count(WORDS[:16] ^ WORDS[33]))
    _multiply(start, CODES, 33, WORDS, out)
    _dot(start, CODES, 33, WORDS, bits)
    np.testing.assert_array_equal(out, bits)
    with pytest.raises(TypingError, match=r"uint32 .bit planes. or uint8 .bytes., got float32"):
        _multiply(start, np.zeros(40, np.float32), 33, WORDS, out)


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
def _store_result(out, index, lhs, table, table_index, sums, doublings, scale, count):
    v.store_result(out, index, lhs, table, table_index, v.load(sums, 1), doublings, scale, count)


TABLE = np.random.default_rng(3).integers(-2**29, 2**29, 30).astype(np.int32)
SUMS = np.random.default_rng(4).integers(-2**29, 2**29, 20).astype(np.int32)


def results(lhs, doublings):
    """What the sums of a left array of this type stand for, as int64."""
    return TABLE[5:21] + (1 if lhs.dtype == np.uint8 else -1) * (SUMS[1:17].astype(np.int64) << doublings)


each_lhs = pytest.mark.parametrize("lhs", [WORDS, CODES], ids=["bit planes", "bytes"])
each_doubling = pytest.mark.parametrize("doublings", [0, 1])


@each_lhs
@each_doubling
@pytest.mark.parametrize("dtype", [np.int32, np.int16])
@pytest.mark.parametrize("count", [None, 0, 1, 9, 16])
def test_store_result_of_integers(count, dtype, doublings, lhs):
    expected = np.full(24, 7, dtype)
    kept = 16 if count is None else count
    expected[2:2 + kept] = results(lhs, doublings).astype(dtype)[:kept]  # wraps
    out = np.full(24, 7, dtype)
    _store_result(out, 2, lhs, TABLE, 5, SUMS, doublings, np.float32(9), count)
    np.testing.assert_array_equal(out, expected)


@each_lhs
@each_doubling
@pytest.mark.parametrize("count", [None, 5])
def test_store_result_of_floats_rounds_as_numpy(count, doublings, lhs):
    scale, expected = np.float32(-0.3), np.full(24, 7, np.float32)
    kept = 16 if count is None else count
    expected[2:2 + kept] = (results(lhs, doublings).astype(np.float32) * scale)[:kept]
    out = np.full(24, 7, np.float32)
    _store_result(out, 2, lhs, TABLE, 5, SUMS, doublings, scale, count)
    np.testing.assert_array_equal(out, expected)


@numba.njit
def _add_scaled_result(out, index, lhs, table, table_index, sums, doublings, scale):
    v.add_scaled_result(out, index, lhs, table, table_index, v.load(sums, 1), doublings, scale)


@each_lhs
@each_doubling
@pytest.mark.parametrize("scale", [1.0, -0.3, 1e-30, 0.0])
def test_add_scaled_result_rounds_as_numpy(scale, doublings, lhs):
    start, scale = np.random.default_rng(7).standard_normal(19).astype(np.float32) * np.float32(2**20), np.float32(scale)
    out, expected = start.copy(), start.copy()
    _add_scaled_result(out, 2, lhs, TABLE, 5, SUMS, doublings, scale)
    expected[2:18] += results(lhs, doublings).astype(np.float32) * scale  # three roundings: none is fused
    np.testing.assert_array_equal(out, expected)


@numba.njit
def _store_shifted(out, target, stream, low, high, bits, keep):
    v.store_shifted(out, target, stream, low, high, bits, np.uint32(keep))


@pytest.mark.parametrize("bits", [0, 1, 17, 31])
@pytest.mark.parametrize("keep", [2**32 - 1, 0x0F0FF0F0])
def test_store_shifted(keep, bits):
    pairs = WORDS[3:19].astype(np.uint64) | WORDS[40:56].astype(np.uint64) << np.uint64(32)
    out = np.full(18, 7, np.uint32)
    _store_shifted(out, 1, WORDS, 3, 40, bits, keep)
    assert out.tolist() == [7, *((pairs >> np.uint64(bits)).astype(np.uint32) & np.uint32(keep)), 7]


@numba.njit
def _gather_columns(words, codes, index, plane, position, out):
    v.store(out, 0, v.gather_column_bits(v.load(words, 0), codes, index, plane, position))


@pytest.mark.parametrize("plane, position", [(0, 0), (7, 31), (3, 5), (5, 0)])
def test_gather_column_bits(plane, position):
    out = np.empty(16, np.uint32)
    _gather_columns(WORDS, CODES, 9, plane, position, out)
    np.testing.assert_array_equal(out, WORDS[:16] | (CODES[9:25].astype(np.uint32) >> plane & 1) << position)


@numba.njit
def _gather(codes, index, plane):
    return v.bits_of_32(codes, index, plane), v.bits_of_16(codes, index, plane)


@pytest.mark.parametrize("index", [0, 1, 16])
@pytest.mark.parametrize("plane", range(8))
def test_bits_gathered_into_words(plane, index):
    bits = CODES >> plane & 1
    expected = [sum(int(bit) << i for i, bit in enumerate(bits[index:index + lanes])) for lanes in (32, 16)]
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
def _store_levels(out, target, codes, i, mask, shift, factor, offset):
    v.store_levels(out, target, codes, i[0], i[1], i[2], i[3], mask, shift, factor, offset)


@pytest.mark.parametrize("mask, shift, factor, offset", [(255, 0, 1, 1), (15, 4, 2, 15), (15, 0, 2, 15)])
@pytest.mark.parametrize("pixels", [(0, 20, 40, 60), (3, -1, 100, -1), (-1, -1, -1, 5)])
def test_store_levels(pixels, mask, shift, factor, offset):
    expected = np.zeros((16, 4), np.int64)
    for k, pixel in enumerate(pixels):
        if pixel >= 0:
            expected[:, k] = factor * (CODES[pixel:pixel + 16].astype(np.int64) >> shift & mask) - offset
    out = np.full(66, 7, np.int8)
    _store_levels(out, 1, CODES, pixels, mask, shift, factor, offset)
    np.testing.assert_array_equal(out, [7, *expected.astype(np.int8).ravel(), 7])


@numba.njit
def _store_transposed(out, target, pitch, codes, source, step):
    v.store_transposed(out, target, pitch, codes, source, step)


def test_store_transposed():
    codes, out = np.random.default_rng(5).integers(0, 256, 400).astype(np.uint8), np.full(16 * 20 + 5, 7, np.uint8)
    _store_transposed(out, 3, 20, codes, 2, 19)
    expected = np.full(16 * 20 + 5, 7, np.uint8)
    expected[3:3 + 320].reshape(16, 20)[:, :16] = np.lib.stride_tricks.as_strided(codes[2:], (16, 16), (19, 1)).T
    np.testing.assert_array_equal(out, expected)
