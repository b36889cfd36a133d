# %% [markdown]
# # 4. A convolution in bits
#
# Chapter 3 computed one dot product with XOR and popcount. A convolution computes thousands, on the same numbers again and
# again. This chapter writes it in a few lines of NumPy, finds out what happens at the border of the image, and then follows the
# speed: what Numba makes of the same loops, what limits your machine, and how near to that limit a kernel comes.

# %%
import re
from statistics import median
from time import thread_time

import matplotlib.pyplot as plt
import numba
import numpy as np
from check import check
from common import AMBER, BLUE, GREY, RED, YourTurn, exercise, show, size
from numpy.lib.stride_tricks import sliding_window_view

from bitnet import Codes
from bitnet.kernels import products
from bitnet.kernels.machine import arrays, peak, threads
from bitnet.kernels.products import dense, popcount, reference
from bitnet.kernels.products.geometry import Conv
from bitnet.kernels.products.packing import pack_channels

# %% [markdown]
# ## Dot products at every pixel
#
# An image is an array (N, H, W, C): N images, H rows, W columns, C channels. A weight is (kh, kw, C, F): F filters, each of kh
# times kw *taps*, with C numbers a tap. At every pixel a filter lies over the image, and the result is one dot product over all
# its taps and channels. The image gets a border of zeros, the *padding*, so that a 3 x 3 filter fits on the outermost pixels,
# too.
#
# The classic way to compute this is *im2col* (image to columns): copy what the filter sees at each pixel into one row. Then the
# convolution is a product of two matrices, and a row meets each filter.


# %%
def im2col(image):
    """What a 3 x 3 filter sees at each place, as one row: (N, H, W, C) -> (N, H - 2, W - 2, 9 * C)."""
    seen = sliding_window_view(image, (3, 3), axis=(1, 2))       # (N, H - 2, W - 2, C, 3, 3)
    return np.moveaxis(seen, 3, 5).reshape(*seen.shape[:3], -1)  # (N, H - 2, W - 2, 3, 3, C), flattened


def pad(image):
    """One pixel of zeros around each image."""
    return np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))


def float_conv(x, w):
    """The convolution of real numbers: (N, H, W, C) and (3, 3, C, F) -> (N, H, W, F)."""
    return im2col(pad(x)) @ w.reshape(-1, w.shape[3])


# %% [markdown]
# For bits only two things change. The channels of a pixel are packed into words, so im2col copies words. And instead of a
# matrix product, each row of words meets each filter's words in an XOR. These are all the lines it takes; the identity of
# chapter 3 stands in the last one.


# %%
def pack(bits):
    """Bits along the last axis, 64 to a word; those that are missing in the last word are 0."""
    octets = np.packbits(bits, axis=-1)
    octets = np.pad(octets, [(0, 0)] * (octets.ndim - 1) + [(0, -octets.shape[-1] % 8)])
    return np.ascontiguousarray(octets).view(np.uint64)


def bit_conv(u, u_bits, c, c_bits):
    """Sum of u * (2c - n) at every pixel, for codes u (N, H, W, C) and c (3, 3, C, F)."""
    T = 0
    for l in range(u_bits):
        x = im2col(pack(pad(u) >> l & 1))                                 # (N, H, W, words)
        for m in range(c_bits):
            w = pack(np.moveaxis(c >> m & 1, 3, 0)).reshape(c.shape[3], -1)  # (F, words)
            ones = np.bitwise_count(x[..., None, :] ^ w)                  # (N, H, W, F, words)
            T = T + 2 ** (l + m) * ones.sum(axis=-1, dtype=np.int64)
    return (2**u_bits - 1) * c.sum(axis=(0, 1, 2)) - T


rng = np.random.default_rng(0)
for channels, filters, u_bits, c_bits in ((8, 2, 1, 1), (64, 3, 2, 1), (70, 5, 3, 2)):
    u = rng.integers(0, 2**u_bits, (2, 5, 4, channels))
    c = rng.integers(0, 2**c_bits, (3, 3, channels, filters))
    levels = 2 * c - (2**c_bits - 1)
    assert (bit_conv(u, u_bits, c, c_bits) == float_conv(u.astype(float), levels.astype(float))).all()
