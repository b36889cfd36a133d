"""All three products of a convolution by dot products of bytes, for codes of several bits.

A popcount takes one step for every pair of bit planes; a dot product of bytes takes one for all of them. The left operand
stays what it is, codes 0..n; the right one is brought to its levels, 2c - n, as signed bytes. With S = sum of code * level:

    unsigned x bipolar    sum u * w             = S
    bipolar x bipolar     sum (2v - n) * w      = 2 S - n * sum w      (the sum over taps inside the image)

Zero padding is code 0 and adds nothing to S. Levels of 8 bits do not fit a signed byte; they are split into two digits of
4 bits, w = 16 * high + low, and the tile computes 16 * S(high) + S(low).

                   columns j .. j+31
                 [ 16 ints  ][ 16 ints  ]      one step: load 32 x 4 bytes of the right operand,
    row i   b -> [ S S S S S ][ S S S S S ]      broadcast 4 bytes of each of 8 rows,
    ...                                          16 times S += dot product of 4 bytes
    row i+7 b -> [ S S S S S ][ S S S S S ]

Operand layouts: pixels' channels, four to a step, as they are (N, group, padded H, padded W, C rounded up to 4); weights
(group, block, digit, tap * step, 32 columns, 4). For the weight gradient, streams of positions: input (N, phase, C, bytes),
gradient (N, digit, position / 4, columns, 4), with level 0 in the holes between rows.
"""

from functools import lru_cache

import numpy as np

from bitnet.kernels import threads
from bitnet.kernels.compile import inlined, kernel
from bitnet.kernels.geometry import to_levels, top
from bitnet.kernels.spatial import Layout, forward_plan, input_grad_plans, position_plan, steps
from bitnet.kernels.vectors import (
    add_scaled_sum,
    at,
    broadcast_bytes,
    dot,
    load16,
    put,
    shift_left,
    store_sum,
    zero16,
)

ROWS = 8
COLUMNS = 32
ROW_BLOCK = 128
DIGIT = 4  # bits of a digit, where a level has two


@inlined
def _register_tile(lhs, i, rhs, j, levels, lhs_steps, rhs_steps):
    """S of 8 rows x 32 columns; ``i`` holds the byte offsets of the rows, ``j`` is the int32 offset of the columns."""
    i0, i1, i2, i3, i4, i5, i6, i7 = at(i, 0), at(i, 1), at(i, 2), at(i, 3), at(i, 4), at(i, 5), at(i, 6), at(i, 7)
    a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = e0 = e1 = f0 = f1 = g0 = g1 = h0 = h1 = zero16()
    for level in range(levels.size - 1):
        if level > 0:
            a0, a1, b0, b1 = shift_left(a0, 4), shift_left(a1, 4), shift_left(b0, 4), shift_left(b1, 4)
            c0, c1, d0, d1 = shift_left(c0, 4), shift_left(c1, 4), shift_left(d0, 4), shift_left(d1, 4)
            e0, e1, f0, f1 = shift_left(e0, 4), shift_left(e1, 4), shift_left(f0, 4), shift_left(f1, 4)
            g0, g1, h0, h1 = shift_left(g0, 4), shift_left(g1, 4), shift_left(h0, 4), shift_left(h1, 4)
        for step in range(at(levels, level), at(levels, level + 1)):
            k, column = 4 * at(lhs_steps, step), j + at(rhs_steps, step)
            left, right = load16(rhs, column), load16(rhs, column + 16)
            code = broadcast_bytes(lhs, i0 + k)
            a0, a1 = dot(a0, code, left), dot(a1, code, right)
            code = broadcast_bytes(lhs, i1 + k)
            b0, b1 = dot(b0, code, left), dot(b1, code, right)
            code = broadcast_bytes(lhs, i2 + k)
            c0, c1 = dot(c0, code, left), dot(c1, code, right)
            code = broadcast_bytes(lhs, i3 + k)
            d0, d1 = dot(d0, code, left), dot(d1, code, right)
            code = broadcast_bytes(lhs, i4 + k)
            e0, e1 = dot(e0, code, left), dot(e1, code, right)
            code = broadcast_bytes(lhs, i5 + k)
            f0, f1 = dot(f0, code, left), dot(f1, code, right)
            code = broadcast_bytes(lhs, i6 + k)
            g0, g1 = dot(g0, code, left), dot(g1, code, right)
            code = broadcast_bytes(lhs, i7 + k)
            h0, h1 = dot(h0, code, left), dot(h1, code, right)
    return a0, a1, b0, b1, c0, c1, d0, d1, e0, e1, f0, f1, g0, g1, h0, h1


