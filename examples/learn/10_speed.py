# %% [markdown]
# # 10. Where is the speed
#
# The literature says 58 times faster; a whole training step is not. This chapter measures, on your machine, what single
# products gain from few bits, what a whole step gains, and where few bits do not pay at all. At the end you can read the
# table of `benchmarks/train_step.py` and know what each column hides.

# %%
import statistics
import textwrap
import time

import matplotlib.pyplot as plt
import numpy as np
from common import AMBER, BLUE, FAINT, GREY, RED, YourTurn, digits, exercise, show, size

from bitnet import Codes, execution, functional, models, optimizers, use_kernels
from bitnet.kernels import products
from bitnet.kernels.machine import peak, threads
from bitnet.kernels.products import dense
from bitnet.kernels.products.geometry import Conv
from bitnet.report.profile import KINDS, Profile, speed_up

# %% [markdown]
# ## What 58 times means
#
# XNOR-Net's abstract (arXiv:1603.05279) claims "58x faster convolutional operations". Its journal version (Communications of
# the ACM, 2020) adds "in terms of number of the high precision operations": it is a *count*. One XOR and one popcount on a
# word of 64 bits do the work of 64 multiplications and additions. Count the word as one operation, and a float
# multiply-accumulate (MAC) as one too, then a sum over $c$ channels and $k$ taps costs $ck$
# in float and $ck/64$ in words, plus one float operation to scale the result:
#
# $$\frac{c\,k}{c\,k/64 + 1} = \frac{64\,c\,k}{c\,k + 64}$$
#
# With 256 channels and 9 taps that is 62; never more than 64, and less with fewer channels. But no processor does one float
# at a time. Its *vectors* hold 16 floats (or 8, or 4), it multiplies and adds them in one instruction, and begins one or two
# such instructions a cycle. Words of bits also come in vectors. What the machine can do at best, in registers alone, can be
# measured (chapter 9):

# %%
assert round(64 * 256 * 9 / (256 * 9 + 64)) == 62
limits = peak.measure(quick=True)
count = threads.get_threads()
ratio = limits["popcount_gmacs"] / limits["float_gmacs"]
print(textwrap.fill(peak.describe(limits, count), 100))
print(f"one pair of bit planes against float32: {ratio:.1f} times as many MACs; at (1, 2), two pairs: {ratio / 2:.1f} times")

# %% [markdown]
# GMAC/s are $10^9$ MACs a second. The ratio in the last line is the real upper limit on this machine, and it is for *one*
# pair of bit planes. Codes of $p$ and $q$ bits have $pq$ pairs (chapter 3), so divide by that.

# %% [markdown]
# ### Exercise: `training_limit`


# %%
def training_limit(bits, ratio):
    """The most that the three inner products of training can gain together over float32.

    Each has the same MACs. ``ratio`` is popcount's limit over that of float32, for one pair of planes.
    """
    raise YourTurn


def check_training_limit(training_limit):
    assert np.isclose(training_limit((1, 1, 1), 10), 10)
    assert np.isclose(training_limit((1, 2, 4), 14), 3)
    assert np.isclose(training_limit((8, 8, 8), 64), 1)


exercise(training_limit, check_training_limit)

# %% [markdown]
# ## A clock that can be trusted
#
# A machine does other things meanwhile. So contenders take turns, and the median of several rounds counts: an interruption
# hits one round, not the median. The first call is not counted, because it compiles. What we compare are ratios from the same
# rounds.


# %%
def race(contenders, rounds=None):
    """Median milliseconds of functions, by name, which take turns."""
    for function in contenders.values():
        function()
    spent = {name: [] for name in contenders}
    for _ in range(rounds or size(15, 5)):
        for name, function in contenders.items():
            started = time.perf_counter()
            function()
            spent[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(seconds) for name, seconds in spent.items()}


rng = np.random.default_rng(0)


