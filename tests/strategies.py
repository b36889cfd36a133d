"""Random convolutions and codes for Hypothesis, the same ones in every run."""

from typing import NamedTuple

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from bitnet.kernels.products.geometry import Conv, Operand

CHANNELS = (1, 3, 48, 63, 64, 65, 130)  # on both sides of the 16, 64 and 128 bits that a step of the kernels takes

exhaustive = settings(max_examples=200, derandomize=True, deadline=None)
brief = settings(max_examples=25, derandomize=True, deadline=None)


class Layer(NamedTuple):
    """A convolution with operands for its three products."""

    conv: Conv
    size: tuple
    x: Operand
    w: Operand
    g: Operand
    scale: np.ndarray


def random_codes(rng, shape, bits, encoding="bipolar"):
    if encoding == "ternary":
        return Operand(rng.integers(0, 3, shape).astype(np.uint8), 2, encoding)
    return Operand(rng.integers(0, 1 << bits, shape).astype(np.uint8), bits, encoding)


def layer_of(conv, size, bits=(2, 1, 4), encoding="unsigned", samples=2, seed=0, others=("bipolar", "bipolar")):
    """A layer with random codes: bits of input, weight and gradient; encoding of the input, and of the others."""
    rng = np.random.default_rng(seed)
    conv = conv.check()
    return Layer(conv, size,
                 random_codes(rng, (samples, *size, conv.in_channels), bits[0], encoding),
                 random_codes(rng, conv.weight_shape, bits[1], others[0]),
                 random_codes(rng, (samples, *conv.output_size(*size), conv.out_channels), bits[2], others[1]),
                 rng.standard_normal(samples))


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw, channels=CHANNELS):
    """Conv with asymmetric padding and strides of its own in each direction, and an input size that it fits."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    kernel = draw(pairs(1, 5))
    padding = draw(st.tuples(pairs(0, 3), pairs(0, 3)))
    conv = Conv(draw(st.sampled_from(channels)) * groups, draw(st.sampled_from(channels)) * groups, kernel,
                draw(pairs(1, 3)), padding, groups)
    room = draw(pairs(0, 6))
    size = tuple(max(1, r + k - sum(p)) for r, k, p in zip(room, kernel, padding, strict=True))
    return conv, size


@st.composite
def layers(draw):
    """Layer with one to eight bits an operand, or ternary ones."""
    conv, size = draw(convolutions())
    bits = draw(st.tuples(*[st.integers(1, 8)] * 3))
    others = draw(st.tuples(*[st.sampled_from(["bipolar", "bipolar", "ternary"])] * 2))
    return layer_of(conv, size, bits, draw(st.sampled_from(["unsigned", "bipolar", "ternary"])), draw(st.integers(1, 3)),
                    draw(st.integers(0, 2**32 - 1)), others)
