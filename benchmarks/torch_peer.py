"""PyTorch: the same layers and the same networks in float32, and as the usual float32 simulation of DoReFa-Net.

A network of ours is read module by module (``network_of``), so that it stands in one place only.

Every way that PyTorch offers of doing the same is a variant, and the quickest one is what counts: images in NCHW or
channels-last order, all threads or one, and torch.compile (with its constants folded and weights laid out ahead for
inference). One thread is there because OpenMP's threads spin while they wait for each other: where other programs keep a
processor busy, or the work is small, two of them can take ten times as long as one.
"""

import math
from collections import OrderedDict

import numpy as np
import peers
import torch
from torch import nn
from torch.nn import functional as F

from bitnet import layers
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight

# every layer and network here shares a few functions: none may fall back to eager because another was compiled before
torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10000
LAYOUTS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}


_threads = 1


def set_threads(count):
    """Run PyTorch on ``count`` threads, or on one where that is quicker."""
    global _threads
    _threads = count
    torch.set_num_threads(count)


def _on_threads(variants):
    """Every variant on all threads and, but for compiled code, which has their number built in, on one."""

    def on(count, function):
        def call():
            torch.set_num_threads(count)
            function()

        return call

    found = {name: on(_threads, function) for name, function in variants.items()}
    if _threads > 1:
        found |= {f"{name}, 1 thread": on(1, variants[name]) for name in LAYOUTS}
    return found


def images_of(array, layout="channels-last"):
    """A tensor (N, C, H, W) of an array (N, H, W, C), in one of LAYOUTS."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(memory_format=LAYOUTS[layout])


def weight_of(array, layout="channels-last"):
    """A tensor (out, in, kh, kw) of an array (kh, kw, in, out), in one of LAYOUTS."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(3, 2, 0, 1))).contiguous(memory_format=LAYOUTS[layout])


# The simulation: float32 everywhere, values limited to the levels

class RoundToLevels(torch.autograd.Function):
    """rint(n * r) / n; the gradient passes as if nothing had happened."""

    @staticmethod
    def forward(ctx, r, bits):
        top = 2 ** bits - 1
        return torch.round(r * top) / top

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output, None


class SignWeight(torch.autograd.Function):
    """E * sign(w), E = mean |w| of the layer; the gradient passes."""

    @staticmethod
    def forward(ctx, w):
        return torch.where(w >= 0, 1.0, -1.0) * w.abs().mean()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output


class RoundGradient(torch.autograd.Function):
    """Nothing forward; backward the gradient in k bits, with noise, one scale a sample."""

    @staticmethod
    def forward(ctx, y, bits):
        ctx.bits = bits
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad_output):
        top = 2 ** ctx.bits - 1
        largest = grad_output.abs().amax(tuple(range(1, grad_output.ndim)), keepdim=True)
        scaled = grad_output / (2 * largest.clamp_min(1e-38)) + 0.5
        noisy = scaled + (torch.rand_like(scaled) - 0.5) / top
        return 2 * largest * (torch.round(noisy.clamp(0, 1) * top) / top - 0.5), None


def fake_weight(w, bits):
    """Weights on the levels of ``bits`` bits."""
    if bits == 32:
        return w
    if bits == 1:
        return SignWeight.apply(w)
    t = torch.tanh(w)
    return 2 * RoundToLevels.apply(t / (2 * t.abs().max()) + 0.5, bits) - 1


def fake_activation(x, bits):
    """Activations on the levels of ``bits`` bits; ReLU for 32."""
    return F.relu(x) if bits == 32 else RoundToLevels.apply(x.clamp(0, 1), bits)


# Single layers

def _padding(conv):
    (top, bottom), (left, right) = conv.padding
    if (top, left) != (bottom, right):
        raise ValueError(f"PyTorch pads both sides alike, not by {conv.padding}")
    return top, left


def _no_grad(function, bf16=False):
    def call():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            function()

    return call


