# %% [markdown]
# # 11. Bytes, and integers only
#
# Bits are not the only way to multiply small integers: processors have instructions that multiply bytes, and for most
# products of a narrow network they are the quicker way. This chapter finds their identity. Then it takes the network of the
# course, trains it, and removes every real number from it: batch norm becomes thresholds, pixels stay bytes, and what is left
# are integers.

# %%
import matplotlib.pyplot as plt
import numpy as np
from check import SOLUTION, load
from common import AMBER, BLUE, FAINT, YourTurn, exercise, read, show, size
from network import small

import bitnet
from bitnet import Codes, Tensor, execution, functional, optimizers
from bitnet.kernels import products
from bitnet.kernels.products.geometry import Conv
from bitnet.training import Trainer

mine = load(SOLUTION)

# %% [markdown]
# ## Four bytes a step
#
# Neural networks of 8 bits are so common that processors have an instruction for them: it takes four unsigned bytes and four
# signed ones, multiplies them in pairs and adds the four products to a 32-bit sum, in each lane of a vector. bitnet's family
# `byte_dot` is made of it. Codes are unsigned bytes as they are. Weights enter as levels $w = 2c - n$, signed bytes. For
# activations that is all, since code and level are the same: $S = \sum u\,w$. For bipolar codes $v$, whose level is
# $2v - n$, multiply out:
#
# $$\sum (2v - n)\, w = 2 \sum v\,w - n \sum w$$
#
# Again a count (here a sum) of what is stored, and a constant for each filter. At the border the sum of $w$ runs over the taps
# inside the image, and padding with code 0 adds nothing to the first sum: the table of chapter 4, once more.

# %%
rng = np.random.default_rng(0)
v, c = rng.integers(0, 16, (5, 100), np.uint8), rng.integers(0, 2, (100, 7), np.uint8)  # 4 bits and 1 bit
w = (2 * c.astype(np.int8) - 1).astype(np.int8)
S = np.int32(v) @ np.int32(w)
by_bytes = 2 * S - 15 * w.sum(axis=0, dtype=np.int32)
conv = Conv(100, 7, (1, 1))
theirs = products.forward("byte_dot", Codes(v[:, None, None], 4, "bipolar"), Codes(c[None, None], 1, "bipolar"), conv)
assert (by_bytes == (2 * v.astype(int) - 15) @ w).all() and (by_bytes == theirs[:, 0, 0]).all()
assert (by_bytes == mine.signed(v, 4, c.T, 1)).all()  # and by bits
print("bytes, bits and plain levels: the same", by_bytes.size, "integers, the first", by_bytes[0, 0])
print("levels of 8 bits go from", -255, "to", 255, "- a signed byte ends at", np.iinfo(np.int8).max)

# %% [markdown]
# Levels of 8 bits do not fit a signed byte. The kernel splits them into two digits, $w = 16\,h + l$, and does the work twice.
#
# ## Which is quicker?
#
# A step of popcount takes 32 codes of *one pair of planes*. A step of bytes takes 4 codes, *whatever their bits*.
#
# <details><summary>Predict: if both steps took the same time, from how many pairs of planes on would bytes win?</summary>
#
# 32 codes a step divided by the pairs, against 4: they meet at 8 pairs, (2, 4) bits. But an XOR, a popcount and an addition are
# three instructions and the dot product of bytes is one, where a machine has it. So on many machines bytes win earlier.
#
# </details>
#
# And a word that is not full counts nothing less: with 16 channels half of its 32 places are idle, while four bytes are always
# full. So ask the clock, as `auto` does: it measures each product once and remembers. For the network of the course:

# %%
train, test = read("train", size(3000, 300)), read("test", size(1000, 100))
net = small(width=16).train()
batch = np.float32(train.images[:size(64, 16)]) / 256
labels = train.labels[:len(batch)].astype(np.int64)
for _ in range(2):  # the first step measures
    with bitnet.use_kernels("auto"), execution.log() as log:
        functional.softmax_cross_entropy(net(batch), labels).backward()
