# %% [markdown]
# # 1. What a bit width is
#
# DoReFa-Net calculates with numbers of one, two or four bits. How does a real number become such a number, how much of it
# is lost, and what can still be seen? This chapter rounds activations and weights, by hand first, then with bitnet, and
# says why the first and the last layer of a network are left alone.
#
# The numbers will come from house numbers: SVHN (Street View House Numbers) is a data set of digits cut out of photographs,
# 32 x
# 32 pixels with three colors, ten classes. Where you have not downloaded it, digits that a program draws take its place.
#
# Each chapter begins with its imports. From `common`, a small file beside the chapters, come the names of a few colors,
# `digits` (images and labels), `size` (a full size and a small one for a quick look), `show` (puts a picture on the page, or
# into a file) and `exercise` (tells whether your answer holds). Nothing of the subject is hidden there.

# %%
import matplotlib.pyplot as plt
import numpy as np
from check import check
from common import AMBER, BLUE, FAINT, GREY, RED, YourTurn, digits, exercise, show

from bitnet import models
from bitnet.quantizers import DoReFaActivation, DoReFaWeight, quantize_k

# %% [markdown]
# ## Few bits, few values
#
# A *bit* is 0 or 1. With $k$ bits one can write $2^k$ different integers, from 0 to $n = 2^k - 1$. Such an integer is
# called a *code*. Two bits give the codes 0, 1, 2 and 3, in binary 00, 01, 10 and 11. To *quantize* is to replace real
# numbers by codes.
#
# Take a real number $r$ between 0 and 1. The plainest rule spreads the codes evenly: multiply by $n$ and round to the
# nearest integer. To get back, divide by $n$:
#
# $$\mathrm{quantize}_k(r) = \frac{\mathrm{round}(n \, r)}{n}$$
#
# This is all the rounding that there is in DoReFa-Net. Everything else prepares numbers for it.

# %%
bits = 2
n = 2**bits - 1
r = np.array([0.0, 0.1, 0.2, 0.4, 0.5, 0.7, 1.0])
codes = np.rint(n * r).astype(int)
rounded = codes / n

print("number  code  binary  rounded   error")
for number, code, back in zip(r, codes, rounded, strict=True):
    print(f"{number:6.1f}  {code:4}  {code:6b}  {back:7.3f}  {back - number:+6.3f}")

assert n == 3 and codes.tolist() == [0, 0, 1, 1, 2, 2, 3]
assert np.array_equal(rounded, quantize_k(r, bits))  # bitnet's own

# %% [markdown]
# Two details of the rule matter later. It divides by $n$ and not by $2^k$: so both ends, 0 and 1, are among the values that
# it can give, and an activation of zero stays exactly zero. And 0.5 lies halfway between the codes 1 and 2: `np.rint` takes
# the even one of two equally near integers. Any fixed choice would do, as long as all parts of a program make the same one.
#
# ## The staircase
#
# Drawn as a function, rounding is a staircase. Each step is $1/n$ high. The error is largest in the middle between two
# values, where it is half a step, $1/(2n)$. For numbers spread evenly over $[0, 1]$ the error is spread evenly between
# minus and plus half a step. Its typical size, the root of the mean square (RMS), is then $1/(n \sqrt{12})$. The code
# checks both for all bit widths.
#
# <details><summary>Predict: by which factor does the error fall from 1 bit to 2, and from 7 bits to 8?</summary>
#
# By $n$: from 1 to 3, a factor of 3; from 127 to 255, a factor of 2.008. The table below has both.
#
# </details>

# %%
grid = np.linspace(0, 1, 100_001)
print("bits  values  largest error  RMS error")
for bits in range(1, 9):
    n = 2**bits - 1
    error = quantize_k(grid, bits) - grid
    largest, rms = np.abs(error).max(), np.sqrt(np.mean(error**2))
    print(f"{bits:4}  {n + 1:6}  {largest:13.4f}  {rms:9.4f}")
    assert len(np.unique(quantize_k(grid, bits))) == n + 1 == 2**bits
    assert np.isclose(largest, 1 / (2 * n), atol=1e-5) and np.isclose(rms, 1 / (n * np.sqrt(12)), rtol=1e-3)

