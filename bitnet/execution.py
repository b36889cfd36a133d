"""Who computes a product: the choice of kernels, and the log of what was chosen.

A product runs on integers where both operands are codes, and then on the kernel family that ``use_kernels`` names. Where one
operand is a real number (32 bits), it runs in float32, and the log says so. No other path leads from codes to floats.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from bitnet.codes import Codes
from bitnet.kernels import dense, elementwise, products, vectors

FAMILIES = tuple(products.FAMILIES)

# A popcount takes a step for every pair of bit planes, a dot product of bytes one for all of them. "auto" takes popcount up to
# so many pairs, and the byte kernels above where the machine multiplies bytes in one instruction.
AUTO_PLANES = 2 if vectors.target_multiplies_bytes() else 12

_family = "auto"
_log = None
_layer = ""


@contextmanager
def use_kernels(family):
    """Run integer products on one kernel family inside the block: "auto" or a name in FAMILIES.

    Results are bit-identical whichever it is.

    Raises
    ------
    ValueError : no such family.
    """
    global _family
    if family != "auto" and family not in FAMILIES:
        raise ValueError(f"kernels must be auto or one of {', '.join(FAMILIES)}, got {family!r}")
    previous, _family = _family, family
    try:
        yield
    finally:
        _family = previous


@dataclass(frozen=True)
class Record:
    """One product that was executed.

    family : the kernel family, or "float32" where an operand is a real number
    bits : of the left operand (input or gradient) and of the right one (weight or input), 32 for a real number
    macs : multiply-accumulates of the product; note : what is unusual about it
    """

    layer: str
    path: str
    family: str
    bits: tuple
    macs: int
    input_shape: tuple
    output_shape: tuple
    note: str = ""


@contextmanager
def log():
    """Collect a Record of every product executed inside the block, in a list."""
    global _log
    previous, _log = _log, []
    try:
        yield _log
    finally:
        _log = previous


@contextmanager
def layer(name):
    """Give the products inside the block the name of a layer."""
    global _layer
    previous, _layer = _layer, name
    try:
        yield
    finally:
        _layer = previous


def current_layer():
    """The name that ``layer`` gave."""
    return _layer


def _bits(operand):
    return operand.bits if isinstance(operand, Codes) else 32


def _choose(lhs, rhs):
    """The family of a product of two operands; "float32" where one of them is a real number."""
    if not (isinstance(lhs, Codes) and isinstance(rhs, Codes)):
        return "float32"
    if _family != "auto":
        return _family
    return "popcount" if lhs.bits * rhs.bits <= AUTO_PLANES else "byte_dot"


def _record(path, family, lhs, rhs, conv, batch, size, note=""):
    if _log is not None:
        output_shape = (batch, *conv.output_size(*size), conv.out_channels)
        _log.append(Record(_layer, path, family, (_bits(lhs), _bits(rhs)), conv.macs(batch, *size),
                           (batch, *size, conv.in_channels), output_shape, note))


def record_float(path, lhs, rhs, conv, size):
    """Log a product of real numbers, with inputs of ``size`` = (H, W), that a fused Function computes itself."""
    _record(path, "float32", lhs, rhs, conv, lhs.shape[0], size)


def _real(operand, dtype=np.float32):
    return operand.decode(dtype) if isinstance(operand, Codes) else operand


def _real_pair(lhs, rhs):
    """Both operands as real arrays of one type: that of the one that is not codes."""
    dtype = next((o.dtype for o in (lhs, rhs) if not isinstance(o, Codes)), np.float32)
    return (np.ascontiguousarray(_real(operand, dtype)) for operand in (lhs, rhs))


def _per_sample(scale, samples):
    return np.broadcast_to(np.asarray(scale, np.float64), (samples,))


def forward(x, w, conv, bias=None):
    """Convolution of an input (N, H, W, C) with a weight (kh, kw, C / groups, F), each a float array or Codes, plus a bias.

    Returns
    -------
    y : float array (N, OH, OW, F)
    """
    if isinstance(x, Codes) and isinstance(w, Codes):
        y = elementwise.scale_samples(forward_accum(x, w, conv), _per_sample(x.scale * w.scale, x.shape[0]))
        return y if bias is None else y + bias
    _record("forward", "float32", x, w, conv, x.shape[0], x.shape[1:3])
    return dense.forward(*_real_pair(x, w), conv, bias)


def forward_accum(x, w, conv):
    """``forward`` of two operands that are Codes, as integers (N, OH, OW, F), to be multiplied by both scales."""
    family = _choose(x, w)
    _record("forward", family, x, w, conv, x.shape[0], x.shape[1:3])
    return products.forward(family, x, w, conv)


def input_grad(g, w, conv, size):
    """Gradient with respect to an input of ``size`` = (H, W), of a gradient (N, OH, OW, F) and a weight.

    Returns
    -------
    grad : float array (N, H, W, C)
    """
    family = _choose(g, w)
    _record("input_grad", family, g, w, conv, g.shape[0], size)
    if family == "float32":
        return dense.input_grad(*_real_pair(g, w), conv, size)
    return products.input_grad(family, g, w, conv, size, _per_sample(g.scale * w.scale, g.shape[0]))


def weight_grad(g, x, conv):
    """Gradient with respect to the weight, of a gradient (N, OH, OW, F) and an input (N, H, W, C).

    Returns
    -------
    grad : float array (kh, kw, C / groups, F)
    """
    family = _choose(g, x)
    on_pixels = family != "float32" and products.runs_on_pixels(conv, x.shape[1:3])
    _record("weight_grad", family, g, x, conv, x.shape[0], x.shape[1:3],
            "1x1 output, nothing to count: float product of the scaled levels" if on_pixels else "")
    if family == "float32":
        return dense.weight_grad(*_real_pair(g, x), conv)
    return products.weight_grad(family, g, x, conv, _per_sample(g.scale * x.scale, g.shape[0]))
