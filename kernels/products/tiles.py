"""The register tile under all integer products, and the walk over results that drives it.

Both operands lie in steps of 32 bits, which hold 32 codes of a bit plane or four codes as bytes; what a step does with them
(XOR, popcount and add, or a dot product) follows from the type of the left array. Eight rows meet sixteen columns:

                     16 columns
                   [ right step ]         one step: load sixteen right steps, one a column,
    row i    bits -> [ s s .. s ]         broadcast one left step of each of 8 rows,
    ...                                   8 times sums += left x right
    row i+7  bits -> [ s s .. s ]         between powers of two: sums *= 2**shift  (Horner's rule)

Where a machine has 32 registers of 512 bits, two such tiles lie side by side: each left step is loaded once for both, and a
product of bytes is no longer bound by loads (1.4 to 1.5 times as fast, measured on a Xeon of 2023).

A result is a constant of its column and border class minus (bit planes) or plus (bytes) the sum or twice the sum. Which step
meets which is a table too (``spatial.steps``), so strides, padding, taps, planes and layouts are not the loop's business.

What depends on shapes goes to a kernel in a few tuples, unpacked in its first lines. Plain ones cost a call as much as the same
arguments one by one (1.4 microseconds for 24, measured); a NamedTuple costs Numba twice that, so it is made a tuple before.
"""

import numpy as np

from bitnet.kernels.machine import arrays, threads, vectors
from bitnet.kernels.machine.compile import inlined, kernel
from bitnet.kernels.machine.vectors import add_scaled_result, at, load, multiply_codes, put, shift_left, store_result, zero
from bitnet.kernels.products.spatial import COLUMNS, panels_for

ROWS = 8          # of a register tile, which has eight named registers: another number would be another tile
RESULTS = 128     # of one tile of work: enough to amortise its set-up, few enough to share among threads
PANELS = 4        # of one tile of work, sixteen columns each
LINE = arrays.LINE // np.dtype(np.float32).itemsize  # floats of a cache line
WIDE = vectors.target_has_wide_registers()
_ONE = np.ones(1, np.float32)


@inlined
def register_tile(lhs, i0, i1, i2, i3, i4, i5, i6, i7, rhs, j, powers, lhs_steps, rhs_steps, shift):
    """Sums of 8 rows, which begin at i0 .. i7, and 16 columns, which begin at j: eight vectors."""
    a = b = c = d = e = f = g = h = zero()
    for power in range(powers.size - 1):
        if power > 0:
            a, b, c, d = shift_left(a, shift), shift_left(b, shift), shift_left(c, shift), shift_left(d, shift)
            e, f, g, h = shift_left(e, shift), shift_left(f, shift), shift_left(g, shift), shift_left(h, shift)
        for step in range(at(powers, power), at(powers, power + 1)):
            i, column = at(lhs_steps, step), load(rhs, j + at(rhs_steps, step))
            a, b = multiply_codes(a, lhs, i0 + i, column), multiply_codes(b, lhs, i1 + i, column)
            c, d = multiply_codes(c, lhs, i2 + i, column), multiply_codes(d, lhs, i3 + i, column)
            e, f = multiply_codes(e, lhs, i4 + i, column), multiply_codes(f, lhs, i5 + i, column)
            g, h = multiply_codes(g, lhs, i6 + i, column), multiply_codes(h, lhs, i7 + i, column)
    return a, b, c, d, e, f, g, h


@inlined
def register_tiles(lhs, i0, i1, i2, i3, i4, i5, i6, i7, rhs, j, far, powers, lhs_steps, rhs_steps, shift):
    """Two register tiles side by side: the right one's columns begin ``far`` after j. Each left step is loaded for both."""
    a = b = c = d = e = f = g = h = zero()
    s = t = u = v = w = x = y = z = zero()
    for power in range(powers.size - 1):
        if power > 0:
            a, b, c, d = shift_left(a, shift), shift_left(b, shift), shift_left(c, shift), shift_left(d, shift)
            e, f, g, h = shift_left(e, shift), shift_left(f, shift), shift_left(g, shift), shift_left(h, shift)
            s, t, u, v = shift_left(s, shift), shift_left(t, shift), shift_left(u, shift), shift_left(v, shift)
            w, x, y, z = shift_left(w, shift), shift_left(x, shift), shift_left(y, shift), shift_left(z, shift)
        for step in range(at(powers, power), at(powers, power + 1)):
            i, k = at(lhs_steps, step), j + at(rhs_steps, step)
            near, other = load(rhs, k), load(rhs, k + far)
            a, s = multiply_codes(a, lhs, i0 + i, near), multiply_codes(s, lhs, i0 + i, other)
            b, t = multiply_codes(b, lhs, i1 + i, near), multiply_codes(t, lhs, i1 + i, other)
            c, u = multiply_codes(c, lhs, i2 + i, near), multiply_codes(u, lhs, i2 + i, other)
            d, v = multiply_codes(d, lhs, i3 + i, near), multiply_codes(v, lhs, i3 + i, other)
            e, w = multiply_codes(e, lhs, i4 + i, near), multiply_codes(w, lhs, i4 + i, other)
            f, x = multiply_codes(f, lhs, i5 + i, near), multiply_codes(x, lhs, i5 + i, other)
            g, y = multiply_codes(g, lhs, i6 + i, near), multiply_codes(y, lhs, i6 + i, other)
            h, z = multiply_codes(h, lhs, i7 + i, near), multiply_codes(z, lhs, i7 + i, other)
    return a, b, c, d, e, f, g, h, s, t, u, v, w, x, y, z


