"""Networks of QONNX, and float ones of ONNX, as trees of this package's modules.

What is constant is computed first: weights with the nodes that round them. The rest is walked from the output to the input,
node by node; where two ways are added, it is a ``Residual``. A node that no layer here expresses is named.

Images turn from (C, H, W) to (H, W, C), and with them what they are flattened to, so a weight's rows are put in that order.
"""

import math

import numpy as np
import onnx
from onnx import numpy_helper

from bitnet import layers
from bitnet.exchange.quantized import IMAGES
from bitnet.module import Residual, Sequential, Signal
from bitnet.quantizers import BNNActivation, DoReFaActivation, PixelInput, UniformActivation, UniformWeight
from bitnet.storage.door import plain as printable

NODES = 4_000     # of a graph
NUMBERS = 1 << 24  # of an image
CHANNELS = 1 << 16  # that one number of a file may become
QUANT = ("Quant", "IntQuant")
CLOSE = 1e-6  # of a scale
FARTHEST = float(np.finfo(np.float32).max)


class Constant:
    """A constant array, and how its numbers were rounded: (bits, encoding, scale, narrow), or None."""

    def __init__(self, array, rounding=None):
        self.array, self.rounding = array, rounding


def attributes(node):
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def tree_of(model):
    """The tree of a model.

    Raises
    ------
    ValueError : a node that cannot be expressed, or a graph that does not hold together.
    """
    about = {one.key: one.value for one in model.metadata_props}
    reading = Reading(model.graph)
    modules = reading.modules()
    if IMAGES in about:
        modules.insert(0, layers.Images(*reading.shape))
    tree = Sequential(*modules)
    tree.trace(Signal(reading.shape), lambda *args: None)  # do the shapes fit?
    if about.get("classes"):
        tree.classes = tuple(about["classes"].split("\n"))
    return tree.eval()


def _rounding_of(node, inputs):
    """(bits, encoding, scale, narrow) of a node that rounds; ValueError where no quantizer here does the same."""
    if node.op_type == "BipolarQuant":
        return 1, "bipolar", inputs[1].array, False
    given = {"signed": 1, "narrow": 0, "rounding_mode": b"ROUND"} | attributes(node)
    scale, zero, bits = (one.array for one in inputs[1:4])
    if given["rounding_mode"].upper() not in (b"ROUND", b"HALF_EVEN") or np.size(bits) != 1 or np.size(zero) != 1:
        raise ValueError(f"{node.name} rounds {given['rounding_mode'].decode()!r:.20} with {np.size(bits)} numbers of bits and "
                         f"{np.size(zero)} zeros, expected ROUND with one")
    bits, zero, signed, narrow = float(bits.item()), float(zero.item()), bool(given["signed"]), bool(given["narrow"])
    if not 1 <= bits <= 8 or bits != int(bits):
        raise ValueError(f"{node.name} rounds to {bits:g} bits, expected 1 to 8")
    bits = int(bits)
    if signed and bits == 1:
        return 1, "bipolar", scale, False
    if signed and zero == 0:
        return (2, "ternary", scale, False) if bits == 2 and narrow else (bits, "signed", scale, narrow)
    if not signed and not narrow and zero == 0:
        return bits, "unsigned", scale, False
    if not signed and not narrow and zero == ((1 << bits) - 1) / 2:
        return bits, "bipolar", np.asarray(scale) / 2, False
    raise ValueError(f"{node.name} rounds to {bits} bits around a zero of {zero:g}, which no quantizer here does")


def _rounded(x, rounding, scale):
    """A constant as a node rounds it, as qonnx does."""
    bits, encoding, _, narrow = rounding
    if bits == 1 and encoding == "bipolar":
        return np.where(x >= 0, scale, -scale)
    if encoding == "bipolar":
        top = (1 << bits) - 1
        return (np.rint(np.clip(x / (2 * scale) + np.float32(top / 2), 0, top)) * 2 - top) * scale
    low, high = UniformActivation(bits, encoding, 1.0, narrow).ends
    return np.rint(np.clip(x / scale, low, high)) * scale