def contenders(path, channels, filters, batch, pixels, bits):
    """One of the three products of a 3x3 convolution: every family on codes of (W, A, G) bits, and float32."""
    w, a, g = bits
    conv = Conv(channels, filters, (3, 3), (1, 1), ((1, 1), (1, 1)))
    arrays = {"x": ((batch, pixels, pixels, channels), a, "unsigned"), "w": ((3, 3, channels, filters), w, "bipolar"),
              "g": ((batch, pixels, pixels, filters), g, "bipolar")}
    left, right = {"forward": "xw", "input_grad": "gw", "weight_grad": "gx"}[path]
    values = {name: rng.integers(0, 2**k, shape, np.uint8) for name, (shape, k, _) in arrays.items()}
    floats = {name: array.astype(np.float32) for name, array in values.items()}
    scale = np.ones(batch)
    more = {"forward": (conv,), "input_grad": (conv, (pixels, pixels), scale), "weight_grad": (conv, scale)}[path]

    def on_codes(family):
        fresh = (Codes(values[name], *arrays[name][1:]) for name in (left, right))  # not packed yet: packing counts
        return getattr(products, path)(family, *fresh, *more)

    def in_float():
        return getattr(dense, path)(floats[left], floats[right], *[part for part in more if part is not scale])

    found = {family: lambda family=family: on_codes(family) for family in execution.FAMILIES}
    return {**found, "float32": in_float}, conv.macs(batch, pixels, pixels)


# %% [markdown]
# ## One layer, three products
#
# The layer has 128 channels in and out on 7 x 7 pixels, as in the large network of the paper, with (1, 2, 4) bits. The three
# families (popcount; `byte_dot`, dot products of bytes; `float`, matrix products on the levels) start from byte codes and
# pack them themselves. They give the same integers; `float32` multiplies real numbers.

# %%
BITS, BATCH = (1, 2, 4), size(64, 16)
PATHS = {"forward": 1 * 2, "input_grad": 4 * 1, "weight_grad": 4 * 2}  # pairs of planes
gain, share = {}, {}
names = (*execution.FAMILIES, "float32")
print("GMAC/s      pairs" + "".join(f"{name:>10}" for name in names) + "   of limit: popcount, float32")
for path, pairs in PATHS.items():
    functions, macs = contenders(path, 128, 128, BATCH, 7, BITS)
    ms = race(functions)
    gain[path] = {name: ms["float32"] / value for name, value in ms.items()}
    share[path] = macs * pairs / (ms["popcount"] / 1000) / 1e9 / limits["popcount_gmacs"]
    of_float = macs / (ms["float32"] / 1000) / 1e9 / limits["float_gmacs"]
    print(f"{path:<12}{pairs:>5}" + "".join(f"{macs / value / 1e6:10.0f}" for value in ms.values())
          + f"{share[path]:20.0%}{of_float:9.0%}")
    assert share[path] > 0
assert PATHS == {"forward": 2, "input_grad": 4, "weight_grad": 8}
best = {path: max((name for name in found if name != "float32"), key=found.get) for path, found in gain.items()}
if any(gain[path]["popcount"] > 2 * ratio / pairs for path, pairs in PATHS.items()):
    print("TOO GOOD TO BE TRUE: twice what the two limits explain. Did other programs disturb the clock? Run it again.")
print("quickest on codes: " + "; ".join(f"{path} {name}, {gain[path][name]:.1f} x float32" for path, name in best.items()))

figure, axes = plt.subplots(figsize=(8, 3.2))
for i, (name, color) in enumerate(zip(execution.FAMILIES, (BLUE, AMBER, GREY), strict=True)):
    axes.bar(np.arange(3) + 0.25 * (i - 1), [gain[path][name] for path in PATHS], 0.23, color=color, label=name)
axes.axhline(1, color=RED, linewidth=1)
axes.set_xticks(range(3), [f"{path}\n{pairs} pairs of planes" for path, pairs in PATHS.items()])
axes.set(title="More pairs of planes, less gain: one layer against float32 (red line)", ylabel="times as fast")
axes.legend(frameon=False, fontsize=9)
show(figure, "10-layer")

# %% [markdown]
# The rates are *nominal*: a MAC counts once, whatever its bits. The last columns are *shares of the limit*: of popcount, MACs
# times pairs of planes, divided by time and by the limit of popcount; of float32 the same with its own limit and no pairs.
# They say how good a kernel is, and whether the baseline is a fair one; the nominal rate says how long you wait. A kernel may
# have a fine share and still lose, because it must do 8 pairs. So bitnet by default (`auto`) measures once which family is
# the quickest for each product of a network, and remembers.

# %% [markdown]
# ### Exercise: `share_of_limit`


# %%
def share_of_limit(macs, bits, milliseconds, limit):
    """The share that popcount reaches of ``limit`` (GMAC/s of one-bit MACs); bits are those of the two operands."""
    raise YourTurn


