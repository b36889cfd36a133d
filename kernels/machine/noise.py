"""Counter-based noise: element i of a draw is a hash of the draw's key and i.

So the noise of an element depends neither on threads nor on the order of work, costs no state, and vectorises. The hash is a
32-bit integer mixer (multiply and xorshift) on a counter that starts at one half of the 64-bit key and counts in steps of the
other, an odd number. With a start alone, two draws would be the same sequence, shifted.
"""

import numpy as np

from bitnet.kernels.machine.compile import inlined

_MASK = (1 << 64) - 1


def key_of(seed, draw):
    """Start and step, two uint32, for draw number ``draw`` of a stream ``seed`` (the finaliser of SplitMix64)."""
    z = (seed * 0x9E3779B97F4A7C15 + draw * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & _MASK
    for multiplier in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        z = ((z ^ (z >> 30)) * multiplier) & _MASK
        z ^= z >> 31
    return np.uint32(z & 0xFFFFFFFF), np.uint32(z >> 32 | 1)


@inlined
def _mixed(x):
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@inlined
def uniform(start, step, index):
    """Uniform float32 in (-1/2, 1/2), symmetric around 0, for element ``index`` of the draw with this key."""
    bits = _mixed(np.uint32(np.uint32(index) * step + start))
    return (np.float32(np.int32(bits >> np.uint32(9))) + np.float32(0.5)) * np.float32(2.0 ** -23) - np.float32(0.5)
