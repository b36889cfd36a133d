"""Who computes a product: the choice of kernels, and the log of what was chosen.

A product runs on integers where both operands are codes, and then on the kernel family that ``use_kernels`` names, by default
on the one that ``dispatch`` measured to be the quickest. Where one operand is a real number (32 bits), it runs in float32, and
the log says so. In no other way do codes become floats.
"""

import copy
from contextlib import ContextDecorator
from dataclasses import dataclass
from functools import partial

import numpy as np

from bitnet import random
from bitnet.codes import Codes
from bitnet.execution import dispatch
from bitnet.kernels import products
from bitnet.kernels.machine import ahead
from bitnet.kernels.pointwise import norm
from bitnet.kernels.products import dense
from bitnet.settings import Setting
from bitnet.tensor import Function

FAMILIES = tuple(products.FAMILIES)

_family = Setting("kernels", "auto")
_log = Setting("log")
_scope = Setting("scope", ("", ""))  # layer and role
_watcher = Setting("watcher")


def use_kernels(family):
    """Run integer products inside ``with`` on one kernel family. Results are the same bits on each of them.

    Parameters
    ----------
    family : a name in FAMILIES, or "auto": the quickest for each product

    Raises
    ------
    ValueError : no such family.
    """
    if family != "auto" and family not in FAMILIES:
        raise ValueError(f"kernels must be auto or one of {', '.join(FAMILIES)}, got {family!r}")
    return _family.set_to(family)


@dataclass(frozen=True)
class Record:
    """One product that was executed.

    Attributes
    ----------
    layer : dotted name
    role : "forward", "input_grad" or "weight_grad": which of the layer's three products it is
    family : the kernel family, or "float32" where an operand is a real number
    bits : of the left operand (input or gradient) and of the right one (weight or input), 32 for a real number
    macs : multiply-accumulates of the product; note : what is unusual about it
    input_shape, output_shape : of the layer, batch included: (N, H, W, C)
    how : of an automatic choice, "measured" just then or "known" from earlier measurements; else ""
    """

    layer: str
    role: str
    family: str
    bits: tuple
    macs: int
    input_shape: tuple
    output_shape: tuple
    note: str = ""
    how: str = ""
    path = property(lambda self: self.role)  # its former name


def log():
    """Collect a Record of every product that is executed inside ``with``, in a list: ``with log() as records``."""
    return _log.set_to([])


def rehearse(model, step):
    """Compile what ``step(model)`` needs on all processors, before it is done; without this, one compiles as it comes along.

    Parameters
    ----------
    model : Module     # stays as it is: the step is done to a copy
    step : callable    # of a model; kernels do not run in it, so what it computes means nothing
    """
    with _log.set_to(None), _watcher.set_to(None), random.preserved(), np.errstate(all="ignore"):
        ahead.rehearse(lambda: step(copy.deepcopy(model)))


class _Scope(ContextDecorator):
    """What is done inside ``with`` belongs to a layer (None: the current one) and a role; the watcher is told on both ends."""

    def __init__(self, layer, role):
        self.layer, self.role = layer, role

    def _recreate_cm(self):  # as a decorator: a new one for each call
        return _Scope(self.layer, self.role)

    def __enter__(self):
        self.previous, self.watcher = _scope.get(), _watcher.get()
        scope = self.previous[0] if self.layer is None else self.layer, self.role
        _scope.put(scope)
        if self.watcher is not None:
            self.watcher(*scope)

    def __exit__(self, *exception):
        _scope.put(self.previous)
        if self.watcher is not None:
            self.watcher(*self.previous)


def layer(name):
    """Say that what is done inside ``with`` belongs to the layer of this name, or to another part of a program."""
    return _Scope(name, "")


def role(name):
    """Say that what is done inside ``with`` is the current layer's "forward", "input_grad" or "weight_grad" product."""
    return _Scope(None, name)


def watch(watcher):
    """Inside ``with``, call ``watcher(layer, role)`` whenever the layer or the role changes."""
    return _watcher.set_to(watcher)


def current_layer():
    """The name of the layer that is at work, as ``layer`` gave it; "" outside of all."""
    return _scope.get()[0]


Function.current_scope = staticmethod(lambda: partial(layer, current_layer()))  # backward runs in the layer of its forward
path = role  # its former name


