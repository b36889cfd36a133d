# %% [markdown]
# # 3. A dot product in bits
#
# Chapter 1 turned activations and weights into small integer codes. Why should that be fast? Because a dot product of codes
# needs no multiplication: one XOR compares 64 pairs of bits, one instruction counts the ones. This chapter starts with eight
# codes on paper, and ends with one formula that carries all three convolutions of a training step.

# %%
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
from check import check
from common import AMBER, BLUE, FAINT, GREY, RED, YourTurn, exercise, show

from bitnet.kernels import products
from bitnet.kernels.products import reference
from bitnet.kernels.products.geometry import Conv
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight

# %% [markdown]
# ## Eight bits, one byte
#
# A *dot product* multiplies two vectors element by element and adds up. Take two vectors of eight bits. A product of two bits
# is 1 where both are 1, else 0. So the dot product is a count: at how many places are both bits 1?
#
# *Packing* writes eight bits side by side into one byte (`np.packbits`). The operation AND (`&` in Python) then compares eight
# pairs at once, and a *popcount* (`np.bitwise_count`) counts the ones of the result. Check the three lines by eye:

# %%
a = np.array([1, 0, 1, 1, 0, 0, 1, 0])
b = np.array([1, 1, 1, 0, 0, 1, 1, 0])
packed_a, packed_b = np.packbits(a)[0], np.packbits(b)[0]
both = packed_a & packed_b
print(f"a        {packed_a:08b}\nb        {packed_b:08b}\na AND b  {both:08b}   ones: {np.bitwise_count(both)}")
assert np.bitwise_count(both) == a @ b == 3

# %% [markdown]
# A processor has registers, its innermost storage, of at least 64 bits: a *word*. One AND, one popcount and one addition do 64
# multiplications and additions. Unused bits of the last word are set to 0 in both vectors, and count nothing.
#
# ## More bits: planes
#
# A code of two bits is 0, 1, 2 or 3. Written in binary it has a low bit, worth 1, and a high bit, worth 2. Take the low bits of
# all codes of a vector: that is *bit plane* 0. The high bits are bit plane 1. With $u_l$ for plane $l$ of the codes $u$,
#
# $$u = \sum_l 2^l u_l$$
#
# Put this into a dot product of two vectors of codes, $u$ and $c$, and multiply out. Each plane of one meets each plane of the
# other, and each pair is a dot product of bits, which we have already:
#
# $$\sum_i u_i c_i = \sum_l \sum_m 2^{l+m} \; \mathrm{popcount}(u_l \;\mathrm{AND}\; c_m)$$
#
# This is equation 3 of the DoReFa-Net paper. With $A$ and $W$ bits there are $A \cdot W$ pairs of planes. So the work grows
# with the product of the bit widths, which is why few bits are fast and many are not.


# %%
def planes(codes, bits):
    """One packed row for each bit of the codes: row l holds bit l of all of them."""
    return [np.packbits(codes >> l & 1) for l in range(bits)]


def count(packed):
    """The number of ones in all bytes."""
    return int(np.bitwise_count(packed).sum())


def dot_and(u, u_bits, c, c_bits):
    """Sum of u * c of codes that stand for themselves: equation 3."""
    pairs = product(enumerate(planes(u, u_bits)), enumerate(planes(c, c_bits)))
    return sum(2 ** (l + m) * count(x & y) for (l, x), (m, y) in pairs)


u = np.array([3, 0, 2, 1, 1, 3, 0, 2])
c = np.array([1, 1, 0, 1, 0, 1, 0, 0])
for l, plane in enumerate(planes(u, 2)):
    print(f"plane {l} of u  {plane[0]:08b}")
print(f"c             {planes(c, 1)[0][0]:08b}   AND form: {dot_and(u, 2, c, 1)}   u @ c: {u @ c}")
assert dot_and(u, 2, c, 1) == u @ c == 7

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.7), width_ratios=[1.15, 1])


def draw(axis, rows, names, notes, colors):
    """Rows of small numbers as colored squares, a name before and a note behind each."""
    for y, (row, name, note, color) in enumerate(zip(rows, names, notes, colors, strict=True)):
        for x, value in enumerate(row):
            look = {"color": color, "alpha": 0.35 + 0.2 * value} if value else {"color": FAINT, "alpha": 0.35}
            axis.add_patch(plt.Rectangle((x, -y), 0.92, 0.86, **look))
            axis.text(x + 0.46, 0.43 - y, value, ha="center", va="center", fontsize=10)
        axis.text(-0.3, 0.43 - y, name, ha="right", va="center")
        axis.text(len(row) + 0.15, 0.43 - y, note, ha="left", va="center")
    axis.set(xlim=(-2.6, 11.4), ylim=(0.1 - len(rows), 1.1))
    axis.axis("off")


