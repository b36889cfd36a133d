"""Integer codes: what a quantizer produces and a bit kernel consumes."""

from dataclasses import dataclass, field

import numpy as np

from bitnet.kernels.geometry import to_levels


@dataclass(frozen=True, eq=False)
class Codes:
    """An array of small integers that stand for real numbers: real = scale * level.

    Attributes
    ----------
    values : uint8 array of any shape, each below 2**bits
    bits : 1 to 8
    encoding : "unsigned", level = value (activations), or
        "bipolar", level = 2 * value - n with n = 2**bits - 1, always odd (weights, gradients), or
        "ternary", 2 bits, values 0, 1 and 2, level = value - 1
    scale : float, or a float64 array with one scale for each sample (gradients)
    packed : what kernels made of the values, by purpose: packed once, on first use, as long as the codes live
    """

    values: np.ndarray
    bits: int
    encoding: str
    scale: float | np.ndarray = 1.0
    packed: dict = field(default_factory=dict, repr=False)

    @property
    def shape(self):
        return self.values.shape

    def levels(self, dtype=np.int64):
        """The integer levels, in ``dtype``."""
        return to_levels(self, dtype)

    def decode(self, dtype=np.float32):
        """The real numbers, scale * level, multiplied in float64."""
        scale = np.reshape(self.scale, (-1,) + (1,) * (self.values.ndim - 1)) if np.ndim(self.scale) else self.scale
        return (self.levels(np.float64) * scale).astype(dtype)

    def with_values(self, values, scale=None):
        """The same kind of codes with other values, and another scale where one is given."""
        return Codes(values, self.bits, self.encoding, self.scale if scale is None else scale)