def check_share_of_limit(share_of_limit):
    assert np.isclose(share_of_limit(10**9, (1, 1), 1000, 1), 1)
    assert np.isclose(share_of_limit(5 * 10**8, (4, 2), 10, 1000), 0.4)


exercise(share_of_limit, check_share_of_limit)

# %% [markdown]
# ## When low bits do not pay
#
# Four cases, measured: few channels, many pairs of planes, one image at a time, and a first layer.

# %%
CHANNELS, WIDTHS = (4, 8, 16, 32, 64, 128), ((1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8))
by_channels, rate, by_pairs, spent = {}, {}, {}, {}
for channels in CHANNELS:
    functions, macs = contenders("forward", channels, 64, size(32, 8), 14, BITS)
    ms = race(functions, size(9, 5))
    by_channels[channels] = {name: ms["float32"] / value for name, value in ms.items()}
    rate[channels] = macs / ms["popcount"] / 1e6
for w, a in WIDTHS:
    ms = race(contenders("forward", 128, 128, size(16, 8), 14, (w, a, 4))[0], size(9, 5))
    spent[w * a] = ms["popcount"]
    by_pairs[w * a] = {name: ms["float32"] / value for name, value in ms.items()}
print("channels       " + "".join(f"{channels:8}" for channels in CHANNELS))
print("popcount GMAC/s" + "".join(f"{rate[channels]:8.0f}" for channels in CHANNELS))
print("against float32" + "".join(f"{by_channels[channels]['popcount']:8.2f}" for channels in CHANNELS))
print("pairs          " + "".join(f"{pairs:8}" for pairs in by_pairs))
print("popcount       " + "".join(f"{found['popcount']:8.2f}" for found in by_pairs.values()))
print("byte_dot       " + "".join(f"{found['byte_dot']:8.2f}" for found in by_pairs.values()))
assert rate[4] < rate[64]
assert spent[64] > 3 * spent[1]

figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
for panel, found in enumerate((by_channels, by_pairs)):
    for name, color in (("popcount", BLUE), ("byte_dot", AMBER)):
        axes[panel].loglog(list(found), [row[name] for row in found.values()], "o-", color=color, label=name, base=2)
    axes[panel].axhline(1, color=RED, linewidth=1)
    axes[panel].set_xticks(list(found), list(found))
    axes[panel].yaxis.set_major_formatter("{x:g}")
axes[0].set(title="Few channels leave words empty", xlabel="input channels, (1, 2) bits", ylabel="times as fast as float32")
axes[1].set(title="Each pair of planes costs", xlabel="pairs of planes, 128 channels")
axes[0].legend(frameon=False, fontsize=9)
show(figure, "10-limits")

# %% [markdown]
# *Few channels.* A word of popcount holds 32 channels of a pixel here. With 4 channels, 28 of its bits are empty, and cost as
# much as full ones. *Many pairs.* Time grows with the product of the widths; bytes do not care, so from some number of pairs
# on `byte_dot` is ahead where the processor has instructions for it. At (8, 8) there are 64 pairs.
#
# *One image at a time.* Packing weights, waking threads, and Python itself cost the same for one image as for many. *A first
# layer* has 3 channels and 8 bits: 3 of 32 bits of a word are in use, in 8 planes. We count what is left of a word's 32 MACs,
# and measure both cases.

# %%
for name, channels, bits in (("inner layer, (1, 2)", 128, (1, 2, 4)), ("first layer, (1, 8)", 3, (1, 8, 4))):
    for batch in (1, size(32, 8)):
        ms = race(contenders("forward", channels, 64, batch, 14, bits)[0], size(9, 5))
        used = min(channels, 32) / (bits[0] * bits[1])
        print(f"{name:<20} batch {batch:<3} {ms['popcount'] / batch:8.3f} ms an image, {ms['float32'] / ms['popcount']:6.2f} "
              f"x float32, {used:5.2f} MACs a step")
assert 3 / 8 < 0.4 and 32 / 2 == 16 and 32 - 4 == 28

# %% [markdown]
# In the inner layer one step on a word of 32 bits does 16 nominal MACs, in the first layer less than 0.4. So not only
# accuracy (chapter 1) speaks for a float first layer.
#
# ## Amdahl's law
#
# A step takes $T$ seconds. $P$ of them are spent in the products that get faster, $s$ times as fast. The rest stays. The new
# time is $T - P + P/s$, so the whole becomes faster by
#
# $$\frac{T}{T - P + P/s} = \frac{1}{1 - q + q/s}, \qquad q = \frac{P}{T}$$
#
# This is *Amdahl's law*. However large $s$ is, the whole never gains more than $1 / (1 - q)$: with 80 % of the time in the
# products, at most 5 times.


