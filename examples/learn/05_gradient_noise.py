# %% [markdown]
# # 5. Gradients need noise
#
# Weights and activations are rounded to the nearest level. Do that to gradients, and training goes to the wrong place. With
# the right amount of noise added before rounding, it goes to the right one on average, and the fewer the bits, the longer it
# takes: with two bits a single parameter arrives, a network may not in the time that you have (chapter 8). This chapter builds
# that rounding, shows why it is right on average, shows plain rounding fail, and measures what each further bit is worth.

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from check import check
from common import AMBER, BLUE, FAINT, GREY, RED, YourTurn, digits, exercise, show, size
from network import small

from bitnet import functional, optimizers, random
from bitnet.kernels.machine import threads
from bitnet.quantizers import DoReFaGradient

# %% [markdown]
# ## What is to be rounded
#
# In backward, each convolution receives one number for every number that it put out: how much would the loss change if this
# output were a little larger? The array of these numbers is what we call the *gradient* $g$ here. Its first axis counts the
# samples (images) of a batch. DoReFa-Net rounds $g$ to codes of $G$ bits, and from the codes come both products of backward:
# the gradient of the layer's input and that of its weight (chapter 6).
#
# Activations lie in $[0, 1]$ because they are clipped. Gradients have both signs and no fixed range. So each sample gets a
# scale of its own, its largest magnitude $M = \max |g|$. Then $g / 2M + 1/2$ lies in $[0, 1]$, where `quantize_k` of chapter
# 1 applies, with $n = 2^G - 1$ steps. Before rounding comes the noise, $\sigma$, drawn evenly between $-1/2$ and $1/2$ for
# each number. With everything multiplied by $n$, a code is
#
# $$v = \mathrm{rint}\left(\mathrm{clip}\left(\frac{n}{2M}\, g + \frac{n}{2} + \sigma,\; 0,\; n\right)\right)$$
#
# and the code $v$ stands for the real number $(2v - n)\, M / n$. That is all. In NumPy:


# %%
def f_gamma(g, bits, noise):
    """Codes of a gradient (samples, ...), and the numbers that they stand for."""
    n = 2**bits - 1
    M = np.abs(g).max(axis=tuple(range(1, g.ndim)), keepdims=True)  # one a sample
    codes = np.rint(np.clip(n / 2 * g / M + n / 2 + noise, 0, n))
    return codes, (2 * codes - n) * M / n


g = np.array([[6.0, 1.0, -2.0, 0.0]])  # one sample
rng = np.random.default_rng(0)
before = 3 / 2 * g[0] / 6 + 3 / 2
print(f"before noise: {before}")
assert list(before) == [3, 1.75, 1, 1.5] and 0.75 * 2 - 0.25 * 2 == 1
for draw in range(4):
    codes, real = f_gamma(g, 2, rng.uniform(-0.5, 0.5, g.shape))
    print(f"draw {draw}: codes {codes[0].astype(int)}, standing for {real[0].astype(int)}")
    assert set(real[0]) <= {-6, -2, 2, 6}

# %% [markdown]
# Two bits give four levels: with $M = 6$ they are -6, -2, 2 and 6. Before noise, our four numbers are 3, 1.75, 1 and 1.5 on
# the scale of codes. The first and the third are whole: noise of less than a half cannot move them. The second, 1.75, becomes
# code 2 with probability 3/4 and code 1 with probability 1/4. It stands for 2 three times out of four, else for -2. The mean
# is $\frac34 \cdot 2 - \frac14 \cdot 2 = 1$, which is just what it was. Also look at the zero: **there is no level at 0**. A
# gradient of 0 becomes -2 or 2, half of the time each. Always wrong, but right on average.
#
# ## Right on average
#
# This holds for every number. Let $y$ be what stands before the noise, $y = m + f$ with a whole $m$ and a fraction $f$. The
# sum $y + \sigma$ is rounded up to $m + 1$ where $\sigma > 1/2 - f$ (for $f < 1/2$; the other half goes the same way), and as
# $\sigma$ is even between $-1/2$ and $1/2$, that has probability $f$. So
#
# $$E[v] = (1 - f)\, m + f\, (m + 1) = m + f = y$$
#
# $E[v]$, the *expected value* of $v$, is its mean over all draws of the noise.
#
# The rounding is *unbiased*. It is also called *stochastic rounding*. The clip changes nothing of this: at $g = M$ the sum
# lies between $n - 1/2$ and $n + 1/2$ and becomes $n$. It is there because in floating point such a sum can be rounded up to
# just $n + 1/2$, and `rint` might make $n + 1$ of it.
#
# A mean of many draws therefore comes near the true gradient, and the error of a mean of independent draws falls with the
# square root of their number: four times the draws, half the error. Let us see it, with 1,000 gradients of 2 bits.

