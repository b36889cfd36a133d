"""Stages: what a frozen network consists of. A stage is data, and a small class that runs it.

What travels between stages is a float32 array, or ``Codes``, or, from one integer stage to the next, packed words. A ``Wire``
has its shape, and which codes it holds. From the Wire that enters it, a stage tells the one that leaves it, and the types and
shapes of its own arrays. So a file is checked whole before any array is read.
"""

import math
from copy import deepcopy
from functools import partial
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from bitnet import checks, functional
from bitnet.checks import LARGEST, check_name, number, truth, whole, wholes
from bitnet.codes import Codes
from bitnet.description import rebuild
from bitnet.kernels.machine import threads
from bitnet.kernels.pointwise import elementary, norm, pool, quantize
from bitnet.module import without_values
from bitnet.quantizers import (
    BinaryInput,
    BitwiseActivation,
    BNNActivation,
    DoReFaActivation,
    FixedPointActivation,
    GXNORActivation,
    NormalizedActivation,
    PixelInput,
    QNNLinear,
    QNNLogarithmic,
    Quantizer,
    TNNActivation,
    UniformActivation,
    XNORActivation,
)
from bitnet.tensor import Tensor

CHUNK = 32      # images that go through stages together, small enough to stay in cache
PROGRAMS = 8       # numbers of images, and kinds of them, whose programs are kept
KINDS = {}

# Quantizers whose code rises with the number, rounding included: their encodings, so that a subclass with its own is none
RISING = {kind.encode_and_save for kind in (
    BinaryInput, BitwiseActivation, BNNActivation, DoReFaActivation, FixedPointActivation, GXNORActivation,
    NormalizedActivation, PixelInput, QNNLinear, QNNLogarithmic, TNNActivation, UniformActivation, XNORActivation)}


class Wire(NamedTuple):
    """What travels from one stage to the next: ``shape`` of one sample; bits, encoding and scale of codes, see ``Codes``."""

    shape: tuple
    bits: int = 32
    encoding: str = "real"
    scale: float = 1.0

    @property
    def is_codes(self):
        return self.encoding != "real"

    def reals(self, shape=None):
        """Real numbers of this shape, or of another one."""
        return Wire(self.shape if shape is None else shape)

    def codes(self, values):
        """Values as the codes that travel here."""
        return Codes(values, self.bits, self.encoding, self.scale)

    def __str__(self):
        numbers = f"{self.bits}-bit {self.encoding} codes" if self.is_codes else "float32"
        return f"{'x'.join(map(str, self.shape))} {numbers}"


def shape_of(what, values):
    """The shape of a sample: one or three sizes, of LARGEST numbers at most."""
    shape = wholes(what, values, low=1)
    if len(shape) not in (1, 3) or math.prod(shape) > LARGEST:
        raise ValueError(f"{what} must be (H, W, C) or (D,) of at most {LARGEST} numbers, got {values!r}")
    return shape


def codes_wire(shape, codes):
    """The Wire of codes {"bits", "encoding", "scale"}."""
    bits, encoding, scale = (codes[key] for key in ("bits", "encoding", "scale"))
    whole("the bits of codes", bits, 1, 8)
    if encoding not in ("unsigned", "bipolar", "ternary") or (encoding == "ternary" and bits != 2):
        raise ValueError(f"codes must be unsigned, bipolar or, of 2 bits, ternary, got {bits} bits and {encoding!r}")
    if not isinstance(scale, float) or not 0 < scale < math.inf:
        raise ValueError(f"the scale of codes must be a positive number, got {scale!r}")
    return Wire(shape, bits, encoding, scale)


def real(x):
    """Codes or an array, as a float32 array."""
    return x.decode() if isinstance(x, Codes) else x


