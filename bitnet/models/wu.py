"""A network of the kind that Wu, Lin and Tang binarized for ImageNet (arXiv:1604.03058)."""

from itertools import pairwise

import numpy as np

from bitnet.layers import AvgPool, Block, Conv2d, Flatten, Images, Sequential
from bitnet.networks import network

GROUPS = ((128, 1), (256, 3), (384, 3), (512, 3))  # channels and convolutions; after each group but the first a pooling


@network("wu")
def wu(shape=(64, 64, 3), classes=1000, width=1.0, drop=0.2, seed=0):
    """13 layers: ten convolutions, and three of one pixel, the last of which gives a map of each class, averaged.

    Of the paper these are known at hand: 13 layers, a regular first one, a first and a second one wider than usual, so that
    bits lose no more of the image than later layers need, and a dropout of 0.2. Sizes, and where is dropped (before the last
    two layers), are this project's.

    Parameters
    ----------
    shape : (H, W, C) of the images, H = W; below 128 pixels the first filters are 3 x 3, else 7 x 7 in steps of 2
    classes : number of outputs
    width : of all hidden layers, a factor
    drop : share of the numbers before either of the last two layers that dropout zeroes
    seed : of the initial weights
    """
    rng, large = np.random.default_rng(seed), shape[0] >= 128
    size = (-(-shape[0] // 2) if large else shape[0]) // 8
    if shape[0] != shape[1] or size < 1:
        raise ValueError(f"this network takes square images of 8 pixels and more, got {tuple(shape)}")
    channels = [shape[2], *(max(1, int(count * width)) for count, repeat in GROUPS for _ in range(repeat))]
    pooled = {repeat for repeat in np.cumsum([repeat for _, repeat in GROUPS])[1:] - 1}
    blocks = {}
    for i, pair in enumerate(pairwise(channels)):
        kernel, stride = (7, 2) if i == 0 and large else (3, 1)
        blocks[f"conv{i}"] = Block(*pair, kernel, stride, "same", pool=2 if i in pooled else None, order="conv pool norm act",
                                   rng=rng)
    hidden = max(1, int(1024 * width))
    return Sequential(
        images=Images(*shape), **blocks,
        pixel0=Block(channels[-1], hidden, 1, drop=drop, order="conv pool norm act", rng=rng),
        pixel1=Block(hidden, hidden, 1, drop=drop, order="conv pool norm act", rng=rng),
        maps=Conv2d(hidden, classes, 1, bias=True, rng=rng), mean=AvgPool(size), flatten=Flatten())
