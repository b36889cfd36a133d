"""Matrix products: one chain of multiply-adds a result, whatever the tiles, and so the same bits on every processor."""

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from bitnet.kernels.products.matrix import BLOCK, COLUMNS, PART, Matrix, multiply, pack, whole


def normal(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def rounded(exact):
    """The float32 nearest to a Fraction, ties to even."""
    near = np.float32(float(exact))  # may be rounded twice: look at its neighbours
    candidates = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    return min(candidates, key=lambda one: (abs(Fraction(float(one)) - exact), int(one.view(np.uint32)) & 1))


def chain(a, b, start):
    """fma(a[-1], b[-1], ... fma(a[0], b[0], start)) of float32 numbers, each rounded once."""
    total = np.float32(start)
    for left, right in zip(a, b, strict=True):
        total = rounded(Fraction(float(left)) * Fraction(float(right)) + Fraction(float(total)))
    return total


@pytest.mark.parametrize("add", [False, True])
def test_a_result_is_one_chain(add):
    a, b, y = normal((3, PART + 40)), normal((PART + 40, 2), 1), normal((3, 2), 2)
    before = y.copy()
    multiply(whole(a), pack(whole(b)), whole(y), add=add)
    for i, j in np.ndindex(y.shape):
        assert y[i, j] == chain(a[i], b[:, j], before[i, j] if add else 0)


SIZES = [(1, 1, 1), (7, 3, 5), (8, 32, COLUMNS), (BLOCK + 1, 19, COLUMNS + 1), (BLOCK - 3, PART + 1, 16), (2, 2 * PART, 17),
         (3, 0, 4), (0, 3, 4), (13, 5, 3 * COLUMNS - 1)]


@pytest.mark.parametrize("rows, depth, columns", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sizes_transposes_and_parts_of_arrays(rows, depth, columns, dtype, thread_count):
    a, b = normal((rows, depth), dtype=dtype), normal((depth, columns), 1, dtype)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    thread_count(1)
    first = np.full((rows, columns), 9, dtype)
    multiply(whole(a), pack(whole(b)), whole(first))
    np.testing.assert_allclose(first, exact, atol=1e-4 if dtype == np.float32 else 1e-12)
    thread_count(3)
    for left in (whole(a), whole(np.ascontiguousarray(a.T)).T):
        for right in (whole(b), whole(np.ascontiguousarray(b.T)).T):
            out = np.full((rows + 2, columns + 3), 7, dtype)  # a part of a larger array
            part = Matrix(out.reshape(-1), (rows, columns), (columns + 3, 1), columns + 4)
            multiply(left, pack(right), part)
            if dtype == np.float32:
                assert np.array_equal(out[1:-1, 1:-2], first)
            np.testing.assert_allclose(out[1:-1, 1:-2], first, atol=1e-12)
            out[1:-1, 1:-2] = 7
            assert (out == 7).all()  # nothing beside it was touched


PROGRAM = """
import hashlib, numpy as np
from bitnet.kernels.pointwise import elementary
from bitnet.kernels.products.matrix import multiply, pack, whole
rng, digest = np.random.default_rng(0), hashlib.sha256()
for rows, depth, columns in ((70, 300, 45), (5, 40, 10)):
    a, b = rng.standard_normal((rows, depth)).astype(np.float32), rng.standard_normal((depth, columns)).astype(np.float32)
    out = np.empty((rows, columns), np.float32)
    multiply(whole(a), pack(whole(b)), whole(out))
    digest.update(out)
x = rng.uniform(-5, 5, 20_000)
for number in (np.float32, np.float64):
    for function in (elementary.exp, elementary.tanh, elementary.log):
        digest.update(function((np.abs(x) if function is elementary.log else x).astype(number)))
print(digest.hexdigest())
"""


def test_the_same_bits_for_every_processor():
    """As compiled for this one, for one with half as wide vectors, and for one without multiply-add."""
    found = set()
    for name in ("", "haswell", "generic") if os.uname().machine == "x86_64" else ("", "generic"):
        target = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""} if name else {}
        result = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | target, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        found.add(result.stdout)
    assert len(found) == 1
