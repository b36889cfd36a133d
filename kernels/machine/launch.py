"""How a kernel gets onto several threads without Python in between.

Threads of the pool wait in compiled code, awake, for a job to appear in a piece of memory that all share, the board:

    caller     writes the job: which function, with which arguments, on how many ranges of tiles; last of all the ticket
    ticket     says which ranges nobody has taken yet; who can replace it by one with a range less has that range
    caller     takes ranges from the front, the others from the back, until none is left, and waits for those not done yet

So a launch costs half a microsecond, not the dozen or more that a wake-up through Python and its lock takes; who comes late
holds nobody up; and from launch to launch a thread mostly meets the same tiles, which lie in its cache. Arguments stay where
the caller has them, on its stack: threads read them between taking a range and saying that it is done.

A recording board does not share a job, but runs it and writes it down. What was written down is a program: kernels that run one
after the other on the same arrays as then, with nothing in between.
"""

import ctypes
import os
import platform
from functools import cache

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, compiler
from numba.extending import intrinsic

from bitnet.kernels.machine.arrays import LINE
from bitnet.kernels.machine.compile import Store, check_compiler, kernel

# What the board holds, in bytes from its beginning; what is written by different threads lies in different cache lines.
TICKET, DONE, BUSY, FUNCTION, ARGUMENTS, TILES, RANGES, SHARE, YIELD, NEXT, ASLEEP = (
    0, 64, 128, 192, 200, 208, 216, 224, 232, 240, 256)
WORD = 8         # bytes of a number on the board, and in a program
HEAD = 3 * WORD  # of a job in a program: function, tiles, bytes of the arguments that follow
FIELD, MOST = 16, (1 << 16) - 1  # bits of a number in a ticket: job, threads, front and back range
ROOM = 1 << 12   # words of a new program
PATIENCE = 2000  # looks at the board before the caller lets another thread have its processor

_X86, _ARM = ("llvm.x86.sse2.pause", []), ("llvm.aarch64.hint", [ir.Constant(ir.IntType(32), 1)])
_REST = {"x86_64": _X86, "AMD64": _X86, "aarch64": _ARM, "arm64": _ARM}.get(platform.machine())
_INT = ir.IntType(64)
_JOB = ir.FunctionType(ir.VoidType(), [_INT] * 3)  # (start, stop, address of the arguments)


