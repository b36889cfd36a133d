"""The ResNet-18 of DoReFa-Net for ImageNet, as its authors published it (tensorpack, examples/DoReFa-Net/resnet-dorefa.py)."""

import numpy as np

from bitnet.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Block,
    Conv2d,
    Flatten,
    Images,
    Linear,
    MaxPool,
    Residual,
    Sequential,
    Standardize,
)
from bitnet.networks import network


@network("resnet18")
def resnet18(classes=1000, size=224, seed=0):
    """The network in float; ``DoReFa(1, 4, 32).apply`` gives it in its authors' bits: all layers but the first and the last.

    Batch norm and activation stand before the convolutions, none after the sums. Where a stage begins, images are averaged by
    twos and not convolved with a stride, and the shortcut is a convolution of one pixel of the activated codes; the first block
    has such a one, too. conv1 has neither batch norm nor activation. What enters ``fct`` is the sum over all pixels, not their
    mean. 224 x 224 images, 1,000 classes: 11.7 million weights, about 1.8 thousand million multiply-accumulates. Images are
    taken as RGB, and pass as BGR, pixel / 256.

    Parameters
    ----------
    classes : number of outputs
    size : side of the images, in pixels, at least 30; the authors' are 224
    seed : of the initial weights (normal, variance 2 / fan-in)

    Raises
    ------
    ValueError : images of less than 30 pixels a side.
    """
    side = ((size + 5 - 7) // 2 + 1 + 2 - 3) // 2 + 1
    if side < 8:
        raise ValueError(f"the ResNet-18 takes images of 30 x 30 pixels and more, got {size} x {size}")
    rng = np.random.default_rng(seed)
    blocks, inputs = {}, 64
    for stage, channels in enumerate((64, 128, 256, 512), 2):
        for which in (1, 2):
            blocks[f"conv{stage}blk{which}"] = _block(inputs, channels, which == 1, 2 if which == 1 and stage > 2 else 1, rng)
            inputs = channels
    return Sequential(
        images=Images(size, size, 3),
        pixels=Standardize(order=(2, 1, 0)),
        conv1=Conv2d(3, 64, 7, stride=2, padding=((3, 2), (3, 2)), bias=True, rng=rng),  # 112 x 112
        pool=MaxPool(3, 2, 1),                                                            # 56 x 56
        **blocks,                                                                         # 56, 28, 14, 7
        lastbn=BatchNorm(512), act=Activation(),
        sum=AvgPool(side // 8, total=True), flatten=Flatten(),
        fct=Linear(512, classes, rng=rng))


def _block(inputs, channels, first, stride, rng):
    """bn, act, c3x3a (with stembn and its activation), c3x3b, plus the block's input or, of a stage's first, a shortcut."""
    start = {"bn": BatchNorm(inputs), "act": Activation()}
    stem = {"c3x3a": Block(inputs, channels, 3, padding="same", rng=rng),
            "c3x3b": Conv2d(channels, channels, 3, padding="same", rng=rng)}
    if not first:
        return Residual(**start, **stem)
    pool = {"pool": AvgPool(stride)} if stride > 1 else {}
    return Sequential(**pool, **start, stem=Residual(**stem, shortcut=Conv2d(inputs, channels, 1, rng=rng)))