@kernel
def _spatial(start, stop, lhs, rhs, table, scale, out, rows, steps, sizes):
    """Results of a product over channels and taps; see ``popcount`` and ``byte_dot`` for the operands.

    A tile of work is RESULTS results and up to PANELS panels of columns. ``out`` may be int32, int16 (the caller knows that
    all results fit) or float32 (times ``scale`` of the sample).
    """
    row_offsets, row_targets, row_classes = rows
    powers, lhs_steps, rhs_steps = steps
    samples, sample_size, group_size, panel_size, groups, panels, group_columns, out_pixels, power_shift, doublings = sizes
    pixels, slots, parts = row_offsets.size, groups * panels, -(-panels // PANELS)
    columns = groups * group_columns
    room = RESULTS + ROWS
    begin, target, constant = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64)
    factors = np.empty(room, np.float32)
    for tile in range(start, stop):
        row, part = tile // (groups * parts) * RESULTS, tile % (groups * parts)
        count = min(RESULTS, samples * pixels - row)
        group, first = part // parts, part % parts * PANELS
        sample, p, k = row // pixels, row % pixels, 0
        while k < count:  # where the rows of each image begin and end
            run = min(count - k, pixels - p)
            base = sample * sample_size + group * group_size
            result = sample * out_pixels * columns + group * group_columns
            factor = at(scale, min(sample, scale.size - 1))
            for q in range(run):
                put(begin, k + q, base + at(row_offsets, p + q))
            for q in range(run):
                put(target, k + q, result + at(row_targets, p + q) * columns)
            for q in range(run):
                put(constant, k + q, (at(row_classes, p + q) * slots + group * panels) * COLUMNS)
            for q in range(run):
                put(factors, k + q, factor)
            k, p, sample = k + run, 0, sample + 1
        for k in range(count, -(-count // ROWS) * ROWS):  # the last row again: the same result, written twice
            begin[k], target[k], constant[k], factors[k] = begin[k - 1], target[k - 1], constant[k - 1], factors[k - 1]
        last = min(first + PANELS, panels)
        alone = last - (last - first) % 2 if WIDE else first  # from which panel on they have no neighbour
        for panel in range(first, alone, 2):
            column, width = COLUMNS * panel, group_columns - COLUMNS * panel
            j = (group * panels + panel) * panel_size
            for r in range(0, count, ROWS):
                a, b, c, d, e, f, g, h, s, t, u, v, w, x, y, z = register_tiles(
                    lhs, at(begin, r), at(begin, r + 1), at(begin, r + 2), at(begin, r + 3), at(begin, r + 4),
                    at(begin, r + 5), at(begin, r + 6), at(begin, r + 7), rhs, j, panel_size, powers, lhs_steps, rhs_steps,
                    power_shift)
                _store_rows(out, target, r, column, lhs, table, constant, a, b, c, d, e, f, g, h, doublings, factors, None)
                _store_rows(out, target, r, column + COLUMNS, lhs, table, constant, s, t, u, v, w, x, y, z, doublings, factors,
                            width - COLUMNS)
        for panel in range(alone, last):
            column, width = COLUMNS * panel, group_columns - COLUMNS * panel
            j = (group * panels + panel) * panel_size
            for r in range(0, count, ROWS):
                a, b, c, d, e, f, g, h = register_tile(
                    lhs, at(begin, r), at(begin, r + 1), at(begin, r + 2), at(begin, r + 3), at(begin, r + 4),
                    at(begin, r + 5), at(begin, r + 6), at(begin, r + 7), rhs, j, powers, lhs_steps, rhs_steps, power_shift)
                _store_rows(out, target, r, column, lhs, table, constant, a, b, c, d, e, f, g, h, doublings, factors, width)


@inlined
def _store_row(out, target, row, column, lhs, table, constant, sums, doublings, factors, count):
    store_result(out, at(target, row) + column, lhs, table, at(constant, row) + column, sums, doublings, at(factors, row),
                 count)


@inlined
def _store_rows(out, target, row, column, lhs, table, constant, a, b, c, d, e, f, g, h, doublings, factors, count):
    _store_row(out, target, row, column, lhs, table, constant, a, doublings, factors, count)
    _store_row(out, target, row + 1, column, lhs, table, constant, b, doublings, factors, count)
    _store_row(out, target, row + 2, column, lhs, table, constant, c, doublings, factors, count)
    _store_row(out, target, row + 3, column, lhs, table, constant, d, doublings, factors, count)
    _store_row(out, target, row + 4, column, lhs, table, constant, e, doublings, factors, count)
    _store_row(out, target, row + 5, column, lhs, table, constant, f, doublings, factors, count)
    _store_row(out, target, row + 6, column, lhs, table, constant, g, doublings, factors, count)
    _store_row(out, target, row + 7, column, lhs, table, constant, h, doublings, factors, count)


def run_spatial(plan, lhs, rhs, table, scale, out, groups, group_columns, power_shift, doublings):
    """Write one spatial product, all its rows and columns, into ``out`` (N, height, width, columns).

    lhs, rhs : packed operands, (N, ...) and (groups, panels, ...), of uint32 words or of bytes
    table : int32 (border classes, columns in panels of 16); scale : float32 array (N,), or None where out is of integers
    """
    samples, panels = len(out), panels_for(group_columns)
    tiles = -(-samples * len(plan.rows.offsets) // RESULTS) * groups * -(-panels // PANELS)
    scale = _ONE if scale is None else scale
    sample_size, words = lhs.size // samples, rhs.reshape(-1).view(np.uint32)
    sizes = (samples, sample_size, sample_size // groups, words.size // (groups * panels), groups, panels, group_columns,
             out.shape[1] * out.shape[2], power_shift, doublings)
    threads.run(_spatial, tiles, lhs.reshape(-1), words, table.reshape(-1), scale, out.reshape(-1), tuple(plan.rows),
                tuple(plan.steps), sizes)


@kernel
def accumulators(size):
    """A float32 array with ``size`` zeros from a cache line on, and where that is."""
    accum = np.zeros(size + LINE, np.float32)
    return accum, -(accum.ctypes.data // accum.itemsize) % LINE


@inlined
def add_products(accum, base, lhs, first, pitch, count, rhs, j, panel_size, panels, table, constant, powers, lhs_steps,
                 rhs_steps, power_shift, doublings, scale):
    """Add scaled results of ``count`` rows and all columns of one sample to ``accum``, from ``base`` on.

    There are (rows in whole register tiles, panels * COLUMNS) of them. Row r begins at ``first + r * pitch``. Past the last
    row, it is read again, and what it gives is not used.
    """
    width, last = COLUMNS * panels, count - 1
    alone = panels - panels % 2 if WIDE else 0
    for row in range(0, count, ROWS):
        i0, i1, i2 = first + row * pitch, first + min(row + 1, last) * pitch, first + min(row + 2, last) * pitch
        i3, i4, i5 = (first + min(row + 3, last) * pitch, first + min(row + 4, last) * pitch,
                      first + min(row + 5, last) * pitch)
        i6, i7 = first + min(row + 6, last) * pitch, first + min(row + 7, last) * pitch
        for panel in range(0, alone, 2):
            k, o = constant + COLUMNS * panel, base + row * width + COLUMNS * panel
            a, b, c, d, e, f, g, h, s, t, u, v, w, x, y, z = register_tiles(
                lhs, i0, i1, i2, i3, i4, i5, i6, i7, rhs, j + panel * panel_size, panel_size, powers, lhs_steps, rhs_steps,
                power_shift)
            _add_rows(accum, o, width, lhs, table, k, a, b, c, d, e, f, g, h, doublings, scale)
            _add_rows(accum, o + COLUMNS, width, lhs, table, k + COLUMNS, s, t, u, v, w, x, y, z, doublings, scale)
        for panel in range(alone, panels):
            k, o = constant + COLUMNS * panel, base + row * width + COLUMNS * panel
            a, b, c, d, e, f, g, h = register_tile(lhs, i0, i1, i2, i3, i4, i5, i6, i7, rhs, j + panel * panel_size, powers,
                                                   lhs_steps, rhs_steps, power_shift)
            _add_rows(accum, o, width, lhs, table, k, a, b, c, d, e, f, g, h, doublings, scale)


@inlined
def _add_rows(accum, o, width, lhs, table, k, a, b, c, d, e, f, g, h, doublings, scale):
    add_scaled_result(accum, o, lhs, table, k, a, doublings, scale)
    add_scaled_result(accum, o + width, lhs, table, k, b, doublings, scale)
    add_scaled_result(accum, o + 2 * width, lhs, table, k, c, doublings, scale)
    add_scaled_result(accum, o + 3 * width, lhs, table, k, d, doublings, scale)
    add_scaled_result(accum, o + 4 * width, lhs, table, k, e, doublings, scale)
    add_scaled_result(accum, o + 5 * width, lhs, table, k, f, doublings, scale)
    add_scaled_result(accum, o + 6 * width, lhs, table, k, g, doublings, scale)
    add_scaled_result(accum, o + 7 * width, lhs, table, k, h, doublings, scale)


@inlined
def store_grad(out, accum, base, taps, tile_taps, rows, first, count, group, groups, group_in, group_out, panels):
    """Copy sums (taps, rows, panels * COLUMNS) of ``count`` input channels to their places in a weight's gradient."""
    for t in range(tile_taps):
        for row in range(count):
            target = (((taps + t) * group_in + first + row) * groups + group) * group_out
            for c in range(group_out):
                put(out, target + c, at(accum, base + (t * rows + row) * panels * COLUMNS + c))
