"""The shape arithmetic of a convolution, and the operands that kernels take."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

PADDED = 1 << 26  # values of a picture that may be padding for the most part


class Operand(NamedTuple):
    """Integer codes as a kernel sees them.

    values : uint8 array, C-contiguous; activations and gradients (N, H, W, C), weights (kh, kw, in // groups, out)
    bits : 1 to 8; every code is below 2**bits
    encoding : "unsigned" (level = code), "bipolar" (level = 2 * code - (2**bits - 1)) or "ternary" (2 bits, codes 0, 1 and 2,
        level = code - 1)
    packed : what kernels made of the values before, by purpose, to be kept with them; or None
    """

    values: np.ndarray
    bits: int
    encoding: str
    packed: dict | None = None

    def levels(self, dtype=np.int64):
        """The integers that the codes stand for, in ``dtype``."""
        return to_levels(self, dtype)


def affine(codes):
    """(factor, offset) with level = factor * code - offset."""
    return {"unsigned": (1, 0), "bipolar": (2, (1 << codes.bits) - 1), "ternary": (1, 1)}[codes.encoding]


def to_levels(codes, dtype=np.int64):
    """Levels of anything with ``values``, ``bits`` and ``encoding``: an array of ``dtype``."""
    factor, offset = affine(codes)
    values = codes.values.astype(dtype)
    if factor != 1:
        values *= factor
    if offset:
        values -= offset
    return values


def largest_level(codes):
    """The largest magnitude of a level."""
    return 1 if codes.encoding == "ternary" else (1 << codes.bits) - 1


class Planes(NamedTuple):
    """How the bit planes of codes make up a level: level = sum of 2**shift * (2 * bit - 1), divided by 2**halvings.

    Of ``unsigned`` codes, level = sum of 2**shift * bit. Ternary codes have two planes of equal weight, c >= 1 and c >= 2: with
    (-1, -1), (1, -1) and (1, 1) their sum is twice the level.
    """

    shifts: tuple
    halvings: int
    unsigned: bool

    @property
    def top(self):
        """The sum of all planes."""
        return sum(1 << shift for shift in self.shifts)


def planes_of(codes):
    """The planes of anything with ``bits`` and ``encoding``."""
    if codes.encoding == "ternary":
        return Planes((0, 0), 1, False)
    return Planes(tuple(range(codes.bits)), 0, codes.encoding == "unsigned")


def plane_bits(codes):
    """uint8 array whose bit i is that of plane i: the codes themselves, of ternary ones 0, 1 and 3."""
    return codes.values | codes.values >> 1 if codes.encoding == "ternary" else codes.values


class Conv(NamedTuple):
    """A two-dimensional convolution (cross-correlation, as the field uses the word).

    kernel_size (of a filter) and stride are (vertical, horizontal) pairs; padding is ((top, bottom), (left, right)) zeros.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple
    stride: tuple = (1, 1)
    padding: tuple = ((0, 0), (0, 0))
    groups: int = 1

    def check(self):
        """Raise ValueError where the numbers do not make a convolution; return self."""
        if min(self.in_channels, self.out_channels, self.groups, *self.kernel_size, *self.stride) < 1:
            raise ValueError(f"channels, groups, kernel size and stride must be positive, got {self}")
        if min(*self.padding[0], *self.padding[1]) < 0:
            raise ValueError(f"padding must not be negative, got {self.padding}")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"groups={self.groups} must divide in_channels={self.in_channels} "
                             f"and out_channels={self.out_channels}")
        return self

    kernel = property(lambda self: self.kernel_size)  # its former name

    @property
    def group_in(self):
        return self.in_channels // self.groups

    @property
    def group_out(self):
        return self.out_channels // self.groups

    @property
    def tap_count(self):
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def weight_shape(self):
        return (*self.kernel_size, self.group_in, self.out_channels)

    def output_size(self, height, width):
        """Output (height, width) for an input of that size.

        ValueError where the filter does not fit, or where a large picture would mostly be padding: a file may say anything.
        """
        return _output_size(self, height, width)

    def flattened(self, height, width):
        """The same convolution as a 1x1 one, with its input size, where the filter covers the whole input.

        (N, H, W, C) and (H * W * C) are the same bytes, and so are the weights: only the shapes change.
        """
        if self.kernel_size == (height, width) and self.groups == 1 and self.padding == ((0, 0), (0, 0)):
            return Conv(height * width * self.in_channels, self.out_channels, (1, 1)), (1, 1)
        return self, (height, width)

    def macs(self, batch, height, width):
        """Multiply-accumulates of one product over a batch, padding included."""
        out_height, out_width = self.output_size(height, width)
        return batch * out_height * out_width * self.out_channels * self.group_in * self.tap_count


@lru_cache(maxsize=4096)
def _output_size(conv, height, width):
    (top, bottom), (left, right) = conv.padding
    padded = (height + top + bottom) * (width + left + right)
    values = padded * max(conv.in_channels, conv.out_channels)
    if values > PADDED and padded > 4 * height * width:
        raise ValueError(f"padding {conv.padding} makes {values:,} values of a picture of {height}x{width}, more than "
                         f"{PADDED:,}")
    sizes = []
    for size, length, stride, padding in zip((height, width), conv.kernel_size, conv.stride, conv.padding, strict=True):
        room = size + sum(padding) - length
        if room < 0:
            raise ValueError(f"a {conv.kernel_size[0]}x{conv.kernel_size[1]} filter does not fit an input of {height}x{width} "
                             f"with padding {conv.padding}")
        sizes.append(room // stride + 1)
    return tuple(sizes)
