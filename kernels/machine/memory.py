"""Freed memory stays with the process.

A training step frees what it allocated, and the next one allocates the same again. The C library gives large pieces back to the
system meanwhile, which hands them out anew page by page, each filled with zeros: several percent of a step.
"""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the names that glibc's <malloc.h> gives to mallopt's parameters


def keep_freed_memory():
    """Have glibc keep up to 1 GiB of free memory, and map only pieces above 32 MiB apart. Other C libraries stay alone."""
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018, another library's mallopt might mean something else
    except (AttributeError, OSError, TypeError):
        return
    libc.mallopt(TRIM_THRESHOLD, 1 << 30)
    libc.mallopt(MMAP_THRESHOLD, 1 << 25)
