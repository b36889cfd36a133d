"""Who computes a product: the choice of kernels, and the log of what was chosen.

A product runs on integers where both operands are codes, and then on the kernel family that ``use_kernels`` names, by default
on the one that ``dispatch`` measured to be the quickest. Where one operand is a real number (32 bits), it runs in float32, and
the log says so. No other path leads from codes to floats.
"""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from bitnet import dispatch
from bitnet.codes import Codes
from bitnet.kernels import products
from bitnet.kernels.pointwise import norm
from bitnet.kernels.products import dense

FAMILIES = tuple(products.FAMILIES)

_family = "auto"
_log = None
_layer = _path = ""
_watcher = None


@contextmanager
def use_kernels(family):
    """Run integer products on one kernel family inside the block: a name in FAMILIES, or "auto" for the quickest of each.

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
    how : of an automatic choice, "measured" just then or "known" from earlier measurements; else ""
    """

    layer: str
    path: str
    family: str
    bits: tuple
    macs: int
    input_shape: tuple
    output_shape: tuple
    note: str = ""
    how: str = ""


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
    """Give the products and all other work inside the block the name of a layer, or of another part of a program."""
    previous = _layer, _path
    _move(name, "")
    try:
        yield
    finally:
        _move(*previous)


@contextmanager
def path(name):
    """Say that the work inside the block belongs to a product of the current layer: "forward", "input_grad", "weight_grad"."""
    previous = _path
    _move(_layer, name)
    try:
        yield
    finally:
        _move(_layer, previous)


def _move(layer, path):
    global _layer, _path
    if _watcher is not None:
        _watcher(layer, path)
    _layer, _path = layer, path


@contextmanager
def watch(watcher):
    """Call ``watcher(layer, path)`` whenever the work inside the block comes to another layer or path."""
    global _watcher
    previous, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = previous


def current_layer():
    """The name that ``layer`` gave."""
    return _layer


def _bits(operand):
    return operand.bits if isinstance(operand, Codes) else 32


def _record(path, family, lhs, rhs, conv, batch, size, note="", how=""):
    if _log is not None:
        output_shape = (batch, *conv.output_size(*size), conv.out_channels)
        _log.append(Record(_layer, path, family, (_bits(lhs), _bits(rhs)), conv.macs(batch, *size),
                           (batch, *size, conv.in_channels), output_shape, note, how))


def _on_codes(path, lhs, rhs, conv, batch, size, run):
    """A product of codes by ``run(family)``, on the family in force or on the quickest, and its record."""
    if _family == "auto":
        product = dispatch.Product(path, conv, tuple(size), batch, (lhs.bits, lhs.encoding), (rhs.bits, rhs.encoding))
        result, choice = dispatch.choose(product, run, lambda: (lhs.packed.clear(), rhs.packed.clear()))
    else:
        result, choice = run(_family), dispatch.Choice(_family, "")
    _record(path, choice.family, lhs, rhs, conv, batch, size, how=choice.how)
    return result


def _are_codes(*operands):
    return all(isinstance(operand, Codes) for operand in operands)


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


def one_scale(w):
    """Has a weight a single scale for all its levels?"""
    return np.ndim(w.scale) == 0


def _signs(w):
    """A ternary weight whose positive and negative levels have scales p and n, as two that have one scale each.

    p for +1 and -n for -1 is (p + n) / 2 times the level plus (p - n) / 2 times its magnitude.
    """
    positive, negative = map(float, w.scale)
    magnitudes = w.with_values((w.values != 1).astype(np.uint8) + np.uint8(1), scale=(positive - negative) / 2)
    return replace(w, scale=(positive + negative) / 2), magnitudes


@path("forward")
def forward(x, w, conv, bias=None):
    """Convolution of an input (N, H, W, C) with a weight (kh, kw, C / groups, F), each a float array or Codes, plus a bias.

    Returns
    -------
    y : float array (N, OH, OW, F)
    """
    if _are_codes(x, w):
        if not one_scale(w) and w.per == "sign":
            levels, magnitudes = _signs(w)
            y = forward(x, levels, conv) + forward(x, magnitudes, conv)
        else:
            scale = _per_sample(x.scale * (w.scale if one_scale(w) else 1.0), x.shape[0])
            y = _on_codes("forward", x, w, conv, x.shape[0], x.shape[1:3],
                          lambda family: products.forward(family, x, w, conv, scale))
            if not one_scale(w):
                y = norm.channel_affine(y, w.scale, np.zeros_like(w.scale))
        return y if bias is None else y + bias
    _record("forward", "float32", x, w, conv, x.shape[0], x.shape[1:3])
    return dense.forward(*_real_pair(x, w), conv, bias)


@path("forward")
def forward_accum(x, w, conv):
    """``forward`` of two operands that are Codes, as integers (N, OH, OW, F), to be multiplied by both scales."""
    return _on_codes("forward", x, w, conv, x.shape[0], x.shape[1:3], lambda family: products.forward(family, x, w, conv))


@path("input_grad")
def input_grad(g, w, conv, size):
    """Gradient with respect to an input of ``size`` = (H, W), of a gradient (N, OH, OW, F) and a weight.

    Returns
    -------
    grad : float array (N, H, W, C)

    Raises
    ------
    ValueError : two operands that are Codes, and a scale for each filter: the sum runs over filters, so their scales belong
        into the gradient before it is quantized, see ``functional.Conv2d``.
    """
    if not _are_codes(g, w):
        _record("input_grad", "float32", g, w, conv, g.shape[0], size)
        return dense.input_grad(*_real_pair(g, w), conv, size)
    if not one_scale(w):
        if w.per == "filter":
            raise ValueError("a gradient of codes needs a weight with one scale, got one for each filter")
        levels, magnitudes = _signs(w)
        return input_grad(g, levels, conv, size) + input_grad(g, magnitudes, conv, size)
    scale = _per_sample(g.scale * w.scale, g.shape[0])
    return _on_codes("input_grad", g, w, conv, g.shape[0], size,
                     lambda family: products.input_grad(family, g, w, conv, size, scale))


@path("weight_grad")
def weight_grad(g, x, conv):
    """Gradient with respect to the weight, of a gradient (N, OH, OW, F) and an input (N, H, W, C).

    Returns
    -------
    grad : float array (kh, kw, C / groups, F)
    """
    batch, size = x.shape[0], x.shape[1:3]
    if not _are_codes(g, x):
        _record("weight_grad", "float32", g, x, conv, batch, size)
        return dense.weight_grad(*_real_pair(g, x), conv)
    scale = _per_sample(g.scale * x.scale, batch)

    def run(family):
        return products.weight_grad(family, g, x, conv, scale)

    if products.runs_on_pixels(conv, size):  # the same whatever the family
        family = "float" if _family == "auto" else _family
        _record("weight_grad", family, g, x, conv, batch, size,
                "1x1 output, nothing to count: float product of the scaled levels")
        return run(family)
    return _on_codes("weight_grad", g, x, conv, batch, size, run)
