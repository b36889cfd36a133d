"""Gated XNOR Networks (Deng, Jiao, Pei, Wu and Li, arXiv:1705.09283): weights and activations in discrete spaces.

The space Z_N between -1 and 1 has 2**N + 1 numbers, 2**(1 - N) apart; N = 1: {-1, 0, 1}; and for N = 0 it is {-1, 1}. Weights
live in such a space all the time: ``DiscreteParameter``, moved by ``optimizers.DST``.
"""

from numbers import Integral

import numpy as np

from bitnet import random
from bitnet.checks import number
from bitnet.codes import Codes
from bitnet.kernels.pointwise import elementary
from bitnet.module import Parameter, initial
from bitnet.quantizers.base import Quantizer
from bitnet.quantizers.binaryconnect import binarize

WINDOWS = ("rectangular", "triangular")


def _space(places, N):
    """Places 0 .. 2**N in Z_N as codes; where no encoding holds them (N >= 2) as the numbers themselves, float32."""
    if N < 2:
        return Codes(places, N + 1, "ternary" if N else "bipolar", 1.0)
    return places.astype(np.float32) * np.float32(2.0 ** (1 - N)) - np.float32(1)


def _check(N):
    if not isinstance(N, Integral) or not 0 <= N <= 7:
        raise ValueError(f"the discrete space Z_N has N from 0 to 7, got {N!r}")
    return N


class GXNORActivation(Quantizer):
    """Activations in Z_N by a staircase of several steps.

    Forward:  0 for |x| <= r; beyond, the w-th of the 2**(N - 1) positive numbers from r + (w - 1) * (1 - r) / 2**(N - 1) on,
        and the same with the other sign. N = 1: sign(x) where |x| > r, else 0. N = 0: sign(x), sign(0) = +1
    Backward: around each step at +-r_i a window of half width a whose area is the height of the step:
        "rectangular"  dx = da_q * height / (2 a)                       where ||x| - r_i| <= a
        "triangular"   dx = da_q * height / a * (1 - ||x| - r_i| / a)   there

    The defaults r = a = 0.5 are those ascribed to the paper; the authors' program has r = 1 and a = 0.5, and there |x| = r
    gives +-1. Where the windows of several steps overlap they add up (this project's reading for N >= 2).

    Parameters
    ----------
    N : the space; 0 and 1 are codes, larger ones real numbers, and the layer that they meet runs in float
    r : half width of what becomes 0 (N >= 1), at most 1, below 1 for N >= 2
    a : half width of a window
    window : "rectangular" or "triangular"

    Raises
    ------
    ValueError : a space, width or window outside these bounds.
    """

    def __init__(self, N=1, r=0.5, a=0.5, window="rectangular"):
        super().__init__(_check(N) + 1)
        if window not in WINDOWS:
            raise ValueError(f"GXNOR's window must be one of {', '.join(WINDOWS)}, got {window!r}")
        if not 0 <= r <= 1 or (N >= 2 and r == 1) or not a > 0:
            raise ValueError(f"GXNOR's steps need 0 <= r <= 1 (below 1 for N >= 2) and a > 0, got {r} and {a}")
        self.N, self.r, self.a, self.window = N, r, a, window
        count = 1 << N >> 1
        self.steps = [0.0] if N == 0 else [r + i * (1 - r) / count for i in range(count)]

    def encode_and_save(self, array):
        if self.N == 0:
            return _space(binarize(array), 0), array
        places = np.full(array.shape, len(self.steps), np.uint8)
        for step in self.steps:
            places += (array > step).view(np.uint8)
            places -= (array < -step).view(np.uint8)
        result = _space(places, self.N)
        return result if isinstance(result, Codes) else result.astype(array.dtype), array

    def grad(self, saved, grad_output):
        magnitude, slope = np.abs(saved), np.zeros_like(saved)
        height = 2.0 ** (1 - self.N)
        for step in self.steps:
            distance = np.abs(magnitude - saved.dtype.type(step)) / saved.dtype.type(self.a)
            part = 0.5 if self.window == "rectangular" else 1 - distance
            slope += np.where(distance <= 1, part * (height / self.a), 0).astype(slope.dtype)
        return grad_output * slope


