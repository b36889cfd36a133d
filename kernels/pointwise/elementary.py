"""exp, log and tanh in one sequence of additions and multiplications: the same bits on every machine.

NumPy's depend in their last bits on the vector unit that they find. These compute in float64, whatever the array, and round
once: of float32 the nearest number but for about one in 10**8, of float64 one within a few units in the last place (tanh: 80).

    exp(x)    2**k * exp(r), x = k * log(2) + r, |r| <= log(2) / 2     Taylor series of exp
    log(x)    e * log(2) + 2 * atanh(s), x = 2**e * m, s = (m - 1) / (m + 1), sqrt(1/2) <= m < sqrt(2)     series of atanh
    tanh(x)   1 - 2 / (exp(2 x) + 1), and its Taylor series near 0, where that cancels
"""

import math

import numpy as np

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import inlined, kernel
from bitnet.kernels.machine.vectors import at, bits_of, number_of, put
from bitnet.kernels.pointwise.walk import TILE, tiles_of

LOG2_E = 1.4426950408889634
LOG_2 = 0.693147180369123816490, 1.90821492927058770002e-10  # of which the first has zeros in its last 32 bits (fdlibm)
ROUND = 1.5 * 2.0 ** 52  # added and subtracted, it leaves the nearest whole number; its last bits count that number
ROUND_BITS = int(np.float64(ROUND).view(np.int64))
MANTISSA, BIAS = 52, 1023  # of a float64: bits, and what is added to an exponent
FRACTION = (1 << MANTISSA) - 1
SCALE = 54  # by 2**54, a number that is too small to be normal becomes normal
_EXP = tuple(1 / math.factorial(n) for n in range(13, -1, -1))  # from the last term on
_ATANH = tuple(1 / (2 * n + 1) for n in range(11, -1, -1))
_TANH = -1 / 3, 2 / 15, -17 / 315, 62 / 2835
NEAR = 0.02  # |x| below which tanh is its series


@inlined
def _exp(x):
    x = -746.0 if x < -746.0 else (710.0 if x > 710.0 else x)  # beyond, the result is 0 or infinite
    shifted = x * LOG2_E + ROUND
    k = shifted - ROUND
    r = (x - k * LOG_2[0]) - k * LOG_2[1]
    y = _EXP[0]
    for n in range(1, len(_EXP)):
        y = y * r + _EXP[n]
    power = bits_of(shifted) - ROUND_BITS
    half = power >> 1  # in two steps: 2**power may be no normal number
    return y * number_of((half + BIAS) << MANTISSA) * number_of((power - half + BIAS) << MANTISSA)


@inlined
def _log(x):
    small = x < 2.2250738585072014e-308
    bits = bits_of(x * 2.0 ** SCALE if small else x)
    exponent = (bits >> MANTISSA) - BIAS - (SCALE if small else 0)
    m = number_of((bits & FRACTION) | (BIAS << MANTISSA))
    high = m > 1.4142135623730951
    m, e = m * 0.5 if high else m, np.float64(exponent + (1 if high else 0))
    s = (m - 1.0) / (m + 1.0)
    t, y = s * s, _ATANH[0]
    for n in range(1, len(_ATANH)):
        y = y * t + _ATANH[n]
    return e * LOG_2[0] + (2.0 * s * y + e * LOG_2[1])


@inlined
def _tanh(x):
    t = x * x
    near = x * (1.0 + t * (_TANH[0] + t * (_TANH[1] + t * (_TANH[2] + t * _TANH[3]))))
    far = 1.0 - 2.0 / (_exp(2.0 * abs(x)) + 1.0)
    return near if abs(x) < NEAR else (-far if x < 0 else far)


@kernel
def _exp_of(start, stop, x, out):
    for i in range(start * TILE, min(stop * TILE, x.size)):
        value = np.float64(at(x, i))
        put(out, i, _exp(value) if value == value else value)


@kernel
def _log_of(start, stop, x, out):
    for i in range(start * TILE, min(stop * TILE, x.size)):
        value = np.float64(at(x, i))
        usual = (value > 0) & (value < np.inf)
        special = -np.inf if value == 0 else (value if value > 0 else np.nan)
        put(out, i, _log(value if usual else 1.0) if usual else special)


@kernel
def _tanh_of(start, stop, x, out):
    for i in range(start * TILE, min(stop * TILE, x.size)):
        value = np.float64(at(x, i))
        put(out, i, _tanh(value) if value == value else value)


def _elementwise(function, x):
    x = np.asarray(x, order="C")
    out = np.empty_like(x)
    threads.run(function, tiles_of(x.size), x.reshape(-1), out.reshape(-1))
    return out


def exp(x):
    """e to the power of every element: an array of the shape and type, float32 or float64, of ``x``."""
    return _elementwise(_exp_of, x)


def log(x):
    """The natural logarithm of every element; as ``exp``."""
    return _elementwise(_log_of, x)


def tanh(x):
    """The hyperbolic tangent of every element; as ``exp``."""
    return _elementwise(_tanh_of, x)
