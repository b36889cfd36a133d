# %% [markdown]
# # 12. Design and repair
#
# The parts are built. How does one put them together, and what does one do when a network with few bits does not learn? This
# chapter takes the network of the course, changes one thing at a time, and looks inside: at latent weights, pooling, shortcuts,
# the first layer, a quantizer of your own. It ends with the cases in which few bits do not pay.

# %%
import matplotlib.pyplot as plt
import numpy as np
from common import AMBER, BLUE, GREY, RED, YourTurn, exercise, read, show, size
from network import small

from bitnet import Codes, execution, functional, optimizers
from bitnet.quantizers import DoReFaWeight
from bitnet.quantizers.base import Quantizer
from bitnet.report.inside import Inside
from bitnet.training import Trainer

train, test = read("train", size(2000, 200)), read("test", size(500, 100))
EPOCHS = size(3, 2)


def learn(net, rate=0.005, inside=False):
    """The history of a short training: a record an epoch."""
    trainer = Trainer(net, train, test, epochs=EPOCHS, batch_size=20, callbacks=[Inside(samples=32, draws=4)] * inside,
                      optimizer=optimizers.Adam(net.parameters(), lr=rate, eps=1e-5),
                      schedule=optimizers.StepDecay(rate, 0.3, every=1 / EPOCHS))
    trainer.run()
    return trainer.history


def flips(before, net):
    """The share of the signs of conv1 that have changed."""
    return np.mean((before >= 0) != (net.conv1.conv.weight.data >= 0))


# %% [markdown]
# ## Latent weights are inertia
#
# A weight of one bit is a sign. What, then, does the size of its latent weight mean? Multiply all latent weights of the inner
# layers by 10. The signs are the same; the scale $E$ grows tenfold, and batch norm divides it out again. So the network
# computes what it computed. But a step of Adam has the size of the learning rate, whatever the weight.
#
# <details><summary>Predict: which of the two networks learns more in the same number of steps?</summary>
#
# The one with small latent weights. A large latent weight takes ten times as many steps to cross zero. It is not a weight, it
# is how firmly its sign is held: *inertia*.
#
# </details>

# %%
flipped, loss = {}, {}
for factor in (1, 10):
    net = small(width=16)
    for block in (net.conv1, net.conv2):
        block.conv.weight.data[...] *= factor
    before = net.conv1.conv.weight.data.copy()
    loss[factor] = learn(net)[-1]["train_loss"]
    flipped[factor] = flips(before, net)
    print(f"latent weights x {factor:<3} {flipped[factor]:6.1%} of the signs of conv1 changed, loss {loss[factor]:.2f}")
assert flipped[10] < flipped[1] / 2

# %% [markdown]
# So for few bits the initial size of weights and the learning rate are one thing, not two: their ratio is how fast signs may
# change. It also explains why a falling learning rate freezes signs, and why weight decay, which pulls latent weights towards
# zero, makes them flip *more*. Some methods drop the latent weight and keep only the inertia (Helwegen et al., below).
#
# ### Exercise: `steps_to_cross`


# %%
def steps_to_cross(w, rate):
    """About how many steps of Adam in one direction, each as long as the learning rate, until the sign of w changes? Up."""
    raise YourTurn


def check_steps_to_cross(steps_to_cross):
    assert steps_to_cross(0.5, 0.25) == 2
    assert steps_to_cross(-0.05, 0.0078125) == 7
    assert steps_to_cross(5.0, 0.25) == 10 * steps_to_cross(0.5, 0.25)


exercise(steps_to_cross, check_steps_to_cross)

# %% [markdown]
# ## Pool before you round
#
# Where should max pooling stand? Take numbers that become 1 bit with probability one half: each such bit carries one bit of
# information. Round first and pool then: a window of four is 0 only where all four are, with probability 1/16. Nearly
# everything is 1, and says nothing. How much a bit says is its *entropy*, $-p \log_2 p - (1 - p) \log_2 (1 - p)$:

# %%
def entropy(p):
    return -p * np.log2(p) - (1 - p) * np.log2(1 - p)


rng = np.random.default_rng(0)
x = rng.standard_normal((20_000, 4))
late = (x > 0).max(axis=1)                       # round, then pool
pooled = x.max(axis=1)
early = (pooled - pooled.mean()) / pooled.std() > 0  # pool, then batch norm, then round
print(f"round, pool:             {late.mean():.2f} are 1, {entropy(late.mean()):.2f} bits of information each")
print(f"pool, batch norm, round: {early.mean():.2f} are 1, {entropy(early.mean()):.2f} bits")
assert entropy(late.mean()) < 0.4 < 0.9 < entropy(early.mean())

