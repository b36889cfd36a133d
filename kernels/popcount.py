"""All three products of a convolution by XOR and popcount on bit planes.

Write x_l for the bit planes of the left operand, w_m for those of the right one, n for 2**bits - 1 and

    T = sum over l, m of 2**(l + m) * sum over words of popcount(x_l ^ w_m)

For one bit, a ^ b = a + b - 2ab. Summed over planes and positions this turns T into the integer product:

    unsigned x bipolar    sum u * (2c - n_w)              = n_u * sum c - T
    bipolar x bipolar     sum (2v - n_v) * (2c - n_w)     = n_v * n_w * length - 2 T

So each result is a constant from a small table minus T (or 2 T), and one loop computes T for all of them: a register
tile of 4 rows x 16 columns, one XOR, one popcount and one addition a vector of 8 words.

                   columns j .. j+15
                 [ 8 words ][ 8 words ]        one step: load 16 words of the right operand,
    row i   w -> [ T T T T ][ T T T T ]        broadcast one word of each of 4 rows,
    row i+1 w -> [ T T T T ][ T T T T ]        8 times T += popcount(row ^ column)
    row i+2 w -> [ T T T T ][ T T T T ]
    row i+3 w -> [ T T T T ][ T T T T ]        between bit levels l + m: T = 2 T  (Horner's rule)

Which words meet in which step is a table, so strides, padding, taps, planes and both operand layouts are the table's
business and not the loop's. The factor 2 of the bipolar product is one more, empty, level of that table.

Padding. A zero word means code 0. An unsigned 0 is the real 0 that padding wants, and its share of T cancels in the
formula. A bipolar code 0 stands for -n_v: the table takes it back where a tap lies outside the image, so it has one
row for every pattern of taps inside and outside (a border class).

References: DoReFa-Net, arXiv:1606.06160, section 2.1 (bit convolution kernels).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bitnet.kernels import threads
from bitnet.kernels.compile import inlined, kernel
from bitnet.kernels.geometry import Operand, to_levels, top
from bitnet.kernels.packing import COLUMNS, WORD, blocks_for, pack_channels, pack_positions, pack_weight, words_for
from bitnet.kernels.spatial import Layout, forward_plan, input_grad_plans, position_plan, steps
from bitnet.kernels.vectors import (
    MAGIC,
    add,
    add_scaled_difference,
    at,
    broadcast,
    load,
    put,
    store_difference,
    xor_popcount,
    zero,
)

ROWS = 4
ROW_BLOCK = 128  # rows of one tile of work: enough to amortise its set-up, few enough to share among threads


@inlined
def _register_tile(lhs, i0, i1, i2, i3, rhs, j, levels, lhs_steps, rhs_steps):
    """T of 4 rows x 16 columns: eight vectors of eight words."""
    a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = zero()
    for level in range(levels.size - 1):
        a0, a1, b0, b1 = add(a0, a0), add(a1, a1), add(b0, b0), add(b1, b1)
        c0, c1, d0, d1 = add(c0, c0), add(c1, c1), add(d0, d0), add(d1, d1)
        for step in range(at(levels, level), at(levels, level + 1)):
            i, column = at(lhs_steps, step), j + at(rhs_steps, step)
            left, right = load(rhs, column), load(rhs, column + 8)
            word = broadcast(lhs, i0 + i)
            a0, a1 = add(a0, xor_popcount(word, left)), add(a1, xor_popcount(word, right))
            word = broadcast(lhs, i1 + i)
            b0, b1 = add(b0, xor_popcount(word, left)), add(b1, xor_popcount(word, right))
            word = broadcast(lhs, i2 + i)
            c0, c1 = add(c0, xor_popcount(word, left)), add(c1, xor_popcount(word, right))
            word = broadcast(lhs, i3 + i)
            d0, d1 = add(d0, xor_popcount(word, left)), add(d1, xor_popcount(word, right))
    return a0, a1, b0, b1, c0, c1, d0, d1


@kernel
def _spatial(start, stop, samples, lhs, rhs, table, out, row_offsets, row_targets, row_classes, levels, lhs_steps,
             rhs_steps, sample_words, group_words, block_words, groups, blocks, group_columns, out_pixels):
    pixels = row_offsets.size
    columns = groups * group_columns
    i, o, t, n = np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros(4, np.int64)
    for tile in range(start, stop):
        row = tile // (groups * blocks) * 128
        last = min(row + 128, samples * pixels)
        slot = tile % (groups * blocks)
        group, block = slot // blocks, slot % blocks
        first = group * group_columns + 16 * block
        sample, p = row // pixels, row % pixels
        while row < last:
            for k in range(4):  # past the last row, its words are read again and nothing is written
                i[k] = sample * sample_words + group * group_words + at(row_offsets, p)
                o[k] = (sample * out_pixels + at(row_targets, p)) * columns + first
                t[k] = (at(row_classes, p) * groups * blocks + slot) * 16
                n[k] = group_columns - 16 * block if row < last else 0
                if row < last - 1:
                    p += 1
                    if p == pixels:
                        p = 0
                        sample += 1
                row += 1
            a0, a1, b0, b1, c0, c1, d0, d1 = _register_tile(lhs, i[0], i[1], i[2], i[3], rhs, slot * block_words,
                                                            levels, lhs_steps, rhs_steps)
            store_difference(out, o[0], table, t[0], a0, n[0])
            store_difference(out, o[0] + 8, table, t[0] + 8, a1, n[0] - 8)
            store_difference(out, o[1], table, t[1], b0, n[1])
            store_difference(out, o[1] + 8, table, t[1] + 8, b1, n[1] - 8)
            store_difference(out, o[2], table, t[2], c0, n[2])
            store_difference(out, o[2] + 8, table, t[2] + 8, c1, n[2] - 8)
            store_difference(out, o[3], table, t[3], d0, n[3])
            store_difference(out, o[3] + 8, table, t[3] + 8, d1, n[3] - 8)


def _run_spatial(plan, lhs, lhs_words, rhs, rhs_words, sums, out, groups, group_columns):
    """Write one spatial product, all its rows and columns, into ``out`` (N, height, width, columns), int32."""
    samples, blocks = len(out), blocks_for(group_columns)
    if lhs.encoding == "unsigned":
        table = top(lhs) * sums.sum(axis=0, dtype=np.int64)[None]
    else:  # a padded gradient reads as code 0, that is -n: take its share back outside the image
        depth = lhs.values.shape[-1] // groups
        level_sums = 2 * sums.astype(np.int64) - top(rhs) * depth
        table = top(lhs) * (top(rhs) * depth * len(plan.taps) + (1 - plan.inside) @ level_sums)
    sample_words = lhs_words[0].size
    tiles = -(-samples * len(plan.row_offsets) // ROW_BLOCK) * groups * blocks
    threads.run(_spatial, tiles, samples, lhs_words.reshape(-1), rhs_words.reshape(-1), table.astype(np.int32).reshape(-1),
                out.reshape(-1), plan.row_offsets, plan.row_targets, plan.row_classes, plan.levels, plan.lhs_steps,
                plan.rhs_steps, sample_words, sample_words // groups, rhs_words[0, 0].size, groups, blocks, group_columns,
                out.shape[1] * out.shape[2])


def forward(x, w, conv):
    """Integer convolution of input codes with weight codes.

    Parameters
    ----------
    x : operand (N, H, W, C), unsigned or bipolar; w : bipolar operand (kh, kw, C / groups, F); conv : Conv

    Returns
    -------
    accum : int32 array (N, OH, OW, F), the sum of input level times weight level
    """
    size = x.values.shape[1:3]
    bipolar = x.encoding == "bipolar"
    plan = forward_plan(conv, size, Layout(words_for(conv.group_in), COLUMNS, x.bits, w.bits, bipolar), border=bipolar)
    out = np.empty((len(x.values), *conv.output_size(*size), conv.out_channels), np.int32)
    weight, sums = pack_weight(w, conv, "inputs")
    _run_spatial(plan, x, pack_channels(x, conv.groups, conv.padding), w, weight, sums, out, conv.groups, conv.group_out)
    return out


def forward_packed(words, bits, weight, sums, conv, size):
    """``forward`` of unsigned codes that ``pack_channels`` packed, with a weight that ``pack_weight`` packed.

    Parameters
    ----------
    words, bits : packed inputs (N, groups, bits, padded H, padded W, word), and their planes; ``size`` : (H, W)
    weight, sums : what ``pack_weight`` returned along the inputs
    """
    plan = forward_plan(conv, size, Layout(words_for(conv.group_in), COLUMNS, bits, weight.shape[2], False), border=False)
    out = np.empty((len(words), *conv.output_size(*size), conv.out_channels), np.int32)
    _run_spatial(plan, Operand(None, bits, "unsigned"), words, None, weight, sums, out, conv.groups, conv.group_out)
    return out


def input_grad(g, w, conv, size):
    """Integer gradient with respect to an input of ``size`` = (H, W): a convolution of the gradient with the same weight.

    With stride s the result falls into s * s phases, each a convolution of its own with every s-th tap.

    Parameters
    ----------
    g : bipolar operand (N, OH, OW, F); w : bipolar operand (kh, kw, C / groups, F); conv : Conv

    Returns
    -------
    accum : int32 array (N, H, W, C), the sum of gradient level times weight level
    """
    plans, padding = input_grad_plans(conv, size, Layout(words_for(conv.group_out), COLUMNS, g.bits, w.bits, True))
    covered = sum(len(plan.row_targets) for plan in plans) == size[0] * size[1]
    out = (np.empty if covered else np.zeros)((len(g.values), *size, conv.in_channels), np.int32)
    gradient = pack_channels(g, conv.groups, padding)
    for plan in plans:
        weight, sums = pack_weight(w, conv, "outputs", plan.taps)
        _run_spatial(plan, g, gradient, w, weight, sums, out, conv.groups, conv.group_in)
    return out


@inlined
def _shift(stream, source, channels, count, offset, mask, out, target, stride):
    """Cut words from bit ``offset`` on out of the bit streams of ``count`` channels, and apply the mask."""
    low = np.uint64(offset % 64)
    source += offset // 64 * channels
    for word in range(mask.size):
        keep = at(mask, word)
        if low == 0:
            for c in range(count):
                put(out, target + c, at(stream, source + c) & keep)
        else:
            for c in range(count):
                bits = (at(stream, source + c) >> low) | (at(stream, source + channels + c) << (np.uint64(64) - low))
                put(out, target + c, bits & keep)
        source += channels
        target += stride


@kernel
def _weight_grad(start, stop, samples, x, g, table, scale, out, tap_phases, tap_offsets, tap_classes, mask, levels, lhs_steps,
                 rhs_steps, x_bits, x_words, x_sample, x_phase, g_sample, groups, group_in, group_out, blocks, rows):
    row_blocks = (group_in + rows - 1) // rows
    padded = groups * blocks * 16
    shifted = np.zeros(x_bits * mask.size * rows, np.uint64)
    accum = np.empty(rows * blocks * 16, np.float64)
    for tile in range(start, stop):
        tap = tile // (groups * row_blocks)
        group = tile // row_blocks % groups
        first = tile % row_blocks * rows
        count = min(rows, group_in - first)
        accum[:] = 0
        for sample in range(samples):
            source = sample * x_sample + tap_phases[tap] * x_phase
            for plane in range(x_bits):
                _shift(x, source + plane * x_words * groups * group_in + group * group_in + first, groups * group_in, count,
                       tap_offsets[tap], mask, shifted, plane * mask.size * rows, rows)
            gradient = sample * g_sample + group * blocks * 16
            constant = (tap_classes[tap] * samples + sample) * padded + group * blocks * 16
            for block in range(blocks):
                for row in range(0, count, 4):
                    a0, a1, b0, b1, c0, c1, d0, d1 = _register_tile(
                        shifted, row, row + 1, row + 2, row + 3, g, gradient + 16 * block, levels, lhs_steps, rhs_steps)
                    k = constant + 16 * block
                    o = (row * blocks + block) * 16
                    add_scaled_difference(accum, o, table, k, a0, scale[sample])
                    add_scaled_difference(accum, o + 8, table, k + 8, a1, scale[sample])
                    o += 16 * blocks
                    add_scaled_difference(accum, o, table, k, b0, scale[sample])
                    add_scaled_difference(accum, o + 8, table, k + 8, b1, scale[sample])
                    o += 16 * blocks
                    add_scaled_difference(accum, o, table, k, c0, scale[sample])
                    add_scaled_difference(accum, o + 8, table, k + 8, c1, scale[sample])
                    o += 16 * blocks
                    add_scaled_difference(accum, o, table, k, d0, scale[sample])
                    add_scaled_difference(accum, o + 8, table, k + 8, d1, scale[sample])
        for row in range(count):
            target = ((tap * group_in + first + row) * groups + group) * group_out
            for c in range(group_out):
                out[target + c] = accum[row * blocks * 16 + c]


class _Streams(NamedTuple):
    """Word counts, mask and steps of a weight gradient on bit streams."""

    x_words: int
    mask: np.ndarray  # bits of the stream that are output positions
    rows: int
    levels: np.ndarray
    lhs_steps: np.ndarray
    rhs_steps: np.ndarray


@lru_cache(maxsize=256)
def _streams(conv, size, g_bits, x_bits, doubled):
    plan = position_plan(conv, size, doubled)
    words = words_for(plan.positions[-1] + 1)
    mask = np.zeros(words * WORD, np.uint8)
    mask[plan.positions] = 1
    row_blocks = -(-conv.group_in // 64)
    rows = -(-conv.group_in // (row_blocks * ROWS)) * ROWS
    columns = conv.groups * blocks_for(conv.group_out) * COLUMNS
    table = steps(x_bits, g_bits, words * rows, words * columns, np.arange(words) * rows, np.arange(words) * columns, doubled)
    return _Streams(int(plan.tap_offsets.max()) // WORD + words + 1,
                    np.packbits(mask, bitorder="little").view("<u8").astype(np.uint64), rows, *table)


def weight_grad(g, x, conv, scale):
    """Gradient with respect to the weight levels: the samples' integer products, each scaled, added in sample order.

    Every sample has a scale of its own, so samples cannot share a popcount.

    Parameters
    ----------
    g : bipolar operand (N, OH, OW, F); x : operand (N, H, W, C), unsigned or bipolar; conv : Conv
    scale : float64 array (N,), real value of one gradient level of each sample

    Returns
    -------
    grad : float64 array (kh, kw, C / groups, F), sum over samples of scale times integer product
    """
    samples = len(g.values)
    bipolar = x.encoding == "bipolar"
    plan = position_plan(conv, x.values.shape[1:3], bipolar)
    streams = _streams(conv, x.values.shape[1:3], g.bits, x.bits, bipolar)
    blocks = blocks_for(conv.group_out)
    gradient = pack_positions(g, conv.groups, (0, 0), (1, 1), plan.row_width, len(streams.mask), blocks * COLUMNS)
    x_words = pack_positions(x, conv.groups, (conv.padding[0][0], conv.padding[1][0]), conv.stride, plan.row_width,
                             streams.x_words, conv.group_in)
    counts = np.bitwise_count(gradient[:, 0]).sum(axis=2, dtype=np.int32)  # (N, plane, columns)
    sums = (counts << np.arange(g.bits, dtype=np.int32)[:, None]).sum(axis=1, dtype=np.int64)
    if x.encoding == "unsigned":
        table = top(x) * sums
    else:
        level_sums = np.einsum("nyxf,tyx->tnf", to_levels(g), plan.inside)
        padded = np.zeros((len(plan.inside), samples, conv.groups, blocks * COLUMNS), np.int64)
        padded[..., :conv.group_out] = level_sums.reshape(*level_sums.shape[:2], conv.groups, conv.group_out)
        table = top(x) * (2 * sums - padded.reshape(len(padded), samples, -1))
    out = np.empty(conv.weight_shape, np.float64)
    tiles = len(plan.tap_offsets) * conv.groups * -(-conv.group_in // streams.rows)
    threads.run(_weight_grad, tiles, samples, x_words.reshape(-1), gradient.reshape(-1), (table + MAGIC).reshape(-1),
                np.asarray(scale, np.float64), out.reshape(-1), plan.tap_phases, plan.tap_offsets, plan.tap_classes,
                streams.mask, streams.levels, streams.lhs_steps, streams.rhs_steps, x.bits, streams.x_words, x_words[0].size,
                x_words[0, 0].size, gradient[0].size, conv.groups, conv.group_in, conv.group_out, blocks, streams.rows)
    return out