print(f"{'layer':7}{'product':13}{'pairs':>6}{'codes a step: bits':>20}{'bytes':>7}   auto takes")
for record in log:
    if record.layer in ("conv1", "conv2") and max(record.bits) < 32:
        depth, pairs = {"conv1": 16, "conv2": 32}[record.layer], record.bits[0] * record.bits[1]
        places = {"forward": min(depth, 32), "input_grad": 32, "weight_grad": 32}[record.role]
        print(f"{record.layer:7}{record.role:13}{pairs:6}{places / pairs:20.1f}{4:7}   {record.family}")
assert sum(record.layer in ("conv1", "conv2") for record in log) == 6

# %% [markdown]
# ### Exercise: `quicker`


# %%
def quicker(channels, w_bits, a_bits, ratio):
    """ "bits" or "bytes", for a forward product of at most 32 channels: which does more codes in the time of a step of bits?

    A word has 32 places, of which ``channels`` are used. In the time of a step of bits, ``ratio`` steps of bytes are done.
    """
    raise YourTurn


def check_quicker(quicker):
    assert quicker(32, 1, 2, 1.0) == "bits"
    assert quicker(8, 1, 4, 1.0) == "bytes"
    assert quicker(32, 2, 4, 1.5) == "bytes"


exercise(quicker, check_quicker)

# %% [markdown]
# ## Train, then freeze
#
# Now the network of chapters 7 and 8 gets its training, and will learn no more. What does it need from here on? Not the
# latent weights: their signs. Not the noise. And of batch norm only the running mean and variance, which are numbers that no
# longer move.

# %%
epochs = size(6, 2)
Trainer(net, train, test, epochs=epochs, batch_size=20, optimizer=optimizers.Adam(net.parameters(), lr=0.005, eps=1e-5),
        schedule=optimizers.StepDecay(0.005, (1 / 60) ** (1 / (epochs - 1)), every=1 / epochs)).run()
net.eval()
held, truth = np.float32(test.images) / 256, test.labels
logits = net(held).data
accuracy = np.mean(logits.argmax(axis=1) == truth)
print(f"after {epochs} epochs of {len(train)} images: {accuracy:.1%} of {len(test)} test images right")

# %% [markdown]
# ## Batch norm as thresholds
#
# A sum of `conv1` is an integer $s$. Then come the scales, batch norm, clip and rounding, all of it real numbers, and out
# comes a code of two bits. But a function from integers to four codes needs no real numbers: it is a staircase of $s$. It
# rises where the slope of batch norm is positive and falls where it is negative, so it has three steps, and it is enough to
# know where they are. The code is the number of *thresholds* that the sum has reached. Where the staircase falls, change the
# sign of the sum.
#
# Max pooling takes the largest sum of a window (after the change of sign), as a rising staircase keeps the order.


# %%
def thresholds(real, bound, bits):
    """sign (C,) and thresholds (n, C): the code is how many of them sign * sum has reached, for sums from -bound to bound.

    real(sums (S, 1)) -> numbers (S, C), those that are clipped and rounded
    """
    codes = mine.activation_codes(real(np.arange(-bound, bound + 1, dtype=np.float32)[:, None]), bits).astype(int)
    sign = np.where(codes[-1] >= codes[0], 1, -1)
    rising = np.where(sign > 0, codes, codes[::-1])
    return sign, np.stack([(rising < code).sum(axis=0) - bound for code in range(1, 2**bits)])


def reached(sums, sign, steps):
    """Codes of integer sums (N, H, W, C), max pooled: comparisons alone."""
    pooled, _ = mine.max_pool(sums * sign)
    return (pooled[..., None, :] >= steps).sum(axis=-2).astype(np.uint8)


def normed(block, scale):
    """What a block does to a sum before clip: its scale and batch norm, of one channel each."""
    norm = block.norm
    return lambda sums: mine.batch_norm(sums * np.float32(scale), norm.gamma.data, norm.beta.data, norm.running_mean,
                                        norm.running_var)