print("first pixel, first image:", bit_conv(u, u_bits, c, c_bits)[0, 0, 0], "in bits,",
      float_conv(u.astype(float), levels.astype(float))[0, 0, 0], "in floats")

# %% [markdown]
# Exactly equal: integers in both, and floats are exact for integers this small.

# %% [markdown]
# ### Exercise: `strided`


# %%
def strided(u, u_bits, c, c_bits, stride):
    """Like bit_conv, but without padding, and only at every ``stride``-th row and column of places."""
    raise YourTurn


def check_strided(strided):
    rng = np.random.default_rng(1)
    for edge, stride, u_bits, c_bits in ((6, 1, 1, 1), (7, 2, 2, 1), (9, 3, 1, 2)):
        u, c = rng.integers(0, 2**u_bits, (2, edge, edge, 10)), rng.integers(0, 2**c_bits, (3, 3, 10, 4))
        truth = reference.forward(u, 2 * c - (2**c_bits - 1), Conv(10, 4, (3, 3), (stride, stride)))
        ours = strided(u, u_bits, c, c_bits, stride)
        assert np.shape(ours) == truth.shape and (ours == truth).all()


exercise(strided, check_strided)

# %% [markdown]
# ### Your file: `forward`

# %%
check("forward")

# %% [markdown]
# ## Why zeros may surround the image
#
# We padded codes with code 0. For activations that is right, since code 0 is level 0. In the identity it even costs nothing:
# where $u$ is 0, the XOR of each plane gives back the weight's plane, so $T$ grows by $n_u \sum c$, just as the constant does.
# Both cancel.
#
# With bipolar codes it goes wrong. Code 0 is level $-n$, for signs -1: padding with zero *words* surrounds the image with -1.
# Some methods (binarized networks, with activations of -1 and +1) need this case, and so does the input gradient of chapter 6.
# Let us see it. Each pixel's error depends on which taps lie outside, and on the weights there:

# %%
n = 1
v = rng.integers(0, 2, (1, 8, 8, 64))  # signs as codes: -1 is 0, +1 is 1
c = rng.integers(0, 2, (3, 3, 64, 4))
levels = 2 * c - 1
truth = float_conv(2.0 * v - n, levels.astype(float))  # zeros around the levels
# bipolar times bipolar: n_u * n_c * N - 2T, and bit_conv gives n_u * sum(c) - T
naive = n * n * c[..., 0].size + 2 * (bit_conv(v, 1, c, 1) - n * c.sum(axis=(0, 1, 2)))
inside = im2col(pad(np.ones((1, 8, 8, 1), int)))[0]  # (8, 8, 9): 1 where a tap lies in the image
table = n * (1 - inside) @ levels.sum(axis=2).reshape(9, 4)
wrong = naive != truth
assert (naive + table == truth).all()
assert not wrong[0, 1:-1, 1:-1].any() and wrong[0, 0].any()
classes = np.unique(inside.reshape(64, 9), axis=0)
print(f"{len(classes)} kinds of pixels: {[int(9 - taps.sum()) for taps in classes]} taps outside")
assert len(classes) == 9

figure, axes = plt.subplots(1, 2)
largest = np.abs(naive - truth).max()
panels = [((naive - truth)[0, :, :, 0], "Zero words around signs: errors at the border", "RdBu", (-largest, largest)),
          (9 - inside.sum(axis=-1), "A table by taps outside takes them back", "Blues", (0, 9))]
for axis, (values, title, colors, (lowest, highest)) in zip(axes, panels, strict=True):
    axis.imshow(values, cmap=colors, vmin=lowest, vmax=highest)
    for (row, column), value in np.ndenumerate(values):
        axis.text(column, row, int(value), ha="center", va="center", fontsize=9)
    axis.set(title=title, xticks=[], yticks=[])
