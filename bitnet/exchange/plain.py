"""Frozen networks as ONNX that any of its programs runs: integers as integers, thresholds as comparisons.

    product of codes      ConvInteger, MatMulInteger: bytes in, int32 out, exact
    thresholds            comparisons of int32 with int32, and of float32 with float32, added up
    real numbers          Conv, MatMul in float32: their sums are rounded in another order than here

So what is integer here is the same integer there. A sum of real numbers, in a first layer say, may be rounded the other way,
and where it lies on a threshold within that rounding, a code differs by one.

A stage of one's own gets its exporter beside it:

    @exports(MyStage)
    def _(stage, value, graph):
        return value._replace(name=graph.node("Tanh", real(graph, value).name), wire=stage.after)
"""

import numpy as np

from bitnet.codes import Codes
from bitnet.deploy import stages
from bitnet.deploy.products import First, Product, Thresholds
from bitnet.exchange.graph import Graph, Value, reshaped, spread, stored
from bitnet.kernels import products
from bitnet.kernels.pointwise import pool
from bitnet.quantizers import DoReFaActivation

EXPORTERS = {}
FEW = 3            # thresholds that are compared with one by one; more are searched by halves
FINITE = 0x7F7FFFFF  # the bits of the largest float32
FLOAT_SUMS = 1 << 24  # integers up to this are exact in float32


def exports(kind):
    """Decorate a function (stage, value, graph) -> Value that adds the nodes of stages of a kind."""
    def enter(function):
        EXPORTERS[kind] = function
        return function
    return enter


def plain(network):
    """A FrozenNetwork as a model of ONNX.

    Input ``images``, uint8 (N, H, W, C), or ``inputs``, float32, where a network does not take images. Output ``logits``,
    float32 (N, classes).

    Raises
    ------
    ValueError : a stage that cannot be exported; it is named with the reason.
    """
    graph, shape = Graph(EXPORTERS), network.input_shape
    enters = "images" if network.images else "inputs"
    graph.names |= {enters, "logits"}
    value = Value(enters, stages.Wire(shape))
    todo = list(network.stages)
    if network.images:
        value, todo = _pixels(graph, value, todo)
    elif len(shape) == 3:
        value = value._replace(name=graph.node("Transpose", enters, perm=[0, 3, 1, 2]))
    value = chained(todo, value, graph)
    value = _as_here(graph, real(graph, value))
    graph.prefix = ""
    graph.node("Identity", value.name, outputs="logits")
    about = {"classes": "\n".join(network.classes)} if network.classes else {}
    return graph.model({enters: (np.uint8 if network.images else np.float32, (None, *shape))},
                       {"logits": (np.float32, (None, *value.wire.shape))}, about=about)


def _pixels(graph, value, todo):
    """Where images enter: bytes as numbers from 0 to 1, or straight as the codes that a first stage would make of them."""
    every = np.arange(256, dtype=np.float32) / 256
    first = todo[0] if todo else None
    if first is not None and first.kind == stages.Quantize.kind and first.after.is_codes:
        codes = first.quantizer.encode(every).values * spread(first.after)
        edge = value.name
        if not np.array_equal(codes, np.arange(256)):
            edge = graph.node("Gather", graph.constant(codes.astype(np.uint8), "codes"), graph.cast(edge, np.int32))
        value, todo = stored(first.after, edge), todo[1:]
    if len(value.wire.shape) == 3:
        value = value._replace(name=graph.node("Transpose", value.name, perm=[0, 3, 1, 2]))
    if value.wire.is_codes:
        return value, todo
    pixels = graph.node("Mul", graph.cast(value.name, np.float32), graph.constant(np.float32(1 / 256), "pixel"))
    return value._replace(name=pixels), todo


def _as_here(graph, value):
    """Images in (N, H, W, C)."""
    if len(value.wire.shape) < 3:
        return value
    return value._replace(name=graph.node("Transpose", value.name, perm=[0, 2, 3, 1]))


