"""Low-precision batch-normalized activations (Graham, arXiv:1702.08231).

Activations are quantized in the middle of a batch norm, after mean and deviation and before gamma and beta, and kept for the
backward pass as codes: ``layers.LowPrecisionBatchNorm``. The grid and its bounds are this project's reading; of the paper only
its outline was at hand.
"""

import numpy as np

from bitnet.codes import Codes
from bitnet.quantizers.base import Quantizer

STEPS = {1: 2.0, 2: 1.0, 3: 0.75, 4: 0.5, 5: 0.25, 6: 0.125, 7: 0.0625, 8: 0.03125}


class NormalizedActivation(Quantizer):
    """Normalized activations on a grid of 2**bits levels around 0, none of them 0.

    Forward:  q = d * (floor(x / d) + 1/2), limited to the 2**bits levels around 0
    Backward: dx = dq; with ``mask``, 0 beyond the outermost levels' cells

    1 bit: +-1; 2 bits: +-0.5 and +-1.5.

    Parameters
    ----------
    bits : 1 to 8
    step : d; None: from a table whose levels reach 1, 1.5, 2.6 and, from 4 bits on, almost 4 deviations
    mask : stop gradients outside the grid

    Raises
    ------
    ValueError : bits outside 1 to 8, or a step that is not positive.
    """

    def __init__(self, bits, step=None, mask=False):
        super().__init__(bits)
        self.step, self.mask = STEPS[bits] if step is None else step, mask
        if not self.step > 0:
            raise ValueError(f"the step of the grid must be positive, got {self.step}")

    def encode_and_save(self, array):
        half = 1 << (self.bits - 1)
        cell = np.floor(array / array.dtype.type(self.step))
        inside = (cell >= -half) & (cell < half) if self.mask else None
        values = (np.clip(cell, -half, half - 1) + half).astype(np.uint8)
        return Codes(values, self.bits, "bipolar", self.step / 2), inside
