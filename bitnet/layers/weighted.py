"""Layers that multiply by weights: convolutions and fully connected layers, float or quantized."""

import numpy as np

from bitnet import checks, functional, random
from bitnet.checks import instance, wholes
from bitnet.kernels.products.geometry import Conv
from bitnet.module import Module, Parameter, initial
from bitnet.quantizers import Quantizer


def he_normal(rng, shape, fan_in):
    """Normal numbers of variance 2 / fan_in, float32 (He et al., arXiv:1502.01852)."""
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)


def glorot_uniform(rng, shape, fan_in, fan_out):
    """Uniform numbers of variance 2 / (fan_in + fan_out), float32 (Glorot and Bengio, 2010)."""
    bound = np.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


class Weighted(Module):
    """What layers with weights have in common; ``None`` in the place of a quantizer means full precision.

    Attributes
    ----------
    weight, bias : Parameter; bias may be None
    weight_quantizer, input_quantizer, grad_quantizer : quantizers of the weight, the input, and the gradient at the output
    """

    def _make(self, shape, fan_in, bias, weight_decay, quantizers, rng):
        self.fan_in = fan_in
        weight = initial(shape, lambda: self.draw(rng or random.generator(), shape, fan_in))
        self.weight = Parameter(weight, weight_decay)
        self.bias = self.zero_bias() if bias else None
        self.quantize(*quantizers)

    def quantize(self, weight=None, input=None, gradient=None):
        """Replace all three quantizers. The weight becomes the kind of parameter that its quantizer wants."""
        for quantizer in (weight, input, gradient):
            instance("a quantizer of a layer", quantizer, Quantizer)
        own = Parameter(self.weight.data, self.weight.weight_decay) if weight is None else weight.parameter(self.weight.data)
        if own.space is not self.weight.space:
            self.weight = own
        self.weight_quantizer, self.input_quantizer, self.grad_quantizer = weight, input, gradient

    @staticmethod
    def draw(rng, shape, fan_in):
        """Initial weights from a numpy Generator: float32."""
        return he_normal(rng, shape, fan_in)

    def reset(self, rng):
        """Draw initial weights anew."""
        self.weight.data = self.draw(rng, self.weight.shape, self.fan_in)

    def zero_bias(self):
        """A bias of zeros for its outputs."""
        count = self.weight.shape[-1:]
        return Parameter(initial(count, lambda: np.zeros(count, np.float32)))

    def quantized_weight(self):
        """The weight as its quantizer makes it, or as it is."""
        return self.weight_quantizer(self.weight) if self.weight_quantizer else self.weight

    def _operands(self, signal, visit):
        """The signal that meets the weight, and (W, A, G) bits."""
        if self.input_quantizer:
            signal = self.input_quantizer.trace(signal, visit)
        weight = self.weight_quantizer.trace(signal, visit).bits if self.weight_quantizer else 32
        return signal, (weight, signal.bits, self.grad_quantizer.bits if self.grad_quantizer else 32)

    def work(self, before, after):
        if after.shape is None:
            return None
        signal, (w, a, g) = self._operands(before, lambda *args: None)
        on_codes = signal.is_codes and w != 32
        conv, size = self.geometry(signal.shape)
        how = "integers" if on_codes else "float32"
        return (w, a, g), conv.macs(1, *size), how if g != 32 or not on_codes else f"{how}, gradients in float32"

    def geometry(self, shape):
        """The Conv for inputs of a shape, and their (H, W)."""
        raise NotImplementedError


class Conv2d(Weighted):
    """Convolution.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, groups : see ``functional.conv2d``
    bias : add one number a channel
    weight_quantizer, input_quantizer, grad_quantizer : quantizers of the weight, the input, and the gradient at the output
    weight_decay : of the weight alone
    rng : numpy Generator of the He-normal initial weights; None: one from the next draw of ``bitnet.random``
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, groups=1, bias=False,
                 weight_quantizer=None, input_quantizer=None, grad_quantizer=None, weight_decay=0.0, rng=None):
        wholes("channels and groups", (in_channels, out_channels, groups), low=1)
        filter_size = wholes("the size of a filter", functional.pair(kernel_size), 2, 1)
        wholes("the stride of a convolution", functional.pair(stride), 2, 1)
        checks.padding("the padding of a convolution", padding)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"expected positive numbers of channels that {groups} groups divide, got {in_channels} and "
                             f"{out_channels}")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.groups, self.weight_decay = stride, padding, groups, weight_decay
        shape = (*filter_size, in_channels // groups, out_channels)
        self._make(shape, int(np.prod(shape[:3])), bias, weight_decay, (weight_quantizer, input_quantizer, grad_quantizer), rng)

    def options(self):
        return super().options() | {"bias": self.bias is not None}

    def forward(self, x):
        x = self.input_quantizer(x) if self.input_quantizer else x
        return functional.conv2d(x, self.quantized_weight(), self.bias, self.stride, self.padding, self.groups,
                                 self.grad_quantizer)

    def geometry(self, shape):
        if len(shape) != 3 or shape[2] != self.in_channels:
            raise ValueError(f"{self.name or 'the convolution'} takes images (H, W, {self.in_channels}), got shape {shape}")
        sides, stride = self.weight.shape[:2], functional.pair(self.stride)
        padding = functional.paddings(self.padding, shape[:2], sides, stride)
        return Conv(self.in_channels, self.out_channels, sides, stride, padding, self.groups).check(), shape[:2]

    def flow(self, signal, visit):
        signal, _ = self._operands(signal, visit)
        if signal.shape is None:
            return signal.real()
        conv, size = self.geometry(signal.shape)
        return signal.real((*conv.output_size(*size), self.out_channels))


class Linear(Weighted):
    """``x @ weight + bias`` for x (N, in_features), float or quantized; see ``Conv2d``."""

    def __init__(self, in_features, out_features, bias=True, weight_quantizer=None, input_quantizer=None, grad_quantizer=None,
                 weight_decay=0.0, rng=None):
        wholes("the features of a layer", (in_features, out_features), low=1)
        self.in_features, self.out_features, self.weight_decay = in_features, out_features, weight_decay
        self._make((in_features, out_features), in_features, bias, weight_decay,
                   (weight_quantizer, input_quantizer, grad_quantizer), rng)

    def options(self):
        return super().options() | {"bias": self.bias is not None}

    def forward(self, x):
        x = self.input_quantizer(x) if self.input_quantizer else x
        return functional.linear(x, self.quantized_weight(), self.bias, self.grad_quantizer)

    def geometry(self, shape):
        if shape != (self.in_features,):
            raise ValueError(f"{self.name or 'the layer'} takes {self.in_features} numbers, got shape {shape}; "
                             "Flatten makes one axis of an image")
        return Conv(self.in_features, self.out_features, (1, 1)), (1, 1)

    def flow(self, signal, visit):
        signal, _ = self._operands(signal, visit)
        if signal.shape is None:
            return signal.real()
        self.geometry(signal.shape)
        return signal.real((self.out_features,))
