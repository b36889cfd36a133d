# %% [markdown]
# # 2. Learning through a staircase
#
# Chapter 1 rounded weights and activations to a few values. Training needs slopes, and a staircase has none: it is flat
# almost everywhere. How can a network with such functions inside learn at all? This chapter watches it fail, repairs it
# with one line, the *straight-through estimator*, and shows what breaks without each part of the repair.

# %%
import matplotlib.pyplot as plt
import numpy as np
from check import check
from common import AMBER, BLUE, FAINT, GREY, RED, YourTurn, digits, exercise, show, size

from bitnet import Tensor
from bitnet.quantizers import DoReFaActivation, DoReFaWeight, quantize_k

# %% [markdown]
# ## No slope, no learning
#
# A network learns by *gradient descent*. For each number $w$ in it, one computes the slope of the loss: by how much the
# loss rises if $w$ rises a little. Then $w$ takes a small step against the slope:
#
# $$w \leftarrow w - \eta \, \frac{dL}{dw}$$
#
# $\eta$ (eta) is the *learning rate*. Now put a rounding between $w$ and the loss $L$. By the chain rule, the slope is the
# slope of the loss at the rounded number, times the slope of the rounding. And that one is zero wherever we look, unless we
# happen to look across a jump:

# %%
w = np.array([0.1, 0.3, 0.45, 0.8])
little = 1e-6
slope = (quantize_k(w + little, 2) - quantize_k(w - little, 2)) / (2 * little)
print("slopes of the rounding:", slope)
assert not slope.any()

# %% [markdown]
# Whatever the loss says, every gradient is multiplied by zero on its way back. The network stands still.
#
# ## Straight through
#
# The repair is bold: keep the rounding in the forward direction, and backward act as if it had not been there. The slope of
# the rounding is declared to be 1:
#
# $$\frac{dL}{dw} = \frac{dL}{dw_q}$$
#
# This is the *straight-through estimator* (STE): the gradient goes straight through. Its name says "estimator", and we
# shall see what it estimates. First, does it work? Let a single number $w$ learn, rounded to 2 bits, that is to 0, 1/3, 2/3
# or 1. It is to be 0.5, so the loss is $(w_q - 0.5)^2 / 2$ and its slope at the rounded number is $w_q - 0.5$.


# %%
def learn(w, target, straight_through=True, latent=True, rate=0.05, count=120):
    """Gradient descent on (w_q - target)**2 / 2: the numbers w and w_q at every step."""
    history = []
    for _ in range(count):
        rounded = quantize_k(w, 2)
        history.append((w, rounded))
        grad_rounded = rounded - target
        grad = grad_rounded if straight_through else 0 * grad_rounded  # 0: the slope of a step
        w = w - rate * grad
        if not latent:
            w = quantize_k(w, 2)
    return np.array(history).T


kept, rounded = learn(0.1, target=0.5)
stuck, _ = learn(0.1, target=0.5, straight_through=False)
print("w       ", kept[::13].round(2))
print("rounded ", rounded[::13].round(2))
print("mean of the last 40 rounded values:", rounded[-40:].mean().round(3))
assert np.all(stuck == 0.1) and kept.max() > 0.5 and abs(rounded[-40:].mean() - 0.5) < 0.03

# %% [markdown]
# With the true slope, $w$ stays at 0.1 for ever. With the STE it moves. No step of the staircase is 0.5, so $w$ settles
# where two steps meet, and its rounded value jumps to and fro between 1/3 and 2/3. On average it is the 0.5 that was asked
# for.
#
# ## Latent weights
#
# Look at the two rows that were printed. There are two numbers: one that is used, with 2 bits, and one that learns. The
# second is kept in float32, is called the *latent weight*, and collects many small steps until they suffice for a jump.
# Could we save it and store the rounded weight alone?

# %%
without, _ = learn(0.1, target=0.5, latent=False)
print("w, rounded after every step:", without[:6])
step, half = 0.05 * 0.5, 1 / 6
print(f"largest step {step:.3f}, half a stair {half:.3f}")
assert without[0] == 0.1 and np.all(without[1:] == 0) and step < half

# %% [markdown]
# No: each small step is rounded away before the next one comes. A step of training is far smaller than half a stair, so all
# progress is lost. That is why DoReFa-Net trains with weights in float32 and needs the few bits only for calculating with
# them. When training is over, the latent weights have done their work and are thrown away.

