# %% [markdown]
# # 9. The limit
#
# Your network trains, slowly. How fast could it be at best? This chapter follows the speed of one product: what a step on words
# is worth, what Numba makes of the same loops, what limits your machine, and how near to that limit a kernel comes.

# %%
import re
import time
from statistics import median
from time import thread_time

import matplotlib.pyplot as plt
import numba
import numpy as np
from check import SOLUTION, load
from common import AMBER, BLUE, GREY, RED, YourTurn, digits, exercise, show, size
from network import small
from pieces import parameters_of

from bitnet import Codes
from bitnet.kernels import products
from bitnet.kernels.machine import arrays, peak, threads
from bitnet.kernels.products import dense, popcount, reference
from bitnet.kernels.products.geometry import Conv
from bitnet.kernels.products.packing import pack_channels

mine = load(SOLUTION)  # the solution's file: pack, im2col and all that chapters 3 to 8 have built
rng = np.random.default_rng(0)

# %% [markdown]
# ## Operations and bytes
#
# A real layer: `conv2` of model A, 64 to 64 channels on 18 x 18 pixels, weights of 1 bit, activations
# of 2. How much work is it, in multiply-accumulates (MAC, chapter 1), and how many bytes?

# %%
batch = size(8, 4)
conv = Conv(64, 64, (3, 3), padding=((1, 1), (1, 1)))
u = Codes(rng.integers(0, 4, (batch, 18, 18, 64), np.uint8), 2, "unsigned", 1 / 3)
c = Codes(rng.integers(0, 2, (3, 3, 64, 64), np.uint8), 1, "bipolar")
macs = conv.macs(batch, 18, 18)
pairs = u.bits * c.bits
print(f"{macs // batch:,} MAC an image: {9 * 64} for each of {18 * 18 * 64:,} results")
print(f"as 64-bit words: {pairs} pairs of planes x 9 taps = {pairs * 9} XORs, popcounts and additions a result")
print(f"an image's activations: {18 * 18 * 64 * 4:,} bytes as float32, {18 * 18 * 64 * 2 // 8:,} in 2 bits")
assert macs // batch == 11_943_936 == 9 * 64 * 18 * 18 * 64
assert 9 * 64 / (pairs * 9) == 32

# %% [markdown]
# ### Exercise: `packed_bytes`


# %%
def packed_bytes(height, width, channels, bits):
    """Bytes of an image's codes, packed along channels into words of 32 bits, a row of words for each plane."""
    raise YourTurn


def check_packed_bytes(packed_bytes):
    assert packed_bytes(18, 18, 64, 2) == 18 * 18 * 2 * 8
    assert packed_bytes(1, 1, 1, 1) == 4
    assert packed_bytes(5, 5, 33, 3) == 5 * 5 * 3 * 8


exercise(packed_bytes, check_packed_bytes)

# %% [markdown]
# So a step on words does the work of 32 multiply-accumulates here, and memory shrinks 16 times. Does our NumPy version
# profit? It makes a whole array for each step: all XORs, all counts, then sums. Each array is written to memory and read
# back. The processor mostly waits. To keep intermediate numbers out of memory, the loops must become one that does everything
# to a number while it is at hand (they are *fused*), and Python is too slow for loops. *Numba* compiles a Python function to
# machine code when it is first called. Here is the obvious version:


