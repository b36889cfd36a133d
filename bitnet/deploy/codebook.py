"""Weights of one bit by a codebook: the different kernels, and for each kernel which of them it is, in log2(n) bits.

Pays where there are few different ones: 64 words of 3 x 3 signs are 6 bits a kernel instead of 9 (Sparse Kernel Selection,
arXiv:2303.14470). A kernel is the weight of one input and one output channel.
"""

import math

import numpy as np


def index_bits(count):
    """Bits that tell one of ``count`` words."""
    return max(1, (count - 1).bit_length())


def packed(values):
    """Planes and words of bits, a uint8 array (kh, kw, in, out); None where the bits as they are take no more room.

    Returns
    -------
    planes : uint8 (index_bits(n), bytes), the planes of the kernels' places in the codebook, in C order of (in, out)
    words : uint8 (n, bytes), the codebook: taps in C order; both packed as ``numpy.packbits`` does with bitorder="little"
    """
    taps = math.prod(values.shape[:2])
    if taps == 1:
        return None
    rows, place = np.unique(np.packbits(values.reshape(taps, -1), axis=0, bitorder="little").T, axis=0, return_inverse=True)
    place = place.reshape(-1)
    planes = np.packbits(place >> np.arange(index_bits(len(rows)))[:, None] & 1, axis=1, bitorder="little")
    return (planes, rows) if planes.nbytes + rows.nbytes < -(-values.size // 8) else None


def unpacked(planes, words, shape):
    """The bits again, a uint8 array of a shape (kh, kw, in, out); ValueError where a kernel is not in the codebook."""
    taps, kernels = math.prod(shape[:2]), math.prod(shape[2:])
    bits = np.unpackbits(planes, axis=1, count=kernels, bitorder="little").astype(np.int64)
    place = (bits << np.arange(len(planes))[:, None]).sum(axis=0)
    if place.max() >= len(words):
        raise ValueError(f"expected kernels of a codebook of {len(words)} words, got number {place.max()}")
    return np.unpackbits(words, axis=1, count=taps, bitorder="little")[place].T.reshape(shape)
