"""The three products of a convolution on codes: where every kernel family is called.

Operands are checked here, and shapes brought to the form that kernels want, which then trust their arguments.
A family is a module with three functions ``forward``, ``input_grad`` and ``weight_grad``. All families return the same
integers, so which one runs is a matter of speed alone.
"""

import numpy as np

from bitnet.kernels.products import byte_dot, dense, levels, popcount
from bitnet.kernels.products.geometry import Operand, largest_level, planes_of, to_levels

FAMILIES = {"popcount": popcount, "byte_dot": byte_dot, "float": levels}


def _checked(codes, name, shape, encodings):
    """The operand with C-contiguous values; ValueError where it is not what a product takes."""
    values = codes.values
    if values.dtype != np.uint8 or values.shape != shape:
        raise ValueError(f"{name} must be uint8 codes of shape {shape}, got {values.dtype} of shape {values.shape}")
    if not 1 <= codes.bits <= 8:
        raise ValueError(f"{name} must have 1 to 8 bits, got {codes.bits}")
    if codes.encoding == "ternary" and codes.bits != 2:
        raise ValueError(f"{name} of ternary codes must have 2 bits, got {codes.bits}")
    if codes.encoding not in encodings:
        raise ValueError(f"{name} must be {', '.join(encodings[:-1])} or {encodings[-1]} codes, got {codes.encoding!r}")
    return Operand(np.ascontiguousarray(values), codes.bits, codes.encoding, codes.packed)


def _checked_scale(scale, samples):
    scale = np.ascontiguousarray(scale, np.float32)
    if scale.shape != (samples,):
        raise ValueError(f"scale must have one entry for each of {samples} samples, got shape {scale.shape}")
    return scale


def _check_range(lhs, rhs, length):
    if 2 * planes_of(lhs).top * planes_of(rhs).top * length >= 2 ** 31:  # of ternary codes both planes count
        raise ValueError(f"a sum of {length} products of {lhs.bits} and {rhs.bits} bits does not fit int32")


def accumulator_type(lhs, rhs, conv):
    """The type of a forward product's results: int16 where no sum can exceed it, else int32."""
    largest = largest_level(lhs) * largest_level(rhs) * conv.group_in * conv.tap_count
    return np.int16 if largest <= np.iinfo(np.int16).max else np.int32


def _reshaped(codes, shape):
    return codes._replace(values=codes.values.reshape(shape))


def forward(family, x, w, conv, scale=None):
    """Integer convolution of input codes with weight codes.

    Parameters
    ----------
    family : a name in FAMILIES
    x : codes (N, H, W, C); w : bipolar or ternary codes (kh, kw, C / groups, F); conv : Conv
    scale : array (N,), what one unit of the integer product is worth in each sample, or None

    Returns
    -------
    accum : array (N, OH, OW, F), the sum of input level times weight level: int16 where no sum can exceed it, else int32;
        with a scale float32, that sum times scale (both in float32)

    Raises
    ------
    ValueError : shapes, types or encodings are others than these, or the sum could overflow int32.
    """
    samples, height, width, _ = x.values.shape
    x = _checked(x, "input", (samples, height, width, conv.in_channels), ("unsigned", "bipolar", "ternary"))
    w = _checked(w, "weight", conv.weight_shape, ("bipolar", "ternary"))
    _check_range(x, w, conv.group_in * conv.tap_count)
    dtype, scale = accumulator_type(x, w, conv), None if scale is None else _checked_scale(scale, samples)
    shape = (samples, *conv.output_size(height, width), conv.out_channels)
    conv, size = conv.flattened(height, width)
    if samples == 0:
        return np.zeros(shape, dtype if scale is None else np.float32)
    x, w = _reshaped(x, (samples, *size, conv.in_channels)), _reshaped(w, conv.weight_shape)
    return FAMILIES[family].forward(x, w, conv, dtype, scale).reshape(shape)


def input_grad(family, g, w, conv, size, scale):
    """Gradient with respect to an input of ``size`` = (H, W).

    Parameters
    ----------
    family : a name in FAMILIES
    g : bipolar or ternary codes (N, OH, OW, F); w : likewise (kh, kw, C / groups, F); conv : Conv
    scale : array (N,), what one unit of the integer product is worth in each sample

    Returns
    -------
    grad : float32 array (N, H, W, C), the integer sum of gradient level times weight level, times scale (both in float32)

    Raises
    ------
    ValueError : shapes, types or encodings are others than these, or the sum could overflow int32.
    """
    samples = len(g.values)
    g = _checked(g, "gradient", (samples, *conv.output_size(*size), conv.out_channels), ("bipolar", "ternary"))
    w = _checked(w, "weight", conv.weight_shape, ("bipolar", "ternary"))
    scale = _checked_scale(scale, samples)
    _check_range(g, w, conv.group_out * conv.tap_count)
    shape = (samples, *size, conv.in_channels)
    if samples == 0:
        return np.zeros(shape, np.float32)
    conv, size = conv.flattened(*size)
    return FAMILIES[family].input_grad(g, _reshaped(w, conv.weight_shape), conv, size, scale).reshape(shape)


def weight_grad(family, g, x, conv, scale):
    """Gradient with respect to the weight levels: the samples' integer products, each scaled, added in sample order.

    Where the output is one pixel, every weight sums one product a sample, each with its own scale: there is no run of bits
    to count. That product is ``weight_grad_of_pixels`` whatever the family.

    Parameters
    ----------
    family : a name in FAMILIES
    g : bipolar or ternary codes (N, OH, OW, F); x : codes (N, H, W, C); conv : Conv
    scale : array (N,), what one gradient level of each sample is worth

    Returns
    -------
    grad : float32 array (kh, kw, C / groups, F), sum over samples of scale times integer product, all in float32

    Raises
    ------
    ValueError : shapes, types or encodings are others than these, or a sum could overflow int32.
    """
    samples, height, width, _ = x.values.shape
    x = _checked(x, "input", (samples, height, width, conv.in_channels), ("unsigned", "bipolar", "ternary"))
    out_size = conv.output_size(height, width)
    g = _checked(g, "gradient", (samples, *out_size, conv.out_channels), ("bipolar", "ternary"))
    scale = _checked_scale(scale, samples)
    _check_range(g, x, out_size[0] * out_size[1])
    if samples == 0:
        return np.zeros(conv.weight_shape, np.float32)
    if out_size == (1, 1):
        return weight_grad_of_pixels(g, x, conv, scale)
    return FAMILIES[family].weight_grad(g, x, conv, scale)


def runs_on_pixels(conv, size):
    """Is ``weight_grad`` of inputs of ``size`` a product over single pixels?"""
    return conv.output_size(*size) == (1, 1)


def weight_grad_of_pixels(g, x, conv, scale):
    """Weight gradient where the output is one pixel: one float32 matrix product over the samples, on scaled levels."""
    gradient = to_levels(g, np.float32) * scale[:, None, None, None]
    return dense.weight_grad(gradient, to_levels(x, np.float32), conv)
