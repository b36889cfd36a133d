"""A small network of 3 x 3 convolutions, as the methods for CIFAR-10 have larger ones."""

from itertools import pairwise

import numpy as np

from bitnet.layers import Block, Flatten, Images, Linear, Sequential
from bitnet.networks import network


@network("vgg")
def vgg(shape=(28, 28, 1), classes=10, widths=(32, 64, 128), seed=0):
    """Two convolutions a width, the second of them pooled, and a last layer.

    Parameters
    ----------
    shape : (H, W, C) of the images; classes : number of outputs; seed : of the initial weights
    widths : channels
    """
    rng = np.random.default_rng(seed)
    size = [length >> len(widths) for length in shape[:2]]
    if min(size) < 1:
        raise ValueError(f"{len(widths)} poolings need images of {1 << len(widths)} pixels and more, got {tuple(shape)}")
    channels = [shape[2], *np.repeat(widths, 2).tolist()]
    blocks = {f"block{i}": Block(*pair, 3, padding=1, pool=2 if i % 2 else None, order="conv pool norm act", rng=rng)
              for i, pair in enumerate(pairwise(channels))}
    return Sequential(images=Images(*shape), **blocks, flatten=Flatten(),
                      fc=Linear(channels[-1] * size[0] * size[1], classes, rng=rng))