# %%
figure, (left, right) = plt.subplots(1, 2)
left.plot(kept, color=GREY, label="latent weight")
left.step(np.arange(120), rounded, where="post", color=AMBER, label="rounded weight")
left.plot(stuck, color=RED, linestyle="--", label="true slope")
left.plot(without, color=RED, linestyle=":", label="no latent weight")
left.axhline(0.5, color=FAINT, zorder=0)
left.set(title="The STE finds the target 0.5", xlabel="step", ylabel="weight", xlim=(-2, 80), ylim=(-0.05, 1))
left.legend(frameon=False, loc="upper left", ncols=2, fontsize=9)

# the average of many rounded numbers: noise as wide as a stair, then clip and round
x = np.linspace(-0.5, 1.5, 201)
rng = np.random.default_rng(0)
noise = rng.uniform(-0.5, 0.5, (size(20_000, 4_000), 1)) / 3
blurred = quantize_k((x + noise).clip(0, 1), 2).mean(0)
right.plot(x, quantize_k(x.clip(0, 1), 2), color=AMBER, label="rounded")
right.plot(x, blurred, color=BLUE, linewidth=3, label="mean of many, with noise")
right.plot(x, x.clip(0, 1), color=FAINT, linestyle="--", label="clip(x, 0, 1)")
right.set(title="Blurred, the staircase is a ramp", xlabel="x", ylabel="value", ylim=(-0.05, 1.4))
right.legend(frameon=False, loc="upper left", fontsize=9)
show(figure, "02-estimator")
assert np.abs(blurred - x.clip(0, 1)).max() < 0.02

# %% [markdown]
# ### Exercise: `steps_to_flip`


# %%
def steps_to_flip(w, grad, rate):
    """A latent weight w > 0 gets the same gradient grad > 0 at every step. After how many steps is its sign -1?

    Remember that the sign of 0 counts as +1.
    """
    raise YourTurn


def check_steps_to_flip(steps_to_flip):
    assert steps_to_flip(0.3, 1.0, 0.5) == 1
    assert steps_to_flip(1.0, 0.5, 0.25) == 9  # after 8 steps it is exactly 0
    assert steps_to_flip(1.0, 0.375, 0.25) == 11


exercise(steps_to_flip, check_steps_to_flip)

# %% [markdown]
# ## What it estimates
#
# Why should a slope of 1 be a good lie? A training step does not meet one number but very many: the numbers of all pixels
# of all images, somewhere on the staircase. What matters is how the *average* of their rounded values moves when all of
# them move a little. The picture on the right imitates that: it adds to each $x$ a random shift, as wide as one stair,
# rounds, and averages over the shifts. What comes out is no staircase any more. It is $\mathrm{clip}(x, 0, 1)$, a straight
# ramp.
#
# This is exact, not only in the picture. With $x = 0.4$ and 2 bits, $n x = 1.2$. A shift of up to half a stair moves this
# to somewhere between 0.7 and 1.7, evenly. Above 1.5, in 20 % of the cases, it is rounded to 2, else to 1. The average is
# $0.8 \cdot 1 + 0.2 \cdot 2 = 1.2$ again.

# %%
shifted = 1.2 + np.linspace(-0.5, 0.5, 100_001)
print(f"rounded to 2: {np.mean(np.rint(shifted) == 2):.3f}, average {np.rint(shifted).mean():.3f}")
assert np.isclose(np.mean(np.rint(shifted) == 2), 0.2, atol=1e-3) and np.isclose(np.rint(shifted).mean(), 1.2, atol=1e-3)

# %% [markdown]
# So the STE is the slope of the blurred staircase. It is wrong for every single number and right for a crowd. Remember the
# trick, since chapter 5 uses it in earnest: noise before rounding makes the average right.
#
# ## The window
#
# The ramp tells something else. Its slope is 1 between 0 and 1, and 0 outside: there, the clip makes everything the same,
# blurred or not. So the activation's gradient passes inside this *window*, its borders included, and is stopped outside:
#
# $$\frac{dL}{dx} = \frac{dL}{da_q} \quad \mathrm{where} \; 0 \le x \le 1, \; \mathrm{else} \; 0$$
#
# The rule in short: go straight through what is rounding; differentiate everything else as usual. bitnet does it so:

# %%
x = np.array([-0.4, 0.0, 0.3, 0.8, 1.0, 1.7], np.float32)
arriving = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], np.float32)

tensor = Tensor(x, requires_grad=True)
DoReFaActivation(bits=2)(tensor).backward(arriving)
print("x            ", x)
print("grad arrives ", arriving)
print("grad goes on ", tensor.grad)
by_hand = arriving * ((x >= 0) & (x <= 1))
assert np.array_equal(tensor.grad, by_hand) and by_hand.astype(bool).tolist() == [False, True, True, True, True, False]

