"""The differentiable operations, each a Function with forward beside backward, and a plain function to call it by.

Images are (N, H, W, C), weights (kh, kw, C / groups, F).
"""

from bitnet.functional.conv import Conv2d, conv2d, convolution_of, linear, paddings, same_padding
from bitnet.functional.fused import ConvBlock, FirstBlock
from bitnet.functional.loss import (
    PixelCrossEntropy,
    SoftmaxCrossEntropy,
    SoftTargets,
    SquaredHinge,
    bitwise_disagreement,
    pixel_cross_entropy,
    soft_targets,
    softmax,
    softmax_cross_entropy,
    squared_hinge,
)
from bitnet.functional.norm import (
    BatchNorm,
    LowPrecisionBatchNorm,
    ShiftBatchNorm,
    batch_norm,
    batch_statistics,
    low_precision_batch_norm,
    shift_batch_norm,
    shift_statistics,
)
from bitnet.functional.pointwise import (
    Clip,
    Dropout,
    MeanMagnitude,
    ReLU,
    Tanh,
    ap2,
    clip,
    dropout,
    mean_magnitude,
    pair,
    relu,
    standard_constants,
    standardize,
    tanh,
)
from bitnet.functional.pool import AvgPool, MaxPool, avg_pool, max_pool, pooling
from bitnet.functional.resize import Bilinear, Nearest, upsample
from bitnet.tensor import as_tensor

__all__ = [
    "AvgPool", "BatchNorm", "Bilinear", "Clip", "Conv2d", "ConvBlock", "Dropout", "FirstBlock", "LowPrecisionBatchNorm",
    "MaxPool", "MeanMagnitude", "Nearest", "PixelCrossEntropy", "ReLU", "ShiftBatchNorm", "SoftTargets", "SoftmaxCrossEntropy",
    "SquaredHinge", "Tanh", "ap2", "as_tensor", "avg_pool", "batch_norm", "batch_statistics", "bitwise_disagreement", "clip",
    "conv2d", "convolution_of", "dropout", "linear", "low_precision_batch_norm", "max_pool", "mean_magnitude", "paddings",
    "pair", "pixel_cross_entropy", "pooling", "relu", "same_padding", "shift_batch_norm", "shift_statistics", "soft_targets",
    "softmax", "softmax_cross_entropy", "squared_hinge", "standard_constants", "standardize", "tanh", "upsample",
]  # fmt: skip
