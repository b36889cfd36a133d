"""All three products of a convolution by XOR and popcount on bit planes.

Write x_l for the bit planes of the left operand, w_m for those of the right one, n for the sum of an operand's planes, each
2**l (n = 2**bits - 1), and

    T = sum over l, m of 2**(l + m) * sum over words of popcount(x_l ^ w_m)

For one bit, a ^ b = a + b - 2ab. Summed over planes and positions this turns T into the integer product:

    unsigned x bipolar    sum u * (2c - n_w)              = n_u * sum c - T
    bipolar x bipolar     sum (2v - n_v) * (2c - n_w)     = n_v * n_w * length - 2 T

So each result is a constant from a small table minus T (or 2 T), and one loop (``tiles``) computes T for all of them: an XOR,
a popcount and an addition for sixteen words of 32 codes. Ternary codes have two planes of equal weight, whose bipolar sum is
twice the level, so a product with them is halved.

Padding. A zero word means code 0. An unsigned 0 is the real 0 that padding wants, and its share of T cancels in the
formula. A bipolar code 0 stands for -n_v: the table takes it back where a tap lies outside the image, so it has one
row for every pattern of taps inside and outside (a border class).

References: DoReFa-Net, arXiv:1606.06160, section 2.1 (bit convolution kernels).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bitnet.kernels.machine import arrays, threads
from bitnet.kernels.machine.compile import inlined, kernel
from bitnet.kernels.machine.vectors import LANES, at, put, store_shifted
from bitnet.kernels.products.geometry import planes_of, to_levels
from bitnet.kernels.products.packing import WORD, pack_channels, pack_positions, pack_weight, words_for
from bitnet.kernels.products.spatial import (
    COLUMNS,
    Layout,
    Steps,
    forward_plan,
    input_grad_plans,
    panels_for,
    position_plan,
    steps,
)
from bitnet.kernels.products.tiles import accumulators, add_products, run_spatial, store_grad

CHANNELS = LANES  # input channels of a tile of a weight gradient: their words are shifted together, as one vector


def _table(plan, planes, w_planes, sums, depth):
    """What the sums of a spatial product are subtracted from, and whether twice."""
    if planes.unsigned:
        return arrays.aligned(planes.top * sums.sum(axis=0)[None], np.int32), 0
    level_sums = 2 * sums - w_planes.top * depth  # a padded code reads as -n: take its share back outside the image
    table = planes.top * (w_planes.top * depth * len(plan.taps) + (1 - plan.inside) @ level_sums)
    return arrays.aligned(table, np.int32), 1


def _halved(scale, halvings):
    """The scale of results that the sums of ternary planes give twice or four times; exact, as any power of two is."""
    return scale * np.float32(0.5 ** halvings)


class Forward:
    """A convolution of input codes with one weight: everything that can be prepared before the input is known.

    Parameters
    ----------
    x : anything with the ``bits`` and ``encoding`` of the input
    w : bipolar or ternary operand (kh, kw, C / groups, F); conv : Conv; size : (H, W) of the input
    dtype : of the result, int32, or int16 where all results fit
    """

    def __init__(self, x, w, conv, size, dtype=np.int32):
        planes, w_planes = planes_of(x), planes_of(w)
        layout = Layout(words_for(conv.group_in), 1, planes.shifts, w_planes.shifts)
        self.conv, self.dtype, self.shape = conv, dtype, (*conv.output_size(*size), conv.out_channels)
        self.plan = forward_plan(conv, size, layout, border=not planes.unsigned)
        self.halvings = planes.halvings + w_planes.halvings
        self.weight, sums = pack_weight(w, conv, "inputs")
        self.table, self.doublings = _table(self.plan, planes, w_planes, sums, conv.group_in)

    def __call__(self, words, scale=None):
        """Results (N, OH, OW, F) of inputs that ``pack_channels`` packed; with a float32 scale a sample, float32."""
        halved = self.halvings and scale is None
        out = arrays.empty((len(words), *self.shape), np.float32 if scale is not None else np.int32 if halved else self.dtype)
        scale = None if scale is None else _halved(scale, self.halvings)
        run_spatial(self.plan, words, self.weight, self.table, scale, out, self.conv.groups, self.conv.group_out, 1,
                    self.doublings)
        return (out >> self.halvings).astype(self.dtype) if halved else out


def forward(x, w, conv, dtype=np.int32, scale=None):
    """Integer convolution of input codes with weight codes.

    Parameters
    ----------
    x : operand (N, H, W, C); w : bipolar or ternary operand (kh, kw, C / groups, F); conv : Conv
    dtype : int32, or int16 where all results fit
    scale : float32 array (N,) to multiply each sample's results by, or None

    Returns
    -------
    accum : array (N, OH, OW, F) of ``dtype``, the sum of input level times weight level; scaled float32
    """
    size, packed = x.values.shape[1:3], {} if w.packed is None else w.packed
    purpose = ("popcount.forward", x.bits, x.encoding, conv, size, dtype)
    if purpose not in packed:
        packed[purpose] = Forward(x, w, conv, size, dtype)
    return packed[purpose](pack_channels(x, conv.groups, conv.padding), scale)


def input_grad(g, w, conv, size, scale):
    """Gradient with respect to an input of ``size`` = (H, W): a convolution of the gradient with the same weight.

    With stride s the result falls into s * s phases, each a convolution of its own with every s-th tap.

    Parameters
    ----------
    g : bipolar or ternary operand (N, OH, OW, F); w : likewise (kh, kw, C / groups, F); conv : Conv
    scale : float32 array (N,)

    Returns
    -------
    grad : float32 array (N, H, W, C), the sum of gradient level times weight level, times the sample's scale
    """
    g_planes, w_planes = planes_of(g), planes_of(w)
    plans, padding = input_grad_plans(conv, size, Layout(words_for(conv.group_out), 1, g_planes.shifts, w_planes.shifts))
    covered = sum(len(plan.rows.targets) for plan in plans) == size[0] * size[1]
    out = (arrays.empty if covered else arrays.zeros)((len(g.values), *size, conv.in_channels), np.float32)
    gradient, scale = pack_channels(g, conv.groups, padding), _halved(scale, g_planes.halvings + w_planes.halvings)
    for plan in plans:
        weight, sums = pack_weight(w, conv, "outputs", plan.taps)
        table, doublings = _table(plan, g_planes, w_planes, sums, conv.group_out)
        run_spatial(plan, gradient, weight, table, scale, out, conv.groups, conv.group_in, 1, doublings)
    return out


@inlined
def _shift(stream, source, channels, count, offset, mask, out, target):
    """Cut words from bit ``offset`` on out of the bit streams of ``count`` <= CHANNELS channels, and apply the mask."""
    low = offset % WORD
    source += offset // WORD * channels
    for word in range(mask.size):
        keep = at(mask, word)
        if count == CHANNELS:
            store_shifted(out, target, stream, source, source + channels, low, keep)
        else:
            for c in range(count):
                pair = np.uint64(at(stream, source + c)) | np.uint64(at(stream, source + channels + c)) << np.uint64(WORD)
                put(out, target + c, np.uint32(pair >> np.uint64(low)) & keep)
        source += channels
        target += CHANNELS


@kernel
def _weight_grad(start, stop, x, g, table, scale, out, mask, taps, steps, sizes):
    tap_phases, tap_offsets, tap_classes = taps
    powers, lhs_steps, rhs_steps = steps
    samples, kernel_x, planes, plane_words, x_sample, x_phase, g_sample, groups, group_in, group_out, panels, doublings = sizes
    row_panels, channels = -(-group_in // CHANNELS), groups * group_in
    shifted = np.zeros(planes * mask.size * CHANNELS, np.uint32)
    accum, base = accumulators(kernel_x * CHANNELS * panels * COLUMNS)
    for tile in range(start, stop):  # CHANNELS input channels and the taps of a filter row: one reading of x and g serves all
        tap = tile // (groups * row_panels) * kernel_x
        group, first = tile // row_panels % groups, tile % row_panels * CHANNELS
        count = min(CHANNELS, group_in - first)
        accum[:] = 0
        for sample in range(samples):
            gradient = sample * g_sample + group * panels * COLUMNS
            for t in range(kernel_x):
                phase, offset, border = at(tap_phases, tap + t), at(tap_offsets, tap + t), at(tap_classes, tap + t)
                source = sample * x_sample + phase * x_phase + group * group_in + first
                for plane in range(planes):
                    _shift(x, source + plane * plane_words * channels, channels, count, offset, mask, shifted,
                           plane * mask.size * CHANNELS)
                constant = ((border * samples + sample) * groups + group) * panels * COLUMNS
                add_products(accum, base + t * CHANNELS * panels * COLUMNS, shifted, 0, 1, count, g, gradient, COLUMNS, panels,
                             table, constant, powers, lhs_steps, rhs_steps, 1, doublings, at(scale, sample))
        store_grad(out, accum, base, tap, kernel_x, CHANNELS, first, count, group, groups, group_in, group_out, panels)


class _Streams(NamedTuple):
    """Word counts, mask and steps of a weight gradient on bit streams."""

    x_words: int
    mask: np.ndarray  # bits of the stream that are output positions
    steps: Steps


@lru_cache(maxsize=256)
def _streams(conv, size, g_shifts, x_planes):
    plan = position_plan(conv, size, not x_planes.unsigned)
    words = words_for(plan.positions[-1] + 1)
    mask = np.zeros(words * WORD, np.uint8)
    mask[plan.positions] = 1
    columns = conv.groups * panels_for(conv.group_out) * COLUMNS
    table = steps(x_planes.shifts, g_shifts, words * CHANNELS, words * columns, np.arange(words) * CHANNELS,
                  np.arange(words) * columns)
    return _Streams(int(plan.taps.offsets.max()) // WORD + words + 1,
                    np.packbits(mask, bitorder="little").view("<u4").astype(np.uint32), table)


def weight_grad(g, x, conv, scale):
    """Gradient with respect to the weight levels: the samples' integer products, each scaled, added in sample order.

    Every sample has a scale of its own, so samples cannot share a popcount.

    Parameters
    ----------
    g : bipolar or ternary operand (N, OH, OW, F); x : operand (N, H, W, C); conv : Conv
    scale : float32 array (N,), real value of one gradient level of each sample

    Returns
    -------
    grad : float32 array (kh, kw, C / groups, F), sum over samples of scale times integer product
    """
    samples, g_planes, x_planes = len(g.values), planes_of(g), planes_of(x)
    plan = position_plan(conv, x.values.shape[1:3], not x_planes.unsigned)
    streams = _streams(conv, x.values.shape[1:3], g_planes.shifts, x_planes)
    panels = panels_for(conv.group_out)
    gradient = pack_positions(g, conv.groups, (0, 0), (1, 1), plan.row_width, len(streams.mask), panels * COLUMNS)
    x_words = pack_positions(x, conv.groups, (conv.padding[0][0], conv.padding[1][0]), conv.stride, plan.row_width,
                             streams.x_words, conv.group_in)
    counts = np.bitwise_count(gradient[:, 0]).sum(axis=2, dtype=np.int64)  # (N, plane, columns)
    sums = (counts << np.array(g_planes.shifts)[:, None]).sum(axis=1)
    table, doublings = x_planes.top * sums, 0
    if not x_planes.unsigned:
        level_sums = np.einsum("nyxf,tyx->tnf", to_levels(g) << g_planes.halvings, plan.inside)
        padded = np.zeros((len(plan.inside), samples, conv.groups, panels * COLUMNS), np.int64)
        padded[..., :conv.group_out] = level_sums.reshape(*level_sums.shape[:2], conv.groups, conv.group_out)
        table, doublings = x_planes.top * (2 * sums - padded.reshape(len(padded), samples, -1)), 1
    out = np.empty(conv.weight_shape, np.float32)
    tiles = conv.kernel[0] * conv.groups * -(-conv.group_in // CHANNELS)
    table, scale = arrays.aligned(table, np.int32), _halved(scale, g_planes.halvings + x_planes.halvings)
    sizes = (samples, conv.kernel[1], len(x_planes.shifts), streams.x_words, x_words[0].size, x_words[0, 0].size,
             gradient[0].size, conv.groups, conv.group_in, conv.group_out, panels, doublings)
    threads.run(_weight_grad, tiles, x_words.reshape(-1), gradient.reshape(-1), table.reshape(-1), scale, out.reshape(-1),
                streams.mask, tuple(plan.taps), tuple(streams.steps), sizes)
    return out
