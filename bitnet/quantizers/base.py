"""What every quantizer is."""

from numbers import Integral

import numpy as np

from bitnet import random
from bitnet.codes import Codes
from bitnet.module import Module, Parameter, Signal
from bitnet.settings import Setting
from bitnet.tensor import Function, as_tensor


class Quantizer(Module):
    """Turns real numbers into codes of ``bits`` bits, 1 to 8; ValueError for others.

    Subclasses define ``encode_and_save(array) -> (Codes, saved)`` and, where gradients pass neither straight through nor
    under a mask, ``grad(saved, grad_output)``. Where a layer takes a quantizer, ``None`` means full precision. The numbers of a
    few methods have no codes, always or for a while; their quantizers return a float array, and the next layer runs in float.

    A quantizer is a module: it owns what it learns (``scales``), and draws at random in training only.

    Attributes
    ----------
    one_scale : is a weight always codes, of a single scale? Otherwise the layer's block is not fused
    scales : Parameter that ``encode_and_save`` gets beside the array, or None
    rounds_unit, rounds_samples : does it round activations, or gradients, just as fused blocks do, see ``quantizers.dorefa``
    """

    one_scale = True
    scales = None
    rounds_unit = rounds_samples = False

    def __init__(self, bits):
        if not isinstance(bits, Integral) or not 1 <= bits <= 8:
            raise ValueError(f"a quantizer has 1 to 8 bits, got {bits!r} (32 bits, full precision, is no quantizer at all)")
        self.bits = bits

    @property
    def top(self):
        """The largest code, n = 2**bits - 1."""
        return (1 << self.bits) - 1

    def encode(self, array):
        """Codes of an array."""
        return self.encode_and_save(array)[0]

    def encode_and_save(self, array) -> tuple[Codes, object]:
        """Codes of an array, and what ``grad`` gets as ``saved``."""
        raise NotImplementedError

    def grad(self, saved, grad_output):
        """Gradient with respect to the real input, from the one with respect to the quantized output.

        Here: straight through where ``saved`` is None; else times ``saved``, the mask of where it passes.
        """
        return grad_output if saved is None else grad_output * saved

    def parameter(self, data):
        """The kind of Parameter that a weight it quantizes is, from real weights: an array."""
        return Parameter(data)

    def __call__(self, x):
        """Quantize a tensor; the result holds codes."""
        return Quantize.apply(as_tensor(x), *[] if self.scales is None else [self.scales], quantizer=self)

    def flow(self, signal, visit):
        with random.preserved():
            codes = self.encode_and_save(np.zeros(1, np.float32), *[] if self.scales is None else [self.scales.data])[0]
        return Signal(signal.shape, codes.width, codes.encoding) if isinstance(codes, Codes) else signal.real()

    def __repr__(self):
        return f"{type(self).__name__}({self.about()})"


class Quantize(Function):
    """A quantizer in the graph."""

    def forward(self, x, *scales, quantizer):
        self.quantizer = quantizer
        codes, self.saved = quantizer.encode_and_save(x, *scales)
        observer = _observer.get()
        if observer is not None:
            observer(quantizer, codes, self.saved)
        return codes

    def backward(self, grad_output):
        return self.quantizer.grad(self.saved, grad_output)


_observer = Setting("observer")


def observe(observer):
    """Inside ``with``, call ``observer(quantizer, codes, saved)`` for every quantizer that runs forward in a graph."""
    return _observer.set_to(observer)