figure, (left, right) = plt.subplots(1, 2)
for bits, color in ((1, RED), (2, BLUE), (3, AMBER)):
    left.plot(grid, quantize_k(grid, bits), color=color, label=f"{bits} bit{'s' * (bits > 1)}: {2**bits} values")
    right.plot(grid, quantize_k(grid, bits) - grid, color=color)
left.plot(grid, grid, color=GREY, linestyle=":", label="not rounded")
left.set(title="k bits make a staircase of $2^k$ values", xlabel="number r", ylabel="rounded number")
right.set(title="The error is half a step at most", xlabel="number r", ylabel="error")
left.legend(frameon=False, loc="upper left")
show(figure, "01-staircase")

# %% [markdown]
# From one bit to two, $n$ grows from 1 to 3 and the error falls to a third. Later $n$ little more than doubles with each
# bit, and the error little more than halves. Eight bits leave an error that hardly anybody notices. The interesting widths
# are the small ones, since work and memory shrink with every bit, as chapter 3 will show.
#
# On the built page, move the sliders: a number, its code, the bits of the code, and the error.
#
# <div class="widget" data-widget="staircase"></div>

# %% [markdown]
# ### Exercise: `bits_for`


# %%
def bits_for(error):
    """The fewest bits with which quantize_k rounds no number of [0, 1] by more than ``error``."""
    raise YourTurn


def check_bits_for(bits_for):
    assert bits_for(0.5) == 1
    assert [bits_for(error) for error in (0.4, 0.1, 0.05, 0.002)] == [2, 3, 4, 8]


exercise(bits_for, check_bits_for)

# %% [markdown]
# ## A picture in few bits
#
# What does the loss look like? Here is a house number, each of its three color channels rounded to 1, 2 and 4 bits.

# %%
images, labels = digits("train", 60)
picture = images[np.argmax(images.std((1, 2, 3)))]  # the one with the most contrast

figure, axes = plt.subplots(1, 4, figsize=(8, 2.5))
errors = []
for axis, bits in zip(axes, (1, 2, 4, None), strict=True):
    shown = picture if bits is None else quantize_k(picture, bits)
    errors.append(np.sqrt(np.mean((shown - picture) ** 2)))
    axis.imshow(shown)
    axis.set_axis_off()
    axis.set_title("as it was, 8 bits" if bits is None else f"{bits} bit{'s' * (bits > 1)}, error {errors[-1]:.3f}")
show(figure, "01-picture")
assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0

# %% [markdown]
# With 2 bits a channel the digit still stands; only its colors go wrong. That is the hope of low bit widths: what a network
# needs to know survives a coarse rounding. The picture itself is spared in DoReFa-Net, though, as the end of this chapter
# explains.
#
# ## Activations
#
# The *activations* of a layer are the numbers that it hands to the next one. They may have any size, and `quantize_k` wants
# numbers between 0 and 1. So the activation quantizer first *clips*: what is below 0 becomes 0, what is above 1 becomes 1.
#
# $$a_q = \mathrm{quantize}_k(\mathrm{clip}(x, 0, 1))$$
#
# Clipping at 0 does what the well-known ReLU does, so it is also the network's nonlinearity: there is no other.

# %%
x = np.array([-1.3, -0.2, 0.1, 0.3, 0.45, 0.8, 1.0, 2.7], np.float32)
by_hand = np.rint(3 * x.clip(0, 1)).astype(int)

codes = DoReFaActivation(bits=2).encode(x)
print("numbers   ", x)
print("codes     ", codes.values)
print("encoding  ", codes.encoding, "with", codes.bits, "bits")
print("scale     ", codes.scale)
print("real again", codes.decode().round(3))

assert by_hand.tolist() == codes.values.tolist() == [0, 0, 0, 1, 1, 2, 3, 3]
assert codes.scale == 1 / 3 and np.allclose(codes.decode(), quantize_k(x.clip(0, 1), 2))

# %% [markdown]
# What bitnet returns is an object called `Codes`. It travels through all *kernels*: so the compiled loops are called that do
# the arithmetic of the library. (Elsewhere the word also means the filter of a convolution. Not here.) It holds small
# integers, and what they stand for: a real number is the *scale* times the *level*. For activations the level is the code
# itself, and the encoding is called *unsigned*. The scale is a single number for the whole array. Kernels multiply and add
# levels, which are integers, and the scale comes in once, at the end. No float is needed in between.
#
# Where should the numbers lie for 2 bits to be well used? In DoReFa-Net, *batch norm* comes before the clip: it shifts and
# stretches each channel to mean 0 and standard deviation 1 (and may learn another shift and stretch). What a bell curve of
# such numbers becomes:

