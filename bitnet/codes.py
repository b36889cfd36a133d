"""Integer codes: what a quantizer makes and what kernels multiply."""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from bitnet.kernels.pointwise.quantize import look_up
from bitnet.kernels.products.geometry import largest_level, to_levels


@dataclass(frozen=True, eq=False)
class Codes:
    """An array of small integers that stand for real numbers: real = scale * level.

    Attributes
    ----------
    values : uint8 array of any shape, each below 2**bits
    bits : 1 to 8
    encoding : "unsigned", level = value (activations), or
        "bipolar", level = 2 * value - n with n = 2**bits - 1, always odd (weights, gradients, +-1), or
        "ternary", 2 bits, values 0, 1 and 2, level = value - 1
    scale : float, or a float64 array of several scales, which ``per`` explains
    per : what each entry of an array of scales belongs to: "sample" (first axis; gradients), "filter" (last axis; weights),
        "sign" (two entries, for positive and negative levels; weights), "group" (ternary weights; an entry belongs to some
        neighbours along the last axis but one, the input channels, equally many each, the last one perhaps fewer, and is a
        multiple, up to 127 times, of a power of two that all share), or "term": the real numbers are then a sum of several
        codes, ``values`` has one axis more, the first, over these terms, and scale has shape (terms,) or (terms, filters)
    packed : the values as kernels want them, by purpose: made on first use, kept as long as the codes
    """

    values: np.ndarray
    bits: int
    encoding: str
    scale: float | np.ndarray = 1.0
    per: str = "sample"
    packed: dict = field(default_factory=dict, repr=False)

    @property
    def shape(self):
        return self.values.shape[self.per == "term":]

    @property
    def width(self):
        """Bits that a number takes: of a sum of several codes, those of all of them."""
        return self.bits * (len(self.values) if self.per == "term" else 1)

    @property
    def one_scale(self):
        """Is there a single scale for all levels?"""
        return np.ndim(self.scale) == 0

    @property
    def per_filter(self):
        """Has each filter (last axis) a scale of its own?"""
        return np.ndim(self.scale) > 0 and self.per == "filter"

    def terms(self):
        """The codes whose sum these are, each with one scale or with one for each filter: a list of Codes.

        Mostly just these. Ternary codes whose positive and negative levels have scales p and n are two terms: p for +1 and -n
        for -1 is (p + n) / 2 times the level plus (p - n) / 2 times its magnitude. With scales of groups they are whole numbers
        L from -127 to 127, times their unit. Bipolar levels are odd, so these, too, are two terms: 2 L + 1, in 8 bits, and -1
        everywhere, each times half the unit.
        """
        if self.per == "term":
            return [Codes(values, self.bits, self.encoding, scale if np.ndim(scale) else float(scale), "filter")
                    for values, scale in zip(self.values, self.scale, strict=True)]
        if self.per == "group":
            unit = unit_of(self.scale)
            values = self._spread(self.scale / unit).astype(np.int16) * self.levels(np.int16) + np.int16(128)
            return [Codes(values.astype(np.uint8), 8, "bipolar", unit / 2),
                    Codes(np.zeros_like(self.values), 1, "bipolar", unit / 2)]
        if self.one_scale or self.per != "sign":
            return [self]
        positive, negative = map(float, self.scale)
        magnitudes = (self.values != 1).astype(np.uint8) + np.uint8(1)
        return [self.with_values(self.values, (positive + negative) / 2),
                self.with_values(magnitudes, (positive - negative) / 2)]

    def levels(self, dtype=np.int64):
        """The integer levels, an array of the values' shape."""
        return to_levels(self, dtype)

    def decode(self, dtype=np.float32):
        """The real numbers, scale * level, multiplied in float64; of terms their sum, in the order of the terms."""
        if self.per == "term":
            return sum(term.decode(np.float64) for term in self.terms()).astype(dtype)
        if (np.ndim(self.scale) == 0 or self.per == "sign") and self.values.size > 256:
            every = np.arange(1 << self.bits, dtype=np.uint8)  # each code stands for one number, wherever it is
            return look_up(self.with_values(every).decode(dtype), self.values)
        # levels -1, 0 and 1 round nothing: no wider type is needed
        levels = self.levels(dtype if largest_level(self) == 1 else np.float64)
        scale = np.asarray(self.scale, levels.dtype)
        if scale.ndim and self.per == "sign":
            scale = np.where(levels > 0, *scale)
        elif self.per == "group":
            scale = self._spread(scale)
        elif scale.ndim and self.per == "sample":
            scale = scale.reshape((-1,) + (1,) * (self.values.ndim - 1))
        levels *= scale
        return levels.astype(dtype, copy=False)

    def _spread(self, scale):
        """Entries of groups as those of their weights."""
        channels = self.values.shape[-2]
        return np.repeat(scale, -(-channels // scale.shape[-2]), axis=-2)[..., :channels, :]

    def reshape(self, shape):
        """The same codes in another shape; scales of groups need the last two axes as they are."""
        scale = self.scale.reshape((*shape[:-2], *self.scale.shape[-2:])) if self.per == "group" else None
        return self.with_values(self.values.reshape((*self.values.shape[:self.per == "term"], *shape)), scale)

    def with_values(self, values, scale=None):
        """The same kind of codes with other values, and another scale where one is given."""
        return replace(self, values=values, scale=self.scale if scale is None else scale, packed={})


def unit_of(scale):
    """The power of two of which all scales of groups are whole multiples up to 127; ValueError where they are not."""
    largest = float(np.max(scale))
    unit = 2.0 ** (math.frexp(largest)[1] - 7) if largest > 0 else 1.0  # the largest multiple is 64 to 127
    multiples = np.asarray(scale) / unit
    if not ((multiples == np.rint(multiples)) & (multiples >= 0) & (multiples <= 127)).all():
        raise ValueError(f"scales of groups must be multiples, up to 127, of one power of two, got others up to {largest}")
    return unit