def _at(builder, address, kind=_INT):
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic
def _load(typing, address):
    def generate(context, builder, signature, args):
        return builder.load_atomic(_at(builder, args[0]), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def _store(typing, address, value):
    def generate(context, builder, signature, args):
        builder.store_atomic(args[1], _at(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _add(typing, address, value):
    def generate(context, builder, signature, args):
        return builder.atomic_rmw("add", _at(builder, args[0]), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _replace(typing, address, old, new):
    """Write ``new`` if ``old`` is still there: whether it was."""

    def generate(context, builder, signature, args):
        result = builder.cmpxchg(_at(builder, args[0]), args[1], args[2], "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def _rest(typing):
    """A pause of some ten cycles or more, where a processor knows how to pause."""

    def generate(context, builder, signature, args):
        if _REST:
            name, arguments = _REST
            function = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
            builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _call(typing, function, start, stop, arguments):
    def generate(context, builder, signature, args):
        builder.call(_at(builder, args[0], _JOB), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def _yield(typing, function):
    """Let another thread have the processor, by the function of the system at this address."""

    def generate(context, builder, signature, args):
        builder.call(_at(builder, args[0], ir.FunctionType(ir.IntType(32), [])), [])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@kernel
def _run_range(board, i):
    tiles, ranges = _load(board + TILES), _load(board + RANGES)
    _call(_load(board + FUNCTION), tiles * i // ranges, tiles * (i + 1) // ranges, _load(board + ARGUMENTS))


@kernel
def _share(board, threads, ranges, tiles, function, arguments, size):
    """Run ``function`` on all tiles, with the help of threads that wait at the board; alone where another caller has them."""
    if threads <= 1 or not _replace(board + BUSY, 0, 1):
        _call(function, 0, tiles, arguments)
        return
    _store(board + FUNCTION, function)
    _store(board + ARGUMENTS, arguments)
    _store(board + TILES, tiles)
    _store(board + RANGES, ranges)
    _store(board + DONE, 0)
    job = (_load(board + TICKET) >> 3 * FIELD) + 1 & MOST
    _store(board + TICKET, job << 3 * FIELD | threads << 2 * FIELD | ranges)
    own = 0
    while True:
        ticket = _load(board + TICKET)
        front = ticket >> FIELD & MOST
        if front == ticket & MOST:
            break
        if _replace(board + TICKET, ticket, ticket + (1 << FIELD)):
            _run_range(board, front)
            own += 1
    looks = 0
    while _load(board + DONE) < ranges - own:
        _rest()
        looks += 1
        if looks > PATIENCE and _load(board + YIELD) != 0:
            _yield(_load(board + YIELD))
    _store(board + BUSY, 0)


@kernel
def _record(board, threads, ranges, tiles, function, arguments, size):
    """Run ``function`` on all tiles, and write it down with its arguments, ``size`` bytes."""
    place = _load(board + NEXT)
    _store(place, function)
    _store(place + WORD, tiles)
    _store(place + 2 * WORD, size)
    for i in range(0, size, WORD):
        _store(place + HEAD + i, _load(arguments + i))
    _store(board + NEXT, place + HEAD + size)
    _call(function, 0, tiles, arguments)


@kernel
def _run_program(board, threads, ranges, place, end):
    """Run what lies between two addresses, with ``ranges`` a thread: 0, or 1 where a kernel had no memory."""
    failed = 0
    while place < end:
        function, tiles, size = _load(place), _load(place + WORD), _load(place + 2 * WORD)
        count, arguments = min(threads, tiles), place + HEAD
        _store(arguments, 0)
        _share(board, count, min(tiles, ranges * count), tiles, function, arguments, size)
        failed |= _load(arguments)
        place = arguments + size
    return failed


@kernel
def _serve(board, index, turns, polite):
    """Take ranges from the back of jobs for more than ``index + 1`` threads, until none has come in so many turns."""
    turn, asleep = 0, board + ASLEEP + WORD * index
    _store(asleep, 0)
    while True:
        ticket = _load(board + TICKET)
        back = ticket & MOST
        if ticket >> FIELD & MOST < back and ticket >> 2 * FIELD & MOST > index + 1:
            if _replace(board + TICKET, ticket, ticket - 1):
                _run_range(board, back - 1)
                _add(board + DONE, 1)
                turn = 0
        elif turn < turns:
            turn += 1
            if polite and _load(board + YIELD) != 0:
                _yield(_load(board + YIELD))
            else:
                _rest()
        elif not _replace(asleep, 0, 1):  # it said so before and has looked once more: whoever calls later wakes it
            return


def _address(function):
    """Where the compiled form of ``_share`` or ``_record`` begins."""
    function.compile((types.int64,) * 7)
    compiled = next(iter(function.overloads.values()))
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)


def _yield_address():
    try:
        system = ctypes.windll.kernel32.SwitchToThread if os.name == "nt" else ctypes.CDLL(None).sched_yield
        return ctypes.cast(system, ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):
        return 0


class Board:
    """The memory that callers and threads of a pool share.

    Parameters
    ----------
    room : of how many threads it is to know whether they sleep
    share : what a launcher is to call with a job
    """

    def __init__(self, room, share=_share):
        check_compiler()
        self._memory = np.zeros(ASLEEP // WORD + room + LINE // WORD, np.int64)
        skip = -self._memory.ctypes.data % LINE // WORD
        self._words = self._memory[skip:]
        self.address = self._words.ctypes.data
        self._words[SHARE // WORD], self._words[YIELD // WORD] = _address(share), _yield_address()
        self.asleep = self._words[ASLEEP // WORD:][:room]  # 1 for each thread that does not look at it

    def serve(self, index, turns, polite):
        """Be the thread of that index until no job has come in so many turns; polite ones let others run in each."""
        _serve(self.address, index, turns, polite)

    def share(self, threads, ranges, tiles, function, arguments=0):
        """Run a C function (start, stop, arguments), given by its address, on ranges of tiles."""
        _share(self.address, threads, ranges, tiles, function, arguments, 0)


class Program:
    """Kernels that were run once and can be run again, on the same arrays.

    Attributes
    ----------
    complete : was there nothing but kernels? A Python function cannot be written down
    """

    def __init__(self):
        self.complete, self.kept = True, []
        self._board, self._jobs = Board(0, _record), np.zeros(ROOM, np.int64)
        self._rewind(0)

    def _rewind(self, used):
        self._board._words[NEXT // WORD] = self._jobs.ctypes.data + WORD * used

    @property
    def _used(self):
        return (self._board._words[NEXT // WORD] - self._jobs.ctypes.data) // WORD

    def add(self, function, tiles, args):
        """Run a function on all tiles in this thread, and write it down if it is a kernel: 1 where there was no memory."""
        if not hasattr(function, "py_func"):
            self.complete = False
            function(0, tiles, *args)
            return 0
        used = self._used
        if len(self._jobs) - used < ROOM:  # more than a job takes
            self._jobs = np.concatenate([self._jobs, np.zeros_like(self._jobs)])
            self._rewind(used)
        self.kept.append(args)
        return launcher(function)(self._board.address, 1, 1, tiles, *args)

    def run(self, board, threads, ranges):
        """Run it on so many threads of a board. Only one at a time may, for the arrays are its own."""
        begin = self._jobs.ctypes.data
        return _run_program(board.address, threads, ranges, begin, begin + WORD * self._used)


def _without_owner(context, builder, kind, value):
    """An argument whose arrays count no references: who calls keeps them alive."""
    if isinstance(kind, types.Array):
        for i in range(2):  # the owner of the memory, and the Python object
            nothing = ir.Constant(value.type.elements[i], None)
            value = builder.insert_value(value, nothing, i)
    elif isinstance(kind, types.BaseTuple):
        for i, inner in enumerate(kind.types):
            part = _without_owner(context, builder, inner, builder.extract_value(value, i))
            value = builder.insert_value(value, part, i)
    return value


def _job(context, module, kernel, signature, frame):
    """A C function (start, stop, address) that calls a kernel with the arguments in a frame, and notes there if it failed."""
    job = ir.Function(module, _JOB, f"{kernel.llvm_func_name}.job")
    job.linkage = "internal"
    builder = ir.IRBuilder(job.append_basic_block("entry"))
    start, stop, address = job.args
    place = _at(builder, address, frame)
    values = [builder.load(cgutils.gep_inbounds(builder, place, 0, i + 1)) for i in range(len(frame.elements) - 1)]
    function = context.declare_function(module, kernel)
    status, _ = context.call_conv.call_function(builder, function, signature.return_type, signature.args,
                                                [start, stop, *values])
    with cgutils.if_unlikely(builder, status.is_error):
        builder.store(ir.Constant(_INT, 1), cgutils.gep_inbounds(builder, place, 0, 0))
    builder.ret_void()
    return job


class _Store(Store):
    """Keeps a launcher together with the kernel, which lies in a library of its own: joined, LLVM would optimise it twice."""

    def __init__(self, function):
        super().__init__(function, ".launch")
        self.libraries = {}  # argument types of the kernel -> its library

    def freeze(self, compiled):
        return super().freeze(compiled), self.libraries[compiled.signature.args[-1].types].serialize_using_object_code()

    def thaw(self, context, kept):
        launcher, kernel = kept
        context.codegen().unserialize_library(kernel)
        return super().thaw(context, launcher)


@cache
def launcher(function):
    """The compiled function ``launch(board, threads, ranges, tiles, *args)`` that shares a kernel's tiles among threads.

    It returns 0, or 1 where there was no memory for what the kernel works with: nothing else makes a kernel fail.
    """
    python = getattr(function, "py_func", function)
    store = _Store(python) if os.path.isfile(python.__code__.co_filename) else None
    libraries = {} if store is None else store.libraries

    @intrinsic
    def share(typing, board, threads, ranges, tiles, args):
        def generate(context, builder, signature, values):
            board, *work, packed = values
            wanted = types.void(types.int64, types.int64, *args.types)
            flags = compiler.Flags()
            flags.nrt, flags.error_model = True, "numpy"
            flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
            library = libraries[args.types] = context.codegen().create_library(python.__name__)
            library.enable_object_caching()
            inner = compiler.compile_internal(context.typing_context, context, library, python, wanted.args, wanted.return_type,
                                              flags, {}).fndesc
            library.finalize()
            kinds = [context.get_value_type(kind) for kind in args.types]
            frame = ir.LiteralStructType([_INT, *kinds])  # did it fail, and the arguments
            place = cgutils.alloca_once(builder, frame)
            packed = _without_owner(context, builder, args, packed)
            for i, value in enumerate([ir.Constant(_INT, 0), *(builder.extract_value(packed, i) for i in range(len(kinds)))]):
                builder.store(value, cgutils.gep_inbounds(builder, place, 0, i))
            job = _job(context, builder.module, inner, wanted, frame)
            size = -(-context.get_abi_sizeof(frame) // WORD) * WORD
            shared = ir.FunctionType(ir.VoidType(), [_INT] * 7).as_pointer()
            shared = builder.load(_at(builder, builder.add(board, ir.Constant(_INT, SHARE)), shared))
            builder.call(shared, [board, *work, builder.ptrtoint(job, _INT), builder.ptrtoint(place, _INT),
                                  ir.Constant(_INT, size)])
            return builder.load(cgutils.gep_inbounds(builder, place, 0, 0))

        return types.int64(*[types.int64] * 4, args), generate

    def launch(board, threads, ranges, tiles, *args):
        return share(board, threads, ranges, tiles, args)

    dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(launch)
    if store is not None:
        dispatcher._cache = store
    return dispatcher