class Stage:
    """A part of a frozen network.

    Subclasses define ``kind``, their name in a file; ``plan(**options)``, which checks the options (terms of JSON) against what
    enters, names the arrays (``wants``) and returns the Wire that leaves; and ``run(x)`` for a batch.

    Attributes
    ----------
    name : unique in a network; arrays are called ``name.part``
    before, after : Wire
    layout : {array: (dtype, shape)}
    by_image : are an image's results the same bits whatever images stand beside it?
    monotone : does a channel rise or fall with what enters it alone, rounding included?
    """

    kind = ""
    by_image, monotone = True, False
    follower = None  # the stage that takes what leaves as packed words
    takes_words = False

    def __init_subclass__(cls):
        KINDS[cls.kind] = cls

    def __init__(self, name, before, options):
        self.name, self.before, self.options, self.layout, self.arrays = name, before, options, {}, {}
        try:
            self.after = self.plan(**options)
        except (TypeError, KeyError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"{name}: a stage {self.kind!r} does not take these options: {str(options)[:200]} "
                             f"({error})") from None
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def plan(self, **options):
        raise NotImplementedError

    def run(self, x):
        raise NotImplementedError

    def wants(self, part, dtype, *shape):
        """Enter an array into the layout."""
        self.layout[f"{self.name}.{part}"] = np.dtype(dtype), shape

    def fill(self, arrays):
        """Take over the arrays of the layout; ValueError where they are others. Returns the stage."""
        for name, (dtype, shape) in self.layout.items():
            array = np.ascontiguousarray(arrays[name]).reshape(np.shape(arrays[name]))
            if (array.dtype, array.shape) != (dtype, shape):
                raise ValueError(f"{name} must be {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}")
            if dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{name} must hold finite numbers, got others")
            self.arrays[name] = array
        self.prepare()
        return self

    def prepare(self):
        """Check the arrays' values, and bring them into the form that kernels want."""

    def __getitem__(self, part):
        return self.arrays.get(f"{self.name}.{part}")

    def inner(self):
        """Stages that this one consists of."""
        return []

    def describe(self):
        """The stage in terms of JSON."""
        return {"kind": self.kind, "name": self.name, **self.options}

    def walk(self, x, visit):
        """``run``, telling ``visit(stage, result)``."""
        y = self.run(x)
        visit(self, y)
        return y

    def about(self):
        """For people: what it does."""
        options = ", ".join(f"{key} {value}" for key, value in self.options.items() if value is not None)
        return f"{self.kind} {options}".strip()


def build(specs, wire):
    """Stages, one after the other, from their descriptions; what enters the first is ``wire``."""
    if not isinstance(specs, list):
        raise ValueError(f"expected a list of stages, got {str(specs)[:60]}")
    stages = []
    for spec in specs:
        if not isinstance(spec, dict) or spec.get("kind") not in KINDS:
            raise ValueError(f"expected a stage of one of the kinds {', '.join(KINDS)}, got {str(spec)[:60]}")
        check_name(spec.get("name"))
        options = {key: value for key, value in spec.items() if key not in ("kind", "name")}
        stages.append(KINDS[spec["kind"]](spec["name"], wire, options))
        wire = stages[-1].after
    return stages


def every(stages):
    """All stages, those in ways too."""
    return [one for stage in stages for one in (stage, *every(stage.inner()))]


class Chain:
    """Stages one after the other; those that take images one by one are a Series.

    Parameters
    ----------
    stages : list of Stage; enter : a function that an array or codes pass first, or None
    """

    def __init__(self, stages, enter=None):
        self.stages, self.enter = list(stages), enter or _as_is
        for stage, following in pairwise(self.stages):
            stage.follower = following if following.takes_words else None
        parts = [(by_image, list(part)) for by_image, part in groupby(self.stages, key=lambda stage: stage.by_image)]
        if not parts or not parts[0][0]:
            parts.insert(0, (True, []))
        self.parts = [Series(part, self.enter if i == 0 else None) if by_image else partial(_in_turn, part)
                      for i, (by_image, part) in enumerate(parts)]

    def run(self, x):
        for part in self.parts:
            x = part(x)
        return x

    def walk(self, x, visit):
        """``run`` stage by stage, telling ``visit(stage, result)``."""
        x = self.enter(x)
        for stage in self.stages:
            x = stage.walk(x, visit)
        return x


def _as_is(x):
    return x


def _in_turn(stages, x):
    return _each(stages, x)[-1] if stages else x


def _each(stages, x):
    """What leaves each stage."""
    found = []
    for stage in stages:
        x = stage.run(x)
        found.append(x)
    return found


