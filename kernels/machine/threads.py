"""A small pool of threads that run one kernel over the tiles of a result.

A kernel is a compiled function ``kernel(start, stop, *arrays)`` that computes tiles start .. stop-1 of its result and
releases the GIL. How a result is cut into tiles depends on its shape alone, never on the number of threads, and no
two tiles write to the same place: so results are bit-identical on any number of threads.

Threads of the pool work in the context of who calls: what ``np.errstate`` says there, and any other context variable, holds in
them too. An observer is one as well, so that a Python thread that is profiled does not hear of another one's kernels.
"""

import os
import platform
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from queue import SimpleQueue

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from threadpoolctl import ThreadpoolController

from bitnet.kernels.machine.compile import kernel

TURNS = 4000    # of waiting awake: a tenth of a millisecond or so; longer takes too much from other processes
MORE = 150      # after a flag went up: by then who raised it has let go of the GIL, for which a thread waits asleep

_X86, _ARM = ("llvm.x86.sse2.pause", []), ("llvm.aarch64.hint", [ir.Constant(ir.IntType(32), 1)])
_REST = {"x86_64": _X86, "AMD64": _X86, "aarch64": _ARM, "arm64": _ARM}.get(platform.machine())

_workers = []  # (queue, bell) of each
_local = threading.local()
_processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
_grow = threading.Lock()
_blas = _limit = None
_serial_blocks = 0
_observer = ContextVar("observer of kernels", default=None)
_blas_lock = threading.Lock()


def _default_threads():
    """The processors of this process, or fewer where the environment says so as it does to Numba and OpenMP."""
    count = _processors
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        allowed = os.environ.get(name, "").split(",")[0].strip()  # OpenMP's may be a list, one number a level of nesting
        if allowed.isascii() and allowed.isdigit() and int(allowed) > 0:
            count = min(count, int(allowed))
    return count


_threads = _default_threads()


def get_threads():
    """Number of threads that kernels run on.

    At first that of the processors this process may use, but no more than NUMBA_NUM_THREADS or OMP_NUM_THREADS, where set.
    """
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


@intrinsic
def _look(typing, flags, index):
    """``flags[index]``, read from memory each time, after a rest of some ten cycles where a processor knows how to rest."""

    def generate(context, builder, signature, args):
        if _REST:
            name, arguments = _REST
            rest = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
            builder.call(cgutils.get_or_insert_function(builder.module, rest, name), arguments)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "acquire", 8)

    return types.int64(flags, types.intp), generate


@kernel
def _wait(flags, turns, more):
    """Until no flag is 0, but for no more than so many turns; then so many more."""
    for i in range(flags.size):
        while _look(flags, i) == 0 and turns > 0:
            turns -= 1
    for _ in range(more):
        _look(flags, 0)


def _wait_awake(flags):
    """Wait for flags without sleeping: to wake a thread that sleeps takes 50 microseconds, which many a kernel is done in.

    Only for a moment, since the next kernel of a step is mostly that near; and only where each thread has a processor, lest
    it keep the one that it waits for from running.
    """
    if _threads <= _processors:
        _wait(flags, TURNS, MORE)


def _work(tasks, bell):
    _local.inside = True
    while True:
        bell[0] = 0
        if tasks.empty():
            _wait_awake(bell)
        tasks.get()()


