"""Freed memory stays with the process, where the C library can be told so."""

import ctypes
import resource

import numpy as np
import pytest

from bitnet.kernels.machine.memory import keep_freed_memory


def test_what_was_freed_is_not_mapped_anew():
    try:
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018
    except (AttributeError, OSError, TypeError):
        pytest.skip("not glibc")
    keep_freed_memory()

    def work():
        arrays = [np.ones((1 << 18) - 100) for _ in range(50)]  # 100 MiB: more than glibc keeps by itself
        return sum(array[-1] for array in arrays)

    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 200  # anew: 25,600 pages