# %%
g = rng.standard_normal((1, 1000))
counts = [1, 4, 16, 64, 256, 1024, 4096]
total, error, means = np.zeros_like(g), {}, {}
for draw in range(1, counts[-1] + 1):
    total += f_gamma(g, 2, rng.uniform(-0.5, 0.5, g.shape))[1]
    if draw in counts:
        means[draw] = total / draw
        error[draw] = np.sqrt(np.mean((means[draw] - g) ** 2))
nearest = f_gamma(g, 2, 0.0)[1]
bias = np.sqrt(np.mean((nearest - g) ** 2))
print("draws  error of their mean")
print("\n".join(f"{count:5}  {error[count]:.4f}" for count in counts), f"\nno noise: {bias:.4f}, however often it is repeated")
assert 0.9 * 32 < error[4] / error[4096] < 1.1 * 32  # 1024 times the draws, a 32nd of the error
assert error[1] > bias > error[16]

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), width_ratios=(1.2, 1))
order = np.argsort(g[0])
axes[0].step(g[0][order], nearest[0][order], color=RED, where="mid", label="no noise")
for count, color, marker in ((1, FAINT, "."), (16, AMBER, "."), (1024, BLUE, ".")):
    axes[0].plot(g[0], means[count][0], marker, color=color, markersize=5, label=f"mean of {count}")
axes[0].set(title="The mean of many draws is the gradient", xlabel="true gradient", ylabel="rounded to 2 bits")
axes[0].legend(frameon=False, fontsize=9)
axes[1].loglog(counts, [error[count] for count in counts], "o-", color=BLUE, label="with noise")
axes[1].loglog(counts, error[1] / np.sqrt(counts), "--", color=GREY, label="1 / sqrt(draws)")
axes[1].axhline(bias, color=RED, label="no noise")
axes[1].set(title="Noise averages out, bias stays", xlabel="draws", ylabel="error of the mean")
axes[1].legend(frameon=False, fontsize=9)
show(figure, "05-average")

# %% [markdown]
# One noisy draw is *worse* than plain rounding: compare the first line of the table with the last. But training never uses
# one draw: the optimizer adds up many small steps, each with noise of its own.
#
# On the built page, choose the bits and the number of draws that are averaged, and watch the mean settle on the gradient.
#
# <div class="widget" data-widget="noise"></div>

# %% [markdown]
# ### Exercise: `chance_up`


# %%
def chance_up(g, M, bits):
    """The probability with which a gradient g (a number) is rounded up, to the next level above it."""
    raise YourTurn


def check_chance_up(chance_up):
    assert np.isclose(chance_up(1.0, 6.0, 2), 0.75)
    assert np.isclose(chance_up(0.0, 2.0, 4), 0.5)
    assert np.isclose(chance_up(-1.0, 4.0, 1), 0.375)
    assert np.isclose(chance_up(-2.0, 6.0, 2), 0)


exercise(chance_up, check_chance_up)

# %% [markdown]
# ### Your file: `gradient_codes`
#
# The noise is handed in, so that yours and bitnet's can be the same.

# %%
check("gradient_codes")

