"""Matrix products of float32 in one order of multiply-adds, so that they are the same bits on every machine.

A BLAS adds in an order of its own, another one for each kind of processor. Here a result is one chain

    y[i, j] = fma(a[i, K - 1], b[K - 1, j], ... fma(a[i, 1], b[1, j], fma(a[i, 0], b[0, j], 0)))

and goes on where an earlier product, or an earlier part of the depth, left it in memory: neither tiles nor threads nor vectors
have a say in it. Eight rows meet 32 columns where there are 32 registers of 512 bits, else four rows meet 16.

Products in which a float64 array takes part, which no training needs, are NumPy's.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from bitnet.kernels.machine import arrays, threads, vectors
from bitnet.kernels.machine.compile import inlined, kernel
from bitnet.kernels.machine.vectors import LANES, at, copy16, load_first_floats, load_floats, multiply_add, put, store_floats

ROWS = 8      # of a register tile, which has eight named rows
COLUMNS = 32  # of a panel of the right operand: two vectors
BLOCK = 64    # rows of one tile of work: a panel is read once for all of them
PART = 256    # of the depth at a time: what a panel has of it stays in the level-1 cache
WIDE = vectors.target_has_wide_registers()
_ZEROS = np.zeros(COLUMNS, np.float32)


class Matrix(NamedTuple):
    """A matrix in an array: element (i, j) is ``values[first + i * pitches[0] + j * pitches[1]]``; values are flat."""

    values: np.ndarray
    shape: tuple
    pitches: tuple
    first: int = 0

    @property
    def T(self):
        return self._replace(shape=self.shape[::-1], pitches=self.pitches[::-1])

    def array(self):
        """A NumPy view."""
        size = self.values.itemsize
        return as_strided(self.values[self.first:], self.shape, [size * pitch for pitch in self.pitches])


def whole(array):
    """The Matrix that a C-contiguous array (rows, columns) is."""
    return Matrix(array.reshape(-1), array.shape, (array.shape[1], 1))


class Packed(NamedTuple):
    """The right operand of a product, in panels of 32 columns, (panels, depth, 32); columns past the last are zero."""

    values: np.ndarray
    matrix: Matrix  # that was packed


@kernel
def _pack(start, stop, b, out, sizes):
    first, depth, columns, row_pitch, column_pitch = sizes
    for panel in range(start, stop):
        for k in range(depth):
            source, target = first + k * row_pitch + panel * COLUMNS * column_pitch, (panel * depth + k) * COLUMNS
            count = min(COLUMNS, columns - panel * COLUMNS)
            if count == COLUMNS and column_pitch == 1:
                copy16(out, target, b, source)
                copy16(out, target + LANES, b, source + LANES)
                continue
            for c in range(count):
                put(out, target + c, at(b, source + c * column_pitch))
            for c in range(count, COLUMNS):
                put(out, target + c, np.float32(0))


def pack(b):
    """A Matrix (depth, columns) as the right operand of ``multiply``."""
    if b.values.dtype != np.float32:
        return b
    depth, columns = b.shape
    out = arrays.empty((-(-columns // COLUMNS), depth, COLUMNS), np.float32)
    threads.run(_pack, len(out), b.values, out.reshape(-1), (b.first, depth, columns, *b.pitches), short=out.size < BLOCK ** 2)
    return Packed(out.reshape(-1), b)


@inlined
def _four(a, i0, i1, i2, i3, pitch, b, j, depth, base, q, r, out, o, p, row, last, count):
    """Rows row .. row + 3 (up to ``last``) and 16 columns: their chains go on from base[q + row * r], to out[o + row * p]."""
    n0, n1, n2, n3 = row, min(row + 1, last), min(row + 2, last), min(row + 3, last)
    c0, c1 = load_first_floats(base, q + n0 * r, count), load_first_floats(base, q + n1 * r, count)
    c2, c3 = load_first_floats(base, q + n2 * r, count), load_first_floats(base, q + n3 * r, count)
    for k in range(depth):
        right, i = load_floats(b, j + k * COLUMNS), k * pitch
        c0, c1 = multiply_add(c0, a, i0 + i, right), multiply_add(c1, a, i1 + i, right)
        c2, c3 = multiply_add(c2, a, i2 + i, right), multiply_add(c3, a, i3 + i, right)
    store_floats(out, o + n0 * p, c0, count)
    store_floats(out, o + n1 * p, c1, count)
    store_floats(out, o + n2 * p, c2, count)
    store_floats(out, o + n3 * p, c3, count)


@inlined
def _eight(a, i0, i1, i2, i3, i4, i5, i6, i7, pitch, b, j, depth, base, q, r, out, o, p, row, last, count):
    """Rows row .. row + 7 (up to ``last``) and 32 columns, as ``_four``."""
    n0, n1, n2, n3 = row, min(row + 1, last), min(row + 2, last), min(row + 3, last)
    n4, n5, n6, n7 = min(row + 4, last), min(row + 5, last), min(row + 6, last), min(row + 7, last)
    more = count - LANES
    c0, d0 = load_first_floats(base, q + n0 * r, count), load_first_floats(base, q + n0 * r + LANES, more)
    c1, d1 = load_first_floats(base, q + n1 * r, count), load_first_floats(base, q + n1 * r + LANES, more)
    c2, d2 = load_first_floats(base, q + n2 * r, count), load_first_floats(base, q + n2 * r + LANES, more)
    c3, d3 = load_first_floats(base, q + n3 * r, count), load_first_floats(base, q + n3 * r + LANES, more)
    c4, d4 = load_first_floats(base, q + n4 * r, count), load_first_floats(base, q + n4 * r + LANES, more)
    c5, d5 = load_first_floats(base, q + n5 * r, count), load_first_floats(base, q + n5 * r + LANES, more)
    c6, d6 = load_first_floats(base, q + n6 * r, count), load_first_floats(base, q + n6 * r + LANES, more)
    c7, d7 = load_first_floats(base, q + n7 * r, count), load_first_floats(base, q + n7 * r + LANES, more)
    for k in range(depth):
        left, right, i = load_floats(b, j + k * COLUMNS), load_floats(b, j + k * COLUMNS + LANES), k * pitch
        c0, d0 = multiply_add(c0, a, i0 + i, left), multiply_add(d0, a, i0 + i, right)
        c1, d1 = multiply_add(c1, a, i1 + i, left), multiply_add(d1, a, i1 + i, right)
        c2, d2 = multiply_add(c2, a, i2 + i, left), multiply_add(d2, a, i2 + i, right)
        c3, d3 = multiply_add(c3, a, i3 + i, left), multiply_add(d3, a, i3 + i, right)
        c4, d4 = multiply_add(c4, a, i4 + i, left), multiply_add(d4, a, i4 + i, right)
        c5, d5 = multiply_add(c5, a, i5 + i, left), multiply_add(d5, a, i5 + i, right)
        c6, d6 = multiply_add(c6, a, i6 + i, left), multiply_add(d6, a, i6 + i, right)
        c7, d7 = multiply_add(c7, a, i7 + i, left), multiply_add(d7, a, i7 + i, right)
    store_floats(out, o + n0 * p, c0, count)
    store_floats(out, o + n0 * p + LANES, d0, more)
    store_floats(out, o + n1 * p, c1, count)
    store_floats(out, o + n1 * p + LANES, d1, more)
    store_floats(out, o + n2 * p, c2, count)
    store_floats(out, o + n2 * p + LANES, d2, more)
    store_floats(out, o + n3 * p, c3, count)
    store_floats(out, o + n3 * p + LANES, d3, more)
    store_floats(out, o + n4 * p, c4, count)
    store_floats(out, o + n4 * p + LANES, d4, more)
    store_floats(out, o + n5 * p, c5, count)
    store_floats(out, o + n5 * p + LANES, d5, more)
    store_floats(out, o + n6 * p, c6, count)
    store_floats(out, o + n6 * p + LANES, d6, more)
    store_floats(out, o + n7 * p, c7, count)
    store_floats(out, o + n7 * p + LANES, d7, more)


@kernel
def _multiply(start, stop, a, b, base, out, sizes):
    first, row_pitch, pitch, rows, depth, columns, base_first, base_pitch, base_step, out_first, out_pitch, blocks = sizes
    for tile in range(start, stop):
        panel, block = tile // blocks, tile % blocks
        column = panel * COLUMNS
        count, last = columns - column, rows - 1
        q, r, o = base_first + column * base_step, base_pitch, out_first + column
        source, step = base, base_step
        for done in range(0, depth, PART):
            i, j = first + done * pitch, (panel * depth + done) * COLUMNS
            part = min(PART, depth - done)
            for row in range(block * BLOCK, min((block + 1) * BLOCK, rows), ROWS):  # past the last row, it is computed again
                i0, i1 = i + row * row_pitch, i + min(row + 1, last) * row_pitch
                i2, i3 = i + min(row + 2, last) * row_pitch, i + min(row + 3, last) * row_pitch
                i4, i5 = i + min(row + 4, last) * row_pitch, i + min(row + 5, last) * row_pitch
                i6, i7 = i + min(row + 6, last) * row_pitch, i + min(row + 7, last) * row_pitch
                if WIDE:
                    _eight(a, i0, i1, i2, i3, i4, i5, i6, i7, pitch, b, j, part, source, q, r, out, o, out_pitch, row, last,
                           count)
                else:
                    for half in range(0, min(COLUMNS, count), LANES):
                        _four(a, i0, i1, i2, i3, pitch, b, j + half, part, source, q + half * step, r, out, o + half, out_pitch,
                              row, last, count - half)
                        if row + 4 < rows:
                            _four(a, i4, i5, i6, i7, pitch, b, j + half, part, source, q + half * step, r, out, o + half,
                                  out_pitch, row + 4, last, count - half)
            source, q, r, step = out, o, out_pitch, 1


def _by_numpy(start, stop, a, b, out, add):
    product = a @ b
    out[...] = out + product if add else product


def multiply(a, b, out, add=False):
    """``out = a @ b``, or ``out += a @ b`` as one chain of multiply-adds.

    Parameters
    ----------
    a : Matrix (rows, depth); b : what ``pack`` made of a Matrix (depth, columns)
    out : Matrix (rows, columns) whose columns lie side by side
    """
    right = b.matrix if isinstance(b, Packed) else b
    if {one.values.dtype for one in (a, right, out)} != {np.dtype(np.float32)}:
        with threads.serial_blas():
            threads.run(_by_numpy, 1, a.array(), right.array(), out.array(), add)
        return
    (rows, depth), columns = a.shape, right.shape[1]
    if not depth and not add:
        out.array()[...] = 0
    base = (out.values, out.first, out.pitches[0], 1) if add else (_ZEROS, 0, 0, 0)
    blocks = -(-rows // BLOCK)
    threads.run(_multiply, -(-columns // COLUMNS) * blocks, a.values, b.values, base[0], out.values,
                (a.first, *a.pitches, rows, depth, columns, *base[1:], out.first, out.pitches[0], blocks),
                short=rows * depth * columns < BLOCK ** 3)
