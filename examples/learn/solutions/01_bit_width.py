"""Solutions of chapter 1."""

import numpy as np


def bits_for(error):
    bits = 1
    while 1 / (2 * (2**bits - 1)) > error:
        bits += 1
    return bits


def decode(codes, bits):
    n = 2**bits - 1
    return (2 * codes - n) / n


def best_scale(w, levels):
    return np.sum(w * levels) / np.sum(levels * levels)