axes[0].set_xlabel("naive result minus true one, filter 0")
axes[1].set_xlabel("taps outside the image")
show(figure, "04-border")

# %% [markdown]
# The cure is a constant. A tap outside added $-n$ times its weight levels, so add $n$ times the sum of these. Pixels with the
# same taps outside share the constant: here 9 kinds of pixels, *border classes*, in a small table with a row for each. The
# library keeps such a table and adds nothing to its inner loop.

# %% [markdown]
# ### Exercise: `border_constants`


# %%
def border_constants(c, c_bits, v_bits, inside):
    """What to add to a convolution of bipolar codes of ``v_bits`` bits that was padded with code 0.

    c : weight codes (3, 3, C, F), bipolar; inside : (pixels, 9), 1 where a tap lies in the image. Result: (pixels, F).
    """
    raise YourTurn


def check_border_constants(border_constants):
    rng = np.random.default_rng(2)
    for c_bits, v_bits in ((1, 1), (2, 3)):
        n_c, n_v = 2**c_bits - 1, 2**v_bits - 1
        c, v = rng.integers(0, n_c + 1, (3, 3, 5, 4)), rng.integers(0, n_v + 1, (1, 4, 6, 5))
        levels = (2 * c - n_c).reshape(-1, 4)
        inside = im2col(pad(np.ones((1, 4, 6, 1), int))).reshape(24, 9)
        padded, truth = im2col(2 * pad(v) - n_v) @ levels, im2col(pad(2 * v - n_v)) @ levels
        assert (padded.reshape(24, 4) + border_constants(c, c_bits, v_bits, inside) == truth.reshape(24, 4)).all()


exercise(border_constants, check_border_constants)

# %% [markdown]
# ## Operations and bytes
#
# Now to speed, on a real layer: `conv2` of the SVHN network, 64 to 64 channels on 18 x 18 pixels, weights of 1 bit, activations
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
    """The same as in bit_conv, on operands that are packed already."""
    out[:] = constant
    for l in range(len(x)):
        for m in range(len(w)):
            out -= 2 ** (l + m) * np.bitwise_count(x[l][:, None] ^ w[m]).sum(axis=-1, dtype=np.int64)


rows = np.stack([im2col(pack(pad(u.values) >> l & 1)).reshape(-1, 9) for l in range(2)])  # (2 planes, rows, 9 words)
filters = pack(np.moveaxis(c.values, 3, 0)).reshape(1, 64, 9)                             # (1 plane, 64 filters, 9 words)
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
#
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
# ## The limit, and how near it is
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
    "NumPy, float32": lambda: float_conv(x_real, w_real),
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
show(figure, "04-roofline")

# %% [markdown]
# Bits in NumPy are slower than floats in NumPy, and stand near the memory's slope: the format is small, but its intermediate
# arrays are not. (Where caches hold these, a point can lie above the slope, which shows main memory.) The simple Numba version
# moves few bytes, and is held down by loads and short loops instead. The register tile climbs most of what is left. What still
# misses is the loads that the limit's loop does not do, the start and the end of each tile, and storing results. Floats have a
# low roof of their own: that is the room in which bits can win.
#
# The roof itself falls as bits are added: at 2 times 4 bits it is a quarter of the one above. Somewhere on that way a dot
# product of *bytes* may get faster, and the library's `auto` chooses between them by measuring. Chapter 9 returns to this.

# %%
assert (u.bits * c.bits) / (2 * 4) == 1 / 4


# %% [markdown]
# Further: Zhou et al., DoReFa-Net, [arXiv:1606.06160](https://arxiv.org/abs/1606.06160), section 2.1. Williams, Waterman and
# Patterson, Roofline, Communications of the ACM 52(4), 2009. The register tile in `kernels/products/tiles.py`, its
# vectors in `kernels/machine/vectors.py`, the limit in `kernels/machine/peak.py`.
