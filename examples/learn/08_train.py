# %% [markdown]
# # 8. Train it
#
# Now we train: the same small network on the same house numbers, in float and with fewer and fewer bits. What does each
# reduction cost, and how sure can one be of the answer? Then we look inside: do signs still flip, do gradients still pass,
# how good are they?
#
# The training here takes seconds, not hours, so the networks end far below what they could reach. What carries over is the
# way of comparing.

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from check import SOLUTION, check, load
from common import AMBER, BLUE, GREY, RED, YourTurn, exercise, read, show, size
from network import small
from pieces import noise, parameters_of

from bitnet import functional, optimizers, random
from bitnet.datasets import Loader
from bitnet.report.inside import Inside
from bitnet.training import Trainer

# %% [markdown]
# ## The network and the data
#
# The network is that of chapter 7 with half of its channels: two inner layers in (W, A, G) bits between a float convolution
# and a float linear layer. Where a number of bits is 32, there is no quantizer.


# %%
def narrow(bits, seed=0):
    return small(bits, width=16, seed=seed)


train, test = read("train", size(3000, 400)), read("test", size(1000, 200))

# %% [markdown]
# ## The loop
#
# Training is the step of chapter 7, again and again: a batch of images forward, the loss backward, a small change of all
# latent weights. One pass over all images is an *epoch*. In bitnet it is written like this:

# %%
EPOCHS, BATCH, RATE = size(7, 3), size(20, 40), size(0.005, 0.01)

random.seed(0)  # gradient noise
model = narrow((4, 4, 8)).train()
optimizer = optimizers.Adam(model.parameters(), lr=RATE, eps=1e-5)
for batch in Loader(train, BATCH, seed=0).epoch(0):  # in shuffled order
    optimizer.zero_grad()
    loss = functional.softmax_cross_entropy(model(batch.images), batch.labels)
    loss.backward()
    optimizer.step()
print(f"after one epoch: loss of the last batch {float(loss.data):.2f}; guessing has {np.log(10):.2f}")

# %% [markdown]
# `Trainer` does the same, and after each epoch measures the accuracy on images that were not trained on. It also saves
# checkpoints, stops where numbers stop being finite, and calls observers, *callbacks*. The steps are ours, to the bit:

# %%
same = narrow((4, 4, 8))
Trainer(same, train, test, epochs=1, batch_size=BATCH, optimizer=optimizers.Adam(same.parameters(), lr=RATE, eps=1e-5)).run()
for name, parameter in same.named_parameters().items():
    assert np.array_equal(parameter.data, model.named_parameters()[name].data)
print("by hand and by Trainer: the same weights, bit for bit")

# %% [markdown]
# ## Fewer and fewer bits
#
# We go down a staircase: bits are taken first from all three, then from weights and activations, at last from gradients.
# Same initial weights, same order of images, same number of steps, so that nothing but the bits differs. The learning rate
# falls from epoch to epoch by equal factors, to a sixtieth: large steps find the region, small ones average the noise of
# gradients out. And on test images batch norm uses running averages of its statistics, which are right only once the
# weights hardly move. A callback, `Inside`, will tell in a moment what went on.
#
# What should we expect? The three widths cost in different ways. Fewer bits of weight or activation make a smaller set of
# functions that the network can be, and the straight-through estimator (chapter 2) a rougher guide. Fewer bits of gradient
# leave the set of functions as it is. They make every step noisier, and cost time to average (chapter 5). In a short
# training, both look the same: the loss falls more slowly. We keep the whole history, not only its end, because a curve
# that still falls says something else than one that lies flat.

# %%
STAIRS = size([(32, 32, 32), (4, 4, 8), (1, 2, 8), (1, 2, 4), (1, 2, 2)], [(32, 32, 32), (4, 4, 8), (1, 2, 2)])


def learn(bits, seed=0, callbacks=()):
    """The history, a record an epoch, of a network that is trained from the beginning."""
    model = narrow(bits, seed=seed)
    trainer = Trainer(
        model, train, test, epochs=EPOCHS, batch_size=BATCH, seed=seed, callbacks=callbacks,
        optimizer=optimizers.Adam(model.parameters(), lr=RATE, eps=1e-5),
        schedule=optimizers.StepDecay(RATE, (1 / 60) ** (1 / (EPOCHS - 1)), every=1 / EPOCHS))  # fmt: skip
    trainer.run()
    return trainer.history


