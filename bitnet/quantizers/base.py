"""What every quantizer is."""

from contextlib import contextmanager
from numbers import Integral

from bitnet.codes import Codes
from bitnet.functional import as_tensor
from bitnet.tensor import Function


class Quantizer:
    """Turns real numbers into codes of ``bits`` bits.

    Subclasses define ``encode_and_save(array) -> (Codes, saved)`` and, where gradients pass neither straight through nor
    through a window, ``grad(saved, grad_output)``. ``None`` in the place of a quantizer means full precision. A few methods
    have levels that no code stands for, or none at all for a while; theirs return a float array, and what consumes it runs in
    float.

    Attributes
    ----------
    training : what is drawn at random is drawn in training only; modules switch it together with themselves
    one_scale : is a weight always codes, of a single scale? Otherwise the layer's block is not fused
    initial_scales : numbers that a layer learns beside its weight and hands to ``__call__``; None: there are none
    """

    training = True
    one_scale = True
    initial_scales = None

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
        """Codes of an array, and whatever ``grad`` will want to know."""
        raise NotImplementedError

    def grad(self, saved, grad_output):
        """Gradient with respect to the real input, from the one with respect to the quantized output.

        Here: the same, straight through, where ``saved`` is None; else times ``saved``, the window in which it passes.
        """
        return grad_output if saved is None else grad_output * saved

    def __call__(self, x, *scales):
        """Quantize a tensor, where the quantizer has learned scales with a tensor of these; the result holds codes."""
        return Quantize.apply(as_tensor(x), *scales, quantizer=self)

    def __repr__(self):
        return f"{type(self).__name__}({self.bits})"


class Quantize(Function):
    """A quantizer in the graph."""

    def forward(self, x, *scales, quantizer):
        self.quantizer = quantizer
        codes, self.saved = quantizer.encode_and_save(x, *scales)
        if _observer is not None:
            _observer(quantizer, codes, self.saved)
        return codes

    def backward(self, grad_output):
        return self.quantizer.grad(self.saved, grad_output)


_observer = None


@contextmanager
def observe(observer):
    """Inside the block, call ``observer(quantizer, codes, saved)`` for every quantizer that runs forward in a graph."""
    global _observer
    previous, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = previous