# %% [markdown]
# ## Why plain rounding fails
#
# Take the smallest training that there is: one parameter $w$, three samples with targets 0, 0 and 0.6, and the loss
# $(w - t)^2 / 2$ of each. The best $w$ is the mean of the targets, 0.2. The gradient of a sample is $w - t$. In a layer it
# has neighbours, and the largest sets the scale; so we give each sample a neighbour of 1. We descend with ever shorter steps,
# and compare three roundings: two bits with noise, two bits without (levels -1, -1/3, 1/3, 1), and the three levels -1, 0, 1
# without noise.


# %%
def descend(quantize, steps=600):
    """Where w is after each step."""
    targets, w, path = np.array([0.0, 0.0, 0.6]), 1.0, []
    for step in range(steps):
        g = np.stack([np.ones(3), w - targets], axis=1)  # sample, (neighbour, own)
        w -= 2 / (step + 20) * quantize(g)[:, 1].mean()
        path.append(w)
    return np.array(path)


rng = np.random.default_rng(0)
noisy = descend(lambda g: f_gamma(g, 2, rng.uniform(-0.5, 0.5, g.shape))[1])
plain = descend(lambda g: f_gamma(g, 2, 0.0)[1])
ternary = descend(np.rint)
print(f"with noise {noisy[-1]:.3f}, two bits without {plain[-1]:.3f}, three levels without {ternary[-1]:.3f}")
assert abs(noisy[-1] - 0.2) < 0.05 and abs(plain[-1]) < 0.01 and 0.4 < ternary[-1] < 0.5
assert np.all(ternary[200:] == ternary[-1])  # stuck

figure, axes = plt.subplots(figsize=(8, 3.4))
axes.plot(np.arange(1, 601), ternary, color=RED, label="levels -1, 0, 1, no noise")
axes.plot(np.arange(1, 601), noisy, color=BLUE, label="2 bits, with noise")
axes.plot(np.arange(1, 601), plain, color=AMBER, label="2 bits, no noise")
axes.axhline(0.2, color=GREY, linestyle="--", linewidth=1)
axes.set(title="Only the noisy gradient finds the best parameter, 0.2", xlabel="step", ylabel="parameter w", xscale="log")
axes.legend(frameon=False, fontsize=9)
show(figure, "05-stuck")

# %% [markdown]
# With a level at 0, gradients below half a step vanish: as soon as $w$ is below 0.5, all three are rounded to 0, and $w$
# stays for ever. Without a level at 0, small gradients do not vanish. They all become $\pm 1/3$, however small they are. Two
# samples pull $w$ down by 1/3 each, one pulls it up by 1/3, and the majority wins: $w$ ends at 0, the *median* of the
# targets, not at their mean. With noise, each sample pulls as hard as it should, on average.
#
# Why can weights and activations do without noise? Their rounding is part of the network. Training sees the loss that the
# rounded network has, and everything else adapts to it. Nothing adapts to a wrong gradient.

# %% [markdown]
# ### Exercise: `three_levels`


# %%
def three_levels(g, u):
    """Round an array (samples, ...) to -M, 0 and M of each sample, so that it is right on average.

    ``u`` is noise of the same shape, even between 0 and 1: unlike f_gamma, this rounding leaves a zero a zero.
    """
    raise YourTurn


def check_three_levels(three_levels):
    rng = np.random.default_rng(0)
    g = rng.standard_normal((3, 10))
    g[:, 0] = 0
    draws = np.array([three_levels(g, rng.random(g.shape)) for _ in range(4000)])
    M = np.abs(g).max(axis=1, keepdims=True)
    levels = np.abs(draws) / M
    assert np.all(np.isclose(levels, 0) | np.isclose(levels, 1))
    assert not draws[..., 0].any()
    assert np.abs(draws.mean(axis=0) - g).max() < 0.15


exercise(three_levels, check_three_levels)

# %% [markdown]
# ### Find the bug
#
# This rounding has noise, and yet the mean of many draws is off, by the same amount for every number. Mend it.