def forward(x, w, conv, bits=None, compile=False):
    """Variants of a float32 convolution; with ``bits`` of activations they are first limited to their levels.

    Parameters
    ----------
    x : float32 array (N, H, W, C); w : float32 array (kh, kw, C / groups, F); conv : Conv
    """
    padding, variants = _padding(conv), {}
    weight_only = weight_of(w)

    def layer(images):
        if bits:
            images = fake_activation(images, bits)
        return F.conv2d(images, weight_only, None, conv.stride, padding, groups=conv.groups)

    for layout in LAYOUTS:
        def eager(images=images_of(x, layout), weight=weight_of(w, layout)):
            images = fake_activation(images, bits) if bits else images
            F.conv2d(images, weight, None, conv.stride, padding, groups=conv.groups)

        variants[layout] = _no_grad(eager)
    if compile:
        images = images_of(x)
        module = nn.Module()
        module.weight, module.forward = nn.Parameter(weight_only), layer
        compiled = _frozen(module)
        variants["torch.compile"] = _no_grad(lambda: compiled(images))
    return _on_threads(variants)


def gradient(x, w, g, conv, path):
    """Variants of one of the two gradient products. torch.compile leaves these as they are."""
    padding, variants = _padding(conv), {}
    wanted = [path == "input_grad", path == "weight_grad", False]
    for layout in LAYOUTS:
        def eager(grad=images_of(g, layout), images=images_of(x, layout), weight=weight_of(w, layout)):
            torch.ops.aten.convolution_backward(grad, images, weight, None, conv.stride, padding, (1, 1), False, (0, 0),
                                                conv.groups, wanted)

        variants[layout] = _no_grad(eager)
    return _on_threads(variants)


# The network

counterpart = peers.Reading("PyTorch")


def network_of(model, shape=None):
    """A network of ours as a module of PyTorch, with the same parameters; bits that its quantizers have are simulated.

    Parameters
    ----------
    model : tree of layers, in float or with DoReFa-Net's quantizers; shape : (H, W, C) of images, where it does not tell
    """
    return counterpart(model, peers.shapes_of(model, shape)[0])


@counterpart.of(layers.Sequential)
def _(module, shapes):
    return nn.Sequential(OrderedDict((name, counterpart(child, shapes)) for name, child in module.layers.items()))


@counterpart.of(layers.Block)
def _(module, shapes):
    parts = [*module.parts(), *[module.drop] * (module.drop is not None)]
    return nn.Sequential(*(counterpart(part, shapes) for part in parts))


class Sum(nn.Module):
    """Two ways."""

    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


@counterpart.of(layers.Residual)
def _(module, shapes):
    return Sum(counterpart(module.body, shapes), counterpart(module.shortcut, shapes) if module.shortcut else nn.Identity())


def _bits(quantizer, kind):
    """Of one of DoReFa-Net's quantizers; 32 where there is none."""
    if not (quantizer is None or isinstance(quantizer, kind)):
        raise ValueError(f"only {kind.__name__} is simulated by PyTorch here, not {type(quantizer).__name__}")
    return 32 if quantizer is None else quantizer.bits


class Weighted(nn.Module):
    """``product(x, weight, bias)`` of a layer of ours, with its input, weight and gradient on their levels."""

    def __init__(self, ours, weight, product):
        super().__init__()
        self.w_bits, self.g_bits = _bits(ours.weight_quantizer, DoReFaWeight), _bits(ours.grad_quantizer, DoReFaGradient)
        self.a_bits, self.product = _bits(ours.input_quantizer, DoReFaActivation), product
        self.weight = nn.Parameter(weight)
        self.bias = None if ours.bias is None else nn.Parameter(torch.from_numpy(ours.bias.data.copy()))

    def forward(self, x):
        x = x if self.a_bits == 32 else fake_activation(x, self.a_bits)
        y = self.product(x, fake_weight(self.weight, self.w_bits), self.bias)
        return y if self.g_bits == 32 else RoundGradient.apply(y, self.g_bits)


@counterpart.of(layers.Conv2d)
def _(module, shapes):
    conv, _ = module.geometry(shapes[id(module)])
    stride, groups, ((top, bottom), (left, right)) = conv.stride, conv.groups, conv.padding
    alike = (top, left) == (bottom, right)

    def product(x, weight, bias):
        x = x if alike else F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, weight, bias, stride, (top, left) if alike else 0, groups=groups)

    return Weighted(module, weight_of(module.weight.data).clone(), product)


