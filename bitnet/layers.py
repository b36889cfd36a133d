"""Modules: parameters, buffers and the layers made of them."""

from contextlib import contextmanager

import numpy as np

from bitnet import execution, functional, random
from bitnet.functional import as_tensor
from bitnet.kernels.products import direct
from bitnet.quantizers import (
    BitwiseWeight,
    DoReFaActivation,
    DoReFaGradient,
    NormalizedActivation,
    Quantizer,
    XNORActivation,
    XNORWeight,
)
from bitnet.tensor import Tensor, is_recording


class Parameter(Tensor):
    """A tensor that an optimizer updates.

    Attributes
    ----------
    weight_decay : its L2 penalty, on top of the optimizer's own
    lr_factor : what its learning rate is multiplied by
    """

    lr_factor = 1.0

    def __init__(self, data, weight_decay=0.0):
        super().__init__(data, requires_grad=True)
        self.weight_decay = weight_decay

    @property
    def stored(self):
        """The array that is kept, in memory and on disk."""
        return self.data

    def check_stored(self, name, array):
        """ValueError where an array of the right shape cannot be ``stored``."""


def he_normal(rng, shape, fan_in):
    """Normal numbers of variance 2 / fan_in, float32 (He et al., arXiv:1502.01852)."""
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)


def glorot_uniform(rng, shape, fan_in, fan_out):
    """Uniform numbers of variance 2 / (fan_in + fan_out), float32 (Glorot and Bengio, 2010)."""
    bound = np.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


class Module:
    """A part of a network: finds parameters, buffers (float64 arrays) and other modules among its attributes."""

    training = True

    def forward(self, x):
        raise NotImplementedError

    def __call__(self, x):
        with execution.layer(self.name or execution.current_layer()):
            return self.forward(as_tensor(x))

    def _attributes(self, kind):
        return {name: value for name, value in vars(self).items() if isinstance(value, kind)}

    def named_modules(self, prefix=""):
        """This module ("" by itself) and all below it, by dotted name, in the order of their making."""
        found = {prefix: self}
        for name, child in self._attributes(Module).items():
            found |= child.named_modules(f"{prefix}.{name}" if prefix else name)
        return found

    def _named(self, kind):
        return {f"{path}.{name}" if path else name: value for path, module in self.named_modules().items()
                for name, value in module._attributes(kind).items()}

    def named_parameters(self):
        """All parameters by dotted name."""
        return self._named(Parameter)

    def parameters(self):
        """All parameters, each once."""
        return list({id(parameter): parameter for parameter in self.named_parameters().values()}.values())

    def named_buffers(self):
        """All arrays that are kept but not trained, by dotted name."""
        return self._named(np.ndarray)

    def state_dict(self):
        """Copies of all parameters and buffers by dotted name."""
        state = {name: parameter.stored.copy() for name, parameter in self.named_parameters().items()}
        return state | {name: buffer.copy() for name, buffer in self.named_buffers().items()}

    def load_state_dict(self, state):
        """Take over the arrays of a ``state_dict``.

        Raises
        ------
        ValueError : names or shapes are not those of this module; nothing is changed then.
        """
        targets = {name: parameter.stored for name, parameter in self.named_parameters().items()} | self.named_buffers()
        missing, unexpected = sorted(targets.keys() - state.keys()), sorted(state.keys() - targets.keys())
        if missing or unexpected:
            raise ValueError(f"the state is of another model: missing {missing or 'nothing'}, "
                             f"unexpected {unexpected or 'nothing'}")
        for name, target in targets.items():
            if np.shape(state[name]) != target.shape:
                raise ValueError(f"{name} must have shape {target.shape}, got {np.shape(state[name])}")
        for name, parameter in self.named_parameters().items():
            parameter.check_stored(name, state[name])
        for name, target in targets.items():
            target[...] = state[name]

    def train(self, mode=True):
        """Switch this module and all below it to training (dropout, batch statistics, stochastic quantizers)."""
        for module in self.named_modules().values():
            for part in (module, *module._attributes(Quantizer).values()):
                part.training = mode
        return self

    def eval(self):
        """Switch to evaluation."""
        return self.train(False)

    def zero_grad(self):
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def name_layers(self):
        """Tell every module its dotted name, for the execution log; called once a network is complete."""
        for name, module in self.named_modules().items():
            module.name = name
        return self

    name = ""


