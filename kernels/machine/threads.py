"""A small pool of threads that run one kernel over the tiles of a result.

A kernel is a compiled function ``kernel(start, stop, *arrays)`` that computes tiles start .. stop-1 of its result and
releases the GIL. How a result is cut into tiles depends on its shape alone, never on the number of threads, and no
two tiles write to the same place: so results are bit-identical on any number of threads.

Threads of the pool work in the context of who calls: what ``np.errstate`` says there, and any other context variable, holds in
them too. An observer is one as well, so that a Python thread that is profiled does not hear of another one's kernels.
"""

import ctypes
import os
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from queue import SimpleQueue

from threadpoolctl import ThreadpoolController

from bitnet.kernels.machine.launch import Board, Program, launcher

TURNS = 20_000  # of waiting awake: a third of a millisecond or so, longer than Python needs from one kernel to the next
CROWD = 50      # fewer turns where threads share processors, in each of which another one may run
RANGES = 4      # of tiles a thread: enough that nobody waits long for the last one, few enough to begin kernels seldom
MOST = 1000     # threads

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_board = None  # where threads find their work
_workers = []  # what each one that sleeps waits for


class _Local(threading.local):
    """What is true of a Python thread: the defaults are those of any."""

    inside = False     # a range of a job: all threads are busy, and so kernels run in this one
    program = None     # where kernels are written down
    observed = False   # an outer call is
    serial_blocks = 0  # of ``serial_blas``, how many it is in


_local = _Local()
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


def _work(board, index, wake):
    while True:
        crowded = _threads > _processors
        board.serve(index, TURNS // CROWD if crowded else TURNS, crowded)
        wake.get()


def _reset_after_fork():
    """Threads do not survive a fork, but locks that they held and blocks that they were in do."""
    global _board, _local, _grow, _blas_lock, _serial_blocks
    _board = None
    _workers.clear()
    _serial_blocks = _local.serial_blocks  # those of the thread that forked
    _grow, _blas_lock, before = threading.Lock(), threading.Lock(), _local
    _local = _Local()
    _local.serial_blocks = before.serial_blocks


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def run(function, tiles, *args, short=False):
    """Call ``function(start, stop, *args)`` on ranges that together are ``range(tiles)``.

    There are a few ranges a thread, and each thread takes the next one when it is done with its last (``launch``): a processor
    that is busy with something else then holds nobody up for long, and a kernel that is done before other threads woke up waits
    for none.

    Inside ``function`` a further call runs in the calling thread: all threads are busy there. So does work that is ``short``:
    less than the 50 microseconds or so that it takes to wake another thread.
    """
    observer = _observer.get()
    if observer is None or _local.observed or _local.inside:
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


def _run(function, tiles, args, short):
    if not tiles:
        return
    if _local.program is not None:
        _check(_local.program.add(function, tiles, args))
        return
    count = 1 if short or _local.inside else min(_threads, tiles, MOST)
    board = _board or _make_board()
    if count > 1:
        _wake(count)
    if hasattr(function, "py_func"):
        _check(launcher(function)(board.address, count, min(tiles, RANGES * count), tiles, *args))
    elif count > 1:
        _share(function, count, min(tiles, RANGES * count), tiles, args)
    else:
        function(0, tiles, *args)


def _check(failed):
    if failed:  # nothing else makes a kernel fail
        raise MemoryError("there was no memory for what a kernel works with")


def is_busy():
    """Does a kernel that begins here stay in this thread, or become part of a program?"""
    return _local.inside or _local.program is not None


@contextmanager
def noted_in(program):
    """Inside the block kernels are not run but given to ``program.add(function, tiles, args)``."""
    before, _local.program = _local.program, program
    try:
        yield program
    finally:
        _local.program = before


def recording():
    """Kernels that run inside the block are written down too: the Program that the block gives."""
    return noted_in(Program())


def is_rehearsal():
    """Are kernels not run here, so that there is nothing in their results to go by?"""
    return getattr(_local.program, "only_notes", False)


def rerun(program):
    """Run a program on the threads that kernels have, on one where they are all busy."""
    count = 1 if is_busy() else min(_threads, MOST)
    board = _board or _make_board()
    if count > 1:
        _wake(count)
    _check(program.run(board, count, RANGES))


def _make_board():
    global _board
    with _grow:
        _board = _board or Board(MOST)
    return _board


def _wake(count):
    """Have ``count - 1`` threads that are awake, or are waking up: who comes late finds nothing left to do."""
    if len(_workers) < count - 1:
        with _grow:
            for index in range(len(_workers), count - 1):
                _workers.append(SimpleQueue())
                threading.Thread(target=_work, args=(_board, index, _workers[-1]), name="bitnet-kernel", daemon=True).start()
    asleep = _board.asleep
    for index in range(count - 1):
        if asleep[index]:
            asleep[index] = 0
            _workers[index].put(None)


def _share(function, count, ranges, tiles, args):
    """``run`` of a Python function: each range of it takes the GIL, in a context of its own that is a copy of the caller's."""
    context, errors, caller = copy_context(), [], threading.get_ident()

    def work(start, stop, _):
        if threading.get_ident() == caller:  # a thread may have fallen asleep before the job was there
            _wake(count)
        before, _local.inside = _local.inside, True
        try:
            context.copy().run(function, start, stop, *args)
        except BaseException as error:
            errors.append(error)
        finally:
            _local.inside = before

    callback = _CALLBACK(work)
    _board.share(count, ranges, tiles, ctypes.cast(callback, ctypes.c_void_p).value)
    if errors:
        raise errors[0]


@contextmanager
def alone():
    """Inside the block kernels run in the calling thread: for work that is done before another thread has woken up."""
    before, _local.inside = _local.inside, True
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
    _local.serial_blocks = _local.serial_blocks + 1
    try:
        yield
    finally:
        _local.serial_blocks -= 1
        with _blas_lock:
            _serial_blocks -= 1
            if _serial_blocks == 0:  # the last of overlapping blocks restores what the first one found
                _set_blas(_limit)
                _limit = None
