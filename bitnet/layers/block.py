"""Blocks: a layer with weights and what surrounds it, one fused Function where their arithmetic allows it."""

import numpy as np

from bitnet import functional
from bitnet.checks import instance
from bitnet.kernels.products import direct
from bitnet.layers.activation import Activation, Dropout
from bitnet.layers.norm import BatchNorm
from bitnet.layers.shape import MaxPool
from bitnet.layers.weighted import Conv2d
from bitnet.module import Module, structure
from bitnet.settings import Setting
from bitnet.tensor import is_recording

PARTS = ("conv", "norm", "act", "pool", "drop")

_fusing = Setting("fusing", True)


def unfused():
    """Inside ``with``, blocks run layer by layer: the same codes, slower, and every layer's output can be seen."""
    return _fusing.set_to(False)


class Block(Module):
    """A convolution with batch norm, pooling and activation, in any order.

    Where its arithmetic allows that, it runs as one fused Function, with the same bits as its parts one after the other.
    ``repr`` tells whether it does, and if not, why. The question is asked again whenever a part anywhere was replaced.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, groups : see ``Conv2d``
    pool : size of a max pooling, or a ``MaxPool``, or None
    norm : with batch norm; without one the convolution has a bias
    drop : share of the outputs that a dropout zeroes in training, in [0, 1)
    order : "conv", "norm", "pool" and "act", each once, separated by spaces: in which order they run
    rng : see ``Conv2d``

    Attributes
    ----------
    conv, norm, act, pool, drop : modules, or None where there is none. conv may also be a ``Linear``

    Raises
    ------
    ValueError : another order, or sizes that a convolution or a pooling cannot have.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, groups=1, *, pool=None, norm=True, drop=0.0,
                 order="conv norm pool act", rng=None):
        conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups, bias=not norm, rng=rng)
        if not isinstance(pool, Module):
            pool = MaxPool(pool) if pool and pool > 1 else None
        self._assemble(order, conv, BatchNorm(out_channels) if norm else None, Activation(), pool,
                       Dropout(drop) if drop else None)

    def _assemble(self, order, conv, norm, act, pool, drop):
        self.conv, self.norm, self.act, self.pool, self.drop, self._decided = conv, norm, act, pool, drop, None
        self.order = order

    @classmethod
    def rebuild(cls, order, conv, norm=None, act=None, pool=None, drop=None):
        for module in (conv, norm, act, pool, drop):
            instance("a part of a block", module, Module)
        made = cls.__new__(cls)
        made._assemble(order, conv, norm, act, pool, drop)
        return made

    of = rebuild

    def options(self):
        return {"order": self.order} | {part: getattr(self, part) for part in PARTS}

    @property
    def order(self):
        """Of "conv", "norm", "pool" and "act", separated by spaces; what is None is left out. Dropout comes last."""
        return self._order

    @order.setter
    def order(self, order):
        if sorted(order.split()) != ["act", "conv", "norm", "pool"]:
            raise ValueError(f'the order of a block names "conv", "norm", "pool" and "act" once each, got {order!r}')
        self._order, self._decided = order, None

    def parts(self):
        """The modules in the order in which they run, without dropout."""
        return [getattr(self, part) for part in self.order.split() if getattr(self, part) is not None]

    def name_layers(self, prefix="", outermost=None):
        super().name_layers(prefix, outermost)
        self.conv.name = prefix  # a block goes by its name in logs and tables, and its products are the convolution's
        return self

    # Fused or not

    @property
    def fused(self):
        """"codes": one Function on codes; "first": one on real images; "" where it runs layer by layer."""
        return self._decision()[0]

    @property
    def reason(self):
        """Why it runs layer by layer; "" where it is fused."""
        return self._decision()[1]

    def _decision(self):
        if self._decided is None or self._decided[0] != structure():
            self._decided = structure(), self._decide()
        return self._decided[1]

    def _decide(self):
        conv, norm, act, pool = self.conv, self.norm, self.act, self.pool
        if not isinstance(conv, Conv2d) or type(conv).forward != Conv2d.forward:
            return "", f"{type(conv).__name__} is computed by itself"
        if not (isinstance(act, Activation) and act.quantizer and act.quantizer.rounds_unit):
            return "", "the activation is not rounded as DoReFa-Net's are"
        if pool and not getattr(pool, "side_by_side", False):
            return "", "pooling windows overlap or are too large"
        order = [part for part in self.order.split() if getattr(self, part) is not None]
        if not (conv.weight_quantizer or conv.input_quantizer or conv.grad_quantizer or norm):
            known = order in (["conv", "pool", "act"], ["conv", "act"])
            return ("first", "") if known else ("", f"the order is {' '.join(order)}")
        conditions = (
            (order in (["conv", "norm", "pool", "act"], ["conv", "norm", "act"]), f"the order is {' '.join(order)}"),
            (norm and getattr(norm, "is_affine", False), "there is no plain batch norm"),
            (conv.weight_quantizer and conv.weight_quantizer.one_scale, "the weight is not codes of one scale"),
            (conv.grad_quantizer and conv.grad_quantizer.rounds_samples, "gradients are not rounded as DoReFa-Net's are"),
            (conv.bias is None and conv.input_quantizer is None, "the convolution has a bias or quantizes its input"),
        )
        reason = next((why for holds, why in conditions if not holds), "")
        return "" if reason else "codes", reason

    def forward(self, x):
        fused = _fusing.get() and self.fused
        y = None
        if fused == "codes" and x.codes is not None and (self.norm.training or not is_recording()):
            y = self._fused_codes(x)
        elif fused == "first" and not x.requires_grad:
            y = self._fused_first(x)
        if y is None:
            y = x
            for part in self.parts():
                y = part(y)
        return self.drop(y) if self.drop else y

    def _fused_codes(self, x):
        conv = self.conv
        weight = conv.quantized_weight()
        return functional.ConvBlock.apply(
            x, weight, self.norm.gamma, self.norm.beta,
            conv=functional.convolution_of(x, weight, conv.stride, conv.padding, conv.groups), norm=self.norm,
            pool=self.pool.size if self.pool else 1, quantizer=self.act.quantizer, grad_quantizer=conv.grad_quantizer)

    def _fused_first(self, x):
        """The block on images; None where no kernel is made for their shape."""
        conv, size = self.conv, self.pool.size if self.pool else 1
        geometry = functional.convolution_of(x, conv.weight, conv.stride, conv.padding, conv.groups)
        real = x.data if x.codes is None else np.empty(0, np.float32)  # what codes will be decoded to
        if not direct.serves(real, geometry) or min(geometry.output_size(*x.shape[1:3])) < size:
            return None
        inputs = (x, conv.weight) if conv.bias is None else (x, conv.weight, conv.bias)
        return functional.FirstBlock.apply(*inputs, conv=geometry, pool=size, quantizer=self.act.quantizer)

    # Without running

    def flow(self, signal, visit):
        for part in (*self.parts(), *[self.drop] * (self.drop is not None)):
            signal = part.trace(signal, visit)
        return signal

    def about(self):
        order = " ".join(part for part in self.order.split() if getattr(self, part) is not None)
        return f"{order}: " + ("one Function" if self.fused else f"layer by layer, {self.reason}")