def packed_size(bits):
    """Bytes of all parameters, the inner weights in W bits."""
    parameters = narrow(bits).named_parameters()
    inner = sum(p.data.size for name, p in parameters.items() if name in ("conv1.conv.weight", "conv2.conv.weight"))
    rest = sum(p.data.size for p in parameters.values()) - inner
    return inner * bits[0] / 8 + 4 * rest


def text(bits):
    return "float" if bits[0] == 32 else ",".join(map(str, bits))


histories, accuracy, error_bar = {}, {}, {}
print("W,A,G     kB packed   training loss   test accuracy")
for bits in STAIRS:
    histories[bits] = learn(bits, callbacks=[Inside(samples=64, draws=4)])
    last = histories[bits][-1]
    p = accuracy[bits] = last["test_accuracy"]
    error_bar[bits] = np.sqrt(p * (1 - p) / len(test))
    print(f"{text(bits):<9} {packed_size(bits) / 1000:9.1f}   {last['train_loss']:13.3f}   {p:7.1%} +- {error_bar[bits]:.1%}")
losses = {bits: histories[bits][-1]["train_loss"] for bits in STAIRS}
assert losses[32, 32, 32] < losses[1, 2, 2] and losses[4, 4, 8] < losses[1, 2, 2]
assert losses[32, 32, 32] < histories[32, 32, 32][0]["train_loss"]

# %% [markdown]
# The loss of float and of (4, 4, 8) ends below that of (1, 2, 2), as the program has checked. In so few steps two bits of
# gradient, which chapter 5 showed to be mostly noise, hardly get anywhere. The paper finds that wider networks tolerate fewer
# bits: more weights share a task. And a longer training has more steps to average the noise over.

# %% [markdown]
# ## Yours trains
#
# Is `mine.py` complete? Then train it, beside bitnet: a network half as wide, the same initial weights, images and noise. The
# last piece is `gradients`, which puts the others in order. Until yours is ready, the solution's file takes its place.

# %%
complete = check("gradients")
mine = load() if complete else load(SOLUTION)
print("what trains below:", "your mine.py" if complete else "solutions/mine.py")

count = size(1200, 160)
batches = [(np.float32(batch.images) / 256, batch.labels) for batch in Loader(train[:count], 20, seed=0).epoch(0)]
network = small(width=8).train()
p = parameters_of(network)  # {name: array}, copies
random.seed(0)
ours, statistics = mine.train(p, batches, (1, 2, 4), RATE, noise)

optimizer, theirs = optimizers.Adam(network.parameters(), lr=RATE, eps=1e-5), []
random.seed(0)
for images, labels in batches:
    optimizer.zero_grad()
    loss = functional.softmax_cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()
    theirs.append(float(loss.data))
held = np.float32(test.images[:500]) / 256
right = [np.mean(logits.argmax(axis=1) == test.labels[:500])
         for logits in (mine.predict(p, held, (1, 2, 4), statistics)[0], network.eval()(held).data)]
print("step           " + "".join(f"{step:9}" for step in range(1, 7)))
print("loss, mine.py  " + "".join(f"{loss:9.5f}" for loss in ours[:6]))
print("loss, bitnet   " + "".join(f"{loss:9.5f}" for loss in theirs[:6]))
print(f"on {len(held)} test images after {len(batches)} steps: mine.py {right[0]:.1%}, bitnet {right[1]:.1%} right")
assert np.isclose(ours[0], theirs[0], rtol=1e-5)

for parameter, array in zip(network.train().named_parameters().values(), p.values(), strict=True):
    parameter.data[...] = array  # bitnet's network, with the weights that mine.py has learned
for images, labels in batches[:3]:
    loss = functional.softmax_cross_entropy(network(images), labels)
    assert np.isclose(mine.gradients(p, images, labels, (1, 2, 4), noise)[0], float(loss.data), rtol=1e-4)

# %% [markdown]
# The first losses agree in all digits that a float32 has. Then, sooner or later, a number lies so near to the middle between
# two levels that the last digit of a float sum, which both add up in another order, decides: one code out of hundreds of
# thousands is another one. From there on both are different runs of the same training, like two seeds. At the end we gave
# bitnet the weights that `mine.py` had learned: with the same weights both compute the same loss, as the program has checked.
#
# `mine.py` is slow: NumPy makes an array for each step of `count`. The next chapter compiles that one function.

