"""What this machine could do at best: loops that touch registers alone, the clock, and the memory.

    popcount    T_i += popcount(T_i ^ y)     6 or 12 vectors of 512 bits, independent of each other
    byte dot    S_i += dot(S_i, y)           16 sums of four products of bytes a vector, 6 or 12 vectors
    float       x_i = x_i * a + b            16 single-precision floats a vector, 6 or 12 vectors
    clock       a += b; b += a               each addition waits for the one before: one a cycle

A share of 100 % of these limits cannot be reached by a kernel that also loads its operands.
"""

import time

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import kernel
from bitnet.kernels.machine.vectors import LANES, add, broadcast, floats16, load, multiply

FLOATS = 16
BITS, BYTES = 32, 4    # codes of a lane that a step multiplies
CHAIN = 64             # additions of one round of the clock's loop
CLOSE = 1.02           # of a limit: more is no measuring error
REPEATS = 4            # of all products in one round of the others
_VECTOR = ir.VectorType(ir.FloatType(), FLOATS)


@intrinsic
def fill(typing, value):
    """Sixteen times a float32."""

    def generate(context, builder, signature, args):
        vector = ir.Constant(_VECTOR, ir.Undefined)
        for lane in range(FLOATS):
            vector = builder.insert_element(vector, args[0], ir.Constant(ir.IntType(32), lane))
        return vector

    return floats16(types.float32), generate


@intrinsic
def multiply_add(typing, x, a, b):
    """Lane-wise x * a + b in one rounding, where the machine can."""

    def generate(context, builder, signature, args):
        operation = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, operation, "llvm.fmuladd.v16f32"), args)

    return floats16(x, a, b), generate


@intrinsic
def lowest(typing, x):
    """The first of the sixteen floats."""

    def generate(context, builder, signature, args):
        return builder.extract_element(args[0], ir.Constant(ir.IntType(32), 0))

    return types.float32(x), generate


@intrinsic
def lowest_word(typing, x):
    """The first of sixteen words."""

    def generate(context, builder, signature, args):
        return builder.extract_element(args[0], ir.Constant(ir.IntType(32), 0))

    return types.uint32(x), generate


@kernel
def _code_loop_6(start, stop, rounds, codes, out):
    """6 x REPEATS products of bit planes or bytes a round: for machines with 16 registers."""
    for tile in range(start, stop):
        a, b, c = load(codes, 0), load(codes, LANES), load(codes, 2 * LANES)
        d, e, f = load(codes, 3 * LANES), load(codes, 4 * LANES), load(codes, 5 * LANES)
        y = broadcast(codes, 4)  # of a constant a compiler might know the products
        for _ in range(rounds):
            for _ in range(REPEATS):
                a, b, c = multiply(codes, a, a, y), multiply(codes, b, b, y), multiply(codes, c, c, y)
                d, e, f = multiply(codes, d, d, y), multiply(codes, e, e, y), multiply(codes, f, f, y)
        out[tile] = lowest_word(add(add(add(a, b), add(c, d)), add(e, f)))


@kernel
def _code_loop_12(start, stop, rounds, codes, out):
    """12 x REPEATS products a round: more than hide the latency, so that the ports never wait."""
    for tile in range(start, stop):
        a, b, c = load(codes, 0), load(codes, LANES), load(codes, 2 * LANES)
        d, e, f = load(codes, 3 * LANES), load(codes, 4 * LANES), load(codes, 5 * LANES)
        g, h, i = load(codes, 6 * LANES), load(codes, 7 * LANES), load(codes, 8 * LANES)
        j, k, l = load(codes, 9 * LANES), load(codes, 10 * LANES), load(codes, 11 * LANES)
        y = broadcast(codes, 4)
        for _ in range(rounds):
            for _ in range(REPEATS):
                a, b, c = multiply(codes, a, a, y), multiply(codes, b, b, y), multiply(codes, c, c, y)
                d, e, f = multiply(codes, d, d, y), multiply(codes, e, e, y), multiply(codes, f, f, y)
                g, h, i = multiply(codes, g, g, y), multiply(codes, h, h, y), multiply(codes, i, i, y)
                j, k, l = multiply(codes, j, j, y), multiply(codes, k, k, y), multiply(codes, l, l, y)
        out[tile] = lowest_word(add(add(add(add(a, b), add(c, d)), add(add(e, f), add(g, h))), add(add(i, j), add(k, l))))


