"""OpenVINO: the same layers and the same networks in float32, in INT8, and with its binary convolution.

A network of ours is read module by module (``network_model``), so that it stands in one place only.

INT8 is what OpenVINO makes of a graph with FakeQuantize of 256 levels on activations and of 255 on weights. The binary
convolution (operation set 1, mode xnor-popcount) is put into the graph as a node; the FakeQuantize of two levels before it
then writes bits. Its results were compared with those of ``bitnet``: weights want their first bit in the lowest place, and a
FakeQuantize to {0, 1}, not {-1, 1}.
"""

import math

import numpy as np
import openvino
import peers
from openvino import Shape, Tensor, Type, opset1, opset13

from bitnet import layers

KINDS = ("openvino", "openvino_int8", "openvino_binary")
_core = openvino.Core()


def _compile(model, threads, streams=1, profile=False):
    """INFERENCE_PRECISION_HINT: float32 must not silently become bfloat16."""
    return _core.compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams, "PERF_COUNT": profile, "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False})


def _levels(x, low, high, levels):
    """FakeQuantize; low and high are numbers or arrays that broadcast."""
    low, high = (np.float32(value) if np.ndim(value) else np.full((1, 1, 1, 1), value, np.float32) for value in (low, high))
    if levels == 2:  # below and above the middle
        middle = (low + high) / 2
        return opset13.fake_quantize(x, middle, middle, low, high, 2)
    return opset13.fake_quantize(x, low, high, low, high, levels)


def _convolution(x, w, stride, padding, groups, kind):
    """The node of a convolution of a quantized or float x with a float weight (kh, kw, C / groups, F)."""
    weight = np.ascontiguousarray(w.transpose(3, 2, 0, 1))
    (top, bottom), (left, right) = padding
    shape = (list(stride), [top, left], [bottom, right], [1, 1])
    if kind == "openvino_binary":
        if groups != 1:
            raise ValueError("OpenVINO's binary convolution has no groups")
        bits = Tensor(Type.u1, Shape(weight.shape))  # owns its memory, which the constant then shares
        bits.data[...] = np.packbits((weight >= 0).reshape(-1), bitorder="little")
        return opset1.binary_convolution(x, openvino.op.Constant(bits), *shape, "xnor-popcount", -1.0)
    if groups != 1:
        weight = weight.reshape(groups, -1, *weight.shape[1:])
    node = opset13.constant(weight)
    if kind == "openvino_int8":
        largest = np.abs(weight).max(tuple(range(1 + (groups != 1), weight.ndim)), keepdims=True)
        node = opset13.fake_quantize(node, -largest, largest, -largest, largest, 255)
    return (opset13.group_convolution if groups != 1 else opset13.convolution)(x, node, *shape)


def _entry(shape, nhwc):
    """The parameter for images (N, H, W, C) in either order of axes, and the node that has them as NCHW."""
    n, h, w, c = shape
    parameter = opset13.parameter([n, h, w, c] if nhwc else [n, c, h, w], np.float32)
    return parameter, opset13.transpose(parameter, [0, 3, 1, 2]) if nhwc else parameter


def _ordered(array, nhwc):
    return np.ascontiguousarray(array if nhwc else array.transpose(0, 3, 1, 2))


def _request(compiled, array):
    """A request with its input in place; the array is borrowed, not copied."""
    request = compiled.create_infer_request()
    request.set_input_tensor(Tensor(array, shared_memory=True))
    request.kept = array
    return request


def layer_model(x_shape, w, conv, kind, nhwc=True):
    """The graph of one layer from floats (N, H, W, C) to floats."""
    # the plug-in crashes where the input of a binary FakeQuantize lies in NHWC order
    parameter, node = _entry(x_shape, nhwc and kind != "openvino_binary")
    if kind != "openvino":
        node = _levels(node, 0, 1, 2 if kind == "openvino_binary" else 256)
    node = _convolution(node, w, conv.stride, conv.padding, conv.groups, kind)
    if nhwc:
        node = opset13.transpose(node, [0, 2, 3, 1])
    return openvino.Model([node], [parameter])


def layer(x, w, conv, kind, threads):
    """Variants of one layer, floats in and floats out, in both orders of axes.

    Parameters
    ----------
    x : float32 array (N, H, W, C) in [0, 1]; w : float32 array (kh, kw, C / groups, F); conv : Conv; kind : one of KINDS
    """
    variants = {}
    for name, nhwc in (("NHWC", True), ("NCHW", False)):
        compiled = _compile(layer_model(x.shape, w, conv, kind, nhwc), threads)
        request = _request(compiled, _ordered(x, nhwc and kind != "openvino_binary"))
        variants[name] = request.infer
    return {name: _silent(call) for name, call in variants.items()}


