"""How every kernel here is compiled: once, without the GIL, and kept on disk.

Numba notices when the file of a cached function changes, but not when a function that it calls does, in another
file. A stale kernel would then answer for the new source. So the cache folder carries a hash of all kernel sources.
"""

import hashlib
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numba
from numba.core import event
from platformdirs import user_cache_dir


def _source_hash():
    digest = hashlib.sha256()
    kernels = Path(__file__).parents[1]
    for path in sorted(kernels.rglob("*.py")):
        digest.update(path.relative_to(kernels).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder():
    """The folder of compiled kernels: below NUMBA_CACHE_DIR where that is set, else below the user's cache folder."""
    root = os.environ.get("NUMBA_CACHE_DIR") or os.path.join(user_cache_dir("bitnet"), "kernels")
    return os.path.join(root, _SOURCE_HASH)


_SOURCE_HASH = _source_hash()


def kernel(function):
    """Decorate a function as a compiled kernel: ``nogil``, cached on disk, division by zero as in C."""
    previous, numba.config.CACHE_DIR = numba.config.CACHE_DIR, cache_folder()
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = previous


def inlined(function):
    """Decorate a part of a kernel that is pasted into its callers.

    A call of a compiled function counts references to each array it passes; in an inner loop that costs more than the
    work.
    """
    return numba.njit(inline="always", error_model="numpy")(function)


class _Announcer(event.Listener):
    """Prints a line when the first kernel is compiled and counts the rest."""

    def __init__(self, stream):
        self.stream, self.kernels, self.seconds, self._depth, self._start = stream, 0, 0.0, 0, 0.0

    def on_start(self, event):
        if self._depth == 0:
            self._start = time.perf_counter()
            if self.kernels == 0:
                print("compiling kernels for this machine, once ...", file=self.stream, flush=True)
        self._depth += 1

    def on_end(self, event):
        self._depth -= 1
        self.kernels += 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._start


@contextmanager
def announce(stream=None):
    """Say on ``stream`` (default: standard error) when kernels are compiled inside the block, and how long it took."""
    listener = _Announcer(stream or sys.stderr)
    with event.install_listener("numba:compile", listener):
        yield listener
    if listener.kernels:
        print(f"compiled {listener.kernels} kernels in {listener.seconds:.1f} s, kept in {cache_folder()}",
              file=listener.stream, flush=True)