# %%
def amdahl(q, s):
    return 1 / (1 - q + q / s)


assert np.isclose(amdahl(0.8, 1e12), 5) and np.isclose(speed_up(1.0, 0.8), 5)

# %% [markdown]
# On the built page, move the share and both speeds.
#
# <div class="widget" data-widget="amdahl"></div>

# %% [markdown]
# ### Exercise: `needed`


# %%
def needed(q, whole):
    """How many times as fast must a part be that takes the share q, so that the whole is ``whole`` times as fast?

    Return infinity where no speed is enough.
    """
    raise YourTurn


def check_needed(needed):
    assert np.isclose(amdahl(0.8, needed(0.8, 3)), 3)
    assert np.isclose(needed(0.5, 4 / 3), 2)
    assert needed(0.8, 5) == needed(0.5, 3) == np.inf


exercise(needed, check_needed)

# %% [markdown]
# Now a whole training step, of DoReFa-Net's SVHN network with a quarter of its channels (model C), in float and in (1, 2, 4).
# `bitnet.report.profile.Profile` books every moment of a step on a layer, one of the three products or none, and a *kind* of
# work: packing, product, epilogue (batch norm and rounding in a fused block, chapter 7), elementwise, or Python, which is
# everything outside of kernels. Both networks take turns; we look at the round with the median time.

# %%
batch = size(64, 16)
images, labels = digits("train", batch)
INNER = models.INNER_LAYERS


def trainer(bits):
    model = models.svhn("C", bits).train()
    optimizer = optimizers.Adam(model.parameters(), lr=1e-4)

    def step():
        optimizer.zero_grad()
        functional.softmax_cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def profiled(step):
    with Profile() as found:
        step()
    return found


steps, rounds = {"float": trainer((32, 32, 32)), "bits": trainer(BITS)}, {"float": [], "bits": []}
with use_kernels("auto"):
    for turn in range(size(9, 5)):
        for name, step in steps.items():
            found = profiled(step)
            if turn > 1:  # the first ones compile, and measure families
                rounds[name].append(found)