# %%
def off(g, bits, u):
    """Gradients (samples, numbers) rounded to levels; u is even between 0 and 1, of the same shape."""
    n, M = 2**bits - 1, np.abs(g).max(axis=1, keepdims=True)
    return (2 * np.rint(np.clip(n / 2 * g / M + n / 2 + u, 0, n)) - n) * M / n


def check_off(off):
    rng, g = np.random.default_rng(0), np.array([[1.0, 0.3, -0.2, -0.6]])
    mean = np.mean([off(g, 4, rng.random(g.shape)) for _ in range(4000)], axis=0)
    assert np.allclose(mean.round(2), g, atol=0.03)


exercise(off, check_off)

# %% [markdown]
# ## The gradients of a real layer
#
# Now a network, the one that goes through this course (chapter 7 takes it apart): two inner layers of few bits between a float
# convolution and a float linear layer. It is trained for some steps on house numbers.
# It learns by *Adam*, gradient descent in which each gradient is divided by its usual size (a running mean of its square).
# To get hold of the gradient at the output of a layer we put a quantizer there that remembers what it is given.


# %%
class Listening(DoReFaGradient):
    def encode(self, array):
        self.heard = array.copy()
        return super().encode(array)


images, labels = digits("train", size(1600, 320))
model = small((1, 2, 4), width=16).train()
optimizer = optimizers.Adam(model.parameters(), lr=1e-3)
random.seed(0)


def backward(batch):
    model.zero_grad()
    functional.softmax_cross_entropy(model(images[batch]), labels[batch]).backward()


for start in range(0, len(images), 32):
    backward(slice(start, start + 32))
    optimizer.step()
layer = model.conv2.conv
layer.grad_quantizer = Listening(4)
backward(slice(0, 64))
g = layer.grad_quantizer.heard
largest = np.abs(g).max(axis=(1, 2, 3))
print(f"gradient {g.shape}, M of the samples from {largest.min():.1e} to {largest.max():.1e}")
print(f"share of gradients smaller than a tenth of their M: {np.mean(np.abs(g) < largest[:, None, None, None] / 10):.0%}")
assert g.shape == (64, 7, 7, 32)
assert largest.max() > 2 * largest.min()

# %% [markdown]
# The samples' scales differ: an image that the network reads with confidence usually has small gradients, a mistake has large
# ones. With a single scale for the whole batch, the quiet samples would drown in noise that fits the loudest. So each has its
# own, and the kernels must live with it (chapter 6). To say how much noise there is, divide the energy of the signal by that
# of the error. It is the *signal to noise ratio*, SNR, given in decibels (dB), ten times the logarithm to base 10:
#
# $$\mathrm{SNR} = 10 \log_{10} \frac{\sum g^2}{\sum (g_q - g)^2}$$
#
# At 0 dB the noise is as strong as the signal; 20 dB mean a hundred times weaker.


# %%
def decibels(exact, noisy):
    return 10 * np.log10(np.sum(np.square(exact, dtype=np.float64)) / np.sum(np.square(noisy - exact, dtype=np.float64)))


g64, widths, rng = g.astype(np.float64), (2, 4, 6, 8), np.random.default_rng(1)
snr = [decibels(g64, f_gamma(g64, bits, rng.uniform(-0.5, 0.5, g.shape))[1]) for bits in widths]
one_scale = f_gamma(g64[None], 4, rng.uniform(-0.5, 0.5, g.shape))[1][0]
print("bits          " + "".join(f"{bits:>8}" for bits in widths))
print("SNR           " + "".join(f"{value:5.1f} dB" for value in snr))
print(f"with one scale for all samples, 4 bits: {decibels(g64, one_scale):.1f} dB")
assert decibels(g64, one_scale) < snr[1]

