"""Networks as QONNX: layers in real numbers, and nodes that round weights and activations to a few bits.

    Quant(x, scale, zero, bits)    (clip(round(x / scale + zero)) - zero) * scale, of 2**bits integers from 0 on, or signed
    BipolarQuant(x, scale)         scale where x >= 0, else -scale

This is the dialect of Brevitas, FINN and hls4ml (Pappalardo et al., arXiv:2206.07527). Here weights are kept as bytes, made
real by Cast and Mul, and rounded to what they are already, so that a program sees their bits. Levels without a 0, of weights
of 2 bits and more, have a zero between two integers.

Products are in real numbers, as in a network before it is frozen: where one lies on a threshold within float32's rounding, a
code may differ by one.
"""

import numpy as np

from bitnet.codes import Codes
from bitnet.deploy import stages
from bitnet.deploy.products import Product
from bitnet.exchange.graph import Graph, Value
from bitnet.exchange.plain import EXPORTERS, chained, conv_options, is_matrix, steps_of, weight_edge

DOMAIN = "qonnx.custom_op.general"
CLOSE = 1e-4  # of the distance of two levels: what thresholds may be off and still be those of rounding
IMAGES = "bitnet.images"  # among a file's properties: inputs are pixels / 256

OWN = {}


def quantized(reader, images, classes):
    """The stages of a network, not fused, as a model of QONNX.

    Input ``images``, float32 (1, C, H, W) or (1, D), pixels / 256 where they are images. Output ``logits``, float32.

    Parameters
    ----------
    reader : deploy.Reader; images : does it take images; classes : names of the outputs, or None

    Raises
    ------
    ValueError : a stage that cannot be exported; it is named with the reason.
    """
    graph, shape = Graph(EXPORTERS | OWN, codes=False), reader.start.shape
    enters = "images" if images else "inputs"
    graph.names |= {enters, "logits"}
    value = chained(reader.stages, Value(enters, stages.Wire(shape)), graph)
    graph.prefix = ""
    graph.node("Identity", value.name, outputs="logits")
    about = ({"classes": "\n".join(classes)} if classes else {}) | ({IMAGES: "pixels / 256"} if images else {})
    ends = [(1, *(size[-1:] + size[:-1])) for size in (shape, value.wire.shape)]  # channels first
    return graph.model({enters: (np.float32, ends[0])}, {"logits": (np.float32, ends[1])}, [DOMAIN], about)


def _own(kind):
    def enter(function):
        OWN[kind] = function
        return function
    return enter


def _quant(graph, edge, scale, zero, bits, signed, narrow=0):
    """A Quant node; scale is an array."""
    numbers = [graph.constant(np.asarray(number, np.float32), name) for number, name in
               ((scale, "scale"), (zero, "zero"), (bits, "bits"))]
    return graph.node("Quant", edge, *numbers, domain=DOMAIN, signed=signed, narrow=narrow, rounding_mode="ROUND")


def _bipolar(graph, edge, scale):
    return graph.node("BipolarQuant", edge, graph.constant(np.asarray(scale, np.float32), "scale"), domain=DOMAIN)


@_own(stages.Quantize)
def _quantize(stage, value, graph):
    thresholds, heights = (array.astype(np.float64) for array in steps_of(stage, Codes.decode))
    edge = _rounding(graph, value.name, thresholds, heights, stage.after)
    if edge is None:  # any staircase is a sum of single steps
        for threshold, low, high in zip(thresholds, heights, heights[1:], strict=False):
            step = _bipolar(graph, graph.node("Sub", value.name, graph.constant(np.float32(threshold))), (high - low) / 2)
            edge = step if edge is None else graph.node("Add", edge, step)
        edge = graph.node("Add", edge, graph.constant(np.float32((heights[0] + heights[-1]) / 2)))
    return Value(edge, stage.after)


def _shifted(graph, edge, factor, offset):
    """x * factor + offset, without the nodes that do nothing."""
    if abs(factor - 1) > CLOSE:
        edge = graph.node("Mul", edge, graph.constant(np.float32(factor)))
    return graph.node("Add", edge, graph.constant(np.float32(offset))) if abs(offset) > CLOSE * abs(factor) else edge