def chained(todo, value, graph):
    """The Value that leaves stages one after the other."""
    for stage in todo:
        graph.prefix = f"{stage.name}/"
        exporter = next((graph.exporters[kind] for kind in type(stage).__mro__ if kind in graph.exporters), None)
        if exporter is None:
            raise ValueError(f"{stage.name} cannot be exported: there is no exporter (bitnet.exchange.plain.exports) for a "
                             f"stage {stage.kind!r}")
        value = exporter(stage, value, graph)
        if not graph.codes:
            value = Value(value.name, value.wire.reals())
    return value


def real(graph, value):
    """A Value as real numbers, as ``Codes.decode`` gives them."""
    wire = value.wire
    if not wire.is_codes:
        return value
    count = 3 if wire.encoding == "ternary" else 1 << wire.bits
    codes = np.arange(count, dtype=np.uint8)
    numbers, bytes_ = wire.codes(codes).decode(), codes.astype(np.int64) * spread(wire)
    scale = np.float32(wire.scale)
    if value.factor == 1 and np.array_equal((bytes_ - value.zero).astype(np.float32) * scale, numbers):
        edge = graph.node("DequantizeLinear", value.name, graph.constant(scale, "scale"),
                          graph.constant(np.uint8(value.zero), "zero"))
    else:  # multiplied in float64 here
        table = np.zeros(bytes_[-1] + 1, np.float32)
        table[bytes_] = numbers
        edge = graph.node("Gather", graph.constant(table, "numbers"), graph.cast(value.name, np.int32))
    return Value(edge, wire.reals())


# Thresholds

def steps(function):
    """Where a rising staircase of float32 numbers steps, by halving all finite ones.

    Parameters
    ----------
    function : float32 array (n,) -> array (n,), rising

    Returns
    -------
    thresholds : float32 (k,), the first number of each step but the lowest; heights : (k + 1,)
    """
    def at(keys):  # float32 in the order of their keys
        numbers = np.abs(keys).astype(np.uint32).view(np.float32)
        return np.where(keys < 0, -numbers, numbers)

    low, high = np.array([-FINITE]), np.array([FINITE])
    with np.errstate(over="ignore"):  # of the largest numbers
        ends = function(at(np.array([-FINITE, FINITE])))
    below, above = ends[:1], ends[1:]
    while True:
        differ = below != above
        low, high, below, above = low[differ], high[differ], below[differ], above[differ]
        if not len(low) or (high - low == 1).all():
            return at(high), np.concatenate([ends[:1], above])
        middle = (low + high) // 2
        with np.errstate(over="ignore"):
            found = function(at(middle))
        low, high = np.stack([low, middle], 1).ravel(), np.stack([middle, high], 1).ravel()
        below, above = np.stack([below, found], 1).ravel(), np.stack([found, above], 1).ravel()
        whole = high > low  # of neighbours, one half is nothing
        low, high, below, above = low[whole], high[whole], below[whole], above[whole]


def reached(graph, edge, thresholds, wire):
    """How many thresholds are reached, int32: (k,) of all, or (k, C) rising in each channel, of the type of what travels."""
    rows = thresholds.reshape(len(thresholds), -1)
    each = (lambda row: graph.channels(row, wire)) if rows.shape[1] > 1 else (lambda row: graph.constant(row.reshape(())))
    if len(rows) <= FEW:
        parts = [graph.cast(graph.node("GreaterOrEqual", edge, each(row)), np.int32) for row in rows]
        total = parts[0]
        for part in parts[1:]:
            total = graph.node("Add", total, part)
        return total
    bits = len(rows).bit_length()
    never = np.full(((1 << bits) - len(rows), rows.shape[1]), rows[-1])  # the last one: counted only if that is reached
    table = np.concatenate([rows, never])  # 2**bits rows
    found = None
    for bit in reversed(range(bits)):
        if found is None:
            threshold = each(table[(1 << bit) - 1])
        else:
            place = graph.node("Add", found, graph.constant(np.int32((1 << bit) - 1)))
            if rows.shape[1] > 1:
                starts = np.arange(rows.shape[1], dtype=np.int32) << bits
                place = graph.node("Add", place, graph.channels(starts, wire))
            threshold = graph.node("Gather", graph.constant(table.T.ravel(), "thresholds"), place)
        hit = graph.cast(graph.node("GreaterOrEqual", edge, threshold), np.int32)
        more = graph.node("Mul", hit, graph.constant(np.int32(1 << bit))) if bit else hit
        found = more if found is None else graph.node("Add", found, more)
    if len(rows) + 1 < 1 << bits:
        found = graph.node("Min", found, graph.constant(np.int32(len(rows))))
    return found