low, high = u & 1, u >> 1
draw(axes[0], [u, low, high], ["codes u", "plane 0", "plane 1"], ["", "worth 1", "worth 2"], [AMBER, BLUE, BLUE])
axes[0].set_title("A code of two bits is two planes")
draw(axes[1], [c, low & c, high & c], ["c", "low & c", "high & c"], ["", f"{(low & c).sum()} × 1", f"{(high & c).sum()} × 2"],
     [AMBER, BLUE, BLUE])
axes[1].set_title(f"Count, weigh, add: {(low & c).sum()} × 1 + {(high & c).sum()} × 2 = {u @ c}")
show(figure, "03-planes")

# %% [markdown]
# ### Your file: `pack`, `planes`

# %%
check("pack", "planes")

# %% [markdown]
# ## Signs: -1 and +1
#
# Weights of one bit are not 0 and 1 but -1 and +1. Code 0 stands for -1 and code 1 for +1: the number that a code stands for is
# its *level*, here $2c - 1$. A product of two signs is +1 where the signs are equal and -1 where they differ. XOR (`^`) marks
# the places where two bits differ. Of $N$ places, each that differs turns a +1 into a -1, so it costs 2:
#
# $$\sum_i (2a_i - 1)(2b_i - 1) = N - 2 \; \mathrm{popcount}(a \;\mathrm{XOR}\; b)$$
#
# The paper gives a formula for this case too, in a footnote, and it has a slip. It prints XNOR (the opposite of XOR: it marks
# where bits are equal) in the place of XOR. There are few enough short vectors to try all of them. Let us see which holds.

# %%
true, printed, right = [], [], []
for length in range(1, 7):
    vectors = np.array(list(product([0, 1], repeat=length)))
    levels = 2 * vectors - 1
    different = (vectors[:, None] ^ vectors).sum(axis=-1)  # popcount of the XOR, for each pair of vectors
    equal = length - different                             # popcount of the XNOR
    true.append((levels @ levels.T).ravel())
    printed.append((length - 2 * equal).ravel())
    right.append((length - 2 * different).ravel())
    assert (2 * equal - length == length - 2 * different).all()
true, printed, right = (np.concatenate(parts) for parts in (true, printed, right))
print(f"{true.size} pairs of vectors, 1 to 6 long")
print(f"N - 2 popcount(XOR)  is the dot product in {np.mean(right == true):.0%} of them")
print(f"N - 2 popcount(XNOR) is the dot product in {np.mean(printed == true):.0%}, minus the dot product in "
      f"{np.mean(printed == -true):.0%}")
assert (right == true).all() and (printed == -true).all()
assert ((printed == true) == (true == 0)).all()  # right only where the result is 0, which has no sign

figure, axis = plt.subplots()
axis.plot(true, right, "o", label="N − 2 popcount(a XOR b)")
axis.plot(true, printed, "x", color=RED, label="N − 2 popcount(a XNOR b), as printed")
axis.axline((0, 0), slope=1, color=GREY, lw=1, zorder=0)
axis.set(title="The printed formula gives the dot product with the wrong sign", xlabel="dot product of -1 and +1",
         ylabel="formula")
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
show(figure, "03-footnote")

# %% [markdown]
# The printed formula is minus the dot product, always. With XOR it is right; so is
# $2 \, \mathrm{popcount}(a \,\mathrm{XNOR}\, b) - N$. Such slips stay unnoticed in a paper and ruin a program. That is why this
# course tries its formulas by *brute force*: on all small inputs.

# %% [markdown]
# ### Exercise: `dot_signs`


# %%
def dot_signs(a, b):
    """The dot product of two vectors of -1 and +1 (not codes: signs), by np.packbits, XOR and np.bitwise_count."""
    raise YourTurn


def check_dot_signs(dot_signs):
    rng = np.random.default_rng(1)
    for length in (1, 7, 8, 9, 100):
        a, b = rng.choice([-1, 1], (2, length))
        assert dot_signs(a, b) == a @ b


exercise(dot_signs, check_dot_signs)