# %%
rng = np.random.default_rng(0)
bell = rng.standard_normal(50_000).astype(np.float32)
share = np.bincount(DoReFaActivation(2).encode(bell).values) / len(bell)
print("share of the codes 0, 1, 2, 3:", share.round(2))
assert np.all(np.abs(share - [0.566, 0.126, 0.106, 0.202]) < 0.02)  # from a table of the bell curve
assert 0.5 < share[0] and 0.15 < np.mean(bell > 1) < 0.17

# %% [markdown]
# More than half are 0, as after a ReLU. About 16 % lie above 1 and are cut off. All four codes are in use.

# %% [markdown]
# ## Your own file
#
# One learns most by writing it oneself. `mine.py`, beside the chapters, is a file of empty functions: the quantizers,
# the product in bits, both gradients, a step. Fill in each when its idea has come up. In chapter 8 your file trains a network,
# in NumPy alone, and chapter 9 makes it fast.
#
# Here is the first: `activation_codes`. `check` hands it the same numbers as bitnet, tells what was expected and what came, and
# often which mistake it looks like. A hint unfolds on the built page; a script prints it with `python check.py
# activation_codes --hint`. Small exercises, like those above, are answered in the chapter: replace `raise YourTurn` and run the
# cell again. If an answer is wrong, you are told, and the chapter goes on.

# %%
check("activation_codes")

# %% [markdown]
# ## Weights
#
# *Weights* have signs, and they are small: in a fresh network, a few hundredths. DoReFa-Net has two rules for them.
#
# **One bit.** Keep the sign, and one magnitude $E$ for the whole layer:
#
# $$w_q = E \cdot \mathrm{sign}(w), \qquad E = \mathrm{mean} \, |w|$$
#
# The sign of 0 counts as +1. Code 1 means $+E$, code 0 means $-E$. Why the mean? It is the best magnitude there is. The
# squared error of a weight with magnitude $s$ is $(|w| - s)^2$, since the sign is right; summed over the layer, it is
# smallest at the mean of $|w|$. Try others:

# %%
w = np.array([0.30, -0.10, 0.20, -0.60], np.float32)
magnitudes = np.arange(0, 0.601, 0.05)
squared = [np.sum((w - s * np.sign(w)) ** 2) for s in magnitudes]
best = magnitudes[np.argmin(squared)]
one = DoReFaWeight(bits=1).encode(w)
print("tried     ", magnitudes.round(2))
print("error     ", np.array(squared).round(2))
print("best", best.round(2), "  mean |w|", np.abs(w).mean().round(2), "  bitnet's scale", round(one.scale, 2))
print("codes", one.values, "  levels", one.levels(), "  real", one.decode())

assert np.isclose(best, 0.3) and np.isclose(np.abs(w).mean(), 0.3) and np.isclose(one.scale, 0.3)
assert one.values.tolist() == [1, 0, 1, 0] and one.levels().tolist() == [1, -1, 1, -1]

# %% [markdown]
# ### Exercise: `best_scale`


# %%
def best_scale(w, levels):
    """The number s for which scale s times these levels comes nearest to w: the smallest sum of (w - s * level)**2.

    For levels -1 and +1 that is the mean magnitude. Set the derivative after s to zero.
    """
    raise YourTurn


def check_best_scale(best_scale):
    w = np.random.default_rng(1).standard_normal(200)
    assert np.isclose(best_scale(w, np.where(w >= 0, 1, -1)), np.abs(w).mean())
    levels = DoReFaWeight(2).encode(w).levels()
    s = best_scale(w, levels)
    assert all(np.sum((w - s * levels) ** 2) < np.sum((w - other * levels) ** 2) for other in (0.9 * s, 1.1 * s))


exercise(best_scale, check_best_scale)

