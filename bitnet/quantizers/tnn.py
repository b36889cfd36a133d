"""Ternary Neural Networks (Alemdar, Leroy, Prost-Boucle and Petrot, arXiv:1609.00222)."""

import math

import numpy as np

from bitnet import random
from bitnet.checks import whole
from bitnet.codes import Codes
from bitnet.kernels.pointwise import elementary
from bitnet.kernels.pointwise.draw import uniform_array
from bitnet.module import Signal, initial
from bitnet.quantizers.base import Quantizer

FIRES = math.atanh(0.5)  # from here on tanh rounds to 1
NEVER = float(1 << 30)   # a threshold that no sum reaches


class TNNActivation(Quantizer):
    """Activations in {-1, 0, 1}, drawn in training so that the mean of a draw is tanh(x).

    Forward, training:   floor(tanh(x) + U), U uniform in (0, 1): sign(x) with probability |tanh(x)|, else 0
    Forward, evaluation: tanh(x), rounded, halves away from 0: sign(x) where |x| >= atanh(1/2), else 0
    Backward:            dx = da_q * (1 - tanh(x)**2)
    """

    def __init__(self):
        super().__init__(2)

    def encode_and_save(self, array):
        mean = elementary.tanh(array)
        if self.training:
            values = np.floor(mean + random.uniform(array.shape).astype(array.dtype)) + 1
            return Codes(np.clip(values, 0, 2).astype(np.uint8), 2, "ternary", 1.0), 1 - mean * mean
        bound = array.dtype.type(FIRES)
        values = (array >= bound).view(np.uint8) + np.uint8(1) - (array <= -bound).view(np.uint8)
        return Codes(values, 2, "ternary", 1.0), 1 - mean * mean


class TNNWeight(Quantizer):
    """Trained ternary weights, drawn in training so that the mean of a draw is the latent weight.

    Forward, training:   floor(w + U), U uniform in (0, 1), one draw a step
    Forward, evaluation: the same, with the noise of the last training step
    Backward:            dw = dw_q; the latent w is kept in [-1, 1] (``constraints.Clip``)

    In the authors' program evaluation has the last step's draw as it stands; here the latent weight is the one after that step.

    Attributes
    ----------
    key : float64 array (2,), of the last draw; a buffer, so that a file knows it
    """

    def __init__(self):
        super().__init__(2)
        self.key = initial((2,), lambda: np.zeros(2), np.float64)

    def encode_and_save(self, array):
        if self.training:
            self.key[...] = random.next_key()
        key = np.clip(np.nan_to_num(self.key), 0, 2**32 - 1).astype(np.uint32)  # whatever a file may hold there
        noise = uniform_array(array.shape, key).astype(array.dtype) + array.dtype.type(0.5)
        values = np.floor(np.clip(array, -1, 1) + noise) + 1
        return Codes(np.clip(values, 0, 2).astype(np.uint8), 2, "ternary", 1.0), None

    def flow(self, signal, visit):  # without a draw
        return Signal(signal.shape, 2, "ternary")


class IntegerThresholds(Quantizer):
    """Activations in {-1, 0, 1} by two thresholds a channel.

    Forward:  with s = sign * x: -1 where s < low, 1 where s > high, else 0
    Backward: none, there is nothing to train any more; the gradient is passed on

    Parameters
    ----------
    channels : size of the last axis

    Attributes
    ----------
    sign, low, high : float64 arrays (channels,) of whole numbers, sign of 1 and -1, low <= high + 1; at first 1, 0 and 0

    Raises
    ------
    ValueError : channels that are no positive whole number.
    """

    def __init__(self, channels):
        super().__init__(2)
        self.channels = whole("the channels of thresholds", channels, 1)
        self.sign = initial((channels,), lambda: np.ones(channels), np.float64)
        self.low, self.high = (initial((channels,), lambda: np.zeros(channels), np.float64) for _ in range(2))

    def encode_and_save(self, array):
        s = array * self.sign
        return Codes((s >= self.low).view(np.uint8) + (s > self.high).view(np.uint8), 2, "ternary", 1.0), None

    def flow(self, signal, visit):
        return Signal(signal.shape, 2, "ternary")


def closed_form(gamma, beta, mean, deviation):
    """Thresholds of whole sums S for batch norm, tanh and rounding: sign, low and high of ``IntegerThresholds``.

        z = gamma (S - mean) / deviation + beta;  code 1 where z >= atanh(1/2), -1 where z <= -atanh(1/2)
        theta = (+-atanh(1/2) - beta) deviation / gamma + mean;  low = floor + 1 of the lower, high = ceil - 1 of the upper one

    With gamma < 0 sums and thresholds change their sign, with gamma = 0 the code is a constant. The formula is that of the
    authors' program, with its thresholds as integers such that the code is 0 between them, both included.

    Parameters
    ----------
    gamma, beta, mean, deviation : float64 arrays (channels,)
    """
    sign, slope = np.where(gamma < 0, -1.0, 1.0), np.where(gamma == 0, 1, np.abs(gamma))
    lower, upper = ((z - beta) * deviation / slope + sign * mean for z in (-FIRES, FIRES))
    low, high = np.floor(lower) + 1, np.ceil(upper) - 1
    constant = gamma == 0
    low = np.where(constant, np.where(beta <= -FIRES, NEVER, -NEVER), low)
    high = np.where(constant, np.where(beta >= FIRES, -NEVER - 1, NEVER), high)
    return sign, np.clip(low, -NEVER, NEVER), np.clip(high, -NEVER - 1, NEVER)
