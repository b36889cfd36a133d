"""A staircase of tanh bricks that hardens while a network trains.

Most probably what the table of results in XinDongol/tensorpack calls "Lego-Net", never published: this follows the "warm"
binarization in that program (2018). It has nothing to do with LegoNet of ICML 2019, which is younger and float.
"""

import math

import numpy as np

from bitnet.checks import number
from bitnet.kernels.pointwise import elementary
from bitnet.quantizers.base import Quantizer
from bitnet.quantizers.dorefa import DoReFaWeight

BACKWARDS = ("identity", "match", "clip")


class StaircaseWeight(Quantizer):
    """Weights that become those of DoReFa-Net, gradually.

    Forward, 1 bit:    w_q = E * s(w / E), s(x) = clip(tanh(c x) / tanh(c), -1, 1), E = mean |w| over the layer
    Forward, k bits:   w_q = 2 Q(tanh(w) / (2 m) + 1/2) - 1, m = max |tanh(w)|, Q a staircase on [0, 1]: with d = 1 / (2**k -
        1), Q(x) = sum over steps i of d/2 + clip(d/2 * tanh(c (x - (i - 1/2) d)) / tanh(c d/2), -d/2, d/2)
    Backward: through the staircase "identity" (the default), its slope with c at most 10 ("match"), or its slope but at most
        1.5 ("clip"); through tanh(w) / m as DoReFa-Net does; E is a constant

    c rises from 1 to 1000 in training (``hardness``). Until then weights are real, and layers run in float; c = infinity
    is DoReFa-Net's own quantizer, the form in which a network is deployed, and gives codes. Evaluation always takes it.

    Parameters
    ----------
    bits : 1 to 8
    c : hardness, may be set at any time
    backward : "identity", "match" or "clip"

    Raises
    ------
    ValueError : bits outside 1 to 8, or another backward.
    """

    one_scale = False  # as long as it is real
    changing = ("c",)

    def __init__(self, bits=1, c=1.0, backward="identity"):
        super().__init__(bits)
        if backward not in BACKWARDS:
            raise ValueError(f"the staircase's gradient must be one of {', '.join(BACKWARDS)}, got {backward!r}")
        self.c, self.backward, self.hard = number("the hardness c", c, 0), backward, DoReFaWeight(bits)

    def advance(self, progress):
        self.c = hardness(progress)
        return False

    def _brick(self, x, c, half):
        """One step around 0, from -half to half, and its slope."""
        t = elementary.tanh(c * x)
        factor = half / math.tanh(c * half)
        y = factor * t
        return np.clip(y, -half, half), np.where(np.abs(y) <= half, factor * c * (1 - t * t), 0)

    def _staircase(self, x, c):
        """Q(x) on [-1, 1] for one bit, else on [0, 1], and its slope."""
        if self.bits == 1:
            return self._brick(x, c, 1.0)
        d = 1 / self.top
        bricks = [self._brick(x - (i - 0.5) * d, c, d / 2) for i in range(1, self.top + 1)]
        return sum(y for y, _ in bricks) + 0.5, sum(slope for _, slope in bricks)

    def encode_and_save(self, array):
        codes, saved = self.hard.encode_and_save(array)
        if math.isinf(self.c) or not self.training:
            return codes, (saved, None)
        if self.bits == 1:
            whole = codes.scale or 1.0
            x = array / whole
            q = codes.scale * self._staircase(x, self.c)[0]
        else:
            t, largest = saved
            x = t / largest / 2 + 0.5
            q = 2 * self._staircase(x, self.c)[0] - 1
        slope = None
        if self.backward == "match":
            slope = self._staircase(x, min(self.c, 10.0))[1]
        elif self.backward == "clip":
            slope = np.minimum(self._staircase(x, self.c)[1], 1.5)
        return q.astype(array.dtype), (saved, slope)

    def grad(self, saved, grad_output):
        saved, slope = saved
        if slope is not None:
            grad_output = (grad_output * slope).astype(grad_output.dtype)
        return self.hard.grad(saved, grad_output)


def hardness(progress, first=1.0, last=1000.0, spacing="geometric"):
    """c at a point of training.

    Parameters
    ----------
    progress : 0 to 1
    first, last : c at the ends
    spacing : "geometric": equal factors; "distance": the mean over [-1, 1] of the square of how far the curve tanh(c x) /
        tanh(c) is from that of ``first`` grows evenly, as in the authors' table; "equal": equal changes of the curve, by the
        square root of the mean of their squares, this project's

    Returns
    -------
    c : float

    Raises
    ------
    ValueError : another spacing.
    """
    if spacing == "geometric":
        return float(first * (last / first) ** progress)
    if spacing not in ("distance", "equal"):
        raise ValueError(f'the spacing must be "geometric", "distance" or "equal", got {spacing!r}')
    grid, x = np.geomspace(first, last, 257), np.linspace(-1, 1, 4001)
    curves = elementary.tanh(grid[:, None] * x) / elementary.tanh(grid[:, None])
    if spacing == "distance":
        moved = np.mean((curves - curves[0]) ** 2, axis=1)
    else:
        moved = np.concatenate([[0], np.cumsum(np.sqrt(np.mean(np.diff(curves, axis=0) ** 2, axis=1)))])
    return float(np.interp(progress * moved[-1], moved, grid))
