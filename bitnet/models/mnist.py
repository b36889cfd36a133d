"""The two networks in which methods for MNIST were published: TWN's LeNet and BinaryConnect's multilayer perceptron."""

from itertools import pairwise

import numpy as np

from bitnet.layers import Block, Conv2d, Flatten, Images, Reshape, Sequential
from bitnet.networks import network

ORDER = "conv pool norm act"


@network("lenet")
def lenet(shape=(28, 28, 1), classes=10, order=ORDER, seed=0):
    """32 and 64 filters of 5 x 5, each pooled, and 512 hidden units, here filters that cover their 4 x 4 pixels.

    Parameters
    ----------
    shape : (H, W, C) of the images; classes : number of outputs; order : of the blocks; seed : of the initial weights
    """
    rng = np.random.default_rng(seed)
    size = tuple(((length - 4) // 2 - 4) // 2 for length in shape[:2])
    if min(size) < 1:
        raise ValueError(f"the LeNet takes images of 16 x 16 pixels and more, got shape {tuple(shape)}")
    return Sequential(
        images=Images(*shape),
        block0=Block(shape[2], 32, 5, pool=2, order=order, rng=rng),
        block1=Block(32, 64, 5, pool=2, order=order, rng=rng),
        block2=Block(64, 512, size, order=order, rng=rng),
        fc=Conv2d(512, classes, 1, bias=True, rng=rng),
        flatten=Flatten())


@network("mlp")
def mlp(shape=(28, 28, 1), classes=10, width=2048, hidden=3, drop=0.0, seed=0):
    """A multilayer perceptron, whose layers are convolutions of one pixel with all numbers of an image as its channels.

    Parameters
    ----------
    shape : (H, W, C) of the images; classes : number of outputs
    width, hidden : units of a hidden layer, and how many of these there are
    drop : share of each hidden layer's outputs that dropout zeroes
    seed : of the initial weights
    """
    rng = np.random.default_rng(seed)
    sizes = [int(np.prod(shape)), *[width] * hidden]
    blocks = {f"block{i}": Block(inputs, outputs, 1, drop=drop, order=ORDER, rng=rng)
              for i, (inputs, outputs) in enumerate(pairwise(sizes))}
    return Sequential(images=Images(*shape), pixel=Reshape((1, 1, sizes[0])), **blocks,
                      fc=Conv2d(width, classes, 1, bias=True, rng=rng), flatten=Flatten())