# %% [markdown]
# ## What a bit is worth
#
# The levels are $\Delta = 2M/n$ apart. A number with fraction $f$ is rounded up with probability $f$, an error of
# $(1 - f) \Delta$, and else down, an error of $f \Delta$. The mean square of the error is
#
# $$f\, (1-f)^2 \Delta^2 + (1-f)\, f^2 \Delta^2 = f\, (1-f)\, \Delta^2$$
#
# at most $\Delta^2 / 4$, for $f = 1/2$. All of it is proportional to $\Delta^2$, that is to $1/n^2$. One more bit makes
# $2n + 1$ of $n$: steps a bit shorter than half, a quarter of the noise, and $10 \log_{10} 4$ is 6.0 dB. At few bits the "a
# bit shorter" counts: from 2 to 3 bits, 3 steps become 7, which is 7.4 dB. (The fractions change, too: at 2 bits nearly all
# gradients lie near the middle of the same step, where $f(1-f)$ is 1/4; at 8 bits they are spread out, and 1/6 is the mean.
# That adds up to 1.8 dB.)

# %%
assert round(10 * np.log10(4), 1) == 6.0 and round(20 * np.log10(7 / 3), 1) == 7.4 and round(10 * np.log10(6 / 4), 1) == 1.8
M = np.abs(g64).max(axis=(1, 2, 3), keepdims=True)
for bits, measured in zip(widths, snr, strict=True):
    n = 2**bits - 1
    f = (n / 2 * g64 / M + n / 2) % 1
    predicted = 10 * np.log10(np.sum(g64**2) / np.sum(f * (1 - f) * (2 * M / n) ** 2))
    print(f"{bits} bits: {predicted:5.1f} dB by formula, {measured:5.1f} dB measured, mean f(1-f) {(f * (1 - f)).mean():.3f}")
    assert abs(predicted - measured) < 0.3
assert all(11 < later - earlier < 16 for earlier, later in pairwise(snr))  # two bits more, 6 to 8 dB each

# %% [markdown]
# ### Exercise: `draws_for`


# %%
def draws_for(bits, more):
    """With ``bits`` bits, the mean of how many draws is about as good as one draw with ``more`` bits? Round it.

    Take the noise as proportional to the square of the distance of two levels.
    """
    raise YourTurn


def check_draws_for(draws_for):
    assert draws_for(4, 4) == 1
    assert draws_for(2, 4) == 25
    assert [draws_for(1, 2), draws_for(2, 8), draws_for(7, 8)] == [9, 7225, 4]


exercise(draws_for, check_draws_for)

# %% [markdown]
# ## Why it trains nevertheless
#
# With two bits the noise is *stronger* than the signal, and yet such networks learn, if slowly. One might hope that noise
# cancels in the sum over positions and samples that makes the gradient of a weight. If all terms were alike, a sum of
# $64 \cdot 49$ of them would gain 35 dB. But images disagree about where a weight should go, and the signal cancels as well.
# What saves us is another noise, which is there anyway. A step sees a batch of 64 images, not all. Its gradient differs from
# that of all images, it is right on average, and training has always lived with that: the optimizer takes many small steps
# and their errors average out. Rounding adds a second error of the same kind.
#
# So compare the two, for the weight of our layer. The exact gradients of all batches scatter around their mean: that is the
# noise of the choice of a batch. The gradients with rounding in this one layer, and the same random numbers in all layers
# behind it, scatter around the exact ones: that is the noise of rounding.


# %%
def weight_gradient(quantizer, start):
    layer.grad_quantizer = quantizer
    random.seed(start)
    backward(slice(start, start + 64))
    return layer.weight.grad.astype(np.float64)


starts = range(0, len(images), 64)
exact = np.array([weight_gradient(None, start) for start in starts])
mean = exact.mean(axis=0)
batch_noise = np.sum((exact - mean) ** 2) / (len(exact) - 1)
rounding_noise = {}
for bits in widths:
    rounded = np.array([weight_gradient(DoReFaGradient(bits), start) for start in starts])
    rounding_noise[bits] = np.sum((rounded - exact) ** 2) / len(exact)
quieter = [10 * np.log10(batch_noise / rounding_noise[bits]) for bits in widths]
print("bits                                       " + "".join(f"{bits:>9}" for bits in widths))
print("SNR of g                                   " + "".join(f"{value:6.1f} dB" for value in snr))
print("weight: noise of the batch over of rounding" + "".join(f"{value:6.1f} dB" for value in quieter))
assert snr[0] < 0 and round(10 * np.log10(64 * 49)) == 35
assert batch_noise > np.sum(mean**2)  # batches disagree by more than they agree
assert quieter[0] < 0 and quieter[-1] > 20

figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
axes[0].hist((g64 / M).ravel(), bins=101, range=(-1, 1), color=GREY, density=True)
for level in (-1, -1 / 3, 1 / 3, 1):
    axes[0].axvline(level, color=AMBER, linewidth=2)
axes[0].set(title="Most gradients lie between two levels", xlabel="gradient / M; lines: the levels of 2 bits", ylabel="density")
axes[0].set_yscale("log")
axes[1].plot(widths, snr, "o-", color=AMBER, label="g: signal over rounding")
axes[1].plot(widths, quieter, "o-", color=BLUE, label="weight: batch over rounding")
axes[1].axhline(0, color=GREY, linestyle="--")
axes[1].set(title="About 6 dB a bit", xlabel="gradient bits", ylabel="times the rounding noise, dB", xticks=widths)
axes[1].legend(frameon=False, fontsize=9)
show(figure, "05-snr")

# %% [markdown]
# In this layer, two bits add more noise than the choice of the batch does, eight bits less than a hundredth of it. Where the
# blue curve crosses the dashed line, rounding stops being the larger of the two. Chapter 8 trains with several widths.
#
# ## Noise that can be repeated
#
# Random numbers from a generator come one after the other. That would make a training depend on which thread asks first, and
# a run that was interrupted could not go on as if nothing had happened. `bitnet.random` therefore keeps no generator, but
# counts its *draws*: a draw is one array of noise, and element $i$ of draw $d$ is computed by scrambling the bits of (seed,
# $d$, $i$). Whoever asks for it gets the same number. The whole state is two integers.
#
# So `DoReFaGradient` can be checked against our five lines: the same noise must give the same codes.

# %%
quantizer = DoReFaGradient(4)
random.seed(3)
codes = quantizer.encode(g)
random.seed(3)
sigma = random.uniform(g.shape) - np.float32(0.5)  # the same draw, as an array
ours, real = f_gamma(g, 4, sigma)
print(f"{g.size:,} codes, {np.count_nonzero(codes.values != ours)} differ; state (seed, draws): {random.get_state()}")
assert np.array_equal(codes.values, ours)
assert np.allclose(codes.decode(), real, rtol=1e-5)

count = threads.get_threads()
for number in (1, 2):
    threads.set_threads(number)
    random.seed(3)
    assert np.array_equal(quantizer.encode(g).values, codes.values)  # the same on one thread and on two
threads.set_threads(count)
assert not np.array_equal(quantizer.encode(g).values, codes.values)  # the next draw is another one
assert not DoReFaGradient(2).encode(np.zeros((1, 4), np.float32)).decode().any()  # M = 0: the one sample without noise

# %% [markdown]
# The last line is a case that our five lines miss: a sample whose gradient is zero has $M = 0$. The library's scale is then
# 0, and all its codes stand for 0.
#
# ## What to keep
#
# - A gradient is scaled by the largest magnitude of its sample, moved by noise of at most half a step, then rounded. It is
#   right on average.
# - Plain rounding is not, and no number of steps repairs it.
# - A bit is worth about 6 dB. With 2 bits the noise is louder than the gradient; many small steps average it out, as they do
#   with the noise of small batches. How many is another question: chapter 8 shows a training that is too short for 2 bits.

# %% [markdown]
# Further: Zhou et al., DoReFa-Net, [arXiv:1606.06160](https://arxiv.org/abs/1606.06160), 2016, section 2.5 and equation 7;
# look for what it says happens without the noise. Gupta et al., Deep Learning with Limited Numerical Precision,
# [arXiv:1502.02551](https://arxiv.org/abs/1502.02551), 2015: stochastic rounding of everything, with 16 bits. Noise that is a
# hash of a counter: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011, and `kernels/machine/noise.py`.