# %% [markdown]
# So with one bit the order convolution, pool, batch norm, activation is worth a lot, and XNOR-Net orders a block so that
# batch norm stands right before the rounding. DoReFa-Net with two bits or more can afford batch norm before the pool: its
# clip and levels leave room above. (In DoReFa's order pooling before or after rounding is the same thing: chapter 11.)
#
# ## A way around
#
# Every rounding loses something, and layers behind it cannot bring it back. A *shortcut* (`Residual` in bitnet) adds the
# input of a layer to its output. If it adds the *sums*, before they are rounded, real numbers travel around the layer of few
# bits. Here is a chain of eight layers with random weights. How much of the input is left in the output, as a correlation, if
# each layer keeps nothing but signs?

# %%
depth, width = 8, 400
plain = around = start = rng.standard_normal((500, width))
left = {"a chain": [1.0], "with shortcuts": [1.0]}
for _ in range(depth):
    mix = np.linalg.qr(rng.standard_normal((width, width)))[0]  # keeps lengths and angles

    def layer(x, mix=mix):
        """Signs times a mixing matrix, which is turned back, so that only the loss of rounding is seen."""
        return np.sign(x @ mix) @ mix.T * np.sqrt(2 / np.pi)

    plain, around = layer(plain), around + layer(around)
    for name, now in (("a chain", plain), ("with shortcuts", around)):
        left[name].append(np.corrcoef(now.ravel(), start.ravel())[0, 1])
print("layers         " + "".join(f"{i:6}" for i in range(depth + 1)))
for name, row in left.items():
    print(f"{name:15}" + "".join(f"{value:6.2f}" for value in row))
assert left["with shortcuts"][-1] > left["a chain"][-1] + 0.2

figure, axis = plt.subplots()
for (name, row), color in zip(left.items(), (RED, BLUE), strict=True):
    axis.plot(row, "o-", color=color, label=name)
axis.set(title="Each sign loses a part; a shortcut carries the rest past it", xlabel="layers of one bit",
         ylabel="correlation with the input", ylim=(0, 1.05))
axis.legend(frameon=False)
show(figure, "12-shortcut")

# %% [markdown]
# The price is memory and time: what goes around is 16 or 32 bits wide.
#
# ## The first and the last layer
#
# Chapter 1 counted that there is little to win. Now measure what there is to lose. The same training with the first layer's
# weights rounded to signs, with the last layer's, and as it should be:

# %%
ends = {}
for name in ("as it should be", "conv0 in 1 bit", "fc in 1 bit"):
    net = small(width=16)
    if name != "as it should be":
        (net.conv0.conv if "conv0" in name else net.fc).weight_quantizer = DoReFaWeight(1)
    last = learn(net)[-1]
    ends[name] = last["train_loss"], last["test_accuracy"]
    print(f"{name:16} training loss {ends[name][0]:.2f}, test accuracy {ends[name][1]:.1%}")
error = np.sqrt(0.25 / len(test))
print(f"a standard error is at most {error:.1%}: believe differences of accuracy above {2.8 * error:.0%} (chapter 8)")
assert len(ends) == 3 and all(np.isfinite(value) for value, _ in ends.values())

# %% [markdown]
# ## Your own quantizer
#
# A quantizer is a class with one method, `encode_and_save`: it returns `Codes`, and what backward needs (None: the gradient
# goes straight through). Here are weights of three levels, $-1, 0, +1$ times a scale, in a few lines: those below a threshold
# are zero and the scale is the mean of what is left. That is a Ternary Weight Network (Li et al., below), whose optimal
# threshold is about 0.7 times the mean magnitude.


# %%
class Ternary(Quantizer):
    """Codes 0, 1, 2 of the levels -1, 0, +1, and one scale."""

    def encode_and_save(self, w):
        large = np.abs(w) > 0.7 * np.abs(w).mean()
        values = (1 + np.sign(w) * large).astype(np.uint8)
        return Codes(values, 2, "ternary", float(np.abs(w[large]).mean())), None


net = small(width=16)
for block in (net.conv1, net.conv2):
    block.conv.weight_quantizer = Ternary(2)
codes = net.conv1.conv.weight_quantizer.encode(net.conv1.conv.weight.data)
with execution.log() as log:
    images = np.float32(train.images[:16]) / 256
    functional.softmax_cross_entropy(net.train()(images), train.labels[:16].astype(np.int64)).backward()
inner = [record for record in log if record.layer in ("conv1", "conv2")]
print("shares of -1, 0, +1:", (np.bincount(codes.values.ravel(), minlength=3) / codes.values.size).round(2))
print("still on integers:", ", ".join(f"{record.layer} {record.role} {record.bits[0]} x {record.bits[1]}" for record in inner))
assert len(inner) == 6 and all(max(record.bits) < 32 for record in inner)
print(f"training loss {learn(net)[-1]['train_loss']:.2f}, with signs {ends['as it should be'][0]:.2f}")

