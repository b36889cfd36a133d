"""Trained Ternary Quantization (Zhu, Han, Mao and Dally, arXiv:1612.01064)."""

import numpy as np

from bitnet.codes import Codes
from bitnet.kernels.pointwise import elementary
from bitnet.kernels.pointwise.quantize import look_up, sums_by_code
from bitnet.module import Parameter, initial
from bitnet.quantizers.base import Quantizer
from bitnet.quantizers.twn import ternary

GRADIENTS = ("exact", "paper")


class TTQWeight(Quantizer):
    """Weights in {-W_n, 0, W_p}, both scales learned, one pair a layer.

    Forward:  w_q = W_p where w > Delta, -W_n where w < -Delta, else 0; Delta = t * max |w| over the layer
    Backward: with I_p, I_0 and I_n for these three places,
        dw = W_p * dw_q on I_p, dw_q on I_0, W_n * dw_q on I_n; Delta is a constant
        dW_p = sum of dw_q over I_p
        dW_n = -sum of dw_q over I_n ("exact"), or without the minus ("paper")

    The minus is what differentiation gives, and what the authors' program gets from automatic differentiation; the formula as
    it is usually quoted from the paper lacks it, and W_n then climbs instead of descending. So "exact" is the default here.

    With real activations, as in the paper, a layer runs in float. Where both operands are codes it runs as two products: with
    the ternary weight, and with its magnitude (``execution.forward``).

    Parameters
    ----------
    t : share of the largest magnitude below which a weight is 0
    sparsity : instead of t, the share of weights that is 0 (by magnitude), this project's option. What the authors' program
        calls so is another quantizer, without W_p and W_n: ``SparseTernaryWeight``
    gradient : "exact" or "paper", of W_n

    Raises
    ------
    ValueError : another gradient, or a share outside [0, 1).
    """

    one_scale = False

    def __init__(self, t=0.05, sparsity=None, gradient="exact"):
        super().__init__(2)
        if gradient not in GRADIENTS:
            raise ValueError(f"TTQ's gradient of W_n must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
        if not 0 <= t < 1 or (sparsity is not None and not 0 <= sparsity < 1):
            raise ValueError(f"TTQ's t and share of zeros must be in [0, 1), got {t} and {sparsity}")
        self.t, self.sparsity, self.gradient = t, sparsity, gradient
        self.scales = Parameter(initial((2,), lambda: np.ones(2, np.float32)))  # W_p and W_n

    def encode_and_save(self, array, scales):
        magnitude = np.abs(array)
        if self.sparsity is None:
            delta = array.dtype.type(self.t) * magnitude.max()
        else:
            zeros = int(self.sparsity * array.size)
            delta = np.partition(magnitude.ravel(), zeros - 1)[zeros - 1] if zeros else array.dtype.type(0)
        values = ternary(array, delta)
        return Codes(values, 2, "ternary", np.asarray(scales, np.float64), per="sign"), (values, scales)

    def grad(self, saved, grad_output):
        values, (positive, negative) = saved
        factor = look_up(np.array([negative, 1, positive], grad_output.dtype), values)
        (down, _, up, _), _ = sums_by_code(grad_output, values, 2)
        total = up, -down if self.gradient == "exact" else down
        return grad_output * factor, np.array(total, grad_output.dtype)


class SparseTernaryWeight(Quantizer):
    """Weights in {-1, 0, 1} with a fixed share of zeros, without scales: beside TTQ in its authors' program
    (czhu95/ternarynet).

    Forward:  t = tanh(w); w_q = sign(t) for the k largest |t| (equal ones included), else 0; k = int(count * (1 - sparsity))
    Backward: dw = dw_q * (1 - t**2), straight through sign and mask

    The program keeps the threshold in a variable that an operation of its own renews; here it is taken anew each time.

    Parameters
    ----------
    sparsity : share of zeros, in [0, 1)

    Raises
    ------
    ValueError : a share outside these bounds.
    """

    def __init__(self, sparsity=0.5):
        super().__init__(2)
        if not 0 <= sparsity < 1:
            raise ValueError(f"the share of zeros must be in [0, 1), got {sparsity}")
        self.sparsity = sparsity

    def encode_and_save(self, array):
        t = elementary.tanh(array)
        magnitude, kept = np.abs(t), int(array.size * (1 - self.sparsity))
        least = np.partition(magnitude.ravel(), array.size - kept)[array.size - kept] if kept else np.inf
        return Codes(ternary(np.where(magnitude >= least, t, 0), 0), 2, "ternary", 1.0), t

    def grad(self, saved, grad_output):
        return grad_output * (1 - saved * saved)
