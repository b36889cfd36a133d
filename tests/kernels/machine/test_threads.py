"""The pool of threads: every tile once, errors come back, and no two users disturb each other."""

import os
import signal
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import kernel
from bitnet.kernels.pointwise import quantize

NUMPYS_BLAS = ThreadpoolController().select(user_api="blas")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("tiles", [0, 1, 2, 7, 100])
def test_every_tile_is_computed_once(tiles, count, thread_count):
    thread_count(count)
    done, ranges = np.zeros(tiles, int), []

    def work(start, stop, argument):
        assert argument == "argument"
        ranges.append((start, stop))
        done[start:stop] += 1

    threads.run(work, tiles, "argument")
    assert (done == 1).all()
    sizes = [stop - start for start, stop in ranges]
    assert len(ranges) == (min(tiles, threads.RANGES * count) if count > 1 and tiles > 1 else min(tiles, 1))
    assert not tiles or max(sizes) <= min(sizes) + 1


def test_ranges_run_side_by_side(thread_count):
    thread_count(3)
    together = threading.Barrier(3, timeout=20)  # broken unless all three meet
    threads.run(lambda start, stop: together.wait(), 3)


def test_one_thread_is_the_caller(thread_count):
    thread_count(1)
    names = []
    threads.run(lambda start, stop: names.append(threading.current_thread()), 8)
    assert names == [threading.current_thread()]


@pytest.mark.parametrize("bad", [0, 1, 2])  # 0 runs on the caller, the others on threads of the pool
def test_errors_reach_the_caller_after_all_have_finished(bad, thread_count):
    thread_count(3)
    finished = []

    def work(start, stop):
        if start == bad:
            raise OSError(f"tile {start}")
        finished.append(start)

    for _ in range(3):  # the pool survives
        finished.clear()
        with pytest.raises(OSError, match=f"tile {bad}"):
            threads.run(work, 3)
        assert sorted(finished) == sorted({0, 1, 2} - {bad})


@kernel
def _work_with(start, stop, sizes, out):
    for i in range(start, stop):
        out[i] = np.ones(sizes[i]).sum()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("bad", [0, 5, 99])
def test_a_kernel_without_memory_says_so_and_the_rest_is_done(bad, count, thread_count):
    thread_count(count)
    sizes, out = np.arange(100), np.zeros(100)
    threads.run(_work_with, 100, sizes, out)
    assert (out == sizes).all()
    sizes[bad] = 1 << 60
    for _ in range(2):  # the pool survives
        with pytest.raises(MemoryError):
            threads.run(_work_with, 100, sizes, out)


def test_kernels_meet_every_tile_once_however_they_are_shared(thread_count):
    counts = np.zeros(5000, np.int64)
    for i, count in enumerate([1, 2, 3, 7, 50, 2, 1, 5] * 20):
        thread_count(count)
        threads.run(_count, len(counts) - i, counts)
    assert (counts[:len(counts) - 159] == 160).all() and (np.diff(counts[-160:]) == -1).all()


@kernel
def _count(start, stop, counts):
    for i in range(start, stop):
        counts[i] += 1


@pytest.mark.parametrize("count", [0, -1, 1.5, float("inf")])
def test_numbers_of_threads_that_make_no_sense(count):
    before = threads.get_threads()
    with pytest.raises((ValueError, OverflowError)):
        threads.set_threads(count)
    assert threads.get_threads() == before


def test_whole_floats_are_numbers_of_threads(thread_count):
    thread_count(np.float64(3))
    assert threads.get_threads() == 3 and isinstance(threads.get_threads(), int)


def test_a_pool_that_is_busy_holds_nobody_up(thread_count):
    thread_count(2)
    entered, release = threading.Semaphore(0), threading.Event()

    def wait(start, stop):
        entered.release()
        assert release.wait(20)

    other = threading.Thread(target=threads.run, args=(wait, 2))
    other.start()
    try:
        assert entered.acquire(timeout=20) and entered.acquire(timeout=20)  # the other caller and the thread of the pool
        tiles = []
        threads.run(lambda start, stop: tiles.extend(range(start, stop)), 100)
        assert tiles == list(range(100)) and not release.is_set()
    finally:
        release.set()
        other.join()


def test_two_callers_at_a_time(thread_count):
    thread_count(3)
    results = np.zeros((2, 200, 64), int)

    def caller(which):
        def work(start, stop, round_):
            results[which, round_, start:stop] += 1 + which

        for round_ in range(200):
            threads.run(work, 64, round_)

    callers = [threading.Thread(target=caller, args=(which,), daemon=True) for which in range(2)]
    for one in callers:
        one.start()
    for one in callers:
        one.join(60)
        assert not one.is_alive()
    assert (results[0] == 1).all() and (results[1] == 2).all()


@pytest.mark.parametrize("count", [1, 3])
def test_an_observer_hears_of_outer_calls_only(thread_count, count):
    thread_count(count)
    heard = []

    def inner(start, stop):
        pass

    def outer(start, stop):
        threads.run(inner, 4)

    with threads.observe(lambda function, seconds: heard.append((function, seconds))):
        threads.run(outer, 4)
        threads.run(inner, 2)
    threads.run(inner, 2)
    assert [function for function, _ in heard] == [outer, inner] and all(seconds > 0 for _, seconds in heard)


def test_an_observer_does_not_hear_of_calls_that_failed(thread_count):
    thread_count(2)
    heard = []

    def fail(start, stop):
        raise OSError

    with threads.observe(lambda function, seconds: heard.append(function)):
        with pytest.raises(OSError):
            threads.run(fail, 4)
        assert heard == []
        threads.run(lambda start, stop: None, 1)  # and hears of those after it
    assert len(heard) == 1