@kernel
def _float_loop_6(start, stop, rounds, floats, out):
    """6 x REPEATS multiply-adds a round: as many as stay in the registers of a machine with 16 of 256 bits."""
    for tile in range(start, stop):
        x, y = fill(floats[0]), fill(floats[1])
        a, b, c, d, e, f = fill(floats[2]), fill(floats[3]), fill(floats[4]), fill(floats[5]), fill(floats[6]), fill(floats[7])
        for _ in range(rounds):
            for _ in range(REPEATS):
                a, b, c = multiply_add(a, x, y), multiply_add(b, x, y), multiply_add(c, x, y)
                d, e, f = multiply_add(d, x, y), multiply_add(e, x, y), multiply_add(f, x, y)
        out[tile] = lowest(a) + lowest(b) + lowest(c) + lowest(d) + lowest(e) + lowest(f)


@kernel
def _float_loop_12(start, stop, rounds, floats, out):
    """12 x REPEATS multiply-adds a round: as many as hide the latency of two units of 512 bits."""
    for tile in range(start, stop):
        x, y = fill(floats[0]), fill(floats[1])
        a, b, c, d, e, f = fill(floats[2]), fill(floats[3]), fill(floats[4]), fill(floats[5]), fill(floats[6]), fill(floats[7])
        g, h, i, j = fill(floats[8]), fill(floats[9]), fill(floats[10]), fill(floats[11])
        k, l = fill(floats[12]), fill(floats[13])
        for _ in range(rounds):
            for _ in range(REPEATS):
                a, b, c = multiply_add(a, x, y), multiply_add(b, x, y), multiply_add(c, x, y)
                d, e, f = multiply_add(d, x, y), multiply_add(e, x, y), multiply_add(f, x, y)
                g, h, i = multiply_add(g, x, y), multiply_add(h, x, y), multiply_add(i, x, y)
                j, k, l = multiply_add(j, x, y), multiply_add(k, x, y), multiply_add(l, x, y)
        out[tile] = (lowest(a) + lowest(b) + lowest(c) + lowest(d) + lowest(e) + lowest(f) + lowest(g) + lowest(h) + lowest(i)
                     + lowest(j) + lowest(k) + lowest(l))


