"""All three products of a convolution by dot products of bytes, for codes of several bits.

A popcount takes one step for every pair of bit planes; a dot product of bytes takes one for all of them. The left operand
stays what it is, codes 0..n; the right one is brought to its levels, 2c - n, as signed bytes. With S = sum of code * level:

    unsigned    sum u * w             = S
    bipolar     sum (2v - n) * w      = 2 S - n * sum w      (the sum over taps inside the image)
    ternary     sum (v - 1) * w       = S - sum w

Zero padding is code 0 and adds nothing to S. Levels of 8 bits do not fit a signed byte; they are split into two digits of
4 bits, w = 16 * high + low, and the tile computes 16 * S(high) + S(low). The loop is that
of ``tiles``, four codes a step.

Operand layouts: pixels' channels, four to a step, as they are (N, group, padded H, padded W, C rounded up to 4); weights
(group, panel, digit, tap * step, 16 columns, 4). For the weight gradient, streams of positions: input (N, phase, C, bytes),
gradient (N, panel, digit, four positions, 16 columns, 4), with level 0 where a position is no output.
"""

from functools import lru_cache

import numpy as np

from bitnet.kernels.machine import arrays, threads
from bitnet.kernels.machine.compile import kernel
from bitnet.kernels.machine.vectors import LANES, at, put, store_levels, store_transposed
from bitnet.kernels.products.geometry import affine, to_levels
from bitnet.kernels.products.spatial import COLUMNS, Layout, forward_plan, input_grad_plans, panels_for, position_plan, steps
from bitnet.kernels.products.tiles import ROWS, accumulators, add_products, run_spatial, store_grad

SHORT = 1 << 15  # bytes that are packed quicker than another thread wakes up
STEP = 4  # bytes that a lane multiplies in one step, as the instruction has it
WIDE = 8   # bits of a code whose levels do not fit a signed byte: they have two digits
DIGIT = WIDE // 2  # bits of a digit


@kernel
def _pad_channels(start, stop, codes, out, shape, groups, padding):
    (height, width, channels), (top, left, padded_height, padded_width, depth) = shape, padding
    group_channels, line = channels // groups, padded_width * depth
    for row in range(start, stop):  # of padded images
        sample, y = row // padded_height, row % padded_height - top
        for group in range(groups):
            target = ((sample * groups + group) * padded_height + y + top) * line
            if not 0 <= y < height:
                for i in range(target, target + line):
                    put(out, i, np.uint8(0))
                continue
            for i in range(target, target + left * depth):
                put(out, i, np.uint8(0))
            for i in range(target + (left + width) * depth, target + line):
                put(out, i, np.uint8(0))
            source, target = (sample * height + y) * width * channels, target + left * depth
            if groups == 1 and depth == channels:  # pixels lie side by side in both
                for i in range(width * channels):
                    put(out, target + i, at(codes, source + i))
                continue
            for x in range(width):
                i, j = source + x * channels + group * group_channels, target + x * depth
                for c in range(group_channels):
                    put(out, j + c, at(codes, i + c))
                for c in range(group_channels, depth):
                    put(out, j + c, np.uint8(0))