def test_an_observer_hears_of_its_own_python_thread_only(thread_count):
    thread_count(1)
    heard, other = [], []

    def inner(start, stop):
        pass

    def elsewhere():
        threads.run(inner, 2)
        with threads.observe(lambda function, seconds: other.append(function)):
            threads.run(inner, 2)

    with threads.observe(lambda function, seconds: heard.append(function)):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert heard == [] and other == [inner]
        threads.run(inner, 2)
    assert heard == other == [inner]


def test_numpys_errors_are_those_of_the_caller_in_all_threads(thread_count):
    thread_count(3)
    together = threading.Barrier(3, timeout=20)
    seen = []

    def work(start, stop):
        together.wait()
        seen.append(np.geterr()["over"])
        np.float32(1e38) * np.float32(10)

    with np.errstate(over="ignore"):
        threads.run(work, 3)
    assert seen == ["ignore"] * 3
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        threads.run(work, 3)


@pytest.mark.parametrize("variables, expected", [
    ({}, 4), ({"OMP_NUM_THREADS": "3"}, 3), ({"NUMBA_NUM_THREADS": "2"}, 2), ({"OMP_NUM_THREADS": "9"}, 4),
    ({"OMP_NUM_THREADS": "2,1", "NUMBA_NUM_THREADS": "3"}, 2), ({"OMP_NUM_THREADS": "0"}, 4), ({"OMP_NUM_THREADS": "-1"}, 4),
    ({"NUMBA_NUM_THREADS": "many", "OMP_NUM_THREADS": ""}, 4), ({"NUMBA_NUM_THREADS": " 1 "}, 1), ({"OMP_NUM_THREADS": "²"}, 4),
])
def test_the_environment_bounds_the_default_number_of_threads(variables, expected, monkeypatch, thread_count):
    monkeypatch.setattr(threads, "_processors", 4)
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert threads._default_threads() == expected
    thread_count(7)  # a program that says how many has its way
    assert threads.get_threads() == 7


def in_a_child(function):
    """The exit status of a forked process that calls ``function``: 0 unless it raises or takes more than 20 seconds."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(20)  # a child that waits for threads it does not have must not outlive the test
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
unwarned = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@forks
@unwarned
def test_a_forked_process_gets_threads_of_its_own(thread_count):
    thread_count(3)
    together = threading.Barrier(3, timeout=20)
    threads.run(lambda start, stop: together.wait(), 3)  # the parent's pool has threads, the child's has none of them

    def meet():
        together = threading.Barrier(3, timeout=15)
        threads.run(lambda start, stop: together.wait(), 3)

    assert in_a_child(meet) == 0
    threads.run(lambda start, stop: together.wait(), 3)  # the parent's still work


@forks
@unwarned
@pytest.mark.parametrize("name", ["_grow", "_blas_lock"])
def test_a_process_forked_while_another_thread_holds_a_lock_does_not_wait_for_it(name, thread_count):
    thread_count(2)
    taken, release = threading.Event(), threading.Event()

    def hold():
        with getattr(threads, name):
            taken.set()
            release.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(20)

    def use():
        together = threading.Barrier(2, timeout=15)
        threads.run(lambda start, stop: together.wait(), 2)
        with threads.serial_blas():
            pass

    try:
        assert in_a_child(use) == 0
    finally:
        release.set()
        holder.join()


@forks
@unwarned
def test_blocks_of_other_threads_end_with_a_fork(two_blas_threads):
    inside, release = threading.Event(), threading.Event()

    def stay():
        with threads.serial_blas():
            inside.set()
            release.wait(20)

    other = threading.Thread(target=stay)
    other.start()
    assert inside.wait(20)

    def use():
        with threads.serial_blas():
            assert set(blas_threads()) == {1}
        assert blas_threads() == two_blas_threads  # nobody is left whom it had to wait for

    def use_inside():
        assert threads._serial_blocks == 1  # its own

    try:
        assert in_a_child(use) == 0
        with threads.serial_blas():
            assert in_a_child(use_inside) == 0
    finally:
        release.set()
        other.join()
    assert blas_threads() == two_blas_threads


def test_kernels_of_two_python_threads_at_a_time(thread_count):
    thread_count(2)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((40, 50, 60)).astype(np.float32) for _ in range(2)]
    expected = [np.clip(array, 0, 1) for array in arrays]
    wrong = []

    def caller(which):
        for _ in range(50):
            if not np.array_equal(quantize.clip(arrays[which], 0, 1), expected[which]):
                wrong.append(which)

    callers = [threading.Thread(target=caller, args=(which,)) for which in range(2)]
    for one in callers:
        one.start()
    for one in callers:
        one.join(60)
        assert not one.is_alive()
    assert not wrong


def blas_threads():
    """Threads of NumPy's BLAS; SciPy may bring one of its own, which nobody here calls."""
    return [library["num_threads"] for library in NUMPYS_BLAS.info()]


@pytest.fixture
def two_blas_threads():
    with NUMPYS_BLAS.limit(limits=2):
        if 2 not in blas_threads():
            pytest.skip("this BLAS has no threads")
        yield blas_threads()


def test_blas_is_serial_inside_the_block_only(two_blas_threads):
    with threads.serial_blas():
        assert set(blas_threads()) == {1}
    assert blas_threads() == two_blas_threads


def test_blas_is_serial_until_the_last_of_overlapping_blocks_ends(two_blas_threads):
    # two Python threads in float kernels at a time: neither block is inside the other
    first, second = threads.serial_blas(), threads.serial_blas()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(blas_threads()) == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == two_blas_threads


def test_short_work_stays_in_the_calling_thread(thread_count):
    thread_count(3)
    callers = []
    threads.run(lambda start, stop: callers.append((start, stop, threading.current_thread())), 5, short=True)
    assert callers == [(0, 5, threading.current_thread())]