# %% [markdown]
# ## How sure is that?
#
# The numbers behind +- are *standard errors*: with $n$ test images and accuracy $p$, other test images would give an accuracy
# that scatters by about
#
# $$\sqrt{p\,(1 - p) / n}$$
#
# The difference of two networks has both errors, so $\sqrt{e_1^2 + e_2^2}$; below twice that, a difference may be chance. And
# that is only the test images' part. Another seed gives other initial weights, another order of images and other noise; the
# weights that come out are other ones, and so is the accuracy on the very same test images. We train one setting with three
# seeds:

# %%
for upper, lower in pairwise(STAIRS):
    difference, error = accuracy[upper] - accuracy[lower], np.hypot(error_bar[upper], error_bar[lower])
    verdict = "clear" if difference > 2 * error else "not clear"
    print(f"{text(upper):>6} against {text(lower):<6}: {difference:+6.1%}, error {error:.1%}: {verdict} on these images")

again = size((1, 2, 4), (4, 4, 8))
seeds = [accuracy[again], *(learn(again, seed)[-1]["test_accuracy"] for seed in (1, 2))]
print(f"{text(again)} with three seeds: {', '.join(f'{p:.1%}' for p in seeds)}; they scatter by {np.std(seeds, ddof=1):.1%}, "
      f"test images alone by {error_bar[again]:.1%}")
assert len(set(seeds)) > 1

# %%
colors = dict(zip(STAIRS, size((GREY, BLUE, "#5b8fd9", AMBER, RED), (GREY, BLUE, RED)), strict=True))
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
for bits in STAIRS:
    epochs = [record["epoch"] for record in histories[bits]]
    axes[0].plot(epochs, [record["train_loss"] for record in histories[bits]], "o-", color=colors[bits], label=text(bits))
    axes[1].errorbar(packed_size(bits) / 1000, 100 * (1 - accuracy[bits]), 200 * error_bar[bits], fmt="o", color=colors[bits],
                     capsize=3, label=text(bits))
axes[0].set(title="Fewer bits learn more slowly", xlabel="epoch", ylabel="training loss", xticks=epochs)
axes[1].legend(frameon=False, fontsize=9, title="W,A,G", loc="upper center")
axes[1].set(title="Error against size", xlabel="kB of packed network", ylabel="test error, %, with 2 standard errors")
show(figure, "08-tradeoff")
assert 3 < packed_size((32, 32, 32)) / packed_size((1, 2, 2)) < 4

# %% [markdown]
# The right picture has the trade-off: down is better, left is smaller. The weights' bits alone decide the size, so settings
# that share W lie above each other; bits of activations and gradients cost time, not size (chapter 10). The inner weights of
# (1, 2, 2) take 32 times less than in float, the whole network not even 4 times less: the float first and last layers set a
# floor that no bit width lowers. In a large network they weigh less.

# %% [markdown]
# ### Exercise: `images_for`


# %%
def images_for(accuracy, error):
    """How many test images (rounded up) bring the standard error of an accuracy down to ``error``?"""
    raise YourTurn


def check_images_for(images_for):
    assert images_for(0.5, 0.05) == 100
    assert images_for(0.9, 0.01) in (900, 901)
    assert images_for(0.975, 0.001) in (24375, 24376)


exercise(images_for, check_images_for)

# %% [markdown]
# ### Exercise: `is_clear`


# %%
def is_clear(right, other, count):
    """Of ``count`` images, two networks got so many right. Is the difference above twice its standard error?"""
    raise YourTurn


def check_is_clear(is_clear):
    assert not is_clear(810, 800, 1000) and not is_clear(800, 810, 1000)
    assert is_clear(810, 750, 1000) and is_clear(750, 810, 1000)
    assert is_clear(8100, 8000, 10_000) is not is_clear(8200, 8000, 10_000)


exercise(is_clear, check_is_clear)

# %% [markdown]
# ### Exercise: `seeds_for`


# %%
def seeds_for(scatter, difference):
    """How many seeds for each of two settings, so that the difference of their means is twice its standard error?

    Single runs scatter by ``scatter`` (a standard deviation) in both settings. A mean of k runs scatters by scatter / sqrt(k).
    """
    raise YourTurn


def check_seeds_for(seeds_for):
    assert seeds_for(1.0, 2.0) == 2
    assert seeds_for(1.0, 1.0) == 8
    assert seeds_for(0.7, 1.0) == 4
    assert seeds_for(0.1, 1.0) == 1


exercise(seeds_for, check_seeds_for)

