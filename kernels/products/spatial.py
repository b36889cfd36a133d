"""Which word meets which: the index tables of the three products, from shapes alone.

A register tile of a kernel multiplies rows of a left operand with columns of a right one, step by step. Where a row begins,
how far on the words of each step lie, and where the result goes are looked up in tables. So strides, padding, taps, planes
and stride phases are settled here, once for each shape, and the kernels have none of them in their loops.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bitnet.kernels.machine.vectors import LANES

COLUMNS = LANES  # of a register tile: a vector of 32-bit lanes


def panels_for(columns):
    """Register tiles that hold ``columns`` columns."""
    return -(-columns // COLUMNS)


class Layout(NamedTuple):
    """How a kernel family lays out its operands.

    words : steps that one pixel's channels take (of one group, in one plane); unit : elements of the left array a step
    lhs_shifts, rhs_shifts : the power of two that each plane of an operand counts; one 0 where there are no planes
    """

    words: int
    unit: int
    lhs_shifts: tuple
    rhs_shifts: tuple


class Steps(NamedTuple):
    """The table of steps, as ``steps`` makes it."""

    powers: np.ndarray  # steps powers[i] to powers[i + 1] count twice as much as the ones after them
    lhs: np.ndarray     # where in the operands each step reads
    rhs: np.ndarray


def steps(lhs_shifts, rhs_shifts, lhs_plane, rhs_plane, lhs_offsets, rhs_offsets):
    """The table of steps: offsets into both operands, those of planes that count most first.

    lhs_plane, rhs_plane : from one plane to the next; the offsets are those of the steps of one plane

    Returns
    -------
    steps : Steps of int64 arrays
    """
    pairs = [(p + q, l, m) for l, p in enumerate(lhs_shifts) for m, q in enumerate(rhs_shifts)]
    powers, lhs, rhs = [0], [], []
    for shift in range(max(lhs_shifts) + max(rhs_shifts), -1, -1):
        for _, l, m in (pair for pair in pairs if pair[0] == shift):
            lhs.append(l * lhs_plane + lhs_offsets)
            rhs.append(m * rhs_plane + rhs_offsets)
        powers.append(sum(map(len, lhs)))
    return Steps(np.array(powers), np.concatenate(lhs), np.concatenate(rhs))


class Axis(NamedTuple):
    """One dimension of a spatial product: which result positions it computes, and where their taps lie."""

    targets: np.ndarray  # result positions
    origins: np.ndarray  # padded input position of each target's first tap
    taps: np.ndarray     # taps of the filter, in the order in which input positions rise by one
    inside: np.ndarray   # bool (targets, taps): does the tap lie in the image


def forward_axis(size, length, stride, padding):
    """The Axis of a convolution, whose filter has ``length`` taps along it."""
    targets = np.arange((size + sum(padding) - length) // stride + 1)
    taps = np.arange(length)
    position = targets[:, None] * stride + taps - padding[0]
    return Axis(targets, targets * stride, taps, (position >= 0) & (position < size))


def _input_grad_axes(size, out_size, length, stride, padding):
    """One axis for each stride phase, and the padding that the gradient needs for all of them."""
    axes, before, after = [], 0, 0
    for phase in range(min(stride, length)):
        taps = np.arange(phase, length, stride)[::-1]  # a later tap meets an earlier output position
        targets = np.arange((phase - padding[0]) % stride, size, stride)
        if not len(targets):
            continue
        position = (targets[:, None] + padding[0] - taps) // stride
        before, after = max(before, -position.min()), max(after, position.max() - (out_size - 1))
        axes.append(Axis(targets, position[:, 0], taps, (position >= 0) & (position < out_size)))
    return [axis._replace(origins=axis.origins + before) for axis in axes], (before, after)


class Taps(NamedTuple):
    """Where each tap of a weight gradient reads the input's streams, and its border class."""

    phases: np.ndarray
    offsets: np.ndarray
    classes: np.ndarray


class PositionPlan(NamedTuple):
    """Everything about a weight gradient that depends on shapes alone.

    Position (y, x) of an output is number ``y * row_width + x`` of a stream; tap t reads the input's stream of its stride
    phase ``taps.offsets[t]`` further on. Between the rows of the output lie positions that are none: holes.
    """

    row_width: int
    positions: np.ndarray    # stream positions of the output pixels
    taps: Taps
    inside: np.ndarray       # (classes, OH, OW), 1 where the tap meets the image


