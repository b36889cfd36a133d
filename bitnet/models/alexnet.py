"""The AlexNet of DoReFa-Net for ImageNet, as its authors published it (tensorpack, examples/DoReFa-Net/alexnet-dorefa.py)."""

import numpy as np

from bitnet.layers import (
    Activation,
    BatchNorm,
    Block,
    Conv2d,
    Flatten,
    Images,
    Linear,
    MaxPool,
    Sequential,
    Standardize,
)
from bitnet.networks import network

# of ImageNet's pixels, in the order B, G, R
MEAN, STD = (255 * 0.406, 255 * 0.456, 255 * 0.485), (255 * 0.225, 255 * 0.224, 255 * 0.229)
DECAY = 5e-6  # of the weights of fully connected layers


@network("alexnet")
def alexnet(classes=1000, size=224, seed=0):
    """The network in float; ``DoReFa(W, A, G).apply`` gives it in bits: all layers but the first and the last.

    Five convolutions, two of 2 groups, and three fully connected layers, the first of them a convolution that covers its image.
    There is no local response normalization and no dropout; batch norm instead. fc0 has a bias beside its batch norm, as in the
    authors' program. 224 x 224 images, 1,000 classes: 60.9 million weights, 1.94 thousand million multiply-accumulates. Images
    are taken as RGB, and pass as BGR, minus the mean and divided by the deviation of ImageNet.

    Parameters
    ----------
    classes : number of outputs
    size : side of the images, in pixels, at least 44; the authors' are 224
    seed : of the initial weights (normal, variance 2 / fan-in)

    Raises
    ------
    ValueError : smaller images.
    """
    side = (((size - 12) // 4 + 1 + 3) // 4 - 3) // 2 + 1  # two poolings halve and round up
    if side < 1:
        raise ValueError(f"the AlexNet takes images of 44 x 44 pixels and more, got {size} x {size}")
    rng = np.random.default_rng(seed)

    def dense(inputs, kernel_size, bias):
        conv = Conv2d(inputs, 4096, kernel_size, bias=bias, weight_decay=DECAY, rng=rng)
        return Block.of("conv norm pool act", conv, BatchNorm(4096), Activation())

    return Sequential(  # results of 224 x 224 pixels:
        images=Images(size, size, 3),
        pixels=Standardize(MEAN, STD, order=(2, 1, 0)),
        conv0=Block(3, 96, 12, stride=4, norm=False, rng=rng),                                   # 54 x 54
        conv1=Block(96, 256, 5, padding="same", groups=2, pool=MaxPool(3, 2, "same"), rng=rng),  # 27 x 27
        conv2=Block(256, 384, 3, padding="same", pool=MaxPool(3, 2, "same"), rng=rng),           # 14 x 14
        conv3=Block(384, 384, 3, padding="same", groups=2, rng=rng),                             # 14 x 14
        conv4=Block(384, 256, 3, padding="same", groups=2, pool=MaxPool(3, 2), rng=rng),         # 6 x 6
        fc0=dense(256, side, bias=True),                                                         # 1 x 1
        fc1=dense(4096, 1, bias=False),
        flatten=Flatten(),
        fct=Linear(4096, classes, weight_decay=DECAY, rng=rng))