def product(x, w, conv, kind, threads):
    """Variants of the convolution alone: the node's own time by OpenVINO's profiler, without quantizing and reordering."""
    variants = {}
    for name, nhwc in (("NHWC", True), ("NCHW", False)):
        compiled = _compile(layer_model(x.shape, w, conv, kind, nhwc), threads, profile=True)
        request = _request(compiled, _ordered(x, nhwc and kind != "openvino_binary"))

        def call(request=request):
            request.infer()
            spent = [node.real_time.total_seconds() for node in request.get_profiling_info() if "Convolution" in node.node_type]
            return float(sum(spent))

        variants[name] = call
    return variants


def _silent(call):
    def without_result():
        call()

    return without_result


counterpart = peers.Reading("OpenVINO")


class Graph:
    """What a network becomes in OpenVINO; its nodes are images (N, C, H, W), of one pixel where ours has a row of numbers.

    Parameters
    ----------
    model : tree of layers in float; shape : of the images, (N, H, W, C); kind, ranges : see ``network_model``

    Attributes
    ----------
    watched : the nodes that enter a layer with weights; shapes, after : see ``peers.shapes_of``
    """

    def __init__(self, model, shape, kind, ranges=None):
        self.batch, self.kind, self.ranges, self.watched = shape[0], kind, ranges, []
        self.shapes, self.after = peers.shapes_of(model, shape[1:])
        weighted = [module for module in model.modules() if isinstance(module, layers.Weighted)]
        self.ends = weighted[0], weighted[-1]

    def quantized(self, node):
        """What enters a layer with weights, in INT8 where its range is known."""
        self.watched.append(node)
        known = self.kind == "openvino_int8" and self.ranges
        return _levels(node, *self.ranges[len(self.watched) - 1], 256) if known else node

    def product(self, node, module, norm=None):
        """A layer with weights, and the batch norm after it: folded into the weight where that is real."""
        if module.weight_quantizer or module.input_quantizer:
            raise ValueError(f"OpenVINO gets float networks, {module.name} is quantized")
        conv, _ = module.geometry(self.shapes[id(module)])
        factor, shift = (np.ones(1), np.zeros(1)) if norm is None else _affine(norm)
        weight = module.weight.data.reshape(conv.weight_shape)
        if self.kind == "openvino_binary" and module not in self.ends:
            node = _convolution(_levels(node, 0, 1, 2), weight, conv.stride, conv.padding, conv.groups, self.kind)
            node = opset13.multiply(node, _of_channels(factor * np.abs(weight).mean()))
        else:
            kind = "openvino" if self.kind == "openvino_binary" else self.kind
            weight = (weight * factor).astype(np.float32)
            node = _convolution(self.quantized(node), weight, conv.stride, conv.padding, conv.groups, kind)
        shift = shift if module.bias is None else shift + module.bias.data * factor
        return opset13.add(node, _of_channels(shift)) if norm or module.bias is not None else node

    def reshaped(self, node, before, after):
        """Numbers in the order of ours, in which channels vary first."""
        before, after = ((1, 1, *shape) if len(shape) == 1 else shape for shape in (before, after))
        if before == after:
            return node
        node = opset13.reshape(opset13.transpose(node, [0, 2, 3, 1]), [self.batch, *after], False)
        return opset13.transpose(node, [0, 3, 1, 2])


def _of_channels(array):
    return np.asarray(array, np.float32).reshape(1, -1, 1, 1)


def _affine(norm):
    """(factor, shift) of a batch norm in evaluation."""
    factor = norm.gamma.data / np.sqrt(norm.running_var + norm.eps)
    return factor, norm.beta.data - norm.running_mean * factor


@counterpart.of(layers.Sequential)
def _(module, node, graph):
    for child in module:
        node = counterpart(child, node, graph)
    return node


@counterpart.of(layers.Block)
def _(module, node, graph):
    parts = module.parts()
    folds = module.norm and module.norm.is_affine and parts.index(module.norm) == parts.index(module.conv) + 1
    for part in parts:
        if part is module.conv and folds:
            node = counterpart(part, node, graph, module.norm)
        elif part is not module.norm or not folds:
            node = counterpart(part, node, graph)
    return node


@counterpart.of(layers.Residual)
def _(module, node, graph):
    body = counterpart(module.body, node, graph)
    return opset13.add(body, counterpart(module.shortcut, node, graph) if module.shortcut else node)


