"""Updates of latent weights, in one walk over memory."""

import math

import numpy as np

from bitnet.kernels import threads
from bitnet.kernels.compile import kernel
from bitnet.kernels.elementwise import blocks
from bitnet.kernels.vectors import at, put


@kernel
def _clip(start, stop, weight, bound):
    for i in range(start * 16384, min(stop * 16384, weight.size)):
        put(weight, i, min(max(at(weight, i), -bound), bound))


def clip(weight, bound):
    """``weight[...] = clip(weight, -bound, bound)``, in place."""
    threads.run(_clip, blocks(weight.size), weight.reshape(-1), weight.dtype.type(bound))


def ap2_constants(dtype):
    """(carry, exponent): ((bits of |x|) + carry) & exponent are the bits of the power of two whose exponent is nearest to x's.

    carry is 2 - sqrt(2) in units of the mantissa's last bit, rounded down.
    """
    integer, mantissa, exponent = (np.int32, 23, 0xFF) if dtype == np.float32 else (np.int64, 52, 0x7FF)
    root = math.isqrt(2 << (2 * mantissa))  # sqrt(2) in these units, rounded down: not enough to carry
    return integer((2 << mantissa) - root - 1), integer(exponent << mantissa)


@kernel
def _shift_adamax(start, stop, parameter, grad, mean, largest, bits, carry, exponent, rate, beta1, beta2, eps, decay, paper):
    one = parameter.dtype.type(1)
    for i in range(start * 16384, min(stop * 16384, parameter.size)):
        g = at(grad, i) + decay * at(parameter, i)
        m = beta1 * at(mean, i) + (one - beta1) * g
        put(mean, i, m)
        v = max(beta2 * at(largest, i), abs(g))
        put(largest, i, v)
        kept = at(bits, i)
        put(bits, i, (kept + carry) & exponent)  # the same memory as ``largest``
        power = at(largest, i) + eps
        if paper:
            put(bits, i, kept)
        else:
            put(largest, i, power)
        put(parameter, i, at(parameter, i) - rate * m / power)


def shift_adamax(parameter, grad, mean, largest, rate, beta1, beta2, eps, decay, paper):
    """One step of shift-based AdaMax, in place: see ``optimizers.ShiftAdaMax``."""
    number = parameter.dtype.type
    carry, exponent = ap2_constants(parameter.dtype)
    threads.run(_shift_adamax, blocks(parameter.size), parameter.reshape(-1), grad.reshape(-1), mean.reshape(-1),
                largest.reshape(-1), largest.reshape(-1).view(carry.dtype), carry, exponent, number(rate), number(beta1),
                number(beta2), number(eps), number(decay), paper)
