"""The small network of chapters 7 and 8."""

import numpy as np

from bitnet.layers import Block, Flatten, Linear, Sequential
from bitnet.methods import DoReFa


def small(bits=(1, 2, 4), width=32, seed=0):
    rng, wide = np.random.default_rng(seed), 2 * width
    network = Sequential(
        conv0=Block(3, width, 5, pool=2, norm=False, rng=rng),
        conv1=Block(width, wide, 3, padding="same", pool=2, rng=rng),
        conv2=Block(wide, wide, 3, pool=2, rng=rng),
        flatten=Flatten(),
        fc=Linear(3 * 3 * wide, 10, rng=rng))
    return DoReFa(bits).apply(network).name_layers()