# %%
@numba.njit
def ones_of(word):
    """A popcount in arithmetic: add neighbouring bits, then pairs, then fours, then all bytes at once."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit
def simple_kernel(x, w, constant, out):
    """Rows x (planes, rows, words) with filters w (planes, filters, words)."""
    for row in range(x.shape[1]):
        for f in range(w.shape[1]):
            T = np.uint64(0)
            for l in range(x.shape[0]):
                for m in range(w.shape[0]):
                    count = np.uint64(0)
                    for word in range(x.shape[2]):
                        count += ones_of(x[l, row, word] ^ w[m, f, word])
                    T += count << np.uint64(l + m)
            out[row, f] = constant[f] - np.int64(T)


def numpy_kernel(x, w, constant, out):
    """The same as in chapter 4, on operands that are packed already."""
    out[:] = constant
    for l in range(len(x)):
        for m in range(len(w)):
            out -= 2 ** (l + m) * np.bitwise_count(x[l][:, None] ^ w[m]).sum(axis=-1, dtype=np.int64)


rows = np.stack([mine.im2col(mine.pack(u.values >> l & 1), 3, 1).reshape(-1, 9) for l in range(2)])  # (2 planes, rows, 9 words)
filters = mine.pack(np.moveaxis(c.values, 3, 0)).reshape(1, 64, 9)                           # (1 plane, 64 filters, 9 words)
constant = 3 * c.values.sum(axis=(0, 1, 2), dtype=np.int64)
by_numpy, by_numba = np.empty((2, rows.shape[1], 64), np.int64)
numpy_kernel(rows, filters, constant, by_numpy)
simple_kernel(rows, filters, constant, by_numba)

forward = popcount.Forward(u, c, conv, (18, 18), np.int16)  # the library's kernel, its weight packed
packed = pack_channels(u, 1, conv.padding)                  # and its input
by_library = forward(packed)
assert (by_numpy == by_numba).all() and (by_library.reshape(-1, 64) == by_numpy).all()
assert (reference.forward(u.levels()[:2], c.levels(), conv) == by_library[:2]).all()
assert (products.forward("popcount", u, c, conv) == by_library).all()

assembly = next(iter(simple_kernel.inspect_asm().values()))
found = sorted(set(re.findall(r"\bv?popcnt\w*|\bcnt\b", assembly)))
print("counting instructions in the compiled simple version:", ", ".join(found) or "none, it counts by arithmetic")
print("popcount on vectors of 512 bits:", "yes" if peak.vectors_of_512_bits() else "no")

# %% [markdown]
# All versions return the same integers. And look at the instructions: nobody wrote a popcount, only shifts and additions, but
# the compiler knows this pattern and takes the machine's own instruction where it has one.

# %% [markdown]
# ## Your file, compiled
#
# All three products of `mine.py` call `count`, and nothing else in it is a bit operation. So compile that one function, put it
# in the place of the NumPy one, and let the file do a training step as in chapter 8:


# %%
@numba.njit
def compiled_count(left, right):
    """``mine.count`` without an array for each step."""
    T = np.zeros((left.shape[1], right.shape[1]), np.int64)
    for row in range(left.shape[1]):
        for column in range(right.shape[1]):
            for l in range(left.shape[0]):
                for m in range(right.shape[0]):
                    ones = np.uint64(0)
                    for word in range(left.shape[2]):
                        ones += ones_of(left[l, row, word] ^ right[m, column, word])
                    T[row, column] += np.int64(ones << np.uint64(l + m))
    return T


images, labels = digits("train", size(20, 8))
p, spent, found, plain_count = parameters_of(small(width=8)), {}, {}, mine.count
for name, counting in (("NumPy", plain_count), ("compiled", compiled_count)) * 3:
    mine.count = counting
    started = time.perf_counter()
    found[name] = mine.gradients(p, images, labels, (1, 2, 4), lambda shape: np.zeros(shape, np.float32))
    spent.setdefault(name, []).append(time.perf_counter() - started)
gain = median(spent["NumPy"][1:]) / median(spent["compiled"][1:])  # the first calls compile, and warm up
print(f"a step of mine.py: {gain:.1f} times as fast with a compiled count, the same loss: {found['compiled'][0]:.5f}")
assert found["NumPy"][0] == found["compiled"][0]
assert all(np.array_equal(found["NumPy"][1][name], found["compiled"][1][name]) for name in p)

# %% [markdown]
# Fifteen lines, and not one number has changed. The step gains less than `count` itself does, because packing, im2col and batch
# norm are still NumPy: Amdahl's law, in chapter 10. And `count` itself is still far from what the machine can do.

# %% [markdown]
# ## What a processor likes
#
# Three words are needed to understand the rest.
#
# - Registers (chapter 3) are few, 16 or 32, and free to use. All else must be loaded first, and loads compete with the work.
# - A *vector instruction* does the same to several numbers side by side in one wide register: 512 bits are sixteen 32-bit
#   words. With a popcount of that width (`vpopcnt`, where a machine has it), one instruction counts sixteen words.
# - A *cache line* is the piece, mostly 64 bytes, in which memory comes into the small fast stores (caches) near the core. A
#   vector of 64 bytes that lies across two lines costs two loads. So the library's arrays begin at a line:

# %%
print("address modulo 64, NumPy:", [np.empty(1000 + i, np.uint32).ctypes.data % 64 for i in range(4)])
print("address modulo 64, bitnet:", [arrays.empty((1000 + i,), np.uint32).ctypes.data % 64 for i in range(4)])
assert all(arrays.empty((1000 + i,), np.uint32).ctypes.data % 64 == 0 for i in range(4))

# %% [markdown]
# Now compare loads and work. The simple version loads two words, from $x$ and from $w$, for every 64 multiply-accumulates of
# bits. The library computes a *register tile* of 8 pixels times 16 filters at once. One step loads a vector with one word of
# each of the 16 filters, and then one word of each of the 8 pixels, spread over all sixteen places of a vector. The 8 vectors
# of sums stay in registers for the whole loop:
#
# ```text
#                     16 filters
#                   [ w w w ... w ]      one load
#     pixel 0  x    [ T T T ... T ]      one load, XOR, popcount, add
#     ...           ...
#     pixel 7  x    [ T T T ... T ]      one load, XOR, popcount, add
# ```
#
# Every word loaded is used 8 or 16 times. Nor does the library copy rows by im2col: a table says where in the padded image each
# tap's words lie.

# %%
tile_macs = 8 * 16 * 32                 # pixels, filters, bits of a word
tile_loads = 1 + 8
simple_loads = 2 * tile_macs // 64
print(f"for {tile_macs} multiply-accumulates of bits: {tile_loads} loads in the tile, {simple_loads} in the simple version")
assert (tile_macs, tile_loads, simple_loads) == (4096, 9, 128)

# %% [markdown]
# ## How near it is
#
# How fast could it be at best? `bitnet.kernels.machine.peak` measures it: a loop of XOR, popcount and add on registers alone,
# which loads nothing; the same for float multiply-adds; and a long copy through memory. Versions are timed in turn, several
# rounds, and the median counts, all on one thread. The clock runs only while this thread runs (`thread_time`): other programs
# then disturb less. Each version is given operands in its own form, so packing is not in the time; with packing the library
# is listed once more.

# %%
cores = threads.get_threads()
threads.set_threads(1)
x_real, w_real = u.decode(), c.decode()
contenders = {
    "NumPy, bits": lambda: numpy_kernel(rows, filters, constant, by_numpy),
    "NumPy, float32": lambda: mine.im2col(x_real, 3, 1) @ w_real.reshape(-1, 64),
    "library, float32": lambda: dense.forward(x_real, w_real, conv),
    "simple Numba, bits": lambda: simple_kernel(rows, filters, constant, by_numba),
    "library, bits": lambda: forward(packed),
    "with packing": lambda: forward(pack_channels(u, 1, conv.padding)),
}
times = {name: [] for name in contenders}
with threads.serial_blas():
    limits = [peak.measure(quick=True)]
    for _ in range(size(15, 5)):
        for name, run in contenders.items():
            run()  # to have everything at hand that it needs
            started = thread_time()
            run()
            times[name].append(thread_time() - started)
    limits += [peak.measure(quick=True) for _ in range(size(1, 0))]  # other programs can only lower a limit: the higher counts
threads.set_threads(cores)
speed = {name: macs / median(spent) / 1e9 for name, spent in times.items()}  # 10^9 MAC/s of the layer
popcount_limit, float_limit, bandwidth = (max(measured[name] for measured in limits)
                                          for name in ("popcount_gmacs", "float_gmacs", "bandwidth_gbs"))
limit = popcount_limit / pairs
print(f"{'':20}{'time, library = 1':>18}{'share of the limit':>20}")
for name in contenders:
    share = speed[name] / (float_limit if "float" in name else limit)
    print(f"{name:20}{speed['library, bits'] / speed[name]:18.1f}{share:20.1%}{' (of float)' if 'float' in name else ''}")
if max(speed.values()) > limit:
    print("more than 100 %: other programs disturbed the measurement of the limit")
print(f"the popcount limit at {pairs} pairs of planes is {limit / float_limit:.1f} times the float limit")
assert speed["library, bits"] > 2 * speed["NumPy, bits"] and speed["NumPy, float32"] > speed["NumPy, bits"]

figure, axis = plt.subplots(figsize=(8, 2.6))
order = sorted(speed, key=speed.get)
axis.barh(order, [speed[name] for name in order], color=[GREY if "float" in name else BLUE for name in order])
axis.axvline(limit, color=AMBER)
axis.set(title="One layer, one thread, the same numbers (amber: the limit of popcount)", xscale="log",
         xlabel="10⁹ multiply-accumulates a second")
show(figure, "09-speeds")

# %% [markdown]
# The usual picture for this is the *roofline*. Across: how many multiply-accumulates a version does for each byte that it moves
# between core and memory. Up: how many it does a second. The slope on the left is memory: so many bytes a second come through,
# whatever is done with them. The flat roof on the right is arithmetic. Which of the two is over a version's head tells what to
# improve. The speeds are measured. The bytes are *estimates*, counted below from the sizes of arrays: nobody has watched what
# the caches keep, so a point may belong somewhat further left or right.

# %%
per_image = 18 * 18 * 9 * 64 * 64
moved = {  # bytes an image, estimated from the sizes of arrays
    "NumPy, bits": pairs * 18 * 18 * 64 * 9 * (2 * 8 + 2 * 1),       # XORs and counts, each written and read
    "NumPy, float32": 2 * 18 * 18 * 9 * 64 * 4 + 18 * 18 * 64 * 4,   # the rows, written and read, and results
    "library, float32": 2 * 18 * 18 * 64 * 4,                        # images and results; rows stay in the caches
    "simple Numba, bits": rows.nbytes // batch + 18 * 18 * 64 * 8,         # the packed rows and results
    "library, bits": packed.nbytes // batch + by_library.nbytes // batch,  # the packed image and results of 16 bits
}
intensity = {name: per_image / count for name, count in moved.items()}
across = np.geomspace(0.5, 1000, 200)
figure, axis = plt.subplots(figsize=(8, 4))
axis.loglog(across, np.minimum(bandwidth * across, limit), color=BLUE)
axis.loglog(across, np.minimum(bandwidth * across, float_limit), color=GREY, ls="--")
axis.text(1000, limit * 1.15, f"popcount limit at {pairs} pairs of planes", color=BLUE, ha="right")
axis.text(1000, float_limit * 1.15, "float32 limit", color=GREY, ha="right")
axis.text(1, bandwidth * 1.5, "memory", color=GREY, ha="right")
for name, color in zip(moved, (RED, GREY, GREY, AMBER, BLUE), strict=True):
    axis.plot(intensity[name], speed[name], "o", color=color, ms=8)
    axis.annotate(name, (intensity[name], speed[name]), xytext=(8, -12), textcoords="offset points", color=color)
axis.set(title="Fused loops leave the memory's slope, tiles climb to the roof",
         xlabel="multiply-accumulates a byte moved (estimated)", ylabel="10⁹ multiply-accumulates a second",
         ylim=(min(bandwidth, *speed.values()) / 2, limit * 2), xlim=(0.5, 1600))
show(figure, "09-roofline")

# %% [markdown]
# ### Exercise: `intensity_of`


# %%
def intensity_of(macs, moved, bandwidth, limit):
    """What is over a version's head, "memory" or "arithmetic"? bytes moved, 10^9 bytes a second, 10^9 MAC a second."""
    raise YourTurn


