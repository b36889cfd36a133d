"""Solutions to chapter 3."""

import numpy as np


def dot_signs(a, b):
    different = np.bitwise_count(np.packbits(a > 0) ^ np.packbits(b > 0)).sum(dtype=int)
    return len(a) - 2 * different


def dot_mixed(u, u_bits, c, c_bits):
    T = 0
    for l in range(u_bits):
        for m in range(c_bits):
            different = np.packbits(u >> l & 1) ^ np.packbits(c >> m & 1)
            T += 2 ** (l + m) * np.bitwise_count(different).sum(dtype=int)
    return (2**u_bits - 1) * c.sum() - T


def dot_ternary(s, t):
    # two planes of equal worth, so n = 2 on both sides: the sum of four products of signs is 4N - 2T, and we want a quarter
    T = 0
    for x in (s >= 0, s > 0):
        for y in (t >= 0, t > 0):
            T += np.bitwise_count(np.packbits(x) ^ np.packbits(y)).sum(dtype=int)
    return len(s) - T // 2


def constant(c, u_bits):
    return (2**u_bits - 1) * c.sum(dtype=np.int64)  # the sum of uint8 in uint8 wraps at 256
