"""Integer codes: what a quantizer makes and what kernels multiply."""

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
        "sign" (two entries, for positive and negative levels; weights), or "term": the real numbers are then a sum of several
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
        for -1 is (p + n) / 2 times the level plus (p - n) / 2 times its magnitude.
        """
        if self.per == "term":
            return [Codes(values, self.bits, self.encoding, scale if np.ndim(scale) else float(scale), "filter")
                    for values, scale in zip(self.values, self.scale, strict=True)]
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
        elif scale.ndim and self.per == "sample":
            scale = scale.reshape((-1,) + (1,) * (self.values.ndim - 1))
        levels *= scale
        return levels.astype(dtype, copy=False)

    def reshape(self, shape):
        """The same codes in another shape."""
        return self.with_values(self.values.reshape((*self.values.shape[:self.per == "term"], *shape)))

    def with_values(self, values, scale=None):
        """The same kind of codes with other values, and another scale where one is given."""
        return replace(self, values=values, scale=self.scale if scale is None else scale, packed={})
