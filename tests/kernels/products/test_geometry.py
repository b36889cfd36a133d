"""Shapes of convolutions, and codes as integers."""

import numpy as np
import pytest

from bitnet.kernels.products.geometry import Conv, Operand, largest_level, to_levels

GOOD = Conv(4, 6, (3, 3), (1, 1), ((1, 1), (1, 1)), 2)


@pytest.mark.parametrize("change, message", [
    ({"in_channels": 0}, "must be positive"),
    ({"out_channels": -1}, "must be positive"),
    ({"groups": 0}, "must be positive"),
    ({"kernel_size": (3, 0)}, "must be positive"),
    ({"stride": (0, 1)}, "must be positive"),
    ({"padding": ((0, -1), (0, 0))}, "padding must not be negative"),
    ({"padding": ((0, 0), (-2, 0))}, "padding must not be negative"),
    ({"in_channels": 5}, "groups=2 must divide in_channels=5"),
    ({"out_channels": 7}, "out_channels=7"),
])
def test_impossible_convolutions_are_refused(change, message):
    assert GOOD.check() is GOOD
    with pytest.raises(ValueError, match=message):
        GOOD._replace(**change).check()


def test_output_size():
    conv = Conv(1, 1, (3, 2), (2, 1), ((1, 0), (0, 2)))
    assert conv.output_size(6, 4) == (3, 5)
    assert conv.output_size(2, 1) == (1, 2)
    assert Conv(1, 1, (1, 1), (3, 3)).output_size(7, 6) == (3, 2)


def test_a_filter_larger_than_the_padded_input_is_refused():
    with pytest.raises(ValueError, match="3x3 filter does not fit an input of 2x5"):
        Conv(1, 1, (3, 3)).output_size(2, 5)
    with pytest.raises(ValueError, match="does not fit"):
        Conv(1, 1, (1, 5), padding=((0, 0), (1, 1))).output_size(4, 2)


def test_weight_shape_and_macs():
    assert GOOD.weight_shape == (3, 3, 2, 6)
    assert (GOOD.group_in, GOOD.group_out) == (2, 3)
    assert GOOD.macs(5, 8, 7) == 5 * 8 * 7 * 6 * 2 * 9


def test_a_filter_that_covers_the_input_is_a_product_of_vectors():
    conv = Conv(3, 8, (5, 4))
    assert conv.flattened(5, 4) == (Conv(60, 8, (1, 1)), (1, 1))
    assert conv.flattened(5, 5) == (conv, (5, 5))
    padded = conv._replace(padding=((1, 0), (0, 0)))
    assert padded.flattened(5, 4) == (padded, (5, 4))
    grouped = Conv(4, 8, (5, 4), groups=2)
    assert grouped.flattened(5, 4) == (grouped, (5, 4))


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels(bits):
    n = 2**bits - 1
    values = np.arange(n + 1, dtype=np.uint8)
    unsigned, bipolar = Operand(values, bits, "unsigned"), Operand(values, bits, "bipolar")
    assert largest_level(unsigned) == n
    assert unsigned.levels().tolist() == list(range(n + 1))
    assert bipolar.levels().tolist() == list(range(-n, n + 1, 2))
    assert to_levels(bipolar, np.float32).dtype == np.float32
    assert values.tolist() == list(range(n + 1))  # the codes themselves are left alone


def test_padding_of_a_large_picture_that_is_little_else():
    Conv(1, 1, (3, 3), padding=((100, 100), (100, 100))).output_size(2, 2)  # a small one may have any
    Conv(64, 64, (3, 3), padding=((900, 900), (900, 900))).output_size(1900, 1900)
    for channels, padding in ((64, 1100), (1, 1 << 20)):
        conv = Conv(1, channels, (3, 3), padding=((padding, 0), (0, padding)))
        with pytest.raises(ValueError, match="of a picture of 40x40, more than 67,108,864"):
            conv.output_size(40, 40)