@contextmanager
def preserved(model):
    """Leave a model's buffers, gradients and mode, and the stream of random draws, after the block as they were before."""
    buffers = {name: buffer.copy() for name, buffer in model.named_buffers().items()}
    grads, training = [(parameter, parameter.grad) for parameter in model.parameters()], model.training
    try:
        with random.preserved():
            yield
    finally:
        for name, buffer in model.named_buffers().items():
            buffer[...] = buffers[name]
        for parameter, grad in grads:
            parameter.grad = grad
        model.train(training)


class Sequential(Module):
    """Modules one after the other."""

    def __init__(self, *modules):
        for i, module in enumerate(modules):
            setattr(self, f"layer{i}", module)

    def forward(self, x):
        for module in self._attributes(Module).values():
            x = module(x)
        return x


class Lambda(Module):
    """A function of a tensor as a module."""

    def __init__(self, function):
        self.function = function

    def forward(self, x):
        return self.function(x)


def _learned_scales(quantizer):
    scales = quantizer.initial_scales if quantizer else None
    return None if scales is None else Parameter(np.array(scales, np.float32))


def quantized_weight(layer):
    """What the weight quantizer of a Conv2d or Linear makes of its weight, and of the scales that it learns."""
    if layer.weight_quantizer is None:
        return layer.weight
    return layer.weight_quantizer(layer.weight, *[] if layer.weight_scales is None else [layer.weight_scales])


class Conv2d(Module):
    """Convolution, float or quantized; ``None`` in the place of a quantizer means full precision.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, groups : see ``functional.conv2d``
    bias : add one number a channel
    weight_quantizer, input_quantizer, grad_quantizer : quantizers of the weight, the input, and the gradient at the output
    rng : numpy Generator of the He-normal initial weights
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, groups=1, bias=False,
                 weight_quantizer=None, input_quantizer=None, grad_quantizer=None, rng=None):
        rng = np.random.default_rng(0) if rng is None else rng
        kernel = functional.pair(kernel_size)
        shape = (*kernel, in_channels // groups, out_channels)
        self.weight = Parameter(he_normal(rng, shape, kernel[0] * kernel[1] * in_channels // groups))
        self.bias = Parameter(np.zeros(out_channels, np.float32)) if bias else None
        self.weight_scales = _learned_scales(weight_quantizer)
        self.stride, self.padding, self.groups = stride, padding, groups
        self.weight_quantizer, self.input_quantizer, self.grad_quantizer = weight_quantizer, input_quantizer, grad_quantizer

    def forward(self, x):
        x = self.input_quantizer(x) if self.input_quantizer else x
        return functional.conv2d(x, quantized_weight(self), self.bias, self.stride, self.padding, self.groups,
                                 self.grad_quantizer)


class Linear(Module):
    """``x @ weight + bias`` for x (N, in_features), float or quantized."""

    def __init__(self, in_features, out_features, bias=True, weight_quantizer=None, input_quantizer=None, grad_quantizer=None,
                 weight_decay=0.0, rng=None):
        rng = np.random.default_rng(0) if rng is None else rng
        self.weight = Parameter(he_normal(rng, (in_features, out_features), in_features), weight_decay)
        self.bias = Parameter(np.zeros(out_features, np.float32)) if bias else None
        self.weight_scales = _learned_scales(weight_quantizer)
        self.weight_quantizer, self.input_quantizer, self.grad_quantizer = weight_quantizer, input_quantizer, grad_quantizer

    def forward(self, x):
        x = self.input_quantizer(x) if self.input_quantizer else x
        return functional.linear(x, quantized_weight(self), self.bias, self.grad_quantizer)


def _follow(momentum, *pairs):
    """Move running statistics towards those of a batch, in place: pairs of both."""
    for running, batch in pairs:
        running *= momentum
        running += (1 - momentum) * batch


class BatchNorm(Module):
    """Batch normalisation of the last axis.

    Parameters
    ----------
    channels : size of the last axis
    momentum : what is kept of the running statistics in each training step
    eps : added to the variance
    """

    def __init__(self, channels, momentum=0.9, eps=1e-4):
        self.gamma, self.beta = Parameter(np.ones(channels, np.float32)), Parameter(np.zeros(channels, np.float32))
        self.running_mean, self.running_var = np.zeros(channels), np.ones(channels)
        self.momentum, self.eps = momentum, eps

    def statistics(self, batch_statistics):
        """Mean and variance to normalise with: in training those of the batch, which the running ones then follow."""
        if not self.training:
            return self.running_mean.copy(), self.running_var.copy()  # a later training step changes them in place
        mean, var = batch_statistics()
        _follow(self.momentum, (self.running_mean, mean), (self.running_var, var))
        return mean, var

    def forward(self, x):
        mean, var = self.statistics(lambda: functional.batch_statistics(x.data))
        return functional.batch_norm(x, self.gamma, self.beta, mean, var, self.eps, self.training)


_fusing = True


@contextmanager
def unfused():
    """Inside the block, blocks run layer by layer: the same codes, slower, and every layer's output can be seen."""
    global _fusing
    previous, _fusing = _fusing, False
    try:
        yield
    finally:
        _fusing = previous


