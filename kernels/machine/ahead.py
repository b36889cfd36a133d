"""Kernels compiled before they are needed, by several processes at a time.

Numba compiles one function after the other, and a training step that starts with an empty store needs some sixty. Which
ones, and for which types, is known only from running it. So the step is rehearsed: whoever calls kernels does all it does,
but no kernel runs (what it would have written is whatever lies in memory), and each is noted instead. The notes are a queue,
from which this process and others take; what others compile lies in the store (``compile``), where this one finds it.

What a rehearsal does not come to, because of the nonsense in its arrays, is compiled when it is needed.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections import deque

import numba
from numba import types

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import store_works
from bitnet.kernels.machine.launch import launcher

HELPERS = 3  # processes beside this one: each needs some 150 MB, and has to import Numba first
FEWEST = 6   # kernels to compile, for which a helper is worth its start
_HELPER = ("import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
           "from bitnet.kernels.machine import ahead; ahead.help()")


class _Notes:
    """What ``threads`` writes kernels down in."""

    only_notes = True

    def __init__(self):
        self.kernels = {}  # launcher and types of its arguments -> kernel; in the order of first use

    def add(self, function, tiles, args):
        if hasattr(function, "py_func"):  # what Python functions would call is compiled when they do
            dispatcher = launcher(function)
            signature = (*[types.int64] * 4, numba.typeof(args))
            if signature not in dispatcher.overloads and not dispatcher._cache.holds(signature, dispatcher.targetctx):
                self.kernels[dispatcher, signature] = function


def rehearse(step):
    """Compile the kernels that ``step()`` runs, on several processes, without running them.

    Parameters
    ----------
    step : callable   # no state that it changes is used any more, for there is nonsense in it afterwards
    """
    if not store_works() or not sys.executable or getattr(sys, "frozen", False):
        return
    notes = _Notes()
    with threads.noted_in(notes), contextlib.suppress(Exception):
        step()
    if len(notes.kernels) < FEWEST:
        return
    queue = deque(notes.kernels.items())
    helpers = [_Helper(queue) for _ in range(min(HELPERS, threads.get_threads() - 1, len(queue) // FEWEST))]
    try:
        with contextlib.suppress(IndexError):  # of an empty queue
            while True:
                (dispatcher, signature), _ = queue.popleft()
                dispatcher.compile(signature)
        for helper in helpers:
            helper.join()
    finally:
        for helper in helpers:
            helper.process.kill()
            helper.process.wait()


class _Helper(threading.Thread):
    """A process that compiles, and the thread that feeds it."""

    def __init__(self, queue):
        super().__init__(name="bitnet-compile", daemon=True)
        self.queue = queue
        self.process = subprocess.Popen([sys.executable, "-c", _HELPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)
        self.start()

    def run(self):
        with contextlib.suppress(OSError, EOFError, IndexError):  # it died: what it had is compiled when it is needed
            pickle.dump(sys.path, self.process.stdin)
            self.process.stdin.flush()
            self.process.stdout.read(1)  # it has started
            while True:
                (_, signature), function = self.queue.popleft()
                pickle.dump((function.__module__, function.__qualname__, signature), self.process.stdin)
                self.process.stdin.flush()
                if not self.process.stdout.read(1):
                    return


def help():
    """What a helper does: compile what it reads, and say so, until there is no more."""
    answer = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing else may write there
    answer.write(b".")
    while True:
        try:
            module, name, signature = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        function = sys.modules.get(module) or __import__(module, fromlist=[name])
        launcher(getattr(function, name)).compile(signature)
        answer.write(b".")