def _reset_after_fork():
    """Threads do not survive a fork, but locks that they held and blocks that they were in do."""
    global _local, _grow, _blas_lock, _serial_blocks
    _workers.clear()
    _serial_blocks = getattr(_local, "serial_blocks", 0)  # those of the thread that forked
    _grow, _blas_lock, before = threading.Lock(), threading.Lock(), _local
    _local = threading.local()
    _local.serial_blocks = getattr(before, "serial_blocks", 0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def run(function, tiles, *args, short=False):
    """Call ``function(start, stop, *args)`` on ranges that together are ``range(tiles)``.

    There are two ranges a thread, and each thread takes the next one when it is done with its last: a processor that is
    busy with something else then holds nobody up for long, and a kernel that is done before other threads woke up waits for
    none.

    Inside ``function`` a further call runs in the calling thread: all threads are busy there. So does work that is ``short``:
    less than the 50 microseconds or so that it takes to wake another thread.
    """
    observer = _observer.get()
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
    """Inside the block, call ``observer(function, seconds)`` after every ``run`` that is not itself inside another one.

    It hears of calls in this context alone, not of those of other Python threads.
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


@lru_cache(1000)
def _bounds(tiles, parts):
    """Where the ranges begin, and the end: two ranges a thread, which together are its share.

    The first ones are of different sizes, so that threads do not finish together: then one would wait for the GIL, asleep.
    The longest is taken by the caller, who begins at once.
    """
    first = [3 / 4 - i / parts / 4 for i in range(parts)]
    ends = accumulate(first + [1 - share for share in reversed(first)], initial=0)
    return list(dict.fromkeys(round(tiles * end / parts) for end in ends))


def _run(function, tiles, args, short):
    parts = 1 if short or getattr(_local, "inside", False) else min(_threads, tiles)
    if parts <= 1:
        if tiles:
            function(0, tiles, *args)
        return
    with _grow:
        while len(_workers) < parts - 1:
            _workers.append((SimpleQueue(), np.zeros(1, np.int64)))
            threading.Thread(target=_work, args=_workers[-1], name="bitnet-kernel", daemon=True).start()
    ranges = list(enumerate(pairwise(_bounds(tiles, parts))))
    count, ranges = len(ranges), iter(ranges)  # one iterator for all threads: its next() is atomic
    done, flags = SimpleQueue(), np.zeros(count, np.int64)  # None or an error for each range, and that it is there

    def work():
        for i, (start, stop) in ranges:
            error = None
            try:
                function(start, stop, *args)
            except BaseException as caught:
                error = caught
            done.put(error)
            flags[i] = 1

    compiled = hasattr(function, "py_func")  # asks for no context, and a copy of it costs microseconds
    for queue, bell in _workers[:parts - 1]:
        queue.put(work if compiled else partial(copy_context().run, work))  # a copy each: none is entered twice at a time
        bell[0] = 1
    _local.inside = True
    try:
        work()
    finally:
        _local.inside = False
    _wait_awake(flags)
    errors = [error for error in (done.get() for _ in range(count)) if error is not None]
    if errors:
        raise errors[0]


@contextmanager
def alone():
    """Inside the block kernels run in the calling thread: for work that is done before another thread has woken up."""
    before, _local.inside = getattr(_local, "inside", False), True
    try:
        yield
    finally:
        _local.inside = before


def _set_blas(counts):
    """Give each BLAS that many threads; returns how many it had.

    threadpoolctl lets only the Python thread that set a limit set the next one; our blocks overlap across threads, so
    control is taken, and given back. (Its own limiter takes 40 us, as long as many a product.)
    """
    before = []
    for library, count in zip(_blas.lib_controllers, counts, strict=True):
        release = getattr(library, "clear_controlling_thread", lambda force: None)
        release(force=True)
        before.append(library.get_num_threads())
        library.set_num_threads(count)
        release(force=True)
    return before


@contextmanager
def serial_blas():
    """Inside the block NumPy's matrix products use one thread each, because our own threads call them side by side.

    A BLAS that threads by itself may also sum in another order on another number of threads.
    """
    global _blas, _serial_blocks, _limit
    with _blas_lock:
        _blas = _blas or ThreadpoolController().select(user_api="blas")
        if _limit is None:
            _limit = _set_blas([1] * len(_blas.lib_controllers))
        _serial_blocks += 1
    _local.serial_blocks = getattr(_local, "serial_blocks", 0) + 1
    try:
        yield
    finally:
        _local.serial_blocks -= 1
        with _blas_lock:
            _serial_blocks -= 1
            if _serial_blocks == 0:  # the last of overlapping blocks restores what the first one found
                _set_blas(_limit)
                _limit = None