@counterpart.of(layers.Linear)
def _(module, shapes):
    return Weighted(module, torch.from_numpy(module.weight.data.T.copy()), F.linear)


@counterpart.of(layers.BatchNorm)
def _(module, shapes):
    kind = nn.BatchNorm2d if len(shapes[id(module)]) == 3 else nn.BatchNorm1d
    norm = kind(module.channels, eps=module.eps, momentum=1 - module.momentum)
    with torch.no_grad():
        for theirs, ours in ((norm.weight, module.gamma.data), (norm.bias, module.beta.data),
                             (norm.running_mean, module.running_mean), (norm.running_var, module.running_var)):
            theirs.copy_(torch.from_numpy(ours))
    return norm


class Rounded(nn.Module):
    """Clipped and on the levels of ``bits`` bits; ReLU for 32."""

    def __init__(self, bits):
        super().__init__()
        self.bits = bits

    def forward(self, x):
        return fake_activation(x, self.bits)


@counterpart.of(layers.Activation)
def _(module, shapes):
    return Rounded(_bits(module.quantizer, DoReFaActivation))


@counterpart.of(layers.Clip)
def _(module, shapes):
    return nn.Hardtanh(module.low, module.high)


@counterpart.of(layers.MaxPool)
def _(module, shapes):
    return nn.MaxPool2d(module.size, module.stride, module.padding)


@counterpart.of(layers.AvgPool)
def _(module, shapes):
    return nn.AvgPool2d(module.size, module.stride, module.padding)


@counterpart.of(layers.Dropout)
def _(module, shapes):
    return nn.Dropout(module.drop)


@counterpart.of(layers.Images)
def _(module, shapes):
    return nn.Identity()


class Reshape(nn.Module):
    """(N, ...) to (N, *shape), of numbers in the order of ours: channels vary first."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        x = x.reshape(x.shape[0], *self.shape)
        return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


@counterpart.of(layers.Flatten)
def _(module, shapes):
    return Reshape((math.prod(shapes[id(module)]),))


@counterpart.of(layers.Reshape)
def _(module, shapes):
    return Reshape(module.shape)


def _frozen(module):
    """torch.compile for inference, with weights folded and laid out ahead."""
    from torch._inductor import config

    config.freezing = True
    return torch.compile(module.eval(), dynamic=False)


def trainer(model, batches, layout="channels-last", compiled=False, lr=1e-4, bf16=False):
    """A function that does one step of training: Adam, cross entropy, the next of ``batches`` of (images, labels).

    bf16 : products in bfloat16, by autocast, as PyTorch's users train on processors
    """
    network = network_of(model).to(memory_format=LAYOUTS[layout]).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, eps=1e-5, fused=True)
    batches = [(images_of(images, layout), torch.from_numpy(labels)) for images, labels in batches]
    if compiled:
        from torch._inductor import config

        config.freezing = False
    run = torch.compile(network, dynamic=False) if compiled else network
    steps = 0

    def step():
        nonlocal steps
        images, labels = batches[steps % len(batches)]
        steps += 1
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()

    return step


def training(model, batches, compile=False, bf16=False):
    """Variants of a training step; see ``trainer``."""
    variants = {layout: trainer(model, batches, layout, bf16=bf16) for layout in LAYOUTS}
    if compile:
        variants["torch.compile"] = trainer(model, batches, compiled=True, bf16=bf16)
    return _on_threads(variants)


def inference(model, images, compile=False, bf16=False):
    """Variants of inference; bf16 : see ``trainer``."""
    variants = {}
    for layout in LAYOUTS:
        network = network_of(model).to(memory_format=LAYOUTS[layout]).eval()

        def eager(network=network, batch=images_of(images, layout)):
            network(batch)

        variants[layout] = _no_grad(eager, bf16)
    if compile:
        compiled = _frozen(network_of(model).to(memory_format=torch.channels_last))
        batch = images_of(images)
        variants["torch.compile"] = _no_grad(lambda: compiled(batch), bf16)
    return _on_threads(variants)
