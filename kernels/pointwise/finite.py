"""Is there an infinity or a NaN in any of many arrays? One launch and one walk over memory for all of them.

    float32     sign  exponent, 8 bits  mantissa      all ones in the exponent: infinite, or not a number
"""

import numpy as np

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.arrays import address_of
from bitnet.kernels.machine.compile import kernel
from bitnet.kernels.machine.vectors import array_at, at, put
from bitnet.kernels.pointwise.walk import TILE, tiles_of_all

EXPONENT = 0x7F800000


@kernel
def _largest_exponent(start, stop, tiles, places, sizes, largest):
    for tile in range(start, stop):
        k, first = at(tiles, 2 * tile), at(tiles, 2 * tile + 1)
        size, found = at(sizes, k), np.int32(0)
        bits = array_at(at(places, k), size, largest)
        for i in range(first, min(first + TILE, size)):
            found = max(found, np.int32(at(bits, i) & EXPONENT))
        put(largest, tile, found)


def all_finite(*arrays):
    """Whether no array holds an infinity or a NaN: arrays of any type and shape, and numbers."""
    quick, others = [], []
    for array in map(np.asarray, arrays):
        (quick if array.dtype == np.float32 and array.flags.c_contiguous and array.size else others).append(array)
    if not all(np.isfinite(array).all() for array in others):
        return False
    if not quick:
        return True
    sizes = tuple(array.size for array in quick)
    tiles, places = tiles_of_all(sizes), np.array([address_of(array) for array in quick])
    largest = np.zeros(len(tiles) // 2, np.int32)  # in a rehearsal nobody writes there
    threads.run(_largest_exponent, len(largest), tiles, places, np.array(sizes), largest)
    return int(largest.max()) < EXPONENT