@inlined
def _store_row(out, o, table, t, left, right, factor, count):
    store_sum(out, o, table, t, left, factor, count)
    store_sum(out, o + 16, table, t + 16, right, factor, count - 16)


@kernel
def _spatial(start, stop, samples, lhs, rhs, table, out, row_offsets, row_targets, row_classes, levels, lhs_steps,
             rhs_steps, sample_bytes, group_bytes, block_ints, groups, blocks, group_columns, out_pixels, factor):
    pixels = row_offsets.size
    columns = groups * group_columns
    i, o, t, n = np.zeros(8, np.int64), np.zeros(8, np.int64), np.zeros(8, np.int64), np.zeros(8, np.int64)
    for tile in range(start, stop):
        row = tile // (groups * blocks) * 128
        last = min(row + 128, samples * pixels)
        slot = tile % (groups * blocks)
        group, block = slot // blocks, slot % blocks
        first = group * group_columns + 32 * block
        sample, p = row // pixels, row % pixels
        while row < last:
            for k in range(8):  # past the last row, its bytes are read again and nothing is written
                put(i, k, sample * sample_bytes + group * group_bytes + 4 * at(row_offsets, p))
                put(o, k, (sample * out_pixels + at(row_targets, p)) * columns + first)
                put(t, k, (at(row_classes, p) * groups * blocks + slot) * 32)
                put(n, k, group_columns - 32 * block if row < last else 0)
                if row < last - 1:
                    p += 1
                    if p == pixels:
                        p = 0
                        sample += 1
                row += 1
            a0, a1, b0, b1, c0, c1, d0, d1, e0, e1, f0, f1, g0, g1, h0, h1 = _register_tile(
                lhs, i, rhs, slot * block_ints, levels, lhs_steps, rhs_steps)
            _store_row(out, at(o, 0), table, at(t, 0), a0, a1, factor, at(n, 0))
            _store_row(out, at(o, 1), table, at(t, 1), b0, b1, factor, at(n, 1))
            _store_row(out, at(o, 2), table, at(t, 2), c0, c1, factor, at(n, 2))
            _store_row(out, at(o, 3), table, at(t, 3), d0, d1, factor, at(n, 3))
            _store_row(out, at(o, 4), table, at(t, 4), e0, e1, factor, at(n, 4))
            _store_row(out, at(o, 5), table, at(t, 5), f0, f1, factor, at(n, 5))
            _store_row(out, at(o, 6), table, at(t, 6), g0, g1, factor, at(n, 6))
            _store_row(out, at(o, 7), table, at(t, 7), h0, h1, factor, at(n, 7))


@kernel
def _pad_channels(start, stop, codes, height, width, channels, groups, top, left, padded_height, padded_width, depth, out):
    group_channels = channels // groups
    for row in range(start, stop):
        sample, y = row // height, row % height
        for group in range(groups):
            image = (sample * groups + group) * padded_height + y + top
            for x in range(width):
                source = (row * width + x) * channels + group * group_channels
                target = (image * padded_width + x + left) * depth
                for c in range(group_channels):
                    put(out, target + c, at(codes, source + c))


