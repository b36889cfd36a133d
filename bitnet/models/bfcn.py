"""A fully convolutional network on residual blocks, with reconstruction by residual blocks, after BFCN (arXiv:1612.00212).

Of the paper only the abstract and the first page were at hand: that low-bit feature maps of several strides are summed in the
way back to the size of the image, and that a residual block stands where other networks have one convolution for that. Depths,
widths and the order inside a block are this project's reading, for small images.
"""

import numpy as np

from bitnet.layers import Activation, AvgPool, BatchNorm, Block, Conv2d, Images, Residual, Sequential, Upsample
from bitnet.networks import network


@network("bfcn")
def bfcn(shape=(96, 128, 3), classes=11, widths=(32, 64, 128, 256), blocks=2, features=32, seed=0):
    """A class for each pixel: images (N, H, W, C) to logits (N, H, W, classes).

        images -> stem, 1/2 -> stage 0, 1/2 -> stage 1, 1/4 -> stage 2, 1/8 -> ... the last, coarsest stage
                                                   |               |                 |
                                              reconstruct     reconstruct       reconstruct
                                                   v               v                 |
                  logits <- x4 <- score <- act <-  +  <- x2 act <- + ... <- x2 act <-

    A sum of two maps of k-bit codes has more than k bits: it passes batch norm and activation before it goes on as codes, each
    of which is repeated in a square (x2). The logits, in float, are made four times as large bilinearly.

    Parameters
    ----------
    shape : (H, W, C) of the images, H and W multiples of the coarsest stride, 16 with four stages
    classes : number of classes
    widths : channels of the stages, two and more; the stem has those of the first
    blocks : residual blocks of a stage
    features : channels of the maps that are summed
    seed : of the initial weights

    Raises
    ------
    ValueError : another shape, or less than two stages.
    """
    stride = 2 ** len(widths)
    if len(shape) != 3 or shape[0] % stride or shape[1] % stride or len(widths) < 2:
        raise ValueError(f"a BFCN of {len(widths)} stages, two and more, takes images (H, W, C) with multiples of {stride} as "
                         f"height and width, got shape {tuple(shape)}")
    rng = np.random.default_rng(seed)
    stages, inputs = [], widths[0]
    for number, channels in enumerate(widths):
        parts = {f"block{i}": _block(inputs if i == 0 else channels, channels, rng, 2 if number and i == 0 else 1,
                                     enters=number > 0 or i > 0) for i in range(blocks)}
        stages.append(Sequential(**parts))
        inputs = channels

    def reconstruction(number):
        """What the stages from this one on say, in its size."""
        own = _block(widths[number], features, rng)
        if number == len(widths) - 1:
            return own
        return Residual(stage=stages[number + 1], deeper=reconstruction(number + 1), norm=BatchNorm(features), act=Activation(),
                        up=Upsample(2), shortcut=own)

    return Sequential(
        images=Images(*shape),
        stem=Block(shape[2], widths[0], 3, stride=2, padding="same", rng=rng),
        stage0=stages[0], stage1=stages[1],
        reconstruct=reconstruction(1), norm=BatchNorm(features), act=Activation(),
        score=Conv2d(features, classes, 1, bias=True, rng=rng),
        enlarge=Upsample(4, smooth=True))


def _block(inputs, channels, rng, stride=1, enters=True):
    """Batch norm, activation and two convolutions, plus the input; where size or channels change, plus a convolution of one
    pixel of the activated input. Images become smaller by averages. Where codes enter (``enters`` false) nothing stands before.
    """
    start = {"norm": BatchNorm(inputs), "act": Activation()} if enters else {}
    stem = {"conv0": Block(inputs, channels, 3, padding="same", rng=rng),
            "conv1": Conv2d(channels, channels, 3, padding="same", rng=rng)}
    if enters and stride == 1 and inputs == channels:
        return Residual(**start, **stem)
    pool = {"pool": AvgPool(stride)} if stride > 1 else {}
    return Sequential(**pool, **start, convs=Residual(**stem, shortcut=Conv2d(inputs, channels, 1, rng=rng)))