def _part(x, part):
    return x.with_values(x.values[part]) if isinstance(x, Codes) else x[part]


def _values(x):
    return x.values if isinstance(x, Codes) else x


class Series:
    """Stages that take images one by one: a few at a time go through all of them, on all threads.

    What the stages do to so many images is written down once, as a program of kernels, and from then on run without any Python
    between them (``kernels.machine.launch``). Stages that do more than run kernels have none, and run as they are.
    """

    def __init__(self, stages, enter=None):
        self.stages, self.enter, self.programs = stages, enter, {}

    def __call__(self, x):
        # a share of the images for each thread, which then waits for nobody; results do not depend on how they are shared
        size = min(CHUNK, -(-x.shape[0] // threads.get_threads()))
        count = -(-x.shape[0] // size)
        if threads.is_busy():  # inside another series
            return _in_turn(self.stages, x if self.enter is None else self.enter(x))
        if count <= 1:
            with threads.alone():  # kernels of one image are too short to be shared
                return self._run(x)
        results = [None] * count

        def work(start, stop):
            for i in range(start, stop):
                results[i] = self._run(_part(x, slice(i * size, (i + 1) * size)))

        threads.run(work, count)
        first = results[0]
        if isinstance(first, Codes):
            return first.with_values(np.concatenate([result.values for result in results]))
        return np.concatenate(results)

    def _run(self, x):
        x = x if self.enter is None else self.enter(x)
        values = _values(x)
        kind = values.shape, values.dtype.char, isinstance(x, Codes) and (x.bits, x.encoding, x.scale)
        if kind not in self.programs and len(self.programs) >= PROGRAMS:
            self.programs.clear()  # each has arrays of its own for all that lies between stages
        idle = self.programs.setdefault(kind, [])
        if idle is None:
            return _in_turn(self.stages, x)
        try:
            program = idle.pop()  # nobody else has it now
        except IndexError:
            program = Recorded(self.stages, x)
            if not program.is_faithful():
                self.programs[kind] = None
                return _in_turn(self.stages, x)
        result = program(values)
        idle.append(program)
        return result

    def __deepcopy__(self, memo):
        return Series(deepcopy(self.stages, memo), deepcopy(self.enter, memo))

    def __reduce__(self):
        return Series, (self.stages, self.enter)


class Recorded:
    """The program of stages for inputs like ``x``, with the arrays that it works on."""

    def __init__(self, stages, x):
        self.stages, self.values = stages, _values(x).copy()
        self.x = x.with_values(self.values) if isinstance(x, Codes) else self.values
        with threads.recording() as self.program:
            self.each = _each(stages, self.x)
        self.y = self.each[-1] if stages else self.x

    def is_faithful(self):
        """Does it give what the stages give, each of them, for inputs that differ everywhere from those that it was made with?

        NumPy's part in a stage would not have been written down.
        """
        if not self.program.complete or np.shares_memory(_values(self.y), self.values):
            return False
        rng = np.random.default_rng(0)
        codes = isinstance(self.x, Codes)
        if self.values.dtype.kind in "iu":  # codes, pixels or words
            whole = 1 << 8 * self.values.itemsize
            count = whole if not codes else 3 if self.x.encoding == "ternary" else 1 << self.x.bits
            other = (self.values + rng.integers(1, count, self.values.shape)) % count
        else:
            other = self.values + (0.25 + 0.5 * rng.random(self.values.shape))
        other = other.astype(self.values.dtype)
        with threads.alone():
            expected = [_values(y).copy() for y in _each(self.stages, self.x.with_values(other) if codes else other)]
            self(other)
            return all(np.array_equal(_values(y), one) for y, one in zip(self.each, expected, strict=True))

    def __call__(self, values):
        """The results for other values."""
        np.copyto(self.values, values)
        threads.rerun(self.program)
        return self.y.with_values(self.y.values.copy()) if isinstance(self.y, Codes) else self.y.copy()


class Affine(Stage):
    """x * scale + shift in each channel: a batch norm. Arrays: scale, shift."""

    kind, monotone = "affine", True

    def plan(self):
        for part in ("scale", "shift"):
            self.wants(part, np.float32, self.before.shape[-1])
        return self.before.reals()

    def prepare(self):
        self.scale, self.shift = self["scale"], self["shift"]

    def run(self, x):
        return norm.channel_affine(np.ascontiguousarray(real(x)), self.scale, self.shift)


class Centred(Stage):
    """(x - mean) * scale + shift in each channel: a batch norm by shifts. Arrays: mean, scale, shift."""

    kind, monotone = "centred", True

    def plan(self):
        for part in ("mean", "scale", "shift"):
            self.wants(part, np.float32, self.before.shape[-1])
        return self.before.reals()

    def run(self, x):
        return (real(x) - self["mean"]) * self["scale"] + self["shift"]


class Clip(Stage):
    """Limits to [low, high]; null: no limit on that side."""

    kind, monotone = "clip", True

    def plan(self, low, high):
        low = -math.inf if low is None else number("the lower bound", low)
        high = math.inf if high is None else number("the upper bound", high)
        if low > high:
            raise ValueError(f"the bounds must be two numbers, the lower one first, got {low} and {high}")
        self.bounds = low, high
        return self.before.reals()

    def run(self, x):
        return quantize.clip(np.ascontiguousarray(real(x)), *self.bounds)


class Channels(Stage):
    """The channels in another order: number i of what leaves is number order[i] of what enters. Codes stay codes."""

    kind = "channels"

    def plan(self, order):
        self.order = list(wholes("an order of channels", order))
        if sorted(self.order) != list(range(self.before.shape[-1])):
            raise ValueError(f"expected a place for each of {self.before.shape[-1]} channels, got {order!r}")
        return self.before

    def run(self, x):
        if isinstance(x, Codes):
            return x.with_values(np.ascontiguousarray(x.values[..., self.order]))
        return np.ascontiguousarray(x[..., self.order])


class Tanh(Stage):
    kind = "tanh"

    def plan(self):
        return self.before.reals()

    def run(self, x):
        return elementary.tanh(real(x))


class MeanMagnitude(Stage):
    """The mean over channels of |x|."""

    kind = "mean_magnitude"

    def plan(self):
        return self.before.reals((*self.before.shape[:-1], 1))

    def run(self, x):
        return functional.mean_magnitude(Tensor(x)).data


class MaxPool(Stage):
    """The largest of each window; codes stay codes."""

    kind = "max_pool"

    def plan(self, size, stride, padding):
        return self.before._replace(shape=pooled_shape(self.before.shape, size, stride, padding))

    @property
    def window(self):
        """[size, stride, padding]."""
        return [self.options[name] for name in ("size", "stride", "padding")]

    def run(self, x):
        if isinstance(x, Codes):
            return x.with_values(pool.max_pool(x.values, *self.window)[0])
        return pool.max_pool(np.ascontiguousarray(x), *self.window)[0]


class AvgPool(Stage):
    """The mean of each window, or its sum where ``total`` is true."""

    kind, by_image = "avg_pool", False  # NumPy's order of summation may depend on the shape

    def plan(self, size, stride, padding, total=False):
        truth("total", total)
        return self.before.reals(pooled_shape(self.before.shape, size, stride, padding))

    def run(self, x):
        return functional.avg_pool(Tensor(x), **self.options).data


def pooled_shape(shape, size, stride, padding):
    """The shape after pooling; ValueError where the window does not fit."""
    if len(shape) != 3:
        raise ValueError(f"pooling takes images (H, W, C), got shape {shape}")
    whole("the size of a pooling window", size, 1, 16)
    whole("the stride of a pooling", stride, 1)
    padding = pool.sides(checks.padding("the padding of a pooling", padding))
    functional.pooling(shape, size, stride, padding)
    return *pool.pooled(shape[:2], size, stride, padding), shape[2]


class Upsample(Stage):
    """Images ``factor`` times as high and as wide: pixels repeated, and codes stay codes; or ``smooth``, bilinear."""

    kind = "upsample"

    def plan(self, factor, smooth):
        shape = self.before.shape
        if len(shape) != 3:
            raise ValueError(f"an upsampling takes images (H, W, C), got shape {shape}")
        whole("the factor of an upsampling", factor, 1, 16)
        shape = shape_of("an upsampled image", [shape[0] * factor, shape[1] * factor, shape[2]])
        return self.before.reals(shape) if truth("smooth", smooth) else self.before._replace(shape=shape)

    def run(self, x):
        return functional.upsample(Tensor(x), **self.options).raw


class Reshape(Stage):
    """Another shape of a sample; codes stay codes."""

    kind = "reshape"

    def plan(self, shape):
        shape = shape_of("a shape", shape)
        if math.prod(shape) != math.prod(self.before.shape):
            raise ValueError(f"shape {self.before.shape} cannot become {shape}")
        return self.before._replace(shape=shape)

    def run(self, x):
        return x.reshape((x.shape[0], *self.after.shape))


class Quantize(Stage):
    """A quantizer of activations, as ``description.describe`` has it."""

    kind = "quantize"

    def plan(self, quantizer):
        with without_values():  # whatever a file may claim to be a quantizer takes no memory
            self.quantizer = rebuild(quantizer)
        if not isinstance(self.quantizer, Quantizer) or self.quantizer.scales is not None:
            raise ValueError(f"expected a quantizer of activations, got {str(quantizer)[:60]}")
        self.quantizer.eval()
        codes = self.quantizer.encode(np.zeros(1, np.float32))
        self.monotone = isinstance(codes, Codes) and type(self.quantizer).encode_and_save in RISING
        if not isinstance(codes, Codes):
            return self.before.reals()
        return codes_wire(self.before.shape, {"bits": codes.bits, "encoding": codes.encoding, "scale": float(codes.scale)})

    def run(self, x):
        return self.quantizer(Tensor(x)).raw

    def about(self):
        return repr(self.quantizer)


class Steps(Stage):
    """Ternary codes by two thresholds a channel: with s = sign * x, -1 where s < low, 1 where s > high, else 0.

    Arrays: sign, int8 of 1 and -1; low and high, int32.
    """

    kind, monotone = "steps", True

    def plan(self):
        for part, dtype in (("sign", np.int8), ("low", np.int32), ("high", np.int32)):
            self.wants(part, dtype, self.before.shape[-1])
        return codes_wire(self.before.shape, {"bits": 2, "encoding": "ternary", "scale": 1.0})

    def prepare(self):
        if not np.isin(self["sign"], (1, -1)).all():
            raise ValueError(f"{self.name}.sign must hold 1 and -1, got other numbers")

    def run(self, x):
        s = real(x) * self["sign"]
        return self.after.codes((s >= self["low"]).view(np.uint8) + (s > self["high"]).view(np.uint8))


class Join(Stage):
    """The sum or the product of what two ways make of x: residuals, and XNOR-Net's convolutions with their map.

    Options: op, "sum" or "product"; ways, two lists of stages. An empty one is x itself.
    """

    kind = "join"

    def plan(self, op, ways):
        if op not in ("sum", "product") or len(ways) != 2:
            raise ValueError(f'expected the "sum" or the "product" of two ways, got {op!r} of {len(ways)}')
        self.ways = [build(way, self.before) for way in ways]
        ends = [way[-1].after if way else self.before for way in self.ways]
        for stage in self.inner():
            self.layout |= stage.layout
        try:
            return Wire(np.broadcast_shapes(*(end.shape for end in ends)))
        except ValueError:
            raise ValueError(f"two ways must end in one shape, got {ends[0].shape} and {ends[1].shape}") from None

    def inner(self):
        return [stage for way in self.ways for stage in way]

    def prepare(self):
        for stage in self.inner():
            stage.fill(self.arrays)
        self.chains = [Chain(way) for way in self.ways]

    @property
    def by_image(self):
        return all(stage.by_image for stage in self.inner())

    def run(self, x):
        return self._joined(*(chain.run(x) for chain in self.chains))

    def walk(self, x, visit):
        y = self._joined(*(chain.walk(x, visit) for chain in self.chains))
        visit(self, y)
        return y

    def _joined(self, a, b):
        return real(a) + real(b) if self.options["op"] == "sum" else real(a) * real(b)

    def about(self):
        return f"{self.options['op']} of two ways"