def _steps_for(depth):
    """Steps of four bytes that cover ``depth`` bytes."""
    return -(-depth // 4)


def _padded(codes, groups, padding):
    """Codes with zero pixels around each image and channels filled up to fours: uint8 (N, groups, H', W', 4 * steps)."""
    samples, height, width, channels = codes.values.shape
    (top_, bottom), (left, right) = padding
    if groups == 1 and channels % 4 == 0 and top_ == bottom == left == right == 0:
        return codes.values.reshape(samples, 1, height, width, channels)
    shape = (samples, groups, height + top_ + bottom, width + left + right, 4 * _steps_for(channels // groups))
    out = np.zeros(shape, np.uint8)
    threads.run(_pad_channels, samples * height, codes.values.reshape(-1), height, width, channels, groups, top_, left,
                shape[2], shape[3], shape[4], out.reshape(-1))
    return out


def _digits(codes):
    """The levels as signed bytes, (1 or 2, ...): low and high digit where there are two."""
    if codes.bits < 8:
        return to_levels(codes, np.int16)[None].astype(np.int8)
    base = (1 << DIGIT) - 1
    high, low = codes.values >> DIGIT, codes.values & base
    return np.stack([2 * low.astype(np.int8) - np.int8(base), 2 * high.astype(np.int8) - np.int8(base)])


def _blocks_for(columns):
    return -(-columns // COLUMNS)


@kernel
def _pack_weight(start, stop, codes, taps, tap_pitch, group_pitch, depth, depth_pitch, columns, column_pitch, bits, blocks, out,
                 sums):
    fours = (depth + 3) // 4
    base = (1 << min(bits, 4)) - 1 if bits == 8 else (1 << bits) - 1
    digits = 2 if bits == 8 else 1
    for tile in range(start, stop):
        group, block = tile // blocks, tile % blocks
        for t in range(taps.size):
            for c in range(min(32, columns - 32 * block)):
                source = taps[t] * tap_pitch + group * group_pitch + (32 * block + c) * column_pitch
                target = ((tile * digits * taps.size + t) * fours * 32 + c) * 4
                total = 0
                for i in range(depth):
                    code = np.int64(at(codes, source + i * depth_pitch))
                    at_byte = target + i // 4 * 128 + i % 4
                    put(out, at_byte, np.int8(2 * (code & base) - base))
                    if bits == 8:
                        put(out, at_byte + taps.size * fours * 128, np.int8(2 * (code >> 4) - base))
                    total += 2 * code
                put(sums, t * sums.size // taps.size + tile * 32 + c, np.int32(total - depth * ((1 << bits) - 1)))


def _weight(w, conv, along, taps=None):
    """int8 array (groups, blocks, digits, taps * steps, 32, 4) of a weight, and the sums of its levels (taps, columns)."""
    taps = np.arange(conv.kernel[0] * conv.kernel[1]) if taps is None else taps
    pitches = {"inputs": (conv.group_in, conv.out_channels, conv.group_out, 1),
               "outputs": (conv.group_out, 1, conv.group_in, conv.out_channels)}[along]
    depth, blocks = pitches[0], _blocks_for(pitches[2])
    packed = np.zeros((conv.groups, blocks, 1 if w.bits < 8 else 2, len(taps) * _steps_for(depth), COLUMNS, 4), np.int8)
    sums = np.zeros((len(taps), conv.groups * blocks * COLUMNS), np.int32)
    threads.run(_pack_weight, conv.groups * blocks, w.values.reshape(-1), taps, conv.group_in * conv.out_channels,
                conv.group_out, *pitches, w.bits, blocks, packed.reshape(-1), sums.reshape(-1))
    return packed, sums


def _run_spatial(plan, lhs, lhs_bytes, weight, sums, out, groups, group_columns):
    """Write one spatial product, all its rows and columns, into ``out`` (N, height, width, columns), int32."""
    samples, blocks = len(out), _blocks_for(group_columns)
    if lhs.encoding == "unsigned":
        table, factor = np.zeros((1, sums.shape[1]), np.int32), 1
    else:
        table, factor = (-top(lhs) * (plan.inside @ sums)).astype(np.int32), 2
    sample_bytes = lhs_bytes[0].size
    tiles = -(-samples * len(plan.row_offsets) // ROW_BLOCK) * groups * blocks
    threads.run(_spatial, tiles, samples, lhs_bytes.reshape(-1), weight.reshape(-1).view(np.int32), table.reshape(-1),
                out.reshape(-1), plan.row_offsets, plan.row_targets, plan.row_classes, plan.levels, plan.lhs_steps,
                plan.rhs_steps, sample_bytes, sample_bytes // groups, weight[0, 0].size // 4, groups, blocks, group_columns,
                out.shape[1] * out.shape[2], factor)


def forward(x, w, conv):
    """``popcount.forward`` by dot products of bytes: the same integers."""
    size, bipolar = x.values.shape[1:3], x.encoding == "bipolar"
    weight, sums = _weight(w, conv, "inputs")
    layout = Layout(_steps_for(conv.group_in), COLUMNS, 1, weight.shape[2], False)
    out = np.empty((len(x.values), *conv.output_size(*size), conv.out_channels), np.int32)
    _run_spatial(forward_plan(conv, size, layout, border=bipolar), x, _padded(x, conv.groups, conv.padding), weight, sums, out,
                 conv.groups, conv.group_out)
    return out


def input_grad(g, w, conv, size):
    """``popcount.input_grad`` by dot products of bytes: the same integers."""
    layout = Layout(_steps_for(conv.group_out), COLUMNS, 1, 1 if w.bits < 8 else 2, False)
    plans, padding = input_grad_plans(conv, size, layout)
    covered = sum(len(plan.row_targets) for plan in plans) == size[0] * size[1]
    out = (np.empty if covered else np.zeros)((len(g.values), *size, conv.in_channels), np.int32)
    gradient = _padded(g, conv.groups, padding)
    for plan in plans:
        weight, sums = _weight(w, conv, "outputs", plan.taps)
        _run_spatial(plan, g, gradient, weight, sums, out, conv.groups, conv.group_in)
    return out


@kernel
def _streams_of_inputs(start, stop, codes, height, width, channels, top, left, stride_y, stride_x, row_width, length, out):
    phases = stride_y * stride_x
    for sample in range(start, stop):
        for y in range(height):
            for x in range(width):
                row, column = y + top, x + left
                phase = row % stride_y * stride_x + column % stride_x
                target = (sample * phases + phase) * channels * length + row // stride_y * row_width + column // stride_x
                source = ((sample * height + y) * width + x) * channels
                for c in range(channels):
                    put(out, target + c * length, at(codes, source + c))


@kernel
def _streams_of_gradients(start, stop, levels, pixels, width, columns, row_width, group_columns, group_stride, digits, length,
                          out):
    for sample in range(start, stop):
        for digit in range(digits):
            for pixel in range(pixels):
                q = pixel // width * row_width + pixel % width
                target = (((sample * digits + digit) * length + q // 4) * (columns // group_columns) * group_stride) * 4 + q % 4
                source = ((digit * (levels.size // (digits * pixels * columns)) + sample) * pixels + pixel) * columns
                for group in range(columns // group_columns):
                    for c in range(group_columns):
                        put(out, target + (group * group_stride + c) * 4, at(levels, source + group * group_columns + c))


@inlined
def _add_row(accum, o, table, t, left, right, factor, scale):
    add_scaled_sum(accum, o, table, t, left, factor, scale)
    add_scaled_sum(accum, o + 16, table, t + 16, right, factor, scale)


@kernel
def _weight_grad(start, stop, samples, x, g, table, scale, out, tap_phases, tap_offsets, tap_classes, levels, lhs_steps,
                 rhs_steps, length, x_sample, x_phase, g_sample, groups, group_in, group_out, blocks, rows, factor):
    row_blocks = (group_in + rows - 1) // rows
    padded = groups * blocks * 32
    accum = np.empty(rows * blocks * 32, np.float64)
    i = np.empty(8, np.int64)
    for tile in range(start, stop):
        tap = tile // (groups * row_blocks)
        group = tile // row_blocks % groups
        first = tile % row_blocks * rows
        count = min(rows, group_in - first)
        accum[:] = 0
        for sample in range(samples):
            source = sample * x_sample + at(tap_phases, tap) * x_phase + (group * group_in + first) * length + at(tap_offsets,
                                                                                                                  tap)
            gradient = sample * g_sample + group * blocks * 32
            constant = (at(tap_classes, tap) * samples + sample) * padded + group * blocks * 32
            for block in range(blocks):
                for row in range(0, count, 8):
                    for k in range(8):  # past the last row, its bytes are read again and the result is not used
                        put(i, k, source + min(row + k, count - 1) * length)
                    a0, a1, b0, b1, c0, c1, d0, d1, e0, e1, f0, f1, g0, g1, h0, h1 = _register_tile(
                        x, i, g, gradient + 32 * block, levels, lhs_steps, rhs_steps)
                    t, s = constant + 32 * block, at(scale, sample)
                    o, pitch = (row * blocks + block) * 32, blocks * 32
                    _add_row(accum, o, table, t, a0, a1, factor, s)
                    _add_row(accum, o + pitch, table, t, b0, b1, factor, s)
                    _add_row(accum, o + 2 * pitch, table, t, c0, c1, factor, s)
                    _add_row(accum, o + 3 * pitch, table, t, d0, d1, factor, s)
                    _add_row(accum, o + 4 * pitch, table, t, e0, e1, factor, s)
                    _add_row(accum, o + 5 * pitch, table, t, f0, f1, factor, s)
                    _add_row(accum, o + 6 * pitch, table, t, g0, g1, factor, s)
                    _add_row(accum, o + 7 * pitch, table, t, h0, h1, factor, s)
        for row in range(count):
            target = ((tap * group_in + first + row) * groups + group) * group_out
            for c in range(group_out):
                put(out, target + c, at(accum, row * blocks * 32 + c))


@lru_cache(maxsize=256)
def _stream_steps(length, columns, digits):
    return steps(1, digits, 0, length * columns, np.arange(length), np.arange(length) * columns, False)


def weight_grad(g, x, conv, scale):
    """``popcount.weight_grad`` by dot products of bytes: the same sum of the same integers."""
    samples, height, width, _ = g.values.shape
    size, bipolar = x.values.shape[1:3], x.encoding == "bipolar"
    plan = position_plan(conv, size, bipolar)
    blocks = _blocks_for(conv.group_out)
    columns, steps_ = conv.groups * blocks * COLUMNS, _steps_for(int(plan.positions[-1]) + 1)
    digits = _digits(g)
    gradient = np.zeros((samples, len(digits), steps_, columns, 4), np.int8)
    threads.run(_streams_of_gradients, samples, digits.reshape(-1), height * width, width, conv.out_channels, plan.row_width,
                conv.group_out, blocks * COLUMNS, len(digits), steps_, gradient.reshape(-1))
    phases = conv.stride[0] * conv.stride[1]
    rows_down = -(-(size[0] + sum(conv.padding[0])) // conv.stride[0])
    length = max(rows_down * plan.row_width, int(plan.tap_offsets.max()) + 4 * steps_)
    stream = np.zeros((samples, phases, conv.in_channels, length), np.uint8)
    threads.run(_streams_of_inputs, samples, x.values.reshape(-1), *size, conv.in_channels, conv.padding[0][0],
                conv.padding[1][0], *conv.stride, plan.row_width, length, stream.reshape(-1))
    table = np.zeros((len(plan.inside), samples, conv.groups, blocks * COLUMNS), np.int32)
    if bipolar:
        sums = np.einsum("nyxf,tyx->tnf", to_levels(g), plan.inside)
        table[..., :conv.group_out] = -top(x) * sums.reshape(len(table), samples, conv.groups, conv.group_out)
    rows = -(-conv.group_in // (-(-conv.group_in // 64) * ROWS)) * ROWS
    out = np.empty(conv.weight_shape, np.float64)
    tiles = len(plan.tap_offsets) * conv.groups * -(-conv.group_in // rows)
    threads.run(_weight_grad, tiles, samples, stream.reshape(-1), gradient.reshape(-1).view(np.int32), table.reshape(-1),
                np.asarray(scale, np.float64), out.reshape(-1), plan.tap_phases, plan.tap_offsets, plan.tap_classes,
                *_stream_steps(steps_, columns, len(digits)), length, stream[0].size, stream[0, 0].size, gradient[0].size // 4,
                conv.groups, conv.group_in, conv.group_out, blocks, rows, 2 if bipolar else 1)
    return out