class GXNORWeight(Quantizer):
    """The space of discrete weights, and how an update moves in it (DST, discrete state transition).

    Forward:  the nearest number of Z_N; halfway between two, the one whose place is even (N = 0: 0 goes to -1)
    Backward: dw = dw_q
    Update:   of a weight w by a real dw, with dz the distance of neighbours in Z_N:
        rho = clip(w + dw, -1, 1) - w;  kappa = trunc(rho / dz);  nu = rho - kappa * dz
        w <- w + kappa * dz + sign(rho) * dz * B,  B = 1 with probability tanh(m * |nu| / dz), else 0;  clipped to [-1, 1]

    Parameters
    ----------
    N : the space, see the top of this file; 0 and 1 are codes
    m : the larger, the more readily a weight jumps; 3 in the authors' program

    Raises
    ------
    ValueError : a space outside 0 to 7.
    """

    def __init__(self, N=1, m=3.0):
        super().__init__(_check(N) + 1)
        self.N, self.m, self.one_scale = N, number("GXNOR's m", m), N < 2

    def places(self, array):
        """Where in Z_N the numbers nearest to an array are: uint8, 0 .. 2**N."""
        return np.rint((np.clip(array, -1, 1) + 1) * 2.0 ** (self.N - 1)).astype(np.uint8)

    def at(self, places):
        """The numbers at these places: Codes, or float32 for N >= 2."""
        return _space(places, self.N)

    def encode_and_save(self, array):
        return self.at(self.places(array)), None

    def parameter(self, data):
        return DiscreteParameter(data, self)

    def __call__(self, x):
        return x if isinstance(x, DiscreteParameter) else super().__call__(x)  # a discrete parameter holds its codes

    def move(self, places, update):
        """Places after an update by the float array ``update``; takes one draw of ``bitnet.random``."""
        size = 1 << self.N
        start = places.astype(np.float32)
        rho = np.clip(start + update * np.float32(size / 2), 0, size) - start  # in units of dz
        kappa = np.trunc(rho)
        jump = random.uniform(places.shape) < elementary.tanh(np.float32(self.m) * np.abs(rho - kappa))
        return np.clip(start + kappa + np.sign(rho) * jump, 0, size).astype(np.uint8)


class DiscreteParameter(Parameter):
    """A weight that exists as places in a discrete space only, one byte each: no float copy is kept anywhere.

    Parameters
    ----------
    data : float array, rounded to the nearest numbers of the space
    space : GXNORWeight

    ``raw`` is Codes where an encoding holds the space; ``data`` is a float32 view, made anew each time.
    """

    def __init__(self, data, space):
        self.space = space
        self.places = initial(np.shape(data), lambda: space.places(data), np.uint8)
        self.requires_grad, self.grad, self._function = True, None, None
        self.weight_decay, self.lr_factor, self.constraint = 0.0, 1.0, None

    @property
    def stored(self):
        return self.places

    @stored.setter
    def stored(self, array):
        self.places = array

    def check_stored(self, name, array):
        count = 1 << self.space.N
        if array.dtype.kind not in "ui" or np.min(array, initial=0) < 0 or np.max(array, initial=0) > count:
            raise ValueError(f"{name} takes the places of weights in their space, integers from 0 to {count}; "
                             "set its data to round real weights")

    @property
    def raw(self):
        return self.space.at(self.places)

    @property
    def codes(self):
        raw = self.raw
        return None if isinstance(raw, np.ndarray) else raw

    @property
    def data(self):
        raw = self.raw
        return raw if isinstance(raw, np.ndarray) else raw.decode()

    @data.setter
    def data(self, array):
        self.places[...] = self.space.places(array)
