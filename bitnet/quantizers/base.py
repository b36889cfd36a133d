"""What every quantizer is."""

from bitnet.codes import Codes
from bitnet.functional import as_tensor
from bitnet.tensor import Function


class Quantizer:
    """Turns real numbers into codes of ``bits`` bits.

    Subclasses define ``encode(array) -> Codes`` and, where gradients flow through it, ``grad(array, saved, grad_output)``.
    ``None`` in the place of a quantizer means full precision.
    """

    def __init__(self, bits):
        if bits not in range(1, 9):
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
        """Codes of an array, and whatever ``grad`` will want to know."""
        raise NotImplementedError

    def grad(self, saved, grad_output):
        """Gradient with respect to the real input, from the one with respect to the quantized output."""
        raise NotImplementedError

    def __call__(self, x):
        """Quantize a tensor; the result holds codes."""
        return Quantize.apply(as_tensor(x), quantizer=self)

    def __repr__(self):
        return f"{type(self).__name__}({self.bits})"


class Quantize(Function):
    """A quantizer in the graph."""

    def forward(self, x, quantizer):
        self.quantizer = quantizer
        codes, self.saved = quantizer.encode_and_save(x)
        return codes

    def backward(self, grad_output):
        return self.quantizer.grad(self.saved, grad_output)
