"""Every bit of every packed layout, and zeros wherever no code is."""

import numpy as np
import pytest
from strategies import CHANNELS, random_codes

from bitnet.kernels.products.geometry import Conv
from bitnet.kernels.products.packing import join_pixels, pack_channels, pack_positions, pack_weight, words_for
from bitnet.kernels.products.spatial import COLUMNS, panels_for


def words_of(bits):
    """Words along the last axis, the first bit lowest, zeros past the last bit."""
    missing = -bits.shape[-1] % 32
    bits = np.concatenate([bits, np.zeros((*bits.shape[:-1], missing), bits.dtype)], axis=-1)
    return np.packbits(bits.astype(np.uint8), axis=-1, bitorder="little").view("<u4")


def planes_of(values, bits, axis):
    return np.stack([(values >> plane) & 1 for plane in range(bits)], axis=axis)


@pytest.mark.parametrize("size, count", [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3)])
def test_words_for(size, count):
    assert words_for(size) == count


@pytest.mark.parametrize("columns, count", [(1, 1), (16, 1), (17, 2), (48, 3)])
def test_panels_for(columns, count):
    assert panels_for(columns) == count


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("groups, padding", [(1, ((0, 0), (0, 0))), (3, ((1, 0), (2, 3)))])
def test_channels(channels, bits, groups, padding):
    codes = random_codes(np.random.default_rng(0), (2, 3, 4, channels * groups), bits)
    padded = np.pad(codes.values, ((0, 0), *padding, (0, 0)))
    # (N, H, W, C) -> (N, H, W, group, C) -> (N, group, plane, H, W, C)
    grouped = padded.reshape(*padded.shape[:3], groups, channels).transpose(0, 3, 1, 2, 4)
    expected = words_of(planes_of(grouped, bits, 2))
    found = pack_channels(codes, groups, padding)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("bits", [1, 3])
def test_pixels_joined_are_the_pixel_of_all_channels(channels, bits):
    codes = random_codes(np.random.default_rng(0), (2, 3, 5, channels), bits)
    joined = codes._replace(values=codes.values.reshape(2, 1, 1, -1))
    no = ((0, 0), (0, 0))
    np.testing.assert_array_equal(join_pixels(pack_channels(codes, 1, no), channels), pack_channels(joined, 1, no))


@pytest.mark.parametrize("depth", CHANNELS)
@pytest.mark.parametrize("bits, columns, groups, taps", [(1, 5, 1, None), (4, 17, 2, [5, 0, 3]), (8, 32, 1, [1])])
@pytest.mark.parametrize("along", ["inputs", "outputs"])
def test_weight(along, depth, bits, columns, groups, taps):
    group_in, group_out = (depth, columns) if along == "inputs" else (columns, depth)
    conv = Conv(group_in * groups, group_out * groups, (2, 3), groups=groups)
    codes = random_codes(np.random.default_rng(1), conv.weight_shape, bits)
    values = codes.values.reshape(6, group_in, groups, group_out)[range(6) if taps is None else taps]
    if along == "inputs":
        values = values.swapaxes(1, 3)  # (tap, in, group, out) -> (tap, out, group, in): the packed axis last
    values = values.transpose(2, 1, 0, 3)  # (group, column, tap, depth)
    missing = -columns % COLUMNS
    values = np.pad(values, ((0, 0), (0, missing), (0, 0), (0, 0)))
    panels = values.reshape(groups, -1, COLUMNS, *values.shape[2:])
    # (group, panel, column, plane, tap, word) -> (group, panel, plane, tap * word, column)
    words = words_of(planes_of(panels, bits, 3)).transpose(0, 1, 3, 4, 5, 2)
    found, sums = pack_weight(codes, conv, along, None if taps is None else np.array(taps))
    np.testing.assert_array_equal(found, words.reshape(*words.shape[:3], -1, COLUMNS))
    # (group, panel, column, tap) -> (tap, group * panel * column)
    expected_sums = panels.sum(axis=-1).transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(sums, expected_sums.reshape(len(expected_sums), -1))


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("bits, groups, group_stride, padding, stride", [
    (1, 1, 0, (0, 0), (1, 1)),
    (2, 1, 16, (1, 2), (2, 1)),
    (8, 2, 3, (2, 1), (3, 2)),
    (3, 3, 0, (1, 0), (1, 3)),
])
def test_positions(channels, bits, groups, group_stride, padding, stride):
    (samples, height, width), group_stride = (2, 7, 11), channels + group_stride
    codes = random_codes(np.random.default_rng(2), (samples, height, width, channels * groups), bits)
    row_width = -(-(width + padding[1] + 1) // stride[1])  # a column of padding on the right, too
    words = -(-(height + padding[0]) * row_width // 32) + 1
    stream = np.zeros((samples, stride[0] * stride[1], words * 32, groups, group_stride), np.uint8)
    for y in range(height):
        for x in range(width):
            (row, phase_y), (column, phase_x) = divmod(y + padding[0], stride[0]), divmod(x + padding[1], stride[1])
            stream[:, phase_y * stride[1] + phase_x, row * row_width + column, :, :channels] = (
                codes.values[:, y, x].reshape(samples, groups, channels))
    # (N, phase, position, channel) -> (N, phase, plane, channel, word) -> (N, phase, plane, word, channel)
    stream = stream.reshape(*stream.shape[:3], -1).swapaxes(2, 3)
    expected = words_of(planes_of(stream, bits, 2)).swapaxes(3, 4)
    found = pack_positions(codes, groups, padding, stride, row_width, words, group_stride)
    np.testing.assert_array_equal(found, expected)