def _bits(operand):
    return operand.width if isinstance(operand, Codes) else 32


def _record(role, family, lhs, rhs, conv, batch, size, note="", how=""):
    records = _log.get()
    if records is not None:
        output_shape = (batch, *conv.output_size(*size), conv.out_channels)
        records.append(Record(current_layer(), role, family, (_bits(lhs), _bits(rhs)), conv.macs(batch, *size),
                              (batch, *size, conv.in_channels), output_shape, note, how))


def _on_codes(role, lhs, rhs, conv, batch, size, run):
    """A product of codes by ``run(family)``, on the family in force or on the quickest, and its record."""
    family = _family.get()
    if family == "auto":
        product = dispatch.Product(role, conv, tuple(size), batch, (lhs.bits, lhs.encoding), (rhs.bits, rhs.encoding))
        result, choice = dispatch.choose(product, run, lambda: (lhs.packed.clear(), rhs.packed.clear()))
    else:
        result, choice = run(family), dispatch.Choice(family, "")
    _record(role, choice.family, lhs, rhs, conv, batch, size, how=choice.how)
    return result


def _are_codes(*operands):
    return all(isinstance(operand, Codes) for operand in operands)


def record_float(role, lhs, rhs, conv, size):
    """Log a product of real numbers, with inputs of ``size`` = (H, W), that a fused Function computes itself."""
    _record(role, "float32", lhs, rhs, conv, lhs.shape[0], size)


def _real(operand, dtype=np.float32):
    return operand.decode(dtype) if isinstance(operand, Codes) else operand


def _real_pair(lhs, rhs):
    """Both operands as real arrays of one type: that of the one that is not codes."""
    dtype = next((o.dtype for o in (lhs, rhs) if not isinstance(o, Codes)), np.float32)
    return (np.ascontiguousarray(_real(operand, dtype)) for operand in (lhs, rhs))


def _per_sample(scale, samples):
    return np.full(samples, scale, np.float32)


@role("forward")
def forward(x, w, conv, bias=None):
    """Convolution of an input (N, H, W, C) with a weight (kh, kw, C / groups, F), each a float array or Codes, plus a bias.

    Returns
    -------
    y : float array (N, OH, OW, F)
    """
    if not _are_codes(x, w):
        _record("forward", "float32", x, w, conv, x.shape[0], x.shape[1:3])
        return dense.forward(*_real_pair(x, w), conv, bias)
    y = sum_of(_forward_term(x, term, conv) for term in w.terms())
    return y if bias is None else y + bias


def _forward_term(x, w, conv):
    """The product of codes with one term of a weight, times their scales: float32 array."""
    scale = _per_sample(x.scale * (w.scale if w.one_scale else 1.0), x.shape[0])
    y = _on_codes("forward", x, w, conv, x.shape[0], x.shape[1:3], lambda family: products.forward(family, x, w, conv, scale))
    return y if w.one_scale else norm.channel_affine(y, w.scale, np.zeros_like(w.scale))


def sum_of(arrays):
    """The sum of arrays in their order."""
    total = None
    for array in arrays:
        total = array if total is None else total + array
    return total


@role("forward")
def forward_accum(x, w, conv):
    """``forward`` of two operands that are Codes, as integers (N, OH, OW, F), to be multiplied by both scales."""
    return _on_codes("forward", x, w, conv, x.shape[0], x.shape[1:3], lambda family: products.forward(family, x, w, conv))


@role("input_grad")
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
    return sum_of(_input_grad_term(g, term, conv, size) for term in w.terms())


def _input_grad_term(g, w, conv, size):
    if not w.one_scale:
        raise ValueError("a gradient of codes needs a weight with one scale, got one for each filter")
    scale = _per_sample(g.scale * w.scale, g.shape[0])
    return _on_codes("input_grad", g, w, conv, g.shape[0], size,
                     lambda family: products.input_grad(family, g, w, conv, size, scale))


@role("weight_grad")
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
        family = _family.get()
        family = "float" if family == "auto" else family
        _record("weight_grad", family, g, x, conv, batch, size,
                "1x1 output, nothing to count: float product of the scaled levels")
        return run(family)
    return _on_codes("weight_grad", g, x, conv, batch, size, run)
