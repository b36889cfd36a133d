"""A small pool of threads that run one kernel over the tiles of a result.

A kernel is a compiled function ``kernel(start, stop, *arrays)`` that computes tiles start .. stop-1 of its result and
releases the GIL. How a result is cut into tiles depends on its shape alone, never on the number of threads, and no
two tiles write to the same place: so results are bit-identical on any number of threads.
"""

import os
import threading
import time
from contextlib import contextmanager
from queue import SimpleQueue

from threadpoolctl import ThreadpoolController

RANGES = 4  # a thread

_queues = []
_local = threading.local()
_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
_grow = threading.Lock()
_blas = _limit = None
_serial_blocks = 0
_observer = None
_blas_lock = threading.Lock()


def get_threads():
    """Number of threads that kernels run on; at first the number of processors this process may use."""
    return _threads


def set_threads(count):
    """Run kernels on ``count`` threads from now on. Results do not depend on it.

    Raises
    ------
    ValueError : count is not a positive integer.
    """
    global _threads
    if int(count) != count or count < 1:
        raise ValueError(f"the number of threads must be a positive integer, got {count!r}")
    _threads = int(count)


def _work(tasks):
    _local.inside = True
    while True:
        tasks.get()()


def _reset_after_fork():
    _queues.clear()  # threads do not survive a fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def run(function, tiles, *args, short=False):
    """Call ``function(start, stop, *args)`` on ranges that together are ``range(tiles)``.

    There are a few ranges a thread, and each thread takes the next one when it is done with its last: a processor that
    is busy with something else then holds nobody up, and a kernel that is done before other threads woke up waits for none.

    Inside ``function`` a further call runs in the calling thread: all threads are busy there. So does work that is ``short``:
    less than the 50 microseconds or so that it takes to wake another thread.
    """
    observer = _observer
    if observer is None or getattr(_local, "observed", False) or getattr(_local, "inside", False):
        _run(function, tiles, args, short)
        return
    _local.observed, started = True, time.perf_counter()
    try:
        _run(function, tiles, args, short)
    finally:
        _local.observed = False
    observer(function, time.perf_counter() - started)


@contextmanager
def observe(observer):
    """Inside the block, call ``observer(function, seconds)`` after every ``run`` that is not itself inside another one."""
    global _observer
    previous, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = previous


def _run(function, tiles, args, short):
    parts = 1 if short or getattr(_local, "inside", False) else min(_threads, tiles)
    if parts <= 1:
        if tiles:
            function(0, tiles, *args)
        return
    with _grow:
        while len(_queues) < parts - 1:
            _queues.append(SimpleQueue())
            threading.Thread(target=_work, args=(_queues[-1],), name="bitnet-kernel", daemon=True).start()
    done = SimpleQueue()  # None or an error for each range
    count = min(tiles, RANGES * parts)
    ranges = iter([(tiles * i // count, tiles * (i + 1) // count) for i in range(count)])  # one for all: next() is atomic

    def work():
        for start, stop in ranges:
            error = None
            try:
                function(start, stop, *args)
            except BaseException as caught:
                error = caught
            done.put(error)

    for queue in _queues[:parts - 1]:
        queue.put(work)
    _local.inside = True
    try:
        work()
    finally:
        _local.inside = False
    errors = [error for error in (done.get() for _ in range(count)) if error is not None]
    if errors:
        raise errors[0]


@contextmanager
def serial_blas():
    """Inside the block NumPy's matrix products use one thread each, because our own threads call them side by side.

    A BLAS that threads by itself may also sum in another order on another number of threads.
    """
    global _blas, _serial_blocks, _limit
    with _blas_lock:
        _blas = _blas or ThreadpoolController().select(user_api="blas")
        if _serial_blocks == 0:
            _limit = _blas.limit(limits=1)
        _serial_blocks += 1
    try:
        yield
    finally:
        with _blas_lock:
            _serial_blocks -= 1
            if _serial_blocks == 0:  # the last of overlapping blocks restores what the first one found
                _limit.restore_original_limits()