class Rows(NamedTuple):
    """The results of one image, in the order in which a spatial product computes them."""

    offsets: np.ndarray  # where each begins in its image
    targets: np.ndarray  # its position among all results of its image
    classes: np.ndarray  # its border class


class Plan(NamedTuple):
    """Everything about a spatial product that depends on shapes alone."""

    rows: Rows
    steps: Steps
    taps: np.ndarray
    inside: np.ndarray  # (classes, taps), 1 where the tap lies in the image


def _plan(vertical, horizontal, width, padded, layout, border, filter_width):
    pixel = layout.words * layout.unit
    row_offsets = (vertical.origins[:, None] * padded[1] + horizontal.origins) * pixel
    row_targets = vertical.targets[:, None] * width + horizontal.targets
    offsets = (np.arange(len(vertical.taps))[:, None] * padded[1] + np.arange(len(horizontal.taps))) * pixel
    offsets = (offsets[..., None] + np.arange(layout.words) * layout.unit).ravel()
    table = steps(layout.lhs_shifts, layout.rhs_shifts, padded[0] * padded[1] * pixel, COLUMNS * len(offsets), offsets,
                  COLUMNS * np.arange(len(offsets)))
    rows, row_class = np.unique(vertical.inside, axis=0, return_inverse=True)
    columns, column_class = np.unique(horizontal.inside, axis=0, return_inverse=True)
    inside = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(len(rows) * len(columns), -1)
    classes = row_class.reshape(-1, 1) * len(columns) + column_class.reshape(-1)
    if not border:
        classes, inside = np.zeros_like(classes), np.ones_like(inside[:1])
    return Plan(Rows(row_offsets.ravel(), row_targets.ravel(), classes.ravel()), table,
                (vertical.taps[:, None] * filter_width + horizontal.taps).ravel(), inside.astype(np.int64))


@lru_cache(maxsize=256)
def forward_plan(conv, size, layout, border):
    """The plan of a convolution of inputs of ``size``; ``border``: do pixels at the border need constants of their own."""
    vertical, horizontal = (forward_axis(*args) for args in zip(size, conv.kernel_size, conv.stride, conv.padding, strict=True))
    padded = tuple(s + sum(p) for s, p in zip(size, conv.padding, strict=True))
    return _plan(vertical, horizontal, conv.output_size(*size)[1], padded, layout, border, conv.kernel_size[1])


@lru_cache(maxsize=256)
def input_grad_plans(conv, size, layout):
    """Plans of the stride phases of an input gradient, and the padding ((top, bottom), (left, right)) of the gradient."""
    out_size = conv.output_size(*size)
    (rows, pad_y), (columns, pad_x) = (_input_grad_axes(*args) for args in zip(
        size, out_size, conv.kernel_size, conv.stride, conv.padding, strict=True))
    padded = (out_size[0] + sum(pad_y), out_size[1] + sum(pad_x))
    return [_plan(y, x, size[1], padded, layout, True, conv.kernel_size[1]) for y in rows for x in columns], (pad_y, pad_x)


@lru_cache(maxsize=256)
def position_plan(conv, size, border):
    """Where each tap of a weight gradient finds its bits or bytes in a stream of positions."""
    (height, width), (stride_y, stride_x) = conv.output_size(*size), conv.stride
    row_width = (size[1] + sum(conv.padding[1]) - 1) // stride_x + 1
    positions = (np.arange(height)[:, None] * row_width + np.arange(width)).ravel()
    ky, kx = (axis.ravel() for axis in np.indices(conv.kernel_size))
    vertical, horizontal = (forward_axis(*args) for args in zip(size, conv.kernel_size, conv.stride, conv.padding, strict=True))
    inside = (vertical.inside.T[:, None, :, None] & horizontal.inside.T[None, :, None, :]).reshape(-1, height, width)
    if not border:
        inside = inside[:1]
    inside, classes = np.unique(inside, axis=0, return_inverse=True)
    classes = np.broadcast_to(classes.reshape(-1), ky.shape).astype(np.int64)
    taps = Taps(ky % stride_y * stride_x + kx % stride_x, ky // stride_y * row_width + kx // stride_x, classes)
    return PositionPlan(row_width, positions, taps, inside.astype(np.int64))
