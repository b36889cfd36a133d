"""The small network of chapters 7 and 8."""

import numpy as np

from bitnet import functional
from bitnet.layers import Activation, BatchNorm, Conv2d, Flatten, Linear, MaxPool, Module, conv_block, first_block
from bitnet.models import quantizer
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight


class Small(Module):
    def __init__(self, bits=(1, 2, 4), width=32, seed=0):
        w, a, g = bits
        rng, wide = np.random.default_rng(seed), 2 * width
        options = {"weight_quantizer": quantizer(DoReFaWeight, w), "grad_quantizer": quantizer(DoReFaGradient, g), "rng": rng}
        self.conv0, self.pool0 = Conv2d(3, width, 5, bias=True, rng=rng), MaxPool(2)
        self.act0, self.act1 = Activation(quantizer(DoReFaActivation, a)), Activation(quantizer(DoReFaActivation, a))
        self.conv1, self.bn1, self.pool1 = Conv2d(width, wide, 3, padding="same", **options), BatchNorm(wide), MaxPool(2)
        self.conv2, self.bn2, self.pool2 = Conv2d(wide, wide, 3, **options), BatchNorm(wide), MaxPool(2)
        self.flatten, self.fc = Flatten(), Linear(3 * 3 * wide, 10, rng=rng)
        self.last = functional.relu if a == 32 else functional.clip  # not rounded: the last layer is float
        self.name_layers()

    def forward(self, x):
        x = first_block(x, self.conv0, self.act0, self.pool0)  # act0(pool0(conv0(x)))
        x = conv_block(x, self.conv1, self.bn1, self.act1, self.pool1)  # act1(pool1(bn1(conv1(x))))
        x = self.last(self.pool2(self.bn2(self.conv2(x))))
        return self.fc(self.flatten(x))
