"""The modules that networks are made of, by kind; ``Block`` joins them and fuses what it can."""

from bitnet.layers.activation import Activation, Clip, Dropout
from bitnet.layers.bitwise import BitwiseLinear
from bitnet.layers.block import Block, unfused
from bitnet.layers.lbc import AnchorConv2d
from bitnet.layers.norm import BatchNorm, LowPrecisionBatchNorm, ShiftBatchNorm
from bitnet.layers.shape import AvgPool, Flatten, Images, Lambda, MaxPool, Reshape, Standardize, Upsample
from bitnet.layers.weighted import Conv2d, Linear, Weighted, glorot_uniform, he_normal
from bitnet.layers.xnor import XNORConv2d
from bitnet.module import Module, Parameter, Residual, Sequential, preserved
from bitnet.quantizers.gxnor import DiscreteParameter

__all__ = [
    "Activation", "AnchorConv2d", "AvgPool", "BatchNorm", "BitwiseLinear", "Block", "Clip", "Conv2d", "DiscreteParameter",
    "Dropout", "Flatten", "Images", "Lambda", "Linear", "LowPrecisionBatchNorm", "MaxPool", "Module", "Parameter", "Reshape",
    "Residual", "Sequential", "ShiftBatchNorm", "Standardize", "Upsample", "Weighted", "XNORConv2d", "glorot_uniform",
    "he_normal", "preserved", "unfused",
]  # fmt: skip