def _side_by_side(pool):
    """Do the windows of a MaxPool (or None) lie side by side, with a place in each that fits a byte?"""
    return pool is None or (pool.stride in (None, pool.size) and pool.padding == 0 and pool.size < 16)


def first_block(x, conv, act, pool=None):
    """``act(pool(conv(x)))`` for a Conv2d, an Activation and a MaxPool (or None).

    Where a float convolution of images that want no gradient meets DoReFa's activations, this is one fused Function, and the
    same codes come out.
    """
    x = as_tensor(x)
    if (_fusing and x.codes is None and not x.requires_grad and type(act.quantizer) is DoReFaActivation and _side_by_side(pool)
            and not (conv.weight_quantizer or conv.input_quantizer or conv.grad_quantizer)):
        geometry = functional.convolution_of(x, conv.weight, conv.stride, conv.padding, conv.groups)
        size = pool.size if pool else 1
        if direct.serves(x.data, geometry) and min(geometry.output_size(*x.shape[1:3])) >= size:
            inputs = (x, conv.weight) if conv.bias is None else (x, conv.weight, conv.bias)
            with execution.layer(conv.name):
                return functional.FirstBlock.apply(*inputs, conv=geometry, pool=size, quantizer=act.quantizer)
    y = conv(x)
    return act(pool(y) if pool else y)


def conv_block(x, conv, norm, act, pool=None):
    """``act(pool(norm(conv(x))))`` for a Conv2d, a BatchNorm, an Activation and a MaxPool (or None).

    Where all of it is quantized by DoReFa's rules this is one fused Function, and the same bits come out.
    """
    x = as_tensor(x)
    if not (_fusing and x.codes is not None and conv.weight_quantizer and conv.weight_quantizer.one_scale and conv.bias is None
            and type(conv.grad_quantizer) is DoReFaGradient and type(norm) is BatchNorm
            and type(act.quantizer) is DoReFaActivation and conv.input_quantizer is None and _side_by_side(pool)
            and (norm.training or not is_recording())):
        y = norm(conv(x))
        return act(pool(y) if pool else y)
    with execution.layer(conv.name):
        weight = quantized_weight(conv)
        return functional.ConvBlock.apply(
            x, weight, norm.gamma, norm.beta, conv=functional.convolution_of(x, weight, conv.stride, conv.padding, conv.groups),
            norm=norm, pool=pool.size if pool else 1, quantizer=act.quantizer, grad_quantizer=conv.grad_quantizer)