# %% [markdown]
# ## One identity
#
# DoReFa-Net's forward pass is neither of these two cases: activations have levels $0 \ldots n$, weights have signs. And its
# gradients have several bits *and* signs. We want one formula for every mixture. First, the two kinds of codes. With $k$ bits
# and $n = 2^k - 1$, the largest code:
#
# - *unsigned*: level $= c$, from $0$ to $n$. Activations.
# - *bipolar*: level $= 2c - n$, from $-n$ to $n$ in steps of 2. Weights and gradients. One bit gives -1 and +1; two bits give
#   -3, -1, 1, 3. A level is always odd, so no bipolar code means zero. Chapter 6 has to deal with that.
#
# *Step 1.* For two single bits, XOR is arithmetic: $a \;\mathrm{XOR}\; b = a + b - 2ab$. There are four cases; the code below
# tries them.
#
# *Step 2.* Sum this over all places $i$ and all pairs of planes, each pair weighted with $2^{l+m}$. Call the left side $T$. It
# is all that a computer has to count:
#
# $$T = \sum_l \sum_m 2^{l+m} \; \mathrm{popcount}(u_l \;\mathrm{XOR}\; c_m)$$
#
# On the right side, $\sum_l 2^l u_l$ is the code $u$ again, and $\sum_m 2^m = 1 + 2 + 4 + \ldots$ is $n_c$, the largest code of
# the other vector. So the three terms become
#
# $$T = n_c \sum_i u_i + n_u \sum_i c_i - 2 \sum_i u_i c_i$$
#
# *Step 3, unsigned times bipolar.* Multiply out $\sum u(2c - n_c) = 2 \sum uc - n_c \sum u$ and put in step 2. The sum of $u$
# cancels:
#
# $$\sum_i u_i (2c_i - n_c) = n_u \sum_i c_i - T$$
#
# *Step 4, bipolar times bipolar.* Multiply out $\sum (2u - n_u)(2c - n_c)$. This time both sums cancel:
#
# $$\sum_i (2u_i - n_u)(2c_i - n_c) = n_u n_c N - 2T$$
#
# Whatever the encodings, a dot product is *a constant minus T* (or minus $2T$). The constant of step 3 needs one sum, that of
# one vector's codes. If that vector is a weight, it is summed once and then meets thousands of pixels. The other vector, of
# which there are many, is never summed at all: with AND it would have to be. That is the reason for XOR.
#
# On the built page, move the sliders: the codes of two short vectors, their planes, the XOR of each pair, the counts, the sum.
#
# <div class="widget" data-widget="dot"></div>
#
# Now the proof that spares no case: every vector of codes against every other, for all pairs of 1, 2 and 3 bits.

# %%
for a, b in product([0, 1], repeat=2):
    assert a ^ b == a + b - 2 * a * b  # step 1
assert [2 * code - 3 for code in range(4)] == [-3, -1, 1, 3]


def all_codes(bits, length):
    """Every vector of that length, a row each."""
    return np.array(list(product(range(2**bits), repeat=length)))


def plane_sums(u, u_bits, c, c_bits):
    """T of each row of u with each row of c."""
    return sum(2 ** (l + m) * ((u[:, None] >> l & 1) ^ (c >> m & 1)).sum(axis=-1)
               for l in range(u_bits) for m in range(c_bits))


tried = 0
for u_bits, c_bits in product([1, 2, 3], repeat=2):
    length = {1: 4, 2: 3, 3: 2}[max(u_bits, c_bits)]
    u, c = all_codes(u_bits, length), all_codes(c_bits, length)
    n_u, n_c = 2**u_bits - 1, 2**c_bits - 1
    T = plane_sums(u, u_bits, c, c_bits)
    sum_u, sum_c = u.sum(axis=1)[:, None], c.sum(axis=1)
    assert (T == n_c * sum_u + n_u * sum_c - 2 * (u @ c.T)).all()                             # step 2
    assert (u @ (2 * c - n_c).T == n_u * sum_c - T).all()                                     # step 3
    assert ((2 * u - n_u) @ (2 * c - n_c).T == n_u * n_c * length - 2 * T).all()              # step 4
    tried += T.size
print(f"{tried} pairs of vectors, no exception")

# %% [markdown]
# For longer vectors nothing new happens, because both sides are sums over places: what holds for each place holds for the sum.
# That is the proof for every length; the brute force checks that we made no slip of our own.

# %% [markdown]
# ### Exercise: `dot_mixed`


# %%
def dot_mixed(u, u_bits, c, c_bits):
    """Sum of u * (2c - n) for vectors of codes, n = 2**c_bits - 1, by packed planes and XOR: step 3."""
    raise YourTurn


def check_dot_mixed(dot_mixed):
    rng = np.random.default_rng(2)
    for u_bits, c_bits, length in ((1, 1, 8), (2, 1, 9), (1, 3, 50), (4, 2, 100)):
        u, c = rng.integers(0, 2**u_bits, length), rng.integers(0, 2**c_bits, length)
        assert dot_mixed(u, u_bits, c, c_bits) == u @ (2 * c - (2**c_bits - 1))


exercise(dot_mixed, check_dot_mixed)

# %% [markdown]
# ### Your file: `count`, `mixed`, `signed`
#
# `count` is the heart of the whole file: all three products of a training step call it.

# %%
check("count", "mixed", "signed")

# %% [markdown]
# ### Find the bug
#
# The constant of step 3, $n_u \sum c$, by a colleague. It passed his test with eight codes. Mend it.

