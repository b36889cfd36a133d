"""A graph of ONNX under construction, and what travels in it."""

import math
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bitnet.deploy.stages import Wire

OPSET, IR = 17, 8  # of 2022: what reads files of ONNX knows these
TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE,
         np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int32): TensorProto.INT32}


class Value(NamedTuple):
    """What travels along an edge: real numbers, or codes as bytes s with level = factor * (s - zero) + offset.

    Images are (N, C, H, W), as ONNX has them. Only bipolar codes of 8 bits, whose levels are more than a byte has, have another
    factor than 1; padded with bytes ``zero``, an offset is not padded.

    name : of the edge; wire : Wire, with the shape (H, W, C) or (D,) of a sample
    """

    name: str
    wire: Wire
    zero: int = 0
    factor: int = 1
    offset: int = 0


def stored(wire, name):
    """The Value of codes of a Wire: how their bytes stand for levels."""
    top = (1 << wire.bits) - 1
    if wire.encoding == "bipolar":
        return Value(name, wire, (top + 1) // 2, 2, 1) if 2 * top > 255 else Value(name, wire, top)
    return Value(name, wire, 1 if wire.encoding == "ternary" else 0)


def spread(wire):
    """What a code is multiplied with to be the byte of ``stored``."""
    return 2 if wire.encoding == "bipolar" and wire.bits < 8 else 1


class Graph:
    """Nodes in order, and the constants that they take; equal constants are kept once.

    exporters : {kind of stage: function}; codes : do codes travel as bytes, or as the real numbers that they stand for
    """

    def __init__(self, exporters, codes=True):
        self.exporters, self.codes = exporters, codes
        self.nodes, self.constants, self.prefix = [], {}, ""
        self.names, self.known = set(), {}

    def name(self, text):
        """A name that nothing else has."""
        name, count = text, 1
        while name in self.names:
            name, count = f"{text}_{count}", count + 1
        self.names.add(name)
        return name

    def constant(self, array, name="constant"):
        """The edge of an array."""
        array = np.array(array, copy=None, order="C")  # a number stays one
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self.known:
            self.known[key] = self.name(f"{self.prefix}{name}")
            self.constants[self.known[key]] = array
        return self.known[key]

    def node(self, operation, *inputs, domain="", outputs=None, **attributes):
        """Add a node; the edge that leaves it."""
        name = self.name(f"{self.prefix}{operation}")
        self.nodes.append(helper.make_node(operation, list(inputs), [outputs or name], name, domain=domain, **attributes))
        return outputs or name

    def cast(self, edge, dtype):
        return self.node("Cast", edge, to=TYPES[np.dtype(dtype)])

    def channels(self, array, wire):
        """The edge of an array of one number a channel, so shaped that it meets what travels along a wire."""
        return self.constant(np.reshape(array, (-1, 1, 1) if len(wire.shape) == 3 else (-1,)))

    def model(self, inputs, outputs, domains=(), about=None):
        """The whole as a model of ONNX; inputs and outputs are {name: (dtype, shape)}, None for the number of images."""
        ends = [[helper.make_tensor_value_info(name, TYPES[np.dtype(dtype)], ["N" if size is None else size for size in shape])
                 for name, (dtype, shape) in these.items()] for these in (inputs, outputs)]
        constants = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, "bitnet", *ends, constants)
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
        model = helper.make_model(graph, producer_name="bitnet", opset_imports=opsets, ir_version=IR)
        helper.set_model_props(model, about or {})
        return model


def reshaped(graph, value, shape):
    """A Value in another shape of its samples: numbers keep their order along (H, W, C)."""
    edge, old, new = value.name, value.wire.shape, tuple(shape)
    if len(old) == 3 and math.prod(old[:2]) > 1 and old != new:
        edge = graph.node("Transpose", edge, perm=[0, 2, 3, 1])
    inner = (new[2], *new[:2]) if len(new) == 3 and math.prod(new[:2]) == 1 else new
    if old != new:
        edge = graph.node("Reshape", edge, graph.constant(np.array([-1, *inner], np.int64), "shape"))
        if len(new) == 3 and math.prod(new[:2]) > 1:
            edge = graph.node("Transpose", edge, perm=[0, 3, 1, 2])
    return value._replace(name=edge, wire=value.wire._replace(shape=new))


def check(model):
    """ValueError where onnx finds fault with a model of its own operators."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"onnx finds fault with this network: {error}") from None