def _steps_for(depth):
    """Steps that cover ``depth`` bytes."""
    return -(-depth // STEP)


def _padded(codes, groups, padding):
    """Codes with zero pixels around each image and channels filled up to fours: uint8 (N, groups, H', W', STEP * steps)."""
    samples, height, width, channels = codes.values.shape
    (top_, bottom), (left, right) = padding
    if groups == 1 and channels % STEP == 0 and top_ == bottom == left == right == 0:
        return codes.values.reshape(samples, 1, height, width, channels)
    shape = (samples, groups, height + top_ + bottom, width + left + right, STEP * _steps_for(channels // groups))
    out = arrays.empty(shape, np.uint8)
    threads.run(_pad_channels, samples * shape[2], codes.values.reshape(-1), out.reshape(-1), (height, width, channels), groups,
                (top_, left, *shape[2:]))
    return out


def _digit_shifts(bits):
    """What the digits of a level count, from the lowest on."""
    return (0,) if bits < WIDE else (0, 1)  # in units of DIGIT bits


@kernel
def _digit(bits, factor, offset, digit):
    """Mask, shift, factor and offset that make one digit of a level of a code."""
    if bits < WIDE:
        return (1 << WIDE) - 1, 0, factor, offset
    return (1 << DIGIT) - 1, DIGIT * digit, 2, (1 << DIGIT) - 1


@kernel
def _pack_weight(start, stop, codes, taps, tap_pitch, group_pitch, depth, depth_pitch, columns, column_pitch, bits, factor,
                 offset, panels, out, sums):
    fours = -(-depth // STEP)
    digits = 2 if bits == WIDE else 1
    for tile in range(start, stop):
        group, panel = tile // panels, tile % panels
        for t in range(taps.size):
            for c in range(min(COLUMNS, columns - COLUMNS * panel)):
                source = taps[t] * tap_pitch + group * group_pitch + (COLUMNS * panel + c) * column_pitch
                for digit in range(digits):
                    mask, shift, times, minus = _digit(bits, factor, offset, digit)
                    target = (((tile * digits + digit) * taps.size + t) * fours * COLUMNS + c) * STEP
                    for i in range(depth):
                        code = np.int64(at(codes, source + i * depth_pitch))
                        level = times * (code >> shift & mask) - minus
                        put(out, target + i // STEP * COLUMNS * STEP + i % STEP, np.int8(level))
                total = 0
                for i in range(depth):
                    total += np.int64(at(codes, source + i * depth_pitch))
                put(sums, t * sums.size // taps.size + tile * COLUMNS + c, np.int32(factor * total - depth * offset))


def _weight(w, conv, along, taps=None):
    """int8 array (groups, panels, digits, taps * steps, COLUMNS, STEP) of a weight; sums of its levels (taps, columns)."""
    taps = np.arange(conv.kernel[0] * conv.kernel[1]) if taps is None else taps
    pitches = {"inputs": (conv.group_in, conv.out_channels, conv.group_out, 1),
               "outputs": (conv.group_out, 1, conv.group_in, conv.out_channels)}[along]
    depth, panels = pitches[0], panels_for(pitches[2])
    packed = arrays.zeros((conv.groups, panels, len(_digit_shifts(w.bits)), len(taps) * _steps_for(depth), COLUMNS, STEP),
                          np.int8)
    sums = np.zeros((len(taps), conv.groups * panels * COLUMNS), np.int32)
    threads.run(_pack_weight, conv.groups * panels, w.values.reshape(-1), taps, conv.group_in * conv.out_channels,
                conv.group_out, *pitches, w.bits, *affine(w), panels, packed.reshape(-1), sums.reshape(-1),
                short=w.values.size < SHORT)
    return packed, sums


def _table(plan, x, sums):
    """What the sums of a spatial product are added to, and whether twice."""
    factor, offset = affine(x)
    table = -offset * (plan.inside @ sums) if offset else np.zeros((1, sums.shape[1]))
    return arrays.aligned(table, np.int32), factor - 1


def forward(x, w, conv, dtype=np.int32, scale=None):
    """``popcount.forward`` by dot products of bytes: the same integers."""
    size, border = x.values.shape[1:3], x.encoding != "unsigned"
    weight, sums = _weight(w, conv, "inputs")
    plan = forward_plan(conv, size, Layout(_steps_for(conv.group_in), STEP, (0,), _digit_shifts(w.bits)), border=border)
    shape = (len(x.values), *conv.output_size(*size), conv.out_channels)
    out = arrays.empty(shape, dtype if scale is None else np.float32)
    table, doublings = _table(plan, x, sums)
    run_spatial(plan, _padded(x, conv.groups, conv.padding), weight, table, scale, out, conv.groups, conv.group_out, DIGIT,
                doublings)
    return out


def input_grad(g, w, conv, size, scale):
    """``popcount.input_grad`` by dot products of bytes: the same integers, times the scale of their sample."""
    plans, padding = input_grad_plans(conv, size, Layout(_steps_for(conv.group_out), STEP, (0,), _digit_shifts(w.bits)))
    covered = sum(len(plan.rows.targets) for plan in plans) == size[0] * size[1]
    out = (arrays.empty if covered else arrays.zeros)((len(g.values), *size, conv.in_channels), np.float32)
    gradient = _padded(g, conv.groups, padding)
    for plan in plans:
        weight, sums = _weight(w, conv, "outputs", plan.taps)
        table, doublings = _table(plan, g, sums)
        run_spatial(plan, gradient, weight, table, scale, out, conv.groups, conv.group_in, DIGIT, doublings)
    return out


@kernel
def _streams_of_inputs(start, stop, codes, height, width, channels, top, left, stride_y, stride_x, row_width, length, out):
    phases = stride_y * stride_x
    wide = stride_x == 1 and width >= LANES
    for sample in range(start, stop):
        for i in range(sample * phases * channels * length, (sample + 1) * phases * channels * length):
            put(out, i, np.uint8(0))
        for y in range(height):
            row, image_row = y + top, (sample * height + y) * width
            base = (sample * phases + row % stride_y * stride_x) * channels * length + row // stride_y * row_width
            first = channels // LANES * LANES if wide else 0  # in squares of channels and pixels, the last one may overlap
            for c in range(0, first, LANES):
                for x in range(0, width, LANES):
                    begin = min(x, width - LANES)
                    store_transposed(out, base + c * length + left + begin, length, codes,
                                     (image_row + begin) * channels + c, channels)
            for x in range(width):
                column = x + left
                target = base + column % stride_x * channels * length + column // stride_x
                source = (image_row + x) * channels
                for c in range(first, channels):
                    put(out, target + c * length, at(codes, source + c))


@kernel
def _streams_of_gradients(start, stop, codes, image, pixel_of, columns, group_columns, panels, bits, factor, offset, out):
    group_panels = panels * group_columns // columns
    digits, fours = 2 if bits == WIDE else 1, pixel_of.size // STEP
    for sample in range(start, stop):
        for panel in range(panels):
            first = panel % group_panels * COLUMNS
            source = sample * image + panel // group_panels * group_columns + first
            count = min(COLUMNS, group_columns - first)
            for digit in range(digits):
                mask, shift, times, minus = _digit(bits, factor, offset, digit)
                target = ((sample * panels + panel) * digits + digit) * fours * COLUMNS * STEP
                for four in range(fours):
                    i = STEP * four
                    p, q, r, s = at(pixel_of, i), at(pixel_of, i + 1), at(pixel_of, i + 2), at(pixel_of, i + 3)
                    if count == COLUMNS:
                        store_levels(out, target, codes, source + p * columns if p >= 0 else -1,
                                     source + q * columns if q >= 0 else -1, source + r * columns if r >= 0 else -1,
                                     source + s * columns if s >= 0 else -1, mask, shift, times, minus)
                    else:
                        for k in range(STEP):
                            pixel = at(pixel_of, i + k)
                            if pixel >= 0:
                                for c in range(count):
                                    code = np.int64(at(codes, source + pixel * columns + c))
                                    put(out, target + STEP * c + k, np.int8(times * (code >> shift & mask) - minus))
                    target += COLUMNS * STEP


@kernel
def _weight_grad(start, stop, x, g, table, scale, out, taps, steps, sizes):
    tap_phases, tap_offsets, tap_classes = taps
    powers, lhs_steps, rhs_steps = steps
    samples, length, x_sample, x_phase, g_sample, g_panel, groups, group_in, group_out, panels, doublings = sizes
    row_panels, tap_count = -(-group_in // ROWS), tap_offsets.size
    accum, base = accumulators(tap_count * ROWS * panels * COLUMNS)
    for tile in range(start, stop):  # ROWS input channels and all taps: x and g are read once for all of them
        group, first = tile // row_panels, tile % row_panels * ROWS
        count = min(ROWS, group_in - first)
        accum[:] = 0
        for sample in range(samples):
            gradient = sample * g_sample + group * panels * g_panel
            for t in range(tap_count):
                source = (sample * x_sample + at(tap_phases, t) * x_phase + (group * group_in + first) * length
                          + at(tap_offsets, t))
                constant = ((at(tap_classes, t) * samples + sample) * groups + group) * panels * COLUMNS
                add_products(accum, base + t * ROWS * panels * COLUMNS, x, source, length, count, g, gradient, g_panel, panels,
                             table, constant, powers, lhs_steps, rhs_steps, DIGIT, doublings, at(scale, sample))
        store_grad(out, accum, base, 0, tap_count, ROWS, first, count, group, groups, group_in, group_out, panels)


@lru_cache(maxsize=256)
def _fours(out_size, row_width):
    """Groups of four positions that cover all outputs: where in a stream each begins, and its four pixels (-1: none).

    Cut from the stream as it is, groups also cover the holes between rows; cut row by row, each row's last one may be short.
    """
    height, width = out_size
    whole = STEP * np.arange(_steps_for((height - 1) * row_width + width))
    by_row = (np.arange(height)[:, None] * row_width + np.arange(0, width, STEP)).ravel()
    offsets, row = (by_row, by_row // row_width) if len(by_row) < len(whole) else (whole, None)
    positions = offsets[:, None] + np.arange(STEP)
    y, x = positions // row_width, positions % row_width
    is_output = (x < width) & (y < height) & (True if row is None else y == row[:, None])
    return offsets, np.where(is_output, y * width + x, -1).ravel()


@lru_cache(maxsize=256)
def _stream_steps(out_size, row_width, shifts):
    offsets, _ = _fours(out_size, row_width)
    return steps((0,), shifts, 0, len(offsets) * COLUMNS, offsets, np.arange(len(offsets)) * COLUMNS)


def weight_grad(g, x, conv, scale):
    """``popcount.weight_grad`` by dot products of bytes: the same sum of the same integers."""
    samples, size, (factor, offset) = len(g.values), x.values.shape[1:3], affine(x)
    plan = position_plan(conv, size, offset > 0)
    panels = panels_for(conv.group_out)
    out_size = g.values.shape[1:3]
    offsets, pixel_of = _fours(out_size, plan.row_width)
    shape = (samples, conv.groups * panels, len(_digit_shifts(g.bits)), len(offsets), COLUMNS, STEP)
    gradient = arrays.empty(shape, np.int8)
    if conv.group_out % COLUMNS:
        gradient[:] = 0
    threads.run(_streams_of_gradients, samples, g.values.reshape(-1), g.values[0].size, pixel_of, conv.out_channels,
                conv.group_out, conv.groups * panels, g.bits, *affine(g), gradient.reshape(-1))
    phases = conv.stride[0] * conv.stride[1]
    rows_down = -(-(size[0] + sum(conv.padding[0])) // conv.stride[0])
    length = max(rows_down * plan.row_width, int(plan.taps.offsets.max() + offsets[-1]) + STEP)
    stream = arrays.empty((samples, phases, conv.in_channels, length), np.uint8)
    threads.run(_streams_of_inputs, samples, x.values.reshape(-1), *size, conv.in_channels, conv.padding[0][0],
                conv.padding[1][0], *conv.stride, plan.row_width, length, stream.reshape(-1))
    table = arrays.zeros((len(plan.inside), samples, conv.groups, panels * COLUMNS), np.int32)
    if offset:
        sums = np.einsum("nyxf,tyx->tnf", to_levels(g), plan.inside)
        table[..., :conv.group_out] = -offset * sums.reshape(len(table), samples, conv.groups, conv.group_out)
    out = np.empty(conv.weight_shape, np.float32)
    tiles = conv.groups * -(-conv.group_in // ROWS)
    sizes = (samples, length, stream[0].size, stream[0, 0].size, gradient[0].size // STEP, gradient[0, 0].size // STEP,
             conv.groups, conv.group_in, conv.group_out, panels, factor - 1)
    threads.run(_weight_grad, tiles, stream.reshape(-1), gradient.reshape(-1).view(np.uint32), table.reshape(-1), scale,
                out.reshape(-1), tuple(plan.taps), tuple(_stream_steps(out_size, plan.row_width, _digit_shifts(g.bits))), sizes)
    return out