class Reading:
    """A graph, and where in it the walk is."""

    def __init__(self, graph):
        self.constants, self.producers, self.order = {}, {}, None
        if len(graph.node) > NODES or graph.sparse_initializer:
            raise ValueError(f"expected at most {NODES:,} nodes and no sparse arrays, found {len(graph.node):,} nodes")
        for one in graph.initializer:
            if one.data_location == onnx.TensorProto.EXTERNAL:
                raise ValueError(f"expected all arrays in the file itself, found {one.name} elsewhere")
            self.constants[one.name] = Constant(numpy_helper.to_array(one))
        ends = [[one for one in side if one.name not in self.constants] for side in (graph.input, graph.output)]
        if [len(side) for side in ends] != [1, 1]:
            raise ValueError(f"expected one input and one output, found {len(ends[0])} and {len(ends[1])}")
        (enters,), (leaves,) = ends
        known = {enters.name, *self.constants, ""}
        for node in graph.node:
            if len(node.output) != 1 or node.output[0] in known or not set(node.input) <= known:
                raise ValueError(f"expected nodes of one new result in the order of their work, found {node.name}")
            known.add(node.output[0])
            if node.op_type == "Constant" and "value" in attributes(node):
                self.constants[node.output[0]] = Constant(numpy_helper.to_array(attributes(node)["value"]))
            elif node.input and all(name in self.constants or not name for name in node.input):
                self.constants[node.output[0]] = self._computed(node)
            else:
                self.producers[node.output[0]] = node
        self.walked = 0
        self.items = self._sequence(leaves.name, enters.name)
        sizes = tuple(one.dim_value for one in enters.type.tensor_type.shape.dim)[1:]
        if len(sizes) not in (1, 3) or min(sizes) < 1 or math.prod(sizes) > NUMBERS:
            raise ValueError(f"expected an input of shape (N, C, H, W) or (N, D), of at most {NUMBERS:,} numbers, found (N, "
                             f"{', '.join(map(str, sizes))})")
        first = self.items[0][0] if self.items else None
        # images that enter as (H, W, C) are turned first
        self.last = first is not None and first.op_type == "Transpose" and attributes(first).get("perm") == [0, 3, 1, 2]
        self.shape = sizes if self.last or len(sizes) == 1 else (*sizes[1:], sizes[0])

    # Constants

    def _computed(self, node):
        inputs = [self.constants[name] for name in node.input if name]
        arrays, given, kind = [one.array for one in inputs], attributes(node), node.op_type
        rounding = inputs[0].rounding if kind in ("Identity", "Transpose", "Reshape") else None
        if kind in ("Identity", "Cast"):
            real = kind == "Cast" and given.get("to") == onnx.TensorProto.FLOAT
            array = arrays[0].astype(np.float32) if real else arrays[0]
        elif kind == "Transpose":
            array = arrays[0].transpose(given.get("perm"))
        elif kind == "Reshape":
            array = arrays[0].reshape(arrays[1])
        elif kind in ("Add", "Sub", "Mul", "Div") or kind in (*QUANT, "BipolarQuant"):
            if np.prod(np.broadcast_shapes(*(one.shape for one in arrays)), dtype=object) > max(one.size for one in arrays):
                raise ValueError(f"{node.name} makes a constant larger than any that it is made of")
            if kind in (*QUANT, "BipolarQuant"):
                rounding = _rounding_of(node, inputs)
                with np.errstate(all="ignore"):
                    array = _rounded(arrays[0], rounding, np.asarray(rounding[2], np.float32)).astype(np.float32)
            else:
                with np.errstate(all="ignore"):
                    operation = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[kind]
                    array = operation(*arrays)
        else:
            raise ValueError(f"{node.name}: expected constants made by simple arithmetic or Quant, found {kind}")
        return Constant(array, rounding)

    def _constant(self, node, place, what):
        """A constant input of a node, real and finite."""
        name = node.input[place] if place < len(node.input) else ""
        if name not in self.constants:
            raise ValueError(f"{node.name} ({node.op_type}): expected a constant {what}, found what is computed")
        if not np.isfinite(self.constants[name].array).all():
            raise ValueError(f"{node.name} ({node.op_type}): expected finite numbers as its {what}, found others")
        return self.constants[name]

    # The walk

    def _sequence(self, edge, stop):
        """Nodes from an edge to another one, in the order of work; where ways are added, (node, [nodes of each way])."""
        found = []
        while edge != stop:
            self.walked += 1
            if edge not in self.producers or self.walked > 4 * NODES:
                raise ValueError("expected ways that are added to part and to meet in pairs, found others")
            node = self.producers[edge]
            data = [name for name in node.input if name and name not in self.constants]
            ways = None
            if len(data) == 2 and node.op_type == "Add":
                trail = set(self._trail(data[1]))
                edge = next(one for one in self._trail(data[0]) if one in trail)
                ways = [self._sequence(one, edge) for one in data]
            elif len(data) == 1:
                edge = data[0]
            else:
                raise ValueError(f"{node.name} ({node.op_type}) joins {len(data)} ways: only a sum of two can be expressed")
            found.append((node, ways))
        return found[::-1]

    def _trail(self, edge):
        """Edges from one back to the input, by way of each node's first."""
        yield edge
        while edge in self.producers:
            edge = next(name for name in self.producers[edge].input if name and name not in self.constants)
            yield edge

    def modules(self):
        """The modules of the whole."""
        self.now = self.shape
        made = self._made(self.items)
        if self.order is not None:
            raise ValueError("expected a network that ends with a layer, found one that ends with a flattened image")
        return made

    def _made(self, items):
        made = []
        for node, ways in items:
            if ways is not None:
                made.append(self._residual(node, ways))
                continue
            kind = node.op_type
            build = getattr(self, f"_{kind.lower()}", None) if kind in KINDS else None
            if build is None:
                raise ValueError(f"{node.name} cannot be expressed by a layer: it is a {kind}, expected one of "
                                 f"{', '.join(sorted(KINDS))}")
            if self.last and len(self.now) == 3 and kind not in ("Transpose", "Reshape", "Flatten", "Identity"):
                raise ValueError(f"{node.name} ({kind}): expected images (N, C, H, W), found them turned")
            module = build(node, made)
            if module is not None:
                self.now = module.flow(Signal(self.now), lambda *args: None).shape
                made.append(module)
        return made

    def _residual(self, node, ways):
        before, ends, parts = (self.now, self.order, self.last), [], []
        for way in ways:
            self.now, self.order, self.last = before
            parts.append(self._made(way))
            ends.append((self.now, self.order, self.last))
        if ends[0] != ends[1]:
            raise ValueError(f"{node.name} adds {ends[0][0]} and {ends[1][0]}, expected two equal shapes")
        if not parts[0]:
            parts.reverse()
        if not parts[0]:
            raise ValueError(f"{node.name} adds what enters to itself, which no layer does")
        return Residual(*parts[0], shortcut=Sequential(*parts[1]) if parts[1] else None)

    def _arranged(self, array, axis=-1):
        """Numbers along an axis in the order of (H, W, C), where they are those of a flattened (C, H, W)."""
        if self.order is None:
            return array
        height, width, channels = self.order
        places = np.arange(array.shape[axis]).reshape(channels, height, width).transpose(1, 2, 0).ravel()
        return array.take(places, axis)

    # Layers

    def _weights(self, node, array, rounding, filters, turn, make):
        """A layer with a weight of ONNX's shape; ``filters`` its axis of filters, ``turn`` brings it into this one's shape."""
        quantizer = None
        if rounding is not None and rounding[1] != "unsigned":
            bits, encoding, scale, narrow = rounding
            scale = np.moveaxis(np.broadcast_to(scale, array.shape), filters, -1).reshape(-1, array.shape[filters])
            if (scale != scale[0]).any():
                raise ValueError(f"{node.name}: expected weights of one scale or one a filter, found others")
            scale = tuple(map(float, scale[0]))
            quantizer = UniformWeight(bits, encoding, scale[0] if len(set(scale)) == 1 else scale, narrow)
        layer = make(quantizer)
        layer.weight.data = np.ascontiguousarray(turn(array), np.float32)
        return layer

    def _conv(self, node, made):
        given, weight = attributes(node), self._constant(node, 1, "weight")
        array = weight.array
        if array.ndim != 4 or len(self.now) != 3:
            raise ValueError(f"{node.name} (Conv): expected a weight of four axes on images, found {array.shape} on {self.now}")
        if any(one != 1 for one in given.get("dilations", [])) or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise ValueError(f"{node.name} (Conv): expected no dilation and padding in numbers, found others")
        top, left, bottom, right = given.get("pads", [0] * 4)
        groups, bias = given.get("group", 1), len(node.input) > 2 and node.input[2]
        options = (array.shape[1] * groups, array.shape[0], array.shape[2:], tuple(given.get("strides", [1, 1])),
                   ((top, bottom), (left, right)), groups, bool(bias))
        layer = self._weights(node, array, weight.rounding, 0, lambda one: one.transpose(2, 3, 1, 0),
                              lambda quantizer: layers.Conv2d(*options, weight_quantizer=quantizer))
        if bias:
            layer.bias.data = self._numbers(self._constant(node, 2, "bias").array, array.shape[0], node)
        return layer

    def _matmul(self, node, made):
        return self._linear(node, self._constant(node, 1, "weight"))

    def _gemm(self, node, made):
        given, weight = attributes(node), self._constant(node, 1, "weight")
        if given.get("alpha", 1) != 1 or given.get("beta", 1) != 1 or given.get("transA", 0):
            raise ValueError(f"{node.name} (Gemm): expected x @ W + b, found factors or a turned x")
        if given.get("transB", 0):
            rounding = weight.rounding
            if rounding and np.ndim(rounding[2]) == 2:
                rounding = (*rounding[:2], rounding[2].T, rounding[3])
            weight = Constant(weight.array.T, rounding)
        layer = self._linear(node, weight)
        if len(node.input) > 2 and node.input[2]:
            layer.bias = layer.zero_bias()
            layer.bias.data = self._numbers(self._constant(node, 2, "bias").array, weight.array.shape[1], node)
        return layer

    def _linear(self, node, weight):
        array = weight.array
        if array.ndim != 2 or len(self.now) != 1:
            raise ValueError(f"{node.name} ({node.op_type}): expected a matrix on vectors, found {array.shape} on {self.now}")
        made = self._weights(node, array, weight.rounding, 1, lambda one: self._arranged(one, 0),
                             lambda quantizer: layers.Linear(*array.shape, weight_quantizer=quantizer))
        self.order = None
        return made

    def _numbers(self, array, count, node):
        """One number for each of ``count`` channels: float32 (count,)."""
        target = (1, count, 1, 1) if len(self.now) == 3 and np.ndim(array) > 1 else (1, count)
        try:
            numbers = np.broadcast_to(np.reshape(array, (1,) * (len(target) - np.ndim(array)) + np.shape(array)), target)
        except ValueError:
            raise ValueError(f"{node.name} ({node.op_type}): expected a number or one for each of {count} channels, found "
                             f"{np.shape(array)}") from None
        return np.ascontiguousarray(self._arranged(numbers.reshape(-1)) if np.size(array) > 1 and len(self.now) == 1
                                    else numbers.reshape(-1), np.float32)

    def _batchnormalization(self, node, made):
        eps, count = float(attributes(node).get("epsilon", 1e-5)), self.now[-1]
        norm = layers.BatchNorm(count, eps=eps)
        scale, shift, mean, var = (self._numbers(self._constant(node, place, what).array, count, node) for place, what in
                                   enumerate(("scale", "shift", "mean", "variance"), 1))
        if not (var + eps > 0).all():
            raise ValueError(f"{node.name} (BatchNormalization): expected positive variances, found {var.min():g}")
        norm.gamma.data, norm.beta.data = scale, shift
        norm.running_mean[...], norm.running_var[...] = mean, var
        return norm

    def _affine(self, node, scale, shift):
        if self.now[-1] > max(CHANNELS, np.size(scale), np.size(shift)):
            raise ValueError(f"{node.name} ({node.op_type}): expected at most {CHANNELS:,} channels, found {self.now[-1]:,}")
        norm = layers.BatchNorm(self.now[-1], eps=0.0)
        norm.gamma.data, norm.beta.data = (np.broadcast_to(np.float32(one), self.now[-1:]).copy() for one in (scale, shift))
        return norm

    def _other(self, node):
        """The constant of arithmetic with what travels, one number or one a channel; is it on the left?"""
        place = 0 if node.input[0] in self.constants else 1
        array = self._constant(node, place, "operand").array
        return np.float32(array.item()) if array.size == 1 else self._numbers(array, self.now[-1], node), place == 0

    def _add(self, node, made):
        number, _ = self._other(node)
        if made and isinstance(made[-1], (layers.Conv2d, layers.Linear)) and made[-1].bias is None:
            made[-1].bias = made[-1].zero_bias()
            made[-1].bias.data = np.broadcast_to(number, made[-1].bias.shape).copy()
            return None
        return self._affine(node, 1, number)

    def _sub(self, node, made):
        number, left = self._other(node)
        return self._affine(node, -1, number) if left else self._affine(node, 1, -number)

    def _mul(self, node, made):
        return self._affine(node, self._other(node)[0], 0)

    def _div(self, node, made):
        number, left = self._other(node)
        if left or not np.all(number):
            raise ValueError(f"{node.name} (Div): expected a division by numbers other than 0, found another one")
        return self._affine(node, 1 / number, 0)

    def _quant(self, node, made):
        inputs = [None, *(self._constant(node, place, what) for place, what in enumerate(("scale", "zero", "bits"), 1))]
        return self._activation(node, _rounding_of(node, inputs), made)

    _intquant = _quant

    def _bipolarquant(self, node, made):
        return self._activation(node, _rounding_of(node, [None, self._constant(node, 1, "scale")]), made)

    def _activation(self, node, rounding, made):
        bits, encoding, scale, narrow = rounding
        if np.size(scale) != 1:
            raise ValueError(f"{node.name} ({node.op_type}): expected one scale for activations, found {np.size(scale)}")
        scale = float(np.float32(np.asarray(scale).item()))
        if encoding == "unsigned" and bits == 8 and scale == 1 / 256 and not made:
            return layers.Activation(PixelInput())
        if encoding == "unsigned" and abs(scale * ((1 << bits) - 1) - 1) < CLOSE:
            return layers.Activation(DoReFaActivation(bits))
        if (bits, encoding, scale) == (1, "bipolar", 1.0):
            return layers.Activation(BNNActivation())
        return layers.Activation(UniformActivation(bits, encoding, scale, narrow))

    def _relu(self, node, made):
        return layers.Activation()

    def _clip(self, node, made):
        bounds = [float(self._constant(node, place, "bound").array.item()) if place < len(node.input) and node.input[place]
                  else none for place, none in ((1, -FARTHEST), (2, FARTHEST))]
        return layers.Activation() if bounds == [0, FARTHEST] else layers.Clip(*bounds)

    def _resize(self, node, made):
        given, scales = attributes(node), np.ravel(self._constant(node, 2, "scales").array)
        factor = int(scales[-1]) if scales.shape == (4,) else 0
        how = tuple(given.get(name, other).decode() for name, other in (
            ("mode", b"nearest"), ("coordinate_transformation_mode", b"half_pixel"), ("nearest_mode", b"round_prefer_floor")))
        smooth = how[:2] == ("linear", "half_pixel")
        if list(scales) != [1, 1, factor, factor] or not (smooth or how == ("nearest", "asymmetric", "floor")):
            raise ValueError(f"{node.name} (Resize): expected pixels repeated, or bilinear between their centres, found others")
        return layers.Upsample(factor, smooth)

    def _gather(self, node, made):
        order = np.ravel(self._constant(node, 1, "order").array)
        if attributes(node).get("axis", 0) != 1 or len(self.now) != 3 or len(order) > CHANNELS:
            raise ValueError(f"{node.name} (Gather): expected another order of an image's channels, found another one")
        return layers.Standardize(order=tuple(map(int, order)))

    def _identity(self, node, made):
        return None

    _dropout = _identity

    def _window(self, node):
        given = attributes(node)
        size, pads = given["kernel_shape"], given.get("pads", [0] * 4)
        strides = given.get("strides", [1, 1])
        square = len({*size}) == len({*strides}) == 1 and len(size) == 2 and len(self.now) == 3
        if not square or given.get("ceil_mode", 0) or any(one != 1 for one in given.get("dilations", [])):
            raise ValueError(f"{node.name} ({node.op_type}): expected square windows and steps, found others")
        if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise ValueError(f"{node.name} ({node.op_type}): expected padding in numbers, found {given['auto_pad'].decode()!r}")
        top, left, bottom, right = pads
        return size[0], strides[0], top if len({*pads}) == 1 else ((top, bottom), (left, right))

    def _maxpool(self, node, made):
        return layers.MaxPool(*self._window(node))

    def _averagepool(self, node, made):
        size, stride, padding = self._window(node)
        if padding and not attributes(node).get("count_include_pad", 0):
            raise ValueError(f"{node.name} (AveragePool): expected padding that counts as zeros, found padding left out")
        return layers.AvgPool(size, stride, padding)

    def _globalaveragepool(self, node, made):
        if len(self.now) != 3 or self.now[0] != self.now[1]:
            raise ValueError(f"{node.name} (GlobalAveragePool): expected square images, found {self.now}")
        return layers.AvgPool(self.now[0])

    # Shapes

    def _transpose(self, node, made):
        perm = list(attributes(node).get("perm", []))
        if len(self.now) != 3 or perm != ([0, 3, 1, 2] if self.last else [0, 2, 3, 1]):
            raise ValueError(f"{node.name} (Transpose): expected images turned from (C, H, W) or back, found {perm}")
        self.last = not self.last

    def _flatten(self, node, made):
        if attributes(node).get("axis", 1) != 1:
            raise ValueError(f"{node.name} (Flatten): expected one vector an image, found another shape")
        return self._flat()

    def _flat(self):
        if len(self.now) == 1:
            return None
        height, width, channels = self.now
        if not self.last and height * width > 1 and channels > 1:
            self.order = self.now
        self.last = False
        return layers.Flatten()

    def _reshape(self, node, made):
        shape = [int(size) for size in np.ravel(self._constant(node, 1, "shape").array)][1:]
        if len(shape) == 1 and shape[0] in (-1, int(np.prod(self.now))):
            return self._flat()
        in_order = self.order is None and (len(self.now) == 1 or self.last or 1 in (self.now[2], max(self.now[:2])))
        if len(shape) == 3 and min(shape) > 0 and in_order and 1 in (shape[0], max(shape[1:])):
            self.last = False
            return layers.Reshape((*shape[1:], shape[0]))
        raise ValueError(f"{node.name} (Reshape): expected an image as a vector, or numbers as channels, found {self.now} as "
                         f"{printable(shape, 60)}")


KINDS = {"Conv", "MatMul", "Gemm", "BatchNormalization", "Add", "Sub", "Mul", "Div", "Quant", "IntQuant", "BipolarQuant",
         "Relu", "Clip", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool", "Transpose", "Flatten",
         "Reshape", "Gather", "Resize"}
