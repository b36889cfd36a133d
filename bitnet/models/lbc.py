"""The residual network in which Local Binary Convolution was published, in its dense form (arXiv:1608.06049)."""

import numpy as np

from bitnet.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Block,
    Conv2d,
    Dropout,
    Flatten,
    Images,
    Linear,
    Residual,
    Sequential,
)  # fmt: skip
from bitnet.networks import network


@network("lbc")
def lbc(shape=(28, 28, 1), classes=10, channels=16, blocks=10, hidden=128, margin=2, drop=0.5, seed=0):
    """A convolution, ``blocks`` times x + convolution(batch norm(x)), average pooling and two layers.

    The convolutions are 3 x 3, of as many channels in as out. ``methods.LBC`` puts fixed anchors, ReLU and a learned 1 x 1
    convolution in the place of each but the first. The authors have 75 blocks for MNIST.

    Parameters
    ----------
    shape : (H, W, C) of the images; classes : number of outputs
    channels, blocks, hidden : of the convolutions, how many after the first, and units before the last layer
    margin : zeros around the images, which make 32 x 32 pixels of MNIST's 28 x 28
    drop : share of the numbers before either of the last layers that dropout zeroes
    seed : of the initial weights
    """
    rng = np.random.default_rng(seed)
    size = [(length + 2 * margin) // 5 for length in shape[:2]]
    if min(size) < 1:
        raise ValueError(f"this network takes images of 5 x 5 pixels with their margin and more, got {tuple(shape)}")
    residuals = {f"block{i}": Residual(BatchNorm(channels), Conv2d(channels, channels, 3, padding=1, rng=rng))
                 for i in range(blocks)}
    return Sequential(
        images=Images(*shape), stem=Block(shape[2], channels, 3, padding=1 + margin, rng=rng), **residuals,
        pool=AvgPool(5), flatten=Flatten(), drop0=Dropout(drop), fc0=Linear(size[0] * size[1] * channels, hidden, rng=rng),
        act=Activation(), drop1=Dropout(drop), fc=Linear(hidden, classes, rng=rng))