# %% [markdown]
# ## Inside
#
# Three questions come up when a network with few bits does not learn.
#
# *Do signs flip?* A weight of one bit changes only if its latent weight crosses zero. Never is bad, and so is always. *Is the
# activation saturated?* Where clip cuts off, no gradient passes (chapter 2). *How good are the gradients?* Take the gradient
# of a layer's weight as it is used and as it would be without rounding, as two long vectors. The *cosine* of the angle
# between them is 1 where they agree in direction, 0 where one says nothing about the other.
#
# `Inside` measures all of it at the end of each epoch on some training images, and changes nothing in the training.

# %%
quantized = STAIRS[1:]


def inside(record, part, key):
    """Mean over layers."""
    return np.mean([entry[key] for entry in record["inside"][part].values()])


print("W,A,G    flipped in first and last epoch   no gradient   cosine")
for bits in quantized:
    first, last = histories[bits][0], histories[bits][-1]
    print(f"{text(bits):<9}{inside(first, 'weights', 'flipped'):14.1%} {inside(last, 'weights', 'flipped'):12.1%}"
          f"{inside(last, 'activations', 'saturated'):19.0%}{inside(last, 'gradients', 'cosine'):10.3f}")
    assert inside(first, "weights", "flipped") > inside(last, "weights", "flipped")
    assert 0.1 < inside(last, "activations", "saturated") < 0.95
cosine = {bits: inside(histories[bits][-1], "gradients", "cosine") for bits in quantized}
assert cosine[4, 4, 8] > 0.9 and cosine[1, 2, 2] < 0.5

figure, axes = plt.subplots(1, 3, figsize=(8, 3.2))
for panel, (part, key, title, scale) in enumerate((
    ("weights", "flipped", "Signs flip less and less", 100), ("activations", "saturated", "Clip stops gradients", 100),
    ("gradients", "cosine", "Bits of G: the direction", 1))):
    for bits in quantized:
        axes[panel].plot(epochs, [scale * inside(record, part, key) for record in histories[bits]], "o-", color=colors[bits],
                         markersize=4, label=text(bits))
    axes[panel].set(title=title, xlabel="epoch", xticks=epochs)
axes[0].set_ylabel("weights flipped, %")
axes[1].set_ylabel("activations without gradient, %")
axes[1].set_ylim(0, 100)
axes[2].set_ylabel("cosine with the exact gradient")
axes[2].set_ylim(0, 1.03)
axes[0].legend(frameon=False, fontsize=9, title="W,A,G")
show(figure, "08-inside")

# %% [markdown]
# Signs flip more in the first epoch than in the last, in every setting: as the learning rate falls, fewer latent weights
# reach zero. The cosine depends on G above all. At (4, 4, 8) it is above 0.9: the rounded gradient points where the exact one
# points. At (1, 2, 2) it is below 0.5, most of the vector is noise, and only many small steps together go anywhere. So when a
# network does not learn, look at this column first: a cosine near 0 asks for more gradient bits, larger batches or more time.
# Signs that never flip ask for a higher learning rate. A layer that clips nearly everything gets no gradient, whatever its
# bits.
#
# ## The real thing
#
# With hours instead of seconds, and SVHN instead of a part of it, use the scripts. Each is documented by `--help`:
#
# ```
# python examples/train_svhn.py --download --bits 1,2,4                    one network, the paper's model A
# python examples/train_svhn.py --bits 1,1,4 --model C                     other bits, a quarter of the channels
# python examples/compare_methods.py --table-1 --models C D --minutes 30   many bit widths, each for the same time
# python examples/train_mnist.py --method dorefa --inside                  flips, saturation and gradients as a picture
# ```
#
# `compare_methods.py` writes a table of test errors beside the published ones. Read it as we did here: look at how many test
# images there are, try a second seed, and believe differences that are larger than both kinds of scatter. The README's
# section *Accuracy* has results with three seeds each.
#
# ## What to keep
#
# - The loop is that of any network; the bits are in the layers.
# - Fewer bits learn more slowly. How much accuracy that costs in the end depends on width, data and patience.
# - One run is one sample. Test images and seeds both scatter.

# %% [markdown]
# Further: Zhou et al., DoReFa-Net, [arXiv:1606.06160](https://arxiv.org/abs/1606.06160), 2016: its section 3.1 and Table 1
# compare bit widths and network widths on all of SVHN; look at how a row of gradients with fewer bits changes. Netzer et al.,
# Reading Digits in Natural Images, 2011: the data, and how well people read it. Bouthillier et al., Accounting for Variance
# in Machine Learning Benchmarks, [arXiv:2103.03098](https://arxiv.org/abs/2103.03098), 2021: what else scatters besides
# seeds.