def coded(graph, edge, wire):
    """Codes, int32, as the bytes of a Value."""
    if spread(wire) > 1:
        edge = graph.node("Mul", edge, graph.constant(np.int32(spread(wire))))
    return stored(wire, graph.cast(edge, np.uint8))


def steps_of(stage, read):
    """``steps`` of a quantizer's stage; codes have the heights ``read(codes)``. ValueError where they may not rise."""
    if type(stage.quantizer).encode_and_save not in stages.RISING:
        raise ValueError(f"{stage.name} cannot be exported: what {type(stage.quantizer).__name__} makes of a number is not "
                         "known to rise with it")

    def height(numbers):
        result = stage.quantizer.encode(numbers)
        return read(result) if isinstance(result, Codes) else result

    return steps(height)


@exports(stages.Quantize)
def _quantize(stage, value, graph):
    thresholds, heights = steps_of(stage, lambda codes: codes.values)
    return _stepped(graph, real(graph, value).name, thresholds, heights, stage.after)


def _stepped(graph, edge, thresholds, heights, wire):
    """A staircase of real numbers: codes, or the heights themselves."""
    place = reached(graph, edge, thresholds, wire)
    if not wire.is_codes:
        return Value(graph.node("Gather", graph.constant(heights.astype(np.float32), "heights"), place), wire)
    if not np.array_equal(heights, np.arange(len(heights))):
        place = graph.node("Gather", graph.constant(heights.astype(np.int32), "codes"), place)
    return coded(graph, place, wire)


# Products

def conv_options(conv):
    """Attributes of a convolution's node."""
    (top, bottom), (left, right) = conv.padding
    return {"kernel_shape": list(conv.kernel_size), "strides": list(conv.stride), "pads": [top, left, bottom, right],
            "group": conv.groups}


def is_matrix(stage):
    """Is a product that of a fully connected layer?"""
    return len(stage.before.shape) == 1


def weight_edge(graph, stage, array, name="weight"):
    """The edge of a weight (kh, kw, in, out) as ONNX has it: (out, in, kh, kw), or (in, out) of a fully connected layer."""
    array = array.reshape(stage.conv.weight_shape)
    return graph.constant(array[0, 0] if is_matrix(stage) else array.transpose(3, 2, 0, 1), name)