profile = {name: sorted(found, key=Profile.total)[len(found) // 2] for name, found in rounds.items()}
total = {name: found.total() for name, found in profile.items()}
print(f"{'':<7}{'step':>9}  " + "".join(f"{kind:>13}" for kind in KINDS))
for name, found in profile.items():
    shares = [found.total(kind=kind) / total[name] for kind in KINDS]
    print(f"{name:<7}{1000 * total[name]:6.1f} ms  " + "".join(f"{part:13.0%}" for part in shares))
    assert np.isclose(sum(shares), 1)

# %% [markdown]
# Which part do bits make faster? The three products of the six inner layers, packing included. From the two profiles follow
# $q$, the share of this part in the float step, and $s$. Amdahl's law predicts the step; the clock tells what it was.

# %%
inner = {name: sum(found.total(layer, path) for layer in INNER for path in PATHS) for name, found in profile.items()}
q, s = inner["float"] / total["float"], inner["float"] / inner["bits"]
predicted, measured = amdahl(q, s), total["float"] / total["bits"]
print(f"inner products: {q:.0%} of the float step, {s:.1f} times as fast in bits")
print(f"the step: {predicted:.2f} times as fast by Amdahl's law, {measured:.2f} measured; "
      f"with products that take no time, {amdahl(q, np.inf):.2f}")
rest = (total["float"] - inner["float"]) / (total["bits"] - inner["bits"])
print(f"all other work: {rest:.2f} times as fast in the network with bits")
with_rest = 1 / ((1 - q) / rest + q / s)
print(f"the law with both: 1 / ((1 - q) / {rest:.2f} + q / {s:.1f}) = {with_rest:.2f}")
assert 0 < q < 1 and np.isclose(with_rest, measured)
assert np.isclose(predicted, speed_up(total["float"], inner["float"] - inner["bits"]))

figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
speeds = np.geomspace(min(1, s), 64)
for fraction, color, style in ((0.5, FAINT, "-"), (0.8, FAINT, "--"), (q, GREY, "-")):
    label = f"q = {fraction:.0%}" + " (this step)" * (fraction == q)
    axes[0].semilogx(speeds, amdahl(fraction, speeds), style, color=color, label=label, base=2)
axes[0].semilogx([s], [predicted], "o", color=GREY, label="Amdahl: the rest as it was", base=2)
axes[0].semilogx([s], [measured], "o", color=BLUE, label=f"measured: the rest {rest:.1f} x as fast", base=2)
axes[0].annotate("", (s, measured), (s, predicted), arrowprops={"arrowstyle": "->", "color": BLUE})
axes[0].set(title="The whole gains less than its part", xlabel="speed-up of the products", ylabel="speed-up of the step")
axes[0].set_ylim(0, max(9, 2 * measured))
axes[0].set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
axes[0].legend(frameon=False, fontsize=9, loc="upper left")
left = np.zeros(2)
for kind, color in zip(KINDS, ("#5b8fd9", BLUE, AMBER, GREY, FAINT), strict=True):
    part = np.array([profile[name].total(kind=kind) / total["float"] for name in ("bits", "float")])
    axes[1].barh(["bits", "float"], 100 * part, left=left, color=color, label=kind)
    left += 100 * part
axes[1].set(title="Where the time goes", xlabel="time, % of the float step")
axes[1].set_ylim(-0.6, 2.5)
axes[1].legend(frameon=False, fontsize=9, ncols=3, loc="upper left")
show(figure, "10-amdahl")

# %% [markdown]
# Amdahl's law assumes that the rest stays as it is. It does not. The fused blocks move bytes instead of floats through memory,
# which makes the rest faster; they also round, which float need not, and that makes it slower. The line *all other work* says
# which was more on your machine, and the arrow in the picture what it does: where the rest became $r$ times as fast, the step
# gains $1 / ((1 - q)/r + q/s)$. So the measured point does not lie on the curve of this step's $q$, and it says nothing about
# the curve of another share that it may happen to lie on. What remains in bits is the float first layer, epilogues and Python.
# `train_svhn.py --profile` prints this for your network, layer by layer, with the share of the limit of each product and what
# a step would gain if some part took no time:

# %%
free = {kind: speed_up(total["bits"], profile["bits"].total(kind=kind)) for kind in KINDS}
print("the step in bits, if a kind of work took no time: " + ", ".join(f"{kind} {value:.2f} x" for kind, value in free.items()))
assert all(value >= 1 for value in free.values())

# %% [markdown]
# ## How to read the benchmark
#
# ```
# python benchmarks/train_step.py            models A and C, all families, PyTorch where it is installed
# python benchmarks/conv.py                  single layers
# ```
#
# Each row has *impl*, who computed it, and *bits*: a row `float` in 1,2,4 is the family of that name, matrix products on
# integer levels; in 32,32,32 it is the float network. *rate* is nominal (of a whole step, images a second). *share* is that
# of the limit, for popcount only. *speed-up* is over PyTorch in float32 where it is installed, else over bitnet's own float
# path. Ask of this and of any such table:
#
# - *Against what?* A slow baseline makes any kernel look good. Is it the fastest float that users would run?
# - *Of what?* A bare product, a layer with packing, or a whole step?
# - *How many bits?* (1, 1) in inference has one pair of planes; training in (1, 2, 4) has 2, 4 and 8.
# - *On which machine, undisturbed?* The benchmark prints `DISTURBED` when other programs were busy. Then believe nothing.
#
# ## What to keep
#
# - "58 times" counts operations. The limit of a machine, its share, and the clock are three other numbers.
# - Popcount wants many channels and few pairs of planes; where it does not pay, another family computes the same integers.
# - A step gains what Amdahl's law leaves, and more where the rest becomes faster as well, as fusing does here. What is not a
#   product counts as much as what is.

# %% [markdown]
# Further: Rastegari et al., XNOR-Net, [arXiv:1603.05279](https://arxiv.org/abs/1603.05279), 2016, for the count of
# operations; find its formula, and what it divides by what. Amdahl, Validity of the Single Processor Approach, 1967: four
# pages, and no formula in them. Bannink et al., Larq Compute Engine, [arXiv:2011.09398](https://arxiv.org/abs/2011.09398),
# 2020: binary networks measured as whole networks on real processors. `bitnet/report/profile.py` and
# `kernels/machine/peak.py` say what they measure at their heads.
