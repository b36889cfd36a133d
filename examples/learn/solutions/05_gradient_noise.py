"""Solutions of chapter 5."""

import numpy as np


def chance_up(g, M, bits):
    """The fraction of what stands before the noise."""
    n = 2**bits - 1
    return (n / 2 * g / M + n / 2) % 1


def draws_for(bits, more):
    """The noise of a mean of D draws is a D-th of that of one, and that of one is proportional to 1 / n**2."""
    return round(((2**more - 1) / (2**bits - 1)) ** 2)


def three_levels(g, u):
    """M with the sign of g, with probability |g| / M; else 0."""
    M = np.abs(g).max(axis=tuple(range(1, g.ndim)), keepdims=True)
    return np.sign(g) * M * (u < np.abs(g) / M)


def off(g, bits, u):
    """Noise from 0 to 1 moves everything up by half a step: it has to be even around 0."""
    n, M = 2**bits - 1, np.abs(g).max(axis=1, keepdims=True)
    return (2 * np.rint(np.clip(n / 2 * g / M + n / 2 + u - 0.5, 0, n)) - n) * M / n