def _rounding(graph, edge, thresholds, heights, wire):
    """A staircase as one node that rounds; None where its steps are not equal, or their number is not that of some bits."""
    count, height, width = len(heights), np.diff(heights), np.diff(thresholds)
    if count == 2 and heights[0] == -heights[1]:
        return _bipolar(graph, _shifted(graph, edge, 1, -thresholds[0]), heights[1])
    step = (heights[-1] - heights[0]) / (count - 1) if count > 1 else 0
    even = count > 1 and np.ptp(height) <= CLOSE * step and (count == 2 or np.ptp(width) <= CLOSE * width.mean())
    signed = bool(heights[0] < 0 and count % 2)  # with a 0 in the middle
    bits = (count + int(signed) - 1).bit_length()
    if not even or count != (1 << bits) - signed or (heights[0] != 0 and not np.isclose(heights[0], -heights[-1])):
        return None
    factor = step / width.mean() if count > 2 else 1.0
    edge = _shifted(graph, edge, factor, heights[0] + step / 2 - factor * thresholds[0])
    zero = 0 if signed else -heights[0] / step
    return _quant(graph, edge, step, zero, bits, signed=int(signed), narrow=int(signed))


@_own(Product)
def _product(stage, value, graph):
    weight = weight_edge(graph, stage, stage["weight"]) if stage.codes is None else _sum_of_terms(graph, stage)
    bias = [] if stage["bias"] is None else [graph.constant(stage["bias"], "bias")]
    if not is_matrix(stage):
        return Value(graph.node("Conv", value.name, weight, *bias, **conv_options(stage.conv)), stage.after)
    edge = graph.node("MatMul", value.name, weight)
    return Value(graph.node("Add", edge, *bias) if bias else edge, stage.after)


def _sum_of_terms(graph, stage):
    total = None
    for term in stage.codes.terms():
        scale, levels = np.asarray(term.scale, np.float64), term.levels()
        if term.encoding == "ternary":  # a sum's second term may count downwards, or nothing
            levels, scale = levels * np.sign(scale).astype(np.int64), np.where(scale == 0, 1, np.abs(scale))
            if not levels.any() and total is not None:
                continue
        if scale.ndim:  # of filters
            scale = scale.reshape((1, -1) if is_matrix(stage) else (-1, 1, 1, 1))
        edge = _rounded_weight(graph, stage, term, levels, scale)
        total = edge if total is None else graph.node("Add", total, edge)
    return total


def _rounded_weight(graph, stage, term, levels, scale):
    """A weight of codes: bytes, made real, then rounded to what it is."""
    if term.bits == 1:
        return _bipolar(graph, graph.cast(weight_edge(graph, stage, levels.astype(np.int8)), np.float32), scale)
    if term.encoding == "ternary":
        edge = graph.cast(weight_edge(graph, stage, levels.astype(np.int8)), np.float32)
        edge = graph.node("Mul", edge, graph.constant(scale.astype(np.float32), "scale"))
        return _quant(graph, edge, scale, 0, 2, signed=1, narrow=1)
    zero, step = ((1 << term.bits) - 1) / 2, 2 * scale
    edge = graph.node("Sub", graph.cast(weight_edge(graph, stage, term.values), np.float32), graph.constant(np.float32(zero)))
    edge = graph.node("Mul", edge, graph.constant(step.astype(np.float32), "scale"))
    return _quant(graph, edge, step, zero, term.bits, signed=0)


@_own(stages.Affine)
def _affine(stage, value, graph):
    count = stage.after.shape[-1]
    numbers = (stage["scale"], stage["shift"], np.zeros(count, np.float32), np.ones(count, np.float32))
    edges = [graph.constant(array, name) for array, name in zip(numbers, ("scale", "shift", "mean", "var"), strict=True)]
    return Value(graph.node("BatchNormalization", value.name, *edges, epsilon=0.0), stage.after)
