"""Fine-grained ternary quantization (Mellempudi, Kundu, Mudigere, Das, Kaul and Dubey, arXiv:1705.01462)."""

from numbers import Integral

import numpy as np

from bitnet.codes import Codes
from bitnet.quantizers.base import Quantizer
from bitnet.quantizers.fixed_point import exponent_for

TOP = 127  # of a scale in units: 8 bits with a sign


def best_ternary(w):
    """The ternary numbers and the scale that are nearest to groups of numbers in squares.

        c_p = sum of the p largest |w|;  p* = the p with the largest c_p**2 / p;  alpha = c_p* / p*;  t = sign(w) on these p*

    Exact: for given places the best alpha is the mean magnitude there and takes c**2 / p off |w|**2, so the p largest
    magnitudes are the best p places. Two thresholds, for either sign, could not do better with one alpha.

    Parameters
    ----------
    w : float64 array (groups, n)

    Returns
    -------
    t : int8 array (groups, n), in {-1, 0, 1}; alpha : float64 array (groups,), 0 for a group of zeros
    """
    magnitude = np.abs(w)
    order = np.argsort(-magnitude, axis=1, kind="stable")
    sums = np.cumsum(np.take_along_axis(magnitude, order, 1), axis=1)
    # a quotient of squares would overflow or vanish where its root does not
    best = np.argmax(sums / np.sqrt(np.arange(1, w.shape[1] + 1)), axis=1)
    alpha = np.take_along_axis(sums, best[:, None], 1)[:, 0] / (best + 1)
    t = np.zeros(w.shape, np.int8)
    np.put_along_axis(t, order, (np.arange(w.shape[1]) <= best[:, None]).astype(np.int8), 1)
    return t * np.sign(w).astype(np.int8), alpha


class FGQWeight(Quantizer):
    """Ternary weights with a scale for each small group of them.

    Forward:  w_q = alpha_g * t, t in {-1, 0, 1} and alpha_g the nearest to the group's weights (``best_ternary``), alpha_g then
        rounded to 8 bits, whole multiples up to 127 of one power of two a layer
    Backward: dw = dw_q, groups and scales being constants

    A group is N weights of a filter along its input channels at one place of the filter: so a sum over a group needs no
    multiplication, and one follows for N weights. Where N does not divide the channels, groups are as many and made as equal as
    possible; with fewer channels than N, the group is all of them. That the groups lie so, and 8 bits for scales, is the
    paper's from memory; the power of two, chosen so that the largest scale fits, is its dynamic fixed point.

    Parameters
    ----------
    group : N, or "filter" or "layer" for one scale a filter or a layer: what Ternary Weight Networks approximate by a threshold

    Raises
    ------
    ValueError : another ``group``.
    """

    one_scale = False

    def __init__(self, group=4):
        super().__init__(2)
        whole = isinstance(group, Integral) and not isinstance(group, bool) and group > 0
        if not whole and group not in ("filter", "layer"):
            raise ValueError(f'groups are of a positive number of weights, a "filter" or a "layer", got {group!r}')
        self.group, self.one_scale = group, group == "layer"

    def encode_and_save(self, array):
        channels, filters = (1, *array.shape)[-2:]
        w = np.asarray(array, np.float64).reshape(-1, channels, filters)
        if self.group == "layer":
            parts, size, w = 1, w.size, w.reshape(1, -1, 1)
        elif self.group == "filter":
            parts, size, w = 1, w.size // filters, w.reshape(1, -1, filters)
        else:
            parts = -(-channels // self.group)
            size = -(-channels // parts)
            w = np.pad(w, ((0, 0), (0, parts * size - channels), (0, 0)))
        groups = np.moveaxis(w.reshape(len(w), parts, size, -1), 2, 3)  # (taps, parts, filters, size)
        t, alpha = best_ternary(groups.reshape(-1, size))
        t = np.moveaxis(t.reshape(groups.shape), 3, 2).reshape(len(w), parts * size, -1)
        unit = 2.0 ** exponent_for(float(alpha.max()), TOP)
        scale = np.rint(alpha / unit) * unit
        values = (t + np.int8(1)).view(np.uint8)
        if self.group == "layer":
            return Codes(values.reshape(array.shape), 2, "ternary", float(scale[0]), "filter"), None
        if self.group == "filter":
            return Codes(values.reshape(array.shape), 2, "ternary", scale, "filter"), None
        shape = (*array.shape[:-2], parts, filters) if array.ndim > 1 else (filters,)
        values = np.ascontiguousarray(values[:, :channels]).reshape(array.shape)
        return Codes(values, 2, "ternary", scale.reshape(shape), "group"), None