# %% [markdown]
# **Two bits and more.** Here the numbers must get into $[0, 1]$ and back. With $t = \tanh(w)$ and $m$ the largest $|t|$ of
# the layer,
#
# $$w_q = 2 \, \mathrm{quantize}_k \left( \frac{t}{2m} + \frac{1}{2} \right) - 1$$
#
# Read it from the inside: $t/(2m)$ lies between $-1/2$ and $1/2$. Add $1/2$, and `quantize_k` can round it. Two times the
# result minus 1 lies between $-1$ and 1. The tanh bends the largest weights inwards, so that a single one cannot claim all
# the range for itself.
#
# With the code $c$, so that `quantize_k` gives $c/n$, this says $w_q = (2c - n)/n$. So the scale is $1/n$ and the level is
# $2c - n$: for two bits, the levels are $-3, -1, 1, 3$. This encoding is called *bipolar*. Its levels are always odd, so no
# weight is ever zero. One bit fits in: $2c - 1$ is $-1$ or $+1$.

# %%
w = np.array([0.9, -0.1, 0.2, -0.6, 0.5], np.float32)
t = np.tanh(w)
c = np.rint(3 * (t / (2 * np.abs(t).max()) + 0.5)).astype(int)
two = DoReFaWeight(bits=2).encode(w)
print("weights ", w)
print("tanh    ", t.round(2))
print("codes   ", two.values)
print("levels  ", two.levels())
print("real    ", two.decode().round(3))
assert c.tolist() == two.values.tolist() == [3, 1, 2, 0, 2] and (2 * c - 3).tolist() == two.levels().tolist()
assert np.abs(two.decode()).max() == 1

# %% [markdown]
# ### Exercise: `decode`


# %%
def decode(codes, bits):
    """The real weights, from -1 to 1, of an array of bipolar codes."""
    raise YourTurn


def check_decode(decode):
    assert np.allclose(decode(np.array([0, 1]), 1), [-1, 1])
    for bits in (2, 3, 8):
        weights = np.random.default_rng(bits).standard_normal(50)
        codes = DoReFaWeight(bits).encode(weights)
        assert np.allclose(decode(codes.values.astype(int), bits), codes.decode())


exercise(decode, check_decode)

# %% [markdown]
# Note what has happened to the size: the largest weight is now exactly 1, however small the layer's weights were. The rule
# for two bits and more keeps proportions and forgets the size. Batch norm after the layer divides by the standard
# deviation, so it would have taken the size out anyway.

# %% [markdown]
# ### Your file: `weight_codes`

# %%
check("weight_codes")

# %% [markdown]
# Now a real layer. bitnet's network for SVHN comes in four widths: *model A* is that of the paper, B, C and D have a half, a
# quarter and an eighth of its channels. Take the 36,864 weights of a fresh 3 x 3 convolution of model A, with 64 input and 64
# output channels. How alike are the
# weights before and after? The *correlation* tells: 1 means equal up to the size, 0 means nothing in common.

# %%
weight = models.svhn("A").conv2.conv.weight.data
assert weight.shape == (3, 3, 64, 64) and weight.size == 36_864 and 0.01 < weight.std() < 0.1
alike, used = {}, {}
for bits in (1, 2, 3, 4, 6, 8):
    coded = DoReFaWeight(bits).encode(weight)
    alike[bits] = np.corrcoef(weight.ravel(), coded.decode().ravel())[0, 1]
    used[bits] = np.bincount(coded.values.ravel(), minlength=2**bits) / weight.size
    print(f"{bits} bits: correlation {alike[bits]:.3f}")
print("share of the codes with 2 bits:", used[2].round(3))

figure, axes = plt.subplots(1, 3, sharey=True)
scaled = np.tanh(weight.ravel()) / np.abs(np.tanh(weight)).max()
for axis, bits in zip(axes, (1, 2, 3), strict=True):
    axis.hist(scaled, bins=80, color=FAINT, weights=np.full(scaled.size, 100 / scaled.size))
    levels = (2 * np.arange(2**bits) - (2**bits - 1)) / (2**bits - 1)
    if bits == 1:
        levels = levels * np.abs(scaled).mean()  # E
    for level, part in zip(levels, used[bits], strict=True):
        axis.axvline(level, color=AMBER)
        axis.text(level, 4.62, f"{100 * part:.0f}" if part > 0.01 else f"{100 * part:.1f}", color=AMBER, ha="center")
    axis.set(xlabel="weight / largest", xlim=(-1.1, 1.1), ylim=(0, 4.6))
    axis.set_title(f"{bits} bit{'s' * (bits > 1)}", pad=18)