# %% [markdown]
# On the built page, move $x$ through the window and see which gradients pass.
#
# <div class="widget" data-widget="window"></div>
#
# Batch norm before the activation keeps the numbers near the window, so that enough of them go on learning.

# %% [markdown]
# ### Exercise: `sign_gradient`


# %%
def sign_gradient(x, grad):
    """The gradient at x for an activation sign(x) of -1 and +1, which stands for clip(x, -1, 1).

    Binarized Neural Networks use this. Where is their window?
    """
    raise YourTurn


def check_sign_gradient(sign_gradient):
    x = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 1.5])
    assert np.array_equal(sign_gradient(x, np.arange(1.0, 7.0)), [0, 2, 3, 4, 5, 0])


exercise(sign_gradient, check_sign_gradient)

# %% [markdown]
# ### Your file: `activation_grad`

# %%
check("activation_grad")

# %% [markdown]
# ## Weights
#
# With one bit, $w_q = E \cdot \mathrm{sign}(w)$. DoReFa-Net passes the gradient through sign and $E$ as it is: no window,
# no factor. With two bits and more, chapter 1 had tanh, a division by the largest magnitude $m$, and rounding. The rule
# says: straight through the rounding, and the rest as usual. The slope of $t = \tanh(w)$ is $1 - t^2$, so
#
# $$\frac{dL}{dw} = \frac{dL}{dw_q} \cdot \frac{1 - t^2}{m}$$
#
# (The 2 in front of the rounding and the 1/2 inside cancel.) The weight with the largest magnitude gets one more term,
# since $m$ depends on it, too. bitnet adds it, as the usual implementation does; `through_max=False` leaves it out, for
# comparison.

# %%
w = np.array([0.9, -0.1, 0.2, -0.6], np.float32)
arriving = np.array([0.4, 0.3, 0.2, 0.1], np.float32)


def weight_gradient(quantizer):
    tensor = Tensor(w, requires_grad=True)
    quantizer(tensor).backward(arriving)
    return tensor.grad


t = np.tanh(w)
m = np.abs(t).max()
one, two = weight_gradient(DoReFaWeight(1)), weight_gradient(DoReFaWeight(2))
print("arriving        ", arriving)
print("1 bit           ", one)
print("2 bits, by hand ", (arriving * (1 - t**2) / m).round(3))
print("2 bits          ", two.round(3))
assert np.array_equal(one, arriving)
assert np.allclose(weight_gradient(DoReFaWeight(2, through_max=False)), arriving * (1 - t**2) / m)
assert np.allclose(two[1:], (arriving * (1 - t**2) / m)[1:]) and not np.isclose(two[0], (arriving * (1 - t**2) / m)[0])

# %% [markdown]
# ### Exercise: `folded_gradient`


# %%
def folded_gradient(x, grad):
    """The gradient at x for quantize_k(min(1, |x|)), x not 0: straight through the rounding, the rest as usual.

    DoReFa-Net's first SVHN networks had this activation.
    """
    raise YourTurn