def _sums(graph, stage, value, term, sign=None):
    """Integer sums, int32, of one term of a weight, times sign (out,) where it is given."""
    levels = term.levels(np.int64) * (1 if sign is None else sign.astype(np.int64))
    parts = [(1, levels + 128, 128)]
    if levels.max() > 127 or levels.min() < -128:  # bipolar of 8 bits: 2 * (c - 128) + 1
        parts = [(2, (levels + 255) // 2, 128), (1, np.ones_like(levels), 0)]
    total = None
    for factor, weight, zero in parts:
        edges = (value.name, weight_edge(graph, stage, weight.astype(np.uint8)), graph.constant(np.uint8(value.zero), "zero"),
                 graph.constant(np.uint8(zero), "zero"))
        if is_matrix(stage):
            part = graph.node("MatMulInteger", *edges)
        else:
            part = graph.node("ConvInteger", *edges, **conv_options(stage.conv))
        if factor * value.factor > 1:
            part = graph.node("Mul", part, graph.constant(np.int32(factor * value.factor)))
        total = part if total is None else graph.node("Add", total, part)
    if value.offset:  # what does not depend on the image: the sum over all pixels that are not padding
        ones = Codes(np.full((1, *stage.image), 1, np.uint8), 1, "unsigned", 1.0)
        rest = products.forward("float", ones, term, stage.conv)[0].astype(np.int64) * value.offset
        rest = rest * (1 if sign is None else sign.astype(np.int64))
        rest = rest.reshape(-1) if is_matrix(stage) else rest.transpose(2, 0, 1)
        total = graph.node("Add", total, graph.constant(rest.astype(np.int32), "rest"))
    return total


@exports(Product)
def _product(stage, value, graph):
    wire = stage.after
    if not stage.on_codes:
        return Value(_float_product(graph, stage, value), wire)
    total = None
    for (_, kappa, scale), term in zip(stage.terms, stage.codes.terms(), strict=True):
        part = graph.cast(_sums(graph, stage, value, term), np.float32)
        part = graph.node("Mul", part, graph.constant(np.float32(kappa), "worth"))
        if scale is not None:
            part = graph.node("Mul", part, graph.channels(np.asarray(scale, np.float32), wire))
        total = part if total is None else graph.node("Add", total, part)
    if stage["bias"] is not None:
        total = graph.node("Add", total, graph.channels(stage["bias"], wire))
    return Value(total, wire)


def _float_product(graph, stage, value):
    """A product of real numbers; a weight of codes is kept as bytes where that gives its very numbers."""
    edge, bias = real(graph, value).name, stage["bias"]
    weight = _decoded(graph, stage) or weight_edge(graph, stage, stage.dense)
    if is_matrix(stage):
        edge = graph.node("MatMul", edge, weight)
        return edge if bias is None else graph.node("Add", edge, graph.constant(bias, "bias"))
    biases = [] if bias is None else [graph.constant(bias, "bias")]
    return graph.node("Conv", edge, weight, *biases, **conv_options(stage.conv))


def _decoded(graph, stage):
    """The edge of a weight of codes, kept as bytes; None where there are no codes, or bytes do not give the very numbers."""
    codes = stage.codes
    if codes is None or codes.per == "term":
        return None
    if codes.per != "sign" and np.abs(codes.levels()).max() <= 127:
        levels, scale = codes.levels(), np.asarray(codes.scale, np.float32)
        if np.array_equal(levels.astype(np.float32) * scale, stage.dense):
            edges = [weight_edge(graph, stage, levels.astype(np.int8)), graph.constant(scale, "scale")]
            return graph.node("DequantizeLinear", *edges, axis=0 if scale.ndim and not is_matrix(stage) else 1)
    if codes.per_filter:
        return None
    numbers = codes.with_values(np.arange(3 if codes.encoding == "ternary" else 1 << codes.bits, dtype=np.uint8)).decode()
    places = graph.cast(weight_edge(graph, stage, codes.values), np.int32)
    return graph.node("Gather", graph.constant(numbers, "numbers"), places)


@exports(First)
def _first(stage, value, graph):
    edge, size = _float_product(graph, stage, value), stage.options["pool"]
    if size > 1:
        edge = _max_pool(graph, edge, size, size, 0)
    quantizer = DoReFaActivation(stage.after.bits)  # what ``direct.encode`` rounds as
    return _stepped(graph, edge, *steps(lambda numbers: quantizer.encode(numbers).values), stage.after)


@exports(Thresholds)
def _thresholds(stage, value, graph):
    sign, window = stage.sign.astype(np.int64), stage.options["pool"]
    later = sign if stage.pool_of_sums and (sign < 0).any() else None  # after the pool
    edge = _sums(graph, stage, value, stage.codes, None if stage.pool_of_sums else sign)
    if stage.pool_of_sums:  # int32 has no max pool
        edge = graph.cast(edge, np.float32 if stage.bound < FLOAT_SUMS else np.float64)
        edge = graph.cast(_max_pool(graph, edge, *window), np.int32)
    if later is not None:
        edge = graph.node("Mul", edge, graph.channels(later.astype(np.int32), stage.after))
    result = coded(graph, reached(graph, edge, stage["thresholds"], stage.after), stage.after)
    if window and not stage.pool_of_sums:  # the largest sum has the largest code
        result = result._replace(name=_max_pool(graph, result.name, *window))
    return result


# The others

def _window(size, stride, padding):
    (top, bottom), (left, right) = pool.sides(padding)
    return {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [top, left, bottom, right]}


def _max_pool(graph, edge, size, stride, padding):
    return graph.node("MaxPool", edge, **_window(size, stride, padding))


@exports(stages.MaxPool)
def _(stage, value, graph):
    return value._replace(name=_max_pool(graph, value.name, *stage.window), wire=stage.after)


@exports(stages.AvgPool)
def _(stage, value, graph):
    size, stride, padding = (stage.options[name] for name in ("size", "stride", "padding"))
    edge = graph.node("AveragePool", real(graph, value).name, count_include_pad=1, **_window(size, stride, padding))
    if stage.options.get("total"):
        edge = graph.node("Mul", edge, graph.constant(np.float32(size * size), "size"))
    return Value(edge, stage.after)


@exports(stages.Channels)
def _(stage, value, graph):
    edge = graph.node("Gather", value.name, graph.constant(np.array(stage.order, np.int64), "order"), axis=1)
    return value._replace(name=edge, wire=stage.after)


@exports(stages.Upsample)
def _(stage, value, graph):
    smooth, factor = stage.options["smooth"], np.float32(stage.options["factor"])
    how = ({"mode": "linear", "coordinate_transformation_mode": "half_pixel"} if smooth else
           {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})
    value = real(graph, value) if smooth else value
    scales = graph.constant(np.array([1, 1, factor, factor], np.float32), "scales")
    return value._replace(name=graph.node("Resize", value.name, "", scales, **how), wire=stage.after)


@exports(stages.Affine)
def _(stage, value, graph):
    edge = graph.node("Mul", real(graph, value).name, graph.channels(stage["scale"], stage.after))
    return Value(graph.node("Add", edge, graph.channels(stage["shift"], stage.after)), stage.after)


@exports(stages.Centred)
def _(stage, value, graph):
    edge = real(graph, value).name
    for operation, part in (("Sub", "mean"), ("Mul", "scale"), ("Add", "shift")):
        edge = graph.node(operation, edge, graph.channels(stage[part], stage.after))
    return Value(edge, stage.after)


@exports(stages.Clip)
def _(stage, value, graph):
    bounds = [graph.constant(np.float32(bound), "bound") if np.isfinite(bound) else "" for bound in stage.bounds]
    return Value(graph.node("Clip", real(graph, value).name, *bounds), stage.after)


@exports(stages.Tanh)
def _(stage, value, graph):
    return Value(graph.node("Tanh", real(graph, value).name), stage.after)


@exports(stages.MeanMagnitude)
def _(stage, value, graph):
    edge = graph.node("Abs", real(graph, value).name)
    return Value(graph.node("ReduceMean", edge, axes=[1], keepdims=1), stage.after)


@exports(stages.Reshape)
def _(stage, value, graph):
    return reshaped(graph, value, stage.after.shape)


@exports(stages.Join)
def _(stage, value, graph):
    edges = [real(graph, chained(way, value, graph)).name for way in stage.ways]
    graph.prefix = f"{stage.name}/"
    return Value(graph.node("Add" if stage.options["op"] == "sum" else "Mul", *edges), stage.after)