axes[0].set_ylabel("% of weights")
figure.suptitle("Where the weights go: the levels, and how many percent each one gets", x=0.01, ha="left", fontsize=11)
show(figure, "01-weights")

assert abs(alike[1] - np.sqrt(2 / np.pi)) < 0.01 and alike[2] - alike[1] < 0.05
assert alike[8] > alike[6] > alike[4] > alike[3] > alike[2] and alike[4] > 0.95 and alike[8] > 0.999
assert used[2][0] + used[2][3] < 0.02

# %% [markdown]
# Signs alone keep a correlation of about 0.8: for a bell curve it is $\sqrt{2/\pi}$. The second bit adds little here, and
# the picture shows why. The levels reach out to the largest of 36,864 weights, and nearly all others are so much smaller
# that they round to the inner two levels: fewer than 2 % get the outer ones. That is a fresh layer; training may spread its
# weights, if that pays. From 3 bits on, inner levels multiply and the correlation rises quickly.
#
# So one bit is a natural choice for weights. A network is named by three numbers, (W, A, G), the bits of its weights,
# activations and gradients, and a typical one is (1, 2, 4): weights keep only their signs, activations two bits, gradients
# four. Chapter 5 finds out why gradients are so demanding.
#
# ## Why the first and the last layer stay float
#
# DoReFa-Net leaves two layers in float32: the first convolution, which sees the picture, and the last layer, whose outputs
# are the scores of the ten digits (also called *logits*). What would they save? Count the parameters of model A, and its
# *multiply-accumulates* (MAC: one multiplication and one addition, the unit in which convolutions are measured) for an image.
# A convolution does one for each weight at each output pixel.

# %%
model = models.svhn("A")
pixels = {"conv0": 36**2, "conv1": 18**2, "conv2": 18**2, "conv3": 7**2, "conv4": 7**2, "conv5": 5**2, "conv6": 1, "fc": 1}
weights = {name.partition(".")[0]: p.data for name, p in model.named_parameters().items() if name.endswith(".weight")}
parameters = {name: weights[name].size for name in pixels}
macs = {name: parameters[name] * pixels[name] for name in pixels}
print("layer   parameters         MAC")
for name in pixels:
    print(f"{name:5} {parameters[name]:12,} {macs[name]:11,}")
ends = ("conv0", "fc")
share_parameters = sum(parameters[name] for name in ends) / sum(parameters.values())
share_macs = sum(macs[name] for name in ends) / sum(macs.values())
print(f"first and last layer: {share_parameters:.1%} of the parameters, {share_macs:.0%} of the MAC")

assert 0.003 < share_parameters < 0.005 and 0.11 < share_macs < 0.12 and parameters["fc"] == 5120
assert sum(parameters.values()) > 2_000_000

# %% [markdown]
# Of more than two million parameters, fewer than one in two hundred belong to them, and about a ninth of the work. So there
# is little to win. And there is much to lose:
#
# - The first layer is the only one that sees the picture. What rounding removes there, no later layer can bring back. And
#   its pixels have 8 bits, which would be slow: chapter 3 shows that work grows with every bit.
# - Nothing comes after the last layer that could average its errors. It is tiny anyway: 5,120 weights, each used once.
#
# Between the two, everything is codes. Kernels for codes are what chapters 3 and 4 build. But first: can such a staircase
# be trained at all? Its slope is zero almost everywhere. That is the question of chapter 2.

# %% [markdown]
# Further: Zhou et al., DoReFa-Net, [arXiv:1606.06160](https://arxiv.org/abs/1606.06160), 2016. Section 2.2 has `quantize_k`,
# section 2.3 the weights (equations 4 and 5), section 2.4 the activations (equation 6); look for what it says about the first
# and the last layer, and why. Rastegari et al., XNOR-Net, [arXiv:1603.05279](https://arxiv.org/abs/1603.05279), 2016: why the
# mean of the magnitudes is the best scale; there each filter has its own. Gholami et al., A Survey of Quantization Methods,
# [arXiv:2103.13630](https://arxiv.org/abs/2103.13630), 2021: the words of the field; find our two rules among its kinds.