codes_in = net.conv0(Tensor(held[:64])).codes
weights = net.conv1.conv.weight_quantizer.encode(net.conv1.conv.weight.data)
sums = mine.forward(codes_in.values, 2, weights.values, 1, 1)
bound = 3 * 9 * 16  # the largest level, taps, channels
sign, steps = thresholds(normed(net.conv1, weights.scale / 3), bound, 2)
by_integers, by_floats = reached(sums, sign, steps), net.conv1(Tensor(codes_in)).codes.values
print(f"conv1: {np.mean(by_integers == by_floats):.3%} of {by_floats.size:,} codes are those of the float arithmetic")
print("thresholds of the first channels:", steps[:, :4].T.tolist(), "signs", sign[:4].tolist())
assert np.mean(by_integers == by_floats) > 0.9999 and steps.shape == (3, 32)

figure, axis = plt.subplots()
at, chosen = np.arange(-bound, bound + 1), (int(np.argmax(steps[2] - steps[0])), int(np.argmin(steps[2] - steps[0])))
for channel, color in zip(chosen, (BLUE, AMBER), strict=True):
    axis.step(at, (sign[channel] * at[:, None] >= steps[:, channel]).sum(axis=1), color=color, where="post",
              label=f"channel {channel}: thresholds {', '.join(map(str, sign[channel] * steps[:, channel]))}")
axis.set(title="What batch norm, clip and rounding do to an integer: three comparisons", xlabel="sum of conv1", ylabel="code",
         yticks=range(4), xlim=np.array([-15, 15]) + [f((sign * steps)[:, chosen]) for f in (np.min, np.max)])
axis.legend(frameon=False, fontsize=9)
show(figure, "11-staircase")

# %% [markdown]
# On the built page, move scale and shift of batch norm, and see where the thresholds go.
#
# <div class="widget" data-widget="frozen"></div>
#
# bitnet does the same: `bitnet.freeze` reads the tree into stages, and its codes and logits are those of the network in all
# bits.

# %%
frozen = bitnet.freeze(net)
for stage in frozen.stages:
    print(f"{stage.name or '':8} {stage.about()}")
assert np.array_equal(frozen(held[:64]).data, net(held[:64]).data)

# %% [markdown]
# ### Exercise: `pooled_late`
#
# May one take the codes first and pool them then?


# %%
def pooled_late(sums, sign, steps):
    """Codes (N, H/2, W/2, C) as ``reached`` gives them, but compared first and pooled with ``mine.max_pool`` afterwards."""
    raise YourTurn


def check_pooled_late(pooled_late):
    assert np.array_equal(pooled_late(sums, sign, steps), reached(sums, sign, steps))


exercise(pooled_late, check_pooled_late)

# %% [markdown]
# ## The last real numbers
#
# Left are the ends: the first layer multiplies pixels by real weights, the last one clipped numbers by real weights. They
# stayed float because training needs it (chapter 1). After training, 8 bits are enough for them, rounded plainly. A pixel is
# a byte already. The first layer's sums get thresholds, too. The input of the last layer gets 4 bits. Its outputs are
# compared with each other only, so they need no scale: the largest integer wins. Here is the network of the course, from
# bytes to a digit, with nothing but integers.


# %%
def to_bytes(weight):
    """Signed bytes and a scale, for a weight that has learned all it will."""
    scale = np.abs(weight).max() / 127
    return np.rint(weight / scale).astype(np.int8), scale


