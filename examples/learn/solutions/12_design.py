"""Solutions of chapter 12."""

import math

import numpy as np


def steps_to_cross(w, rate):
    return math.ceil(abs(w) / rate)


def diagnose(flipped, saturated, cosine):
    if flipped < 0.001:
        return "rate"
    if saturated > 0.95:
        return "clip"
    return "bits" if cosine < 0.1 else "fine"


def levels_of(w, bits):
    """floor never gives the largest code below w = 1; rint gives each of them its share."""
    n = 2**bits - 1
    return 2 * np.rint(n * (w + 1) / 2).astype(int) - n