# %% [markdown]
# Nothing else had to change: layers take quantizers as arguments, kernels take codes of any encoding, and the log shows that
# all six inner products are still of integers.
#
# ## Reading `--inside`
#
# Both training scripts have `--inside`. It measures what chapter 8 looked at. What to do with it:
#
# | what you see | what it means | what to try |
# |---|---|---|
# | hardly any sign flips | latent weights are too large for the rate | a higher rate, smaller initial weights |
# | many flip, also in the last epoch | steps too long, or gradients of noise | a lower rate at the end |
# | nearly all activations saturated | numbers lie outside of [0, 1] | batch norm before the clip, a lower rate |
# | cosine of gradients near 0 | noise of rounding | more gradient bits, larger batches, more time |
# | one code takes nearly all | levels do not fit the numbers | another scale or quantizer |
#
# A broken network, to practise: someone set the learning rate 200 times too low.

# %%
sick = {name: learn(small(width=16), rate, inside=True)[-1]["inside"] for name, rate in (("rate 0.005", 0.005),
                                                                                       ("rate 0.000025", 0.000025))}
seen = {}
for name, record in sick.items():
    means = [np.mean([entry[key] for entry in record[part].values()])
             for part, key in (("weights", "flipped"), ("activations", "saturated"), ("gradients", "cosine"))]
    seen[name] = means
    print(f"{name:14} flipped {means[0]:7.2%}, saturated {means[1]:4.0%}, cosine {means[2]:.2f}")
assert seen["rate 0.000025"][0] < seen["rate 0.005"][0] / 3

figure, axes = plt.subplots(1, 2)
for axis, column, title in ((axes[0], 0, "Signs flipped, last epoch, %"), (axes[1], 1, "Activations without gradient, %")):
    axis.bar(list(seen), [100 * means[column] for means in seen.values()], color=(GREY, AMBER))
    axis.set(title=title)
show(figure, "12-inside")

# %% [markdown]
# ### Exercise: `diagnose`


# %%
def diagnose(flipped, saturated, cosine):
    """ "rate" (signs hardly flip, below 0.1 %), "clip" (above 95 % saturated), "bits" (cosine below 0.1), else "fine"."""
    raise YourTurn


def check_diagnose(diagnose):
    assert diagnose(0.0001, 0.5, 0.6) == "rate"
    assert diagnose(0.02, 0.99, 0.6) == "clip"
    assert diagnose(0.02, 0.5, 0.05) == "bits"
    assert diagnose(0.02, 0.5, 0.6) == "fine"


exercise(diagnose, check_diagnose)

# %% [markdown]
# ### Find the bug
#
# This quantizer of weights loses one of its levels. Which, and why does training still seem to work?

# %%
def levels_of(w, bits):
    """Levels 2c - n of weights in [-1, 1], rounded to the nearest code."""
    n = 2**bits - 1
    return 2 * np.floor(n * (w + 1) / 2).astype(int) - n


def check_levels_of(levels_of):
    w = np.linspace(-1, 1, 1001)[1:-1]
    assert sorted(set(np.ravel(levels_of(w, 2)).tolist())) == [-3, -1, 1, 3]
    assert levels_of(np.array([0.9]), 1)[0] == 1


exercise(levels_of, check_levels_of)

# %% [markdown]
# ## When few bits do not pay
#
# - *The work is elsewhere.* If the inner products are a third of a step, few bits gain at most half as much again (chapter 10).
# - *Few channels, one image at a time, a first layer*: words stay empty, or Python and packing cost more than the product.
# - *Many bits times many bits*: from some pairs of planes on bytes win, and then float is not far.
# - *A small network.* Bits cost a narrow network more accuracy than a wide one. Compare at equal time or equal memory: a float
#   network with half the channels has a quarter of the work.
# - *Short trainings, small data.* Noise wants steps (chapters 5 and 8).
# - *Memory of training.* Weights and the optimizer do not shrink (chapter 7). Few bits pay when a network is *used*.
#
# ## What to keep
#
# - A latent weight is inertia. Its size over the learning rate is how fast its sign can change.
# - Pool before rounding, batch norm right before it, real numbers around it where depth needs them.
# - Change one thing at a time, look inside, and know the error of what you compare.
#
# Further: Helwegen et al., Latent Weights Do Not Exist, [arXiv:1906.02107](https://arxiv.org/abs/1906.02107), 2019: an
# optimizer that only flips; look for its two numbers and what they correspond to in Adam. Liu et al., Bi-Real Net,
# [arXiv:1808.00278](https://arxiv.org/abs/1808.00278), 2018: shortcuts around every layer; look at where exactly they begin
# and end. Rastegari et al., XNOR-Net, [arXiv:1603.05279](https://arxiv.org/abs/1603.05279), 2016: its section on the order of
# a block. Li et al., Ternary Weight Networks, [arXiv:1605.04711](https://arxiv.org/abs/1605.04711), 2016: how 0.7 is derived.
# In bitnet: `bitnet/methods`, a paper a file.
