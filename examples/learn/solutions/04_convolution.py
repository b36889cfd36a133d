"""Solutions to chapter 4."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def strided(u, u_bits, c, c_bits, stride):
    T = 0
    for l in range(u_bits):
        octets = np.packbits(u >> l & 1, axis=-1)
        seen = sliding_window_view(octets, (3, 3), axis=(1, 2))[:, ::stride, ::stride]  # (N, OH, OW, octets, 3, 3)
        for m in range(c_bits):
            filters = np.packbits(np.moveaxis(c >> m & 1, 2, 3), axis=-1)               # (3, 3, F, octets)
            filters = np.transpose(filters, (2, 3, 0, 1))                               # (F, octets, 3, 3)
            ones = np.bitwise_count(seen[..., None, :, :, :] ^ filters).sum(axis=(-1, -2, -3), dtype=int)
            T = T + 2 ** (l + m) * ones
    return (2**u_bits - 1) * c.sum(axis=(0, 1, 2)) - T


def border_constants(c, c_bits, v_bits, inside):
    sums = (2 * c - (2**c_bits - 1)).sum(axis=2).reshape(9, -1)  # of each tap and filter
    return (2**v_bits - 1) * (1 - inside) @ sums