def check_folded_gradient(folded_gradient):
    x, grad = np.array([-1.5, -0.7, -0.2, 0.4, 0.9, 2.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    small = 1e-6
    slope = (np.minimum(1, np.abs(x + small)) - np.minimum(1, np.abs(x - small))) / (2 * small)
    assert np.allclose(folded_gradient(x, grad), grad * slope)
    assert np.allclose(folded_gradient(x, grad), [0, -2, -3, 4, 5, 0])


exercise(folded_gradient, check_folded_gradient)

# %% [markdown]
# ## A network, and three ways to break it
#
# Enough of single numbers. Here is a small network for house numbers, all of it in NumPy: 100 grey pixels, 64 hidden units
# with 1-bit weights and 2-bit activations, ten scores. The last layer is float, as in chapter 1. The backward pass is the
# usual one, with the STE as its only addition. (A constant factor 0.3 and a shift of 0.5 take the place of batch norm. They
# put the numbers before the clip into and around the window.)
#
# <details><summary>Predict: with true slopes, which part of the network still learns?</summary>
#
# Only the last layer: its gradient does not pass a rounding. The printed share of changed signs is exactly 0.
#
# </details>

# %%
count, epochs = size(3_000, 1_000), size(25, 12)
images, labels = digits("train", count)
grey = images.mean(3).reshape(-1, 10, 4, 10, 4).mean((2, 4)).reshape(-1, 100)  # 40 x 40 to 10 x 10, by means of 4 x 4
pixels = (grey - grey.mean(1, keepdims=True)) / grey.std(1, keepdims=True)


def train(bits=True, straight_through=True, window=True, latent=True, rate=0.3, batch=50):
    """The training loss of every epoch, and the share of the signs that have changed at the end."""
    rng = np.random.default_rng(0)
    w1, b1 = rng.normal(0, np.sqrt(2 / 100), (100, 64)), np.full(64, 0.5)
    w2, b2 = rng.normal(0, np.sqrt(1 / 64), (64, 10)), np.zeros(10)
    signs, losses = w1 >= 0, []
    for _ in range(epochs):
        total = 0.0
        for index in rng.permutation(len(pixels)).reshape(-1, batch):
            x, y = pixels[index], labels[index]
            used = np.abs(w1).mean() * np.where(w1 >= 0, 1, -1) if bits else w1
            h = 0.3 * x @ used + b1
            a = quantize_k(h.clip(0, 1), 2) if bits else h.clip(0, 1)
            scores = a @ w2 + b2
            p = np.exp(scores - scores.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            total -= np.log(p[np.arange(batch), y]).sum()

            grad = p.copy()  # of the cross-entropy at the scores: p minus 1 at the right digit
            grad[np.arange(batch), y] -= 1
            grad /= batch
            grad_a = grad @ w2.T
            grad_h = grad_a * ((h >= 0) & (h <= 1)) if window else grad_a
            if not straight_through:
                grad_h = 0 * grad_h  # the true slope of the rounding
            w2, b2 = w2 - rate * a.T @ grad, b2 - rate * grad.sum(0)
            w1, b1 = w1 - rate * 0.3 * x.T @ grad_h, b1 - rate * grad_h.sum(0)
            if not latent:
                w1 = np.abs(w1).mean() * np.where(w1 >= 0, 1, -1)  # only what has 1 bit is kept
        losses.append(total / len(pixels))
    return losses, np.mean((w1 >= 0) != signs)


runs = {
    "float": train(bits=False),
    "STE, (1, 2) bits": train(),
    "no latent weights": train(latent=False),
    "no window": train(window=False),
    "true slopes": train(straight_through=False),
}
figure, axis = plt.subplots()
looks = zip((GREY, BLUE, RED, RED, RED), ("-", "-", "-", "--", ":"), strict=True)
for (name, (losses, flipped)), (color, style) in zip(runs.items(), looks, strict=True):
    axis.plot(range(1, epochs + 1), losses, color=color, linestyle=style, label=name)
    print(f"{name:18} loss {losses[-1]:.2f}, signs changed {flipped:6.2%}")
axis.axhline(np.log(10), color=FAINT, zorder=0)
axis.text(epochs, np.log(10) + 0.02, "guessing", ha="right", fontsize=9)
axis.set(title="With the STE a network of few bits learns; each of its parts is needed", xlabel="epoch", ylabel="training loss")
axis.legend(frameon=False, loc="lower left")
show(figure, "02-network")

last = {name: losses[-1] for name, (losses, _) in runs.items()}
flips = {name: flipped for name, (_, flipped) in runs.items()}
broken = [last[name] for name in ("no latent weights", "no window", "true slopes")]
assert last["float"] < last["STE, (1, 2) bits"] < min(broken) and max(broken) < np.log(10) + 0.05
assert last["STE, (1, 2) bits"] < last["true slopes"] - 0.1
assert flips["true slopes"] == 0 and flips["no latent weights"] < flips["STE, (1, 2) bits"] / 10

# %% [markdown]
# The loss of guessing among ten digits is the logarithm of 10, about 2.30. With true slopes the hidden layer never changes:
# the last layer learns what it can from 64 fixed random features. Without latent weights few signs ever change: a step
# would have to be larger than the weight itself. Without the window, gradients of numbers far outside ask for changes that
# have no effect, and drown the useful ones. With all three parts the network of (1, 2) bits learns. It learns more slowly
# than the float one, whose weights may have any value; how much a real network loses, chapter 8 will measure.
#
# Gradients have been floats so far. To give them a few bits, rounding to the nearest is not good enough, and chapter 5
# shows why. Before that, chapters 3 and 4 harvest what few bits are for: speed.

# %% [markdown]
# Further: Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons,
# [arXiv:1308.3432](https://arxiv.org/abs/1308.3432), 2013, for the estimator; look for the variants that it compares. Hubara
# et al., Binarized Neural Networks, [arXiv:1602.02830](https://arxiv.org/abs/1602.02830), 2016: another window, that of
# exercise `sign_gradient`. Courbariaux et al., BinaryConnect, [arXiv:1511.00363](https://arxiv.org/abs/1511.00363), 2015: why
# the latent weights are kept. Zhou et al., DoReFa-Net, [arXiv:1606.06160](https://arxiv.org/abs/1606.06160), 2016, sections
# 2.2 to 2.4.
