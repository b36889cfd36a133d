"""From accumulators to packed activation bits by comparisons of integers: a block's elementwise half at inference.

Batch norm, clip and rounding together are a staircase of the accumulator, rising or falling with the sign of batch norm's
slope. So a code is the number of thresholds that the accumulator, times that sign, has reached; and as the staircase is
monotone, the maximum of a pooling window is the code of the maximum.
"""

import numpy as np

from bitnet.kernels.machine import arrays, threads
from bitnet.kernels.machine.compile import inlined, kernel
from bitnet.kernels.machine.vectors import LANES, at, load, maximum, put, reached, store
from bitnet.kernels.products.packing import WORD, words_for


@inlined
def _put_bits(out, word, bits, keep, half):
    """Put sixteen bits, those in ``keep``, into the lower or the upper half of a word."""
    bits = (bits & keep) << half
    put(out, word, bits if half == 0 else at(out, word) | bits)


@kernel
def _pack_thresholds(start, stop, accum, sign, thresholds, out, shape, pool, out_shape, planes, padding):
    (height, width, channels), (out_height, out_width), (top, left, padded_height, padded_width) = shape, out_shape, padding
    line, words = width * channels, -(-channels // WORD)
    plane_size, last = padded_height * padded_width * words, ((1 << planes) - 1) * channels
    signs = np.empty(line, np.int32)  # repeated for each pixel of a line, so that loops are long
    for x in range(width):
        signs[x * channels:(x + 1) * channels] = sign
    value, pooled = np.zeros(line + LANES, np.int32), np.zeros(out_width * channels + LANES, np.int32)
    for row in range(start, stop):  # a row of results
        sample, oy = row // out_height, row % out_height
        source = (sample * height + oy * pool) * line
        for i in range(line):
            put(value, i, np.int32(at(accum, source + i)) * at(signs, i))
        for _ in range(1, pool):
            source += line
            for i in range(line):
                put(value, i, max(at(value, i), np.int32(at(accum, source + i)) * at(signs, i)))
        result = value
        if pool > 1:
            result = pooled
            for x in range(out_width):
                for c in range(0, channels, LANES):  # past the last channel the next pixel is written twice
                    i = x * pool * channels + c
                    best = load(value, i)
                    for t in range(1, pool):
                        best = maximum(best, load(value, i + t * channels))
                    store(pooled, x * channels + c, best)
        target = sample * planes * plane_size + ((oy + top) * padded_width + left) * words
        for x in range(out_width):
            for c in range(0, channels, LANES):
                i, word = x * channels + c, target + c // WORD
                keep, half = np.uint32((1 << min(LANES, channels - c)) - 1), np.uint32(c % WORD)
                if planes == 1:
                    _put_bits(out, word, reached(result, i, thresholds, c), keep, half)
                elif planes == 2:  # the bits of the number of thresholds reached, which rise: 1 or 3, 2 or 3
                    first, second = reached(result, i, thresholds, c), reached(result, i, thresholds, channels + c)
                    third = reached(result, i, thresholds, 2 * channels + c)
                    _put_bits(out, word, first ^ second ^ third, keep, half)
                    _put_bits(out, word + plane_size, second, keep, half)
                else:  # bit p of the number counts every 2**p-th threshold, modulo 2
                    for plane in range(planes):
                        bits, step = np.uint32(0), channels << plane
                        for k in range(step - channels, last, step):
                            bits ^= reached(result, i, thresholds, k + c)
                        _put_bits(out, word + plane * plane_size, bits, keep, half)
            target += words


def pack_thresholds(accum, sign, thresholds, pool, bits, padding):
    """Packed activation codes of accumulators.

    Parameters
    ----------
    accum : int16 or int32 array (N, H, W, C)
    sign : int32 array (C,) of +1 and -1; thresholds : int32 array (2**bits - 1, C), rising along the first axis
    pool : size of the max-pooling windows, which do not overlap; 1 for none
    padding : ((top, bottom), (left, right)) zero pixels that the next convolution wants

    Returns
    -------
    words : uint32 array (N, 1, bits, H // pool + top + bottom, W // pool + left + right, words of C), as ``pack_channels``
        packs codes; code = number of thresholds t with sign * accum >= t
    """
    samples, height, width, channels = accum.shape
    thresholds = np.concatenate([thresholds.reshape(-1), np.zeros(LANES, np.int32)])  # read so many at a time
    (top, bottom), (left, right) = padding
    out_height, out_width = height // pool, width // pool
    out = arrays.zeros((samples, 1, bits, out_height + top + bottom, out_width + left + right, words_for(channels)), np.uint32)
    threads.run(_pack_thresholds, samples * out_height, accum.reshape(-1), sign, thresholds, out.reshape(-1), accum.shape[1:],
                pool, (out_height, out_width), bits, (top, left, *out.shape[3:5]))
    return out
