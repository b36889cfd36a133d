"""OpenVINO: the same layers and the same network in float32, in INT8, and with its binary convolution.

INT8 is what OpenVINO makes of a graph with FakeQuantize of 256 levels on activations and of 255 on weights. The binary
convolution (operation set 1, mode xnor-popcount) is put into the graph as a node; the FakeQuantize of two levels before it
then writes bits. Its results were compared with those of ``bitnet``: weights want their first bit in the lowest place, and a
FakeQuantize to {0, 1}, not {-1, 1}.
"""

import numpy as np
import openvino
from openvino import Shape, Tensor, Type, opset1, opset13

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


def network_model(model, shape, kind, nhwc=True, ranges=None):
    """The graph of ``bitnet.models.SVHN`` in eval mode, batch norm folded into weights and biases where weights are real.

    Parameters
    ----------
    shape : of the images, (N, 40, 40, 3)
    ranges : for INT8, the largest activation before each convolution and the last layer

    Returns
    -------
    graph : openvino.Model whose results are the logits and, without ranges, the inputs of all convolutions
    """
    parameter, node = _entry(shape, nhwc)
    binary, watched = kind == "openvino_binary", []
    outer = "openvino" if binary else kind  # the first and the last layer

    def quantized(node, i):
        watched.append(node)
        return _levels(node, 0, ranges[i], 256) if kind == "openvino_int8" and ranges else node

    def plus(node, bias):
        return opset13.add(node, bias.astype(np.float32).reshape(1, -1, 1, 1))

    def pool(node):
        return opset1.max_pool(node, [2, 2], [0, 0], [0, 0], [2, 2])

    for i in range(7):
        conv = getattr(model, f"conv{i}")
        weight, size = conv.weight.data, conv.weight.shape[0] // 2 if conv.padding == "same" else 0
        padding = ((size, size), (size, size))
        if i == 0:
            node = _convolution(quantized(node, 0), weight, (1, 1), padding, 1, outer)
            node = opset13.relu(pool(plus(node, conv.bias.data)))
            continue
        norm = getattr(model, f"bn{i}")
        factor = norm.gamma.data / np.sqrt(norm.running_var + norm.eps)
        shift = norm.beta.data - norm.running_mean * factor
        if binary:
            node = _convolution(_levels(node, 0, 1, 2), weight, (1, 1), padding, 1, kind)
            scale = (factor * np.abs(weight).mean()).astype(np.float32).reshape(1, -1, 1, 1)
            node = opset13.multiply(node, scale)
        else:
            node = _convolution(quantized(node, i), (weight * factor).astype(np.float32), (1, 1), padding, 1, kind)
        node = plus(node, shift)
        node = pool(node) if i == 2 else node
        if not binary or i == 6:
            node = opset13.relu(node)
    node = _convolution(quantized(node, 7), model.fc.weight.data[None, None], (1, 1), ((0, 0), (0, 0)), 1, outer)
    node = opset13.reshape(plus(node, model.fc.bias.data), [shape[0], 10], False)
    calibrating = kind == "openvino_int8" and not ranges
    return openvino.Model([node, *watched] if calibrating else [node], [parameter])


def activation_ranges(model, images):
    """The largest activation before each convolution and the last layer: what INT8 is scaled to."""
    graph = network_model(model, images.shape, "openvino_int8")
    request = _request(_compile(graph, 1), _ordered(images, True))
    request.infer()
    return [max(float(request.get_output_tensor(i).data.max()), 1e-3) for i in range(1, len(graph.outputs))]


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