class MaxPool(Module):
    """Max pooling; codes stay codes."""

    def __init__(self, size, stride=None, padding=0):
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x):
        return functional.max_pool(x, self.size, self.stride, self.padding)


class AvgPool(Module):
    """Average pooling."""

    def __init__(self, size, stride=None, padding=0):
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x):
        return functional.avg_pool(x, self.size, self.stride, self.padding)


class Activation(Module):
    """A quantizer of activations as a layer; ReLU where it is None."""

    def __init__(self, quantizer=None):
        self.quantizer = quantizer

    def forward(self, x):
        return self.quantizer(x) if self.quantizer else functional.relu(x)


class Dropout(Module):
    """Dropout, in training only; codes that can be zero stay codes, and those of +-1 become ternary ones."""

    def __init__(self, drop=0.5):
        self.drop = drop

    def forward(self, x):
        return functional.dropout(x, self.drop) if self.training and self.drop else x


class Flatten(Module):
    """(N, H, W, C) to (N, H * W * C)."""

    def forward(self, x):
        return x.reshape(x.shape[0], int(np.prod(x.shape[1:])))


class DiscreteParameter(Parameter):
    """A weight that exists as places in a discrete space only, one byte each: no float copy is kept anywhere.

    Parameters
    ----------
    data : float array, rounded to the nearest numbers of the space
    space : GXNORWeight

    ``raw`` is Codes where an encoding holds the space; ``data`` is a float32 view, made anew each time.
    """

    def __init__(self, data, space):
        self.space, self.places = space, space.places(data)
        self.requires_grad, self.grad, self.weight_decay, self._function = True, None, 0.0, None

    @property
    def stored(self):
        return self.places

    def check_stored(self, name, array):
        count = 1 << self.space.N
        if np.asarray(array).dtype.kind not in "ui" or np.min(array, initial=0) < 0 or np.max(array, initial=0) > count:
            raise ValueError(f"{name} takes the places of weights in their space, integers from 0 to {count}; "
                             "set its data to round real weights")

    @property
    def raw(self):
        return self.space.at(self.places)

    @property
    def codes(self):
        raw = self.raw
        return None if isinstance(raw, np.ndarray) else raw

    @property
    def data(self):
        raw = self.raw
        return raw if isinstance(raw, np.ndarray) else raw.decode()

    @data.setter
    def data(self, array):
        self.places[...] = self.space.places(array)