@counterpart.of(layers.Conv2d, layers.Linear)
def _(module, node, graph, norm=None):
    return graph.product(node, module, norm)


@counterpart.of(layers.BatchNorm)
def _(module, node, graph):
    factor, shift = _affine(module)
    return opset13.add(opset13.multiply(node, _of_channels(factor)), _of_channels(shift))


@counterpart.of(layers.Activation)
def _(module, node, graph):
    if module.quantizer:
        raise ValueError(f"OpenVINO gets float networks, {module.name} is quantized")
    return opset13.relu(node)


@counterpart.of(layers.Clip)
def _(module, node, graph):
    return opset13.clamp(node, module.low, module.high)


@counterpart.of(layers.MaxPool)
def _(module, node, graph):
    window, stride, padding = ([size] * 2 for size in (module.size, module.stride or module.size, module.padding))
    return opset1.max_pool(node, stride, padding, padding, window)


@counterpart.of(layers.AvgPool)
def _(module, node, graph):
    window, stride, padding = ([size] * 2 for size in (module.size, module.stride or module.size, module.padding))
    return opset13.avg_pool(node, stride, padding, padding, window, False)


@counterpart.of(layers.Flatten)
def _(module, node, graph):
    before = graph.shapes[id(module)]
    return graph.reshaped(node, before, (math.prod(before),))


@counterpart.of(layers.Reshape)
def _(module, node, graph):
    return graph.reshaped(node, graph.shapes[id(module)], module.shape)


@counterpart.of(layers.Dropout, layers.Images)
def _(module, node, graph):
    return node


def network_model(model, shape, kind, nhwc=True, ranges=None):
    """The graph of a network of ours in eval mode, batch norm folded into weights and biases where weights are real.

    Parameters
    ----------
    model : tree of layers in float
    shape : of the images, (N, H, W, C)
    ranges : for INT8, of what enters each layer with weights, see ``activation_ranges``

    Returns
    -------
    graph : openvino.Model whose results are the logits and, without ranges, the inputs of all layers with weights
    """
    parameter, node = _entry(shape, nhwc)
    graph = Graph(model, shape, kind, ranges)
    node = counterpart(model, node, graph)
    node = opset13.transpose(node, [0, 2, 3, 1]) if len(graph.after) == 3 else node
    node = opset13.reshape(node, [shape[0], *graph.after], False)
    calibrating = kind == "openvino_int8" and not ranges
    return openvino.Model([node, *graph.watched] if calibrating else [node], [parameter])


def activation_ranges(model, images):
    """(lowest, highest) of what enters each layer with weights: what INT8 is scaled to."""
    graph = network_model(model, images.shape, "openvino_int8")
    request = _request(_compile(graph, 1), _ordered(images, True))
    request.infer()
    entering = [request.get_output_tensor(i).data for i in range(1, len(graph.outputs))]
    return [(min(float(array.min()), 0.0), max(float(array.max()), 1e-3)) for array in entering]


def inference(model, images, kind, threads):
    """Variants of inference: both orders of axes, and one stream on all threads or one a thread with a share of the batch."""
    ranges = activation_ranges(model, images[:16]) if kind == "openvino_int8" else None
    variants = {}
    for name, nhwc in (("NHWC", True), ("NCHW", False)):
        if kind == "openvino_binary" and nhwc:
            continue
        request = _request(_compile(network_model(model, images.shape, kind, nhwc, ranges), threads), _ordered(images, nhwc))
        variants[name] = _silent(request.infer)
        if threads > 1 and len(images) % threads == 0:
            parts = np.split(images, threads)
            compiled = _compile(network_model(model, parts[0].shape, kind, nhwc, ranges), threads, threads)
            variants[f"{name}, {threads} streams"] = _side_by_side([_request(compiled, _ordered(part, nhwc)) for part in parts])
    return variants


def _side_by_side(requests):
    def call():
        for request in requests:
            request.start_async()
        for request in requests:
            request.wait()

    return call


def logits(model, images, kind, nhwc=False):
    """What the network answers, for tests."""
    ranges = activation_ranges(model, images) if kind == "openvino_int8" else None
    request = _request(_compile(network_model(model, images.shape, kind, nhwc, ranges), 1), _ordered(images, nhwc))
    request.infer()
    return request.get_output_tensor(0).data.copy()


def layer_result(x, w, conv, kind):
    """What one layer answers, (N, OH, OW, F), for tests."""
    request = _request(_compile(layer_model(x.shape, w, conv, kind), 1), _ordered(x, kind != "openvino_binary"))
    request.infer()
    return request.get_output_tensor(0).data.copy()
