"""Low-precision batch-normalized activations (Graham, arXiv:1702.08231)."""

from bitnet.layers import BatchNorm, LowPrecisionBatchNorm
from bitnet.methods.base import Method


class Graham(Method):
    """Activations quantized in the middle of batch norm (arXiv:1702.08231)."""

    name, title, paper = "graham", "Low-precision batch-normalized activations", "1702.08231"
    own_bits, free = (32, 2, 32), "A"
    note = "a layer's input takes 2**A values a channel, but no common codes: products run in float"

    def activation(self):
        return None

    def norm(self, channels):
        return BatchNorm(channels) if self.bits[1] == 32 else LowPrecisionBatchNorm(channels, self.bits[1])