def check_intensity_of(intensity_of):
    assert intensity_of(10**9, 10**9, 20, 100) == "memory"
    assert intensity_of(10**9, 10**7, 20, 100) == "arithmetic"
    assert intensity_of(10**9, 10**8, 20, 300) == "memory"


exercise(intensity_of, check_intensity_of)

# %% [markdown]
# Bits in NumPy are slower than floats in NumPy, and stand near the memory's slope: the format is small, but its intermediate
# arrays are not. (Where caches hold these, a point can lie above the slope, which shows main memory.) The simple Numba version
# moves few bytes, and is held down by loads and short loops instead. The register tile climbs most of what is left. What still
# misses is the loads that the limit's loop does not do, the start and the end of each tile, and storing results. Floats have a
# low roof of their own: that is the room in which bits can win.
#
# The roof itself falls as bits are added: at 2 times 4 bits it is a quarter of the one above. Somewhere on that way a dot
# product of *bytes* may get faster, and the library's `auto` chooses between them by measuring. Chapter 11 is about that.

# %%
assert (u.bits * c.bits) / (2 * 4) == 1 / 4


# %% [markdown]
# Further: Williams, Waterman and Patterson, Roofline, Communications of the ACM 52(4), 2009: look for what it calls
# operational intensity, and what a ceiling is. Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication,
# 2008: why tiles, and which cache holds what; our register tile is the innermost of theirs. The tile in
# `kernels/products/tiles.py`, its vectors in `kernels/machine/vectors.py`, the limit in `kernels/machine/peak.py`.