def integer_network(net):
    """images (N, 40, 40, 3), uint8 -> scores (N, 10), int64. All real numbers are used up here, before any image comes."""
    w0, s0 = to_bytes(net.conv0.conv.weight.data)
    bias = net.conv0.conv.bias.data
    real_steps = (np.arange(1, 4)[:, None] - 0.5) / 3            # where rint goes from one code to the next
    steps0 = np.ceil((real_steps - bias) * 256 / s0).astype(np.int64)
    blocks = []
    for name, bits, padding in (("conv1", 2, 1), ("conv2", 4, 0)):
        block = net[name]
        codes = block.conv.weight_quantizer.encode(block.conv.weight.data)
        blocks.append((codes.values, padding, *thresholds(normed(block, codes.scale / 3), 3 * codes.values[..., 0].size, bits)))
    w3, s3 = to_bytes(net.fc.weight.data)
    bias3 = np.rint(net.fc.bias.data * 15 / s3).astype(np.int64)

    def run(pixels):
        rows = mine.im2col(pixels, 5).astype(np.int32)
        u = reached(rows @ w0.reshape(-1, w0.shape[3]).astype(np.int32), 1, steps0)
        for weight, padding, sign, steps in blocks:
            u = reached(mine.forward(u, 2, weight, 1, padding), sign, steps)
        scores = u.reshape(len(u), -1).astype(np.int64) @ w3 + bias3
        assert all(array.dtype.kind in "iu" for array in (pixels, rows, w0, steps0, u, w3, scores))
        return scores

    parts = [w0.nbytes, w3.nbytes, *(weight.size / 8 for weight, *_ in blocks)]
    return run, sum(parts) + 2 * (steps0.size + sum(steps.size for *_, steps in blocks))


run, stored = integer_network(net)
scores = np.concatenate([run(test.images[i:i + 100]) for i in range(0, len(test), 100)])
same = np.mean(scores.argmax(axis=1) == logits.argmax(axis=1))
floats = 4 * sum(parameter.data.size for parameter in net.parameters())
print(f"integers only: {np.mean(scores.argmax(axis=1) == truth):.1%} right, the trained network {accuracy:.1%}; "
      f"the same digit for {same:.1%} of the images")
print(f"{stored / 1000:.1f} kB, {floats / 1000:.1f} kB in float32: {floats / stored:.1f} times less")
assert same > size(0.85, 0.6) and floats > 4 * stored

figure, axis = plt.subplots(figsize=(8, 2.6))
chain = [("pixels\n8 bits", AMBER), ("conv0\nbytes", AMBER), ("3 steps", FAINT), ("codes\n2 bits", BLUE), ("conv1\nXOR", BLUE),
         ("3 steps", FAINT), ("codes\n2 bits", BLUE), ("conv2\nXOR", BLUE), ("15 steps", FAINT), ("codes\n4 bits", AMBER),
         ("fc\nbytes", AMBER), ("largest", FAINT)]
for i, (word, color) in enumerate(chain):
    axis.add_patch(plt.Rectangle((i, 0), 0.88, 1, color=color, alpha=0.55))
    axis.text(i + 0.44, 0.5, word, ha="center", va="center", fontsize=8)
axis.set(title="From pixels to a digit: amber bytes, blue bits, grey comparisons", xlim=(0, len(chain)), ylim=(-0.1, 1.1))
axis.axis("off")
show(figure, "11-integers")

# %% [markdown]
# The digits differ in a few images, because the ends have been rounded; that is the price of the last real numbers, and it is
# printed above. The inner part is exact.
#
# ## What to keep
#
# - A product of bytes takes codes as they are and levels of weights; one constant mends bipolar codes.
# - Bits win with full words and few pairs of planes, bytes elsewhere. The results are the same integers.
# - Batch norm, clip and rounding of an integer are a few comparisons. A network that has learned needs no real numbers.
#
# Further: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
# [arXiv:1712.05877](https://arxiv.org/abs/1712.05877), 2017: how 8-bit networks get rid of their scales; look at how it folds
# batch norm, and compare with our thresholds. Umuroglu et al., FINN, [arXiv:1612.07119](https://arxiv.org/abs/1612.07119),
# 2016: batch norm as thresholds, in hardware. In bitnet: `kernels/products/byte_dot.py` and `kernels/pointwise/threshold.py`,
# each with its identity at its head.
