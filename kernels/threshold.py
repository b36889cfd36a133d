"""From accumulators to packed activation bits by comparisons of integers: a block's elementwise half at inference.

Batch norm, clip and rounding together are a staircase of the accumulator, rising or falling with the sign of batch norm's
slope. So a code is the number of thresholds that the accumulator, times that sign, has reached; and as the staircase is
monotone, the maximum of a pooling window is the code of the maximum.
"""

import numpy as np

from bitnet.kernels import threads
from bitnet.kernels.compile import kernel
from bitnet.kernels.packing import gather_bits, words_for
from bitnet.kernels.vectors import at, put


@kernel
def _pack_thresholds(start, stop, accum, sign, thresholds, height, width, channels, pool, out_height, out_width, planes, top,
                     left, padded_height, padded_width, out):
    words = (channels + 31) // 32
    value, code = np.empty(channels, np.int32), np.empty(channels, np.uint8)
    for row in range(start, stop):  # a row of results
        sample, oy = row // out_height, row % out_height
        for ox in range(out_width):
            for tap in range(pool * pool):
                source = ((sample * height + oy * pool + tap // pool) * width + ox * pool + tap % pool) * channels
                for c in range(channels):
                    v = np.int32(at(accum, source + c) * at(sign, c))
                    put(value, c, v if tap == 0 else max(v, at(value, c)))
            for c in range(channels):
                put(code, c, np.uint8(0))
            for level in range(thresholds.size // channels):
                for c in range(channels):
                    put(code, c, np.uint8(at(code, c) + (at(value, c) >= at(thresholds, level * channels + c))))
            for plane in range(planes):
                image = (sample * planes + plane) * padded_height + oy + top
                target = (image * padded_width + ox + left) * words
                for word in range(words):
                    out[target + word] = gather_bits(code, 32 * word, min(32, channels - 32 * word), plane)


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
    (top, bottom), (left, right) = padding
    out_height, out_width = height // pool, width // pool
    out = np.zeros((samples, 1, bits, out_height + top + bottom, out_width + left + right, words_for(channels)), np.uint32)
    threads.run(_pack_thresholds, samples * out_height, accum.reshape(-1), sign, thresholds.reshape(-1), height, width,
                channels, pool, out_height, out_width, bits, top, left, out.shape[3], out.shape[4], out.reshape(-1))
    return out