# %%
def constant(c, u_bits):
    """n_u times the sum of the codes c, a uint8 array."""
    return (2**u_bits - 1) * int(c.sum(dtype=np.uint8))


def check_constant(constant):
    assert constant(np.array([1, 0, 1, 1, 0, 1, 1, 1], np.uint8), 2) == 18
    assert constant(np.full(1000, 3, np.uint8), 2) == 9000


exercise(constant, check_constant)

# %% [markdown]
# ## Its three uses
#
# A layer is used three times in a training step: forward, and backward for two gradients. Their operands are:
#
# | product | left codes | right codes | result |
# |---|---|---|---|
# | forward | activation, unsigned | weight, bipolar | constant - T |
# | weight gradient | activation, unsigned | gradient, bipolar | constant - T |
# | input gradient | gradient, bipolar | weight, bipolar | constant - 2T |
#
# Chapter 4 makes a convolution of the first, chapter 6 of the other two. One loop, which counts $T$, serves all three.

# %% [markdown]
# ### Exercise: `dot_ternary`


# %%
def dot_ternary(s, t):
    """The dot product of two vectors of -1, 0 and +1, by XOR.

    A ternary number is half the sum of two signs: -1 is (-1, -1), 0 is (+1, -1), +1 is (+1, +1). What is T, and what the
    constant?
    """
    raise YourTurn


def check_dot_ternary(dot_ternary):
    rng = np.random.default_rng(3)
    for length in (1, 8, 13, 100):
        s, t = rng.integers(-1, 2, (2, length))
        assert dot_ternary(s, t) == s @ t


exercise(dot_ternary, check_dot_ternary)

# %% [markdown]
# ## The same in the library
#
# In bitnet a quantized array is a `Codes` object: the codes (`values`), how many `bits`, their `encoding`, and a `scale`. The
# real number is scale times level. Quantizers make such objects from real numbers, the ones of chapters 1 and 2 among them, and
# `DoReFaGradient`, which chapter 5 is about. A dot product is a convolution of one pixel.

# %%
rng = np.random.default_rng(0)
x = DoReFaActivation(2).encode(rng.random((1, 1, 1, 1000), np.float32))            # (image, row, column, channel)
w = DoReFaWeight(1).encode(rng.standard_normal((1, 1, 1000, 1)).astype(np.float32))  # (row, column, channel, filter)
g = DoReFaGradient(4).encode(rng.standard_normal((1, 1, 1, 1000)).astype(np.float32))
for name, codes in (("activation", x), ("weight", w), ("gradient", g)):
    scale = np.ravel(codes.scale)[0]
    print(f"{name:10} {codes.bits} bits {codes.encoding:8} scale {scale:.4f}  levels {codes.levels().ravel()[:8]}")

conv = Conv(in_channels=1000, out_channels=1, kernel_size=(1, 1))
for left in (x, g):
    ours, plain = products.forward("popcount", left, w, conv), reference.forward(left.levels(), w.levels(), conv)
    assert ours.item() == plain.item() == left.levels().ravel() @ w.levels().ravel()

u, c = x.values.ravel(), w.values.ravel()  # and the whole of it by hand once more
T = sum(2**l * count(plane ^ planes(c, 1)[0]) for l, plane in enumerate(planes(u, 2)))
by_hand, by_library = 3 * int(c.sum()) - T, products.forward("popcount", x, w, conv).item()
print(f"by hand {by_hand}, library {by_library}, as a real number {by_hand * x.scale * w.scale:.3f}")
assert by_hand == by_library
assert np.isclose(by_hand * x.scale * w.scale, (x.decode().ravel().astype(float) @ w.decode().ravel()), atol=1e-3)

# %% [markdown]
# `products.forward` takes any mixture of encodings, and its first argument chooses a *kernel family*: `"popcount"` counts bits
# as we did, `"byte_dot"` multiplies bytes, `"float"` multiplies the levels as floats. They return the same integers, bit for
# bit, so the choice is about speed alone. And packed, our thousand activations take this much memory:

# %%
assert len({products.forward(family, x, w, conv).item() for family in ("popcount", "byte_dot", "float")}) == 1
packed, floats = sum(plane.nbytes for plane in planes(u, 2)), 4 * u.size
print(f"{floats} bytes as floats, {packed} bytes in two planes: {floats / packed:.0f} times less")
assert floats == 16 * packed == 4000


# %% [markdown]
# Further: Zhou et al., DoReFa-Net, [arXiv:1606.06160](https://arxiv.org/abs/1606.06160), section 2.1 and equation 3; read its
# footnote with the brute force of this chapter at hand. Warren, Hacker's Delight, the chapter on counting bits: how a
# popcount is made of shifts and additions, which chapter 9 compiles. The identity at the head of
# `kernels/products/popcount.py`.