@kernel
def _clock_loop(start, stop, rounds, words, out):
    """CHAIN additions a round, each waiting for the one before."""
    for tile in range(start, stop):
        a, b = np.uint64(words[tile]), np.uint64(words[tile + 1])
        for _ in range(rounds):
            for _ in range(CHAIN // 2):
                a += b
                b += a
        out[tile] = a + b


@kernel
def _copy(start, stop, source, target):
    part = source.size // target.shape[0]
    for tile in range(start, stop):
        for i in range(part):
            target[tile, i] = source[tile * part + i]


def _seconds(function, rounds, data, out):
    """Time of the slowest thread, without the time that it takes to wake it."""
    spent = np.zeros(len(out))

    def work(start, stop):
        for tile in range(start, stop):
            started = time.perf_counter()
            function(tile, tile + 1, rounds, data, out)
            spent[tile] = time.perf_counter() - started

    threads.run(work, len(out))
    return spent.max()


def _bandwidth(repeats):
    """10^9 bytes a second, read plus written, of copying what no cache of this machine's core holds."""
    tiles = threads.get_threads()
    source = np.ones(tiles << 23, np.uint64)
    target = np.zeros((tiles, 1 << 23), np.uint64)
    best = np.inf
    for _ in range(repeats):
        started = time.perf_counter()
        threads.run(_copy, tiles, source, target)
        best = min(best, time.perf_counter() - started)
    return 2 * source.nbytes / best / 1e9


def vectors_of_512_bits():
    """Does Numba compile for a machine with 512-bit popcounts? For such a one the limit of a cycle is known."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return "+avx512vpopcntdq" in features


def popcount_limit(measured):
    """One-bit multiply-accumulates a cycle that vectors of 512 bits allow a core that was measured to do so many.

    XOR, popcount and addition are 3 operations, on 2 vector ports (Zen 4 and before, Intel) or on 4 (Zen 5): 341 or 683. It is
    the smaller one, unless more than that was seen.
    """
    return next((limit for limit in (512 * ports / 3 for ports in (2, 4)) if measured <= CLOSE * limit), 512 * 4 / 3)


def measure(quick=False):
    """The limits of this machine on ``threads.get_threads()`` threads, each loop's best of several short runs.

    Returns
    -------
    peak : dict
        popcount_gmacs, byte_gmacs, float_gmacs : 10^9 multiply-accumulates a second, of one bit, of bytes and in float32
        clock_ghz : additions of the chain a second and thread
        popcount_macs_per_cycle, byte_macs_per_cycle, float_macs_per_cycle : of one thread
        popcount_share_of_clock : popcount_gmacs over what the clock allows, None where that is not known: see
            ``popcount_limit``
        float_share_of_clock : float_gmacs over the whole number of vectors a cycle that is nearest above
        bandwidth_gbs : 10^9 bytes a second of a copy, read plus written
    """
    count = threads.get_threads()
    words = np.random.default_rng(0).integers(0, 1 << 32, 12 * LANES + count + 1, np.uint32)
    floats = np.full(14, 0.5, np.float32)
    out, float_out = np.zeros(count, np.uint32), np.zeros(count, np.float32)
    # function, its data, what one round does
    loops = {"clock": (_clock_loop, words, out, CHAIN),
             "popcount_6": (_code_loop_6, words, out, 6 * REPEATS * BITS * LANES),
             "popcount_12": (_code_loop_12, words, out, 12 * REPEATS * BITS * LANES),
             "byte_6": (_code_loop_6, words.view(np.uint8), out, 6 * REPEATS * BYTES * LANES),
             "byte_12": (_code_loop_12, words.view(np.uint8), out, 12 * REPEATS * BYTES * LANES),
             "float_6": (_float_loop_6, floats, float_out, 6 * REPEATS * FLOATS),
             "float_12": (_float_loop_12, floats, float_out, 12 * REPEATS * FLOATS)}
    rounds, best = {}, dict.fromkeys(loops, np.inf)
    for name, (function, data, result, _) in loops.items():  # compile, then find how many rounds take about 4 ms
        _seconds(function, 1, data, result)
        rounds[name] = max(1000, int(4e-3 * 20000 / _seconds(function, 20000, data, result)))
    for _ in range(60 if quick else 300):
        for name, (function, data, result, _) in loops.items():
            best[name] = min(best[name], _seconds(function, rounds[name], data, result))
    rate = {name: loops[name][3] * rounds[name] / best[name] / 1e9 for name in loops}  # of one thread
    clock = rate["clock"]
    popcount, byte, single = (max(rate[f"{name}_6"], rate[f"{name}_12"]) for name in ("popcount", "byte", "float"))
    vectors = single / clock / FLOATS
    units = max(1, int(np.ceil(vectors - 0.05))) if vectors > 0.6 else 0.5  # half a vector: 256-bit units
    return {
        "popcount_gmacs": round(popcount * count, 2), "byte_gmacs": round(byte * count, 2),
        "float_gmacs": round(single * count, 2), "clock_ghz": round(clock, 4),
        "popcount_macs_per_cycle": round(popcount / clock, 1), "byte_macs_per_cycle": round(byte / clock, 1),
        "float_macs_per_cycle": round(single / clock, 2),
        "popcount_share_of_clock": (
            round(popcount / clock / popcount_limit(popcount / clock), 4) if vectors_of_512_bits() else None),
        "float_share_of_clock": round(vectors / units, 4), "bandwidth_gbs": round(_bandwidth(3 if quick else 8), 2),
    }


def describe(peak, count):
    """One paragraph about ``measure``'s result."""
    share = peak["popcount_share_of_clock"]
    allowed = f", {share:.1%} of what the clock allows" if share else ""
    allowed += "; other programs disturbed this" if (share or 0) > CLOSE else ""
    return (f"limit of {count} thread{'s' * (count > 1)}: popcount {peak['popcount_gmacs']:.0f} GMAC/s "
            f"({peak['popcount_macs_per_cycle']:.0f} a cycle{allowed}), byte dot product {peak['byte_gmacs']:.0f} GMAC/s "
            f"({peak['byte_macs_per_cycle']:.0f} a cycle), float32 {peak['float_gmacs']:.1f} GMAC/s "
            f"({peak['float_macs_per_cycle']:.1f} a cycle, {peak['float_share_of_clock']:.1%}), clock "
            f"{peak['clock_ghz']:.2f} GHz, memory {peak['bandwidth_gbs']:.1f} GB/s")
