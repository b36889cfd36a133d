"""PyTorch: the same layers and the same network in float32, and as the usual float32 simulation of DoReFa-Net.

Every way that PyTorch offers of doing the same is a variant, and the quickest one is what counts: images in NCHW or
channels-last order, all threads or one, and torch.compile (with its constants folded and weights laid out ahead for
inference). One thread is there because OpenMP's threads spin while they wait for each other: where other programs keep a
processor busy, or the work is small, two of them can take ten times as long as one.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

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
        largest = grad_output.abs().amax((1, 2, 3), keepdim=True)
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


def _no_grad(function):
    def call():
        with torch.inference_mode():
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

class Network(nn.Module):
    """``bitnet.models.SVHN`` with the same parameters; ``bits`` other than 32 are simulated."""

    def __init__(self, model, bits=(32, 32, 32)):
        super().__init__()
        self.bits = bits
        self.weights, self.norms, self.paddings = nn.ParameterDict(), nn.ModuleDict(), {}
        for i in range(7):
            conv = getattr(model, f"conv{i}")
            self.weights[f"conv{i}"] = nn.Parameter(weight_of(conv.weight.data).clone())
            self.paddings[i] = conv.weight.shape[0] // 2 if conv.padding == "same" else 0
        for i in range(1, 7):
            ours = getattr(model, f"bn{i}")
            norm = nn.BatchNorm2d(len(ours.running_mean), eps=ours.eps, momentum=1 - ours.momentum)
            norm.running_mean.copy_(torch.from_numpy(ours.running_mean))
            norm.running_var.copy_(torch.from_numpy(ours.running_var))
            self.norms[f"bn{i}"] = norm
        self.bias = nn.Parameter(torch.from_numpy(model.conv0.bias.data.copy()))
        self.fc = nn.Linear(*model.fc.weight.shape)
        with torch.no_grad():
            self.fc.weight.copy_(torch.from_numpy(model.fc.weight.data.T))
            self.fc.bias.copy_(torch.from_numpy(model.fc.bias.data))

    def block(self, x, i):
        """Convolution, gradient quantizer and batch norm of an inner layer."""
        w_bits, _, g_bits = self.bits
        y = F.conv2d(x, fake_weight(self.weights[f"conv{i}"], w_bits), None, 1, self.paddings[i])
        if g_bits != 32:
            y = RoundGradient.apply(y, g_bits)
        return self.norms[f"bn{i}"](y)

    def forward(self, x):
        a_bits = self.bits[1]
        x = fake_activation(F.max_pool2d(F.conv2d(x, self.weights["conv0"], self.bias), 2), a_bits)
        x = fake_activation(self.block(x, 1), a_bits)
        x = fake_activation(F.max_pool2d(self.block(x, 2), 2), a_bits)
        for i in (3, 4, 5):
            x = fake_activation(self.block(x, i), a_bits)
        x = self.block(F.dropout(x, 0.5, self.training), 6)
        x = F.relu(x) if a_bits == 32 else x.clamp(0, 1)
        return self.fc(x.flatten(1))


def _frozen(module):
    """torch.compile for inference, with weights folded and laid out ahead."""
    from torch._inductor import config

    config.freezing = True
    return torch.compile(module.eval(), dynamic=False)


def trainer(model, bits, batches, layout="channels-last", compiled=False, lr=1e-4):
    """A function that does one training step: Adam, cross entropy, the next of ``batches`` of (images, labels)."""
    network = Network(model, bits).to(memory_format=LAYOUTS[layout])
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
        F.cross_entropy(run(images), labels).backward()
        optimizer.step()

    return step


def training(model, bits, batches, compile=False):
    """Variants of a training step; see ``trainer``."""
    variants = {layout: trainer(model, bits, batches, layout) for layout in LAYOUTS}
    if compile:
        variants["torch.compile"] = trainer(model, bits, batches, compiled=True)
    return _on_threads(variants)


def inference(model, bits, images, compile=False):
    """Variants of inference."""
    variants = {}
    for layout in LAYOUTS:
        network = Network(model, bits).to(memory_format=LAYOUTS[layout]).eval()

        def eager(network=network, batch=images_of(images, layout)):
            network(batch)

        variants[layout] = _no_grad(eager)
    if compile:
        compiled = _frozen(Network(model, bits).to(memory_format=torch.channels_last))
        batch = images_of(images)
        variants["torch.compile"] = _no_grad(lambda: compiled(batch))
    return _on_threads(variants)