class XNORConv2d(Conv2d):
    """XNOR-Net's convolution (arXiv:1603.05279): +-1 filters and inputs, multiplied by both their scales.

        y = (sign(x) * sign(W)) . alpha . K,  alpha = mean |W| of each filter,  K = mean over channels of |x|, box-filtered:
        averaged over the filter's window (zeros count where it leaves the image)

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, grad_quantizer, rng : see ``Conv2d``
    scale_map : multiply by K, as in the paper; the authors' program does not, which costs less than one per cent according to
        them
    through_map : let the gradient flow through K; False takes it for a constant. The sources this follows do not tell
    gradient : of the weight, see ``XNORWeight``
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, scale_map=True, through_map=True,
                 gradient="paper", grad_quantizer=None, rng=None):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, weight_quantizer=XNORWeight(gradient),
                         input_quantizer=XNORActivation(), grad_quantizer=grad_quantizer, rng=rng)
        self.scale_map, self.through_map = scale_map, through_map

    def forward(self, x):
        y = super().forward(x)
        if not self.scale_map:
            return y
        kernel = self.weight.shape[:2]
        magnitude = functional.mean_magnitude(x if self.through_map else x.detach())
        box = Tensor(np.full((*kernel, 1, 1), 1 / (kernel[0] * kernel[1]), x.data.dtype))
        with execution.layer(f"{self.name}.map"):
            return y * functional.conv2d(magnitude, box, None, self.stride, self.padding)


class ShiftBatchNorm(Module):
    """Shift-based batch normalisation of the last axis (arXiv:1602.02830): every product with a power of two.

    Parameters
    ----------
    channels : size of the last axis
    momentum : what is kept of the running statistics in each training step. The authors' program keeps running means and
        inverse deviations and moves them by 1/8 a step
    eps : added to the variance
    """

    def __init__(self, channels, momentum=0.875, eps=1e-5):
        self.gamma, self.beta = Parameter(np.ones(channels, np.float32)), Parameter(np.zeros(channels, np.float32))
        self.running_mean, self.running_rstd = np.zeros(channels), np.ones(channels)
        self.momentum, self.eps = momentum, eps

    def forward(self, x):
        if not self.training:
            return functional.shift_batch_norm(x, self.gamma, self.beta, self.running_mean, self.running_rstd)
        mean, rstd = functional.shift_statistics(x.data, self.eps)
        _follow(self.momentum, (self.running_mean, mean), (self.running_rstd, rstd))
        return functional.shift_batch_norm(x, self.gamma, self.beta, mean, rstd, training=True)


class LowPrecisionBatchNorm(BatchNorm):
    """Batch normalisation whose activations are quantized in its middle (Graham, arXiv:1702.08231).

    Parameters
    ----------
    channels, momentum, eps : see ``BatchNorm``
    bits, step, mask : of the grid, see ``NormalizedActivation``
    """

    def __init__(self, channels, bits=2, step=None, mask=False, momentum=0.9, eps=1e-4):
        super().__init__(channels, momentum, eps)
        self.quantizer = NormalizedActivation(bits, step, mask)

    def forward(self, x):
        mean, var = self.statistics(lambda: functional.batch_statistics(x.data))
        return functional.low_precision_batch_norm(x, self.gamma, self.beta, mean, var, self.quantizer, self.eps, self.training)


class BitwiseLinear(Module):
    """A layer of a Bitwise Neural Network (arXiv:1601.06071), with both of its stages.

        stage 1    a = tanh(b) + x @ tanh(W), all in float
        stage 2    a = b_q + x @ W_q, on bits; the latent W and b, which collect the updates, start from stage 1's tanh(W),
        tanh(b)

    Takes and gives arrays (N, in_features) and (N, out_features).

    Parameters
    ----------
    in_features, out_features : of the layer
    zeros : share of weights that are 0 in stage 2, see ``BitwiseWeight``
    rng : numpy Generator of the initial weights, Glorot's uniform ones
    """

    def __init__(self, in_features, out_features, zeros=0.0, rng=None):
        rng = np.random.default_rng(0) if rng is None else rng
        self.weight = Parameter(glorot_uniform(rng, (in_features, out_features), in_features, out_features))
        self.bias = Parameter(np.zeros(out_features, np.float32))
        self.weight_quantizer, self.bias_quantizer, self.weight_scales = BitwiseWeight(zeros), BitwiseWeight(), None
        self.bits = np.zeros(1)  # a buffer, so that a checkpoint knows the stage: 0 or 1

    @property
    def stage(self):
        """1 or 2."""
        return 1 + int(self.bits[0])

    def start_bits(self):
        """Go from stage 1 to stage 2; in stage 2 nothing happens, and the answer is False."""
        if self.stage == 2:
            return False
        for parameter in (self.weight, self.bias):
            parameter.data = np.tanh(parameter.data)
        self.bits[0] = 1
        return True

    def forward(self, x):
        if self.stage == 1:
            weight, bias = functional.tanh(self.weight), functional.tanh(self.bias)
        else:
            weight, bias = quantized_weight(self), self.bias_quantizer(self.bias)
        return functional.linear(x, weight) + bias
