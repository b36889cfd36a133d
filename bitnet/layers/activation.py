"""What stands between layers with weights: activations, limits, dropout."""

from bitnet import functional
from bitnet.checks import instance, number
from bitnet.module import Module, Signal
from bitnet.quantizers import Quantizer


class Activation(Module):
    """A quantizer of activations as a layer; ReLU where it is None. ValueError for another kind of object."""

    def __init__(self, quantizer=None):
        self.quantizer = instance("the quantizer of an activation", quantizer, Quantizer)

    def forward(self, x):
        return self.quantizer(x) if self.quantizer else functional.relu(x)

    def flow(self, signal, visit):
        return self.quantizer.trace(signal, visit) if self.quantizer else signal.real()

    def about(self):
        return "" if self.quantizer else "ReLU"


class Clip(Module):
    """Limits to [low, high], real numbers: DoReFa-Net's activation before a layer in float."""

    def __init__(self, low=0.0, high=1.0):
        self.low, self.high = (number("a bound of a clip", bound) for bound in (low, high))

    def forward(self, x):
        return functional.clip(x, self.low, self.high)

    def flow(self, signal, visit):
        return signal.real()


class Dropout(Module):
    """Dropout, in training only; codes that can be zero stay codes, and those of +-1 become ternary ones."""

    def __init__(self, drop=0.5):
        self.drop = number("the share to drop", drop, 0, 1)

    def forward(self, x):
        return functional.dropout(x, self.drop) if self.training and self.drop else x

    def flow(self, signal, visit):
        binary = self.training and self.drop and (signal.bits, signal.encoding) == (1, "bipolar")
        return Signal(signal.shape, 2, "ternary") if binary else signal
