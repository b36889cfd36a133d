# %% [markdown]
# # 7. One training step under the microscope
#
# Chapters 1 to 6 built the parts. Here a small network does one training step on house numbers, and we stop after every
# operation: which array came out, of what shape, how many bits does a number have, and which kernels made it? Then we look at
# what the library does differently when nobody watches, and at what of all this really is smaller than in float.

# %%
import inspect
from contextlib import nullcontext

import matplotlib.pyplot as plt
import numpy as np
from check import check
from common import BLUE, GREY, YourTurn, digits, exercise, show, size
from network import small

from bitnet import Codes, Tensor, execution, functional, optimizers, random, use_kernels
from bitnet.kernels.machine import threads
from bitnet.kernels.products.packing import pack_channels
from bitnet.layers import unfused
from bitnet.tensor import Reshape

# %% [markdown]
# ## The network
#
# Three convolutions and a linear layer, wired as in the paper. The first convolution and the last layer are float. The two
# inner ones have 1-bit weights, 2-bit inputs and 4-bit gradients, (W, A, G) = (1, 2, 4). We write the network in float, a
# `Block` for each convolution, and the method `DoReFa` rewrites it: an inner layer is given its *quantizers*, the objects that
# turn reals into codes; no quantizer means float. Between two convolutions stand batch norm (each channel is shifted and
# scaled to mean 0 and variance 1 over the batch, then by two learned numbers), max pooling, and the activation: clip to
# [0, 1] and round, but for the last one, which a float layer reads. All this stands in `network.py`, since chapter 8 trains it.
# Below it is what the method made of the network:

# %%
print(inspect.getsource(small))
N = size(64, 16)
images, labels = digits("train", N)
model = small().train()
print(model)

# %% [markdown]
# ## Forward, one operation at a time
#
# We call the layers one by one. A `Tensor` holds a float array or `Codes`, that is byte codes with their scale (chapter 1).
# While an operation runs, `threads.observe` tells which compiled kernels it calls. For now, integer products run by popcount.

# %%
rows = []


def watch(name, operation, *inputs):
    """Run an operation, and write down what came out and by which kernels."""
    kernels = []
    with threads.observe(lambda kernel, seconds: kernels.append(kernel.__name__.lstrip("_"))), use_kernels("popcount"):
        result = operation(*inputs)
    array = result.raw if isinstance(result, Tensor) else result
    codes = isinstance(array, Codes)
    bits, stored = (array.bits, array.values) if codes else (8 * array.itemsize, array)
    rows.append((name, stored.shape, bits, stored.nbytes, stored.size * bits / 8, codes))
    print(f"{name:<27}{'x'.join(map(str, stored.shape)) or 'number':<13}{bits:>3} {stored.nbytes / 1000:>9,.1f}  "
          + ", ".join(dict.fromkeys(kernels)))
    return result


HEAD = f"{'what':<27}{'shape':<13}bits {'kB':>8}  kernels"
random.seed(1)
print(HEAD)
y0 = watch("conv0, sums", model.conv0.conv, Tensor(images))
p0 = watch("max pool", model.conv0.pool, y0)
a0 = watch("activation codes", model.conv0.act, p0)
w1 = watch("conv1, weight codes", model.conv1.conv.weight_quantizer, model.conv1.conv.weight)
y1 = watch("conv1, scaled sums", model.conv1.conv, a0)
z1 = watch("batch norm", model.conv1.norm, y1)
p1 = watch("max pool", model.conv1.pool, z1)
a1 = watch("activation codes", model.conv1.act, p1)
y2 = watch("conv2, scaled sums", model.conv2.conv, a1)
z2 = watch("batch norm", model.conv2.norm, y2)
p2 = watch("max pool", model.conv2.pool, z2)
c2 = watch("clip", model.conv2.act, p2)
logits = watch("fc, logits", model.fc, model.flatten(c2))
loss = watch("loss", functional.softmax_cross_entropy, logits, labels)
assert a0.shape == (N, 18, 18, 32) and a1.shape == (N, 9, 9, 64) and logits.shape == (N, 10)
assert a0.codes.bits == 2 and w1.codes.bits == 1 and a0.codes.values.dtype == np.uint8

# %% [markdown]
# Read the lines of conv1: its weight becomes codes (`encode_sign`), weight and input are packed (`pack_weight_...`,
# `pack_channels`), and `spatial` is the loop of chapter 4 that counts. The column *bits* is what a number has to tell; the
# column *kB* is what lies in memory. They do not agree for codes: a 2-bit code travels as a byte. It is packed only where a
# product wants it, and then padding and all are smaller than the bytes:

# %%
words = pack_channels(a0.codes, 1, ((1, 1), (1, 1)))
print(f"codes {a0.codes.values.nbytes:,} bytes, packed {words.shape} {words.dtype} {words.nbytes:,} bytes, "
      f"as float32 {4 * a0.codes.values.size:,}")
assert words.nbytes < a0.codes.values.nbytes / 3
accum = execution.forward_accum(a0.codes, w1.codes, y1._function.conv)
kappa = a0.codes.scale * w1.codes.scale
assert np.abs(accum).max() <= 3 * 9 * 32 == 864
assert accum.dtype == np.int16 and np.array_equal(y1.data, accum.astype(np.float32) * np.float32(kappa))
print(f"sums of conv1 before scaling: {accum.dtype}, from {accum.min()} to {accum.max()}; scale {kappa:.2e}")

# %% [markdown]
# The sums of conv1 are integers of at most 864: 9 taps of 32 channels, each a code of at most 3 times $\pm 1$. They fit 16
# bits. Only then comes the one multiplication by the two scales that makes them real numbers.

# %% [markdown]
# ### Exercise: `sum_type`


# %%
def sum_type(kernel_size, channels, w_bits, a_bits):
    """"int16" or "int32": what holds every sum of a kernel_size x kernel_size convolution of so many channels?"""
    raise YourTurn


def check_sum_type(sum_type):
    assert sum_type(3, 32, 1, 2) == sum_type(5, 128, 1, 2) == "int16"
    assert sum_type(3, 512, 2, 4) == sum_type(3, 32, 8, 8) == "int32"
    assert (sum_type(1, 10_922, 1, 2), sum_type(1, 10_923, 1, 2)) == ("int16", "int32")


exercise(sum_type, check_sum_type)

# %% [markdown]
# ## Backward, one operation at a time
#
# Each tensor remembers the operation that made it, its `_function`, and that has a method `backward`: from the gradient of
# its result to the gradients of its inputs. `loss.backward()` walks from the loss to the images calling it. We walk
# ourselves. In the two inner convolutions we do by hand what their `backward` does: round the gradient once, and use the
# codes twice.

# %%
print(HEAD)
tensor, g, by_hand = loss, np.ones((), np.float32), {}
random_state = random.get_state()


def gradients(function, g):
    """Of all inputs of an operation, from the gradient of its result."""
    found = function.backward(g)
    return found if isinstance(found, tuple) else (found,)


while tensor._function is not None:
    function = tensor._function
    with function.scope():  # where its forward ran
        layer = execution.current_layer()
    if getattr(function, "grad_quantizer", None):
        codes = watch(f"{layer}, gradient codes", function.grad_quantizer.encode, g)
        g = watch("  its input gradient", execution.input_grad, codes, function.w, function.conv, function.x.shape[1:3])
        by_hand[layer] = watch("  its weight gradient", execution.weight_grad, codes, function.x, function.conv)
    elif tensor is y0:
        by_hand["conv0"] = watch("conv0, weight gradient", lambda f, g: gradients(f, g)[1], function, g)
    elif isinstance(function, Reshape):
        g = gradients(function, g)[0]
    else:
        g = watch(f"gradient before {layer}", lambda f, g: gradients(f, g)[0], function, g)
    tensor = function.parents[0]

# %% [markdown]
# Where the table says 4 bits, the gradient is rounded (`max_magnitude` finds the scale of each sample, `encode_gradient` adds
# the noise). Packed along channels it gives the input gradient, packed along positions (`pack_positions`) the weight
# gradient. All the rest of backward is float32. Batch norm hands real numbers on. Max pooling sends each to the place where
# the maximum came from (`max_pool_grad`); of equal ones the first counts. Integer sums are often equal, and where pictures of
# one bit are pooled nearly every window has such a tie: there the first place, top left, gets all the gradient by convention.
# The activation lets it pass where its input was in [0, 1] and stops it elsewhere: this is the straight-through estimator
# with its window, chapter 2 (`apply_window`). So the input gradient of conv2 leaves its product as real numbers, walks
# through all of that, and is rounded again before conv1.

# %% [markdown]
# ### Your file: `max_pool`, `max_pool_grad`, `batch_norm_grad`

# %%
check("max_pool", "max_pool_grad", "batch_norm_grad")

# %% [markdown]
# Was this the real thing? The library's own `loss.backward()`, with the same noise, must give the same gradients to the bit.

# %%
random.set_state(random_state)
loss.backward()
for layer, gradient in by_hand.items():
    assert np.array_equal(gradient, model[layer].conv.weight.grad)
print("by hand and by loss.backward(): equal in all bits for", ", ".join(by_hand))

steps = [row for row in rows if row[1]]
figure, axes = plt.subplots(figsize=(8, 3.8))
axes.bar(range(len(steps)), [row[2] for row in steps], color=[BLUE if row[5] else GREY for row in steps])
axes.set_xticks(range(len(steps)), [row[0].strip() for row in steps], rotation=90, fontsize=9)
axes.set_yscale("log", base=2)
axes.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
axes.set(title="Few bits stand before every inner product, 32 everywhere else", ylabel="bits of a number")
show(figure, "07-widths")

# %% [markdown]
# ## The same step when nobody watches
#
# A block does not call its parts one by one where it need not. Where it said *one Function* above, it is one operation from
# codes to codes: while a line of sums is in the processor's registers, it is scaled, normalised, pooled, clipped and rounded.
# Floats exist there for a moment, and are never written to memory. This is called *fused*. It must not change a result, and
# does not: codes, loss and gradients of the inner layers are the same bits with the single operations (`unfused`), with any
# kernel family (chapter 3), on any number of threads. Only the first layer adds up its gradient in another order.


# %%
def step(family="popcount", single=False):
    """Loss, gradients and the log of products of one step of a new network."""
    model = small().train()
    random.seed(1)
    with use_kernels(family), execution.log() as products, unfused() if single else nullcontext():
        loss = functional.softmax_cross_entropy(model(images), labels)
        loss.backward()
    return float(loss.data), {name: parameter.grad for name, parameter in model.named_parameters().items()}, products


fused_loss, fused, products = step()
for family, single in (("popcount", True), ("byte_dot", False), ("float", False)):
    other_loss, other, _ = step(family, single)
    same = [name for name in fused if np.array_equal(fused[name], other[name])]
    way = "single operations" if single else "fused"
    print(f"{family}, {way}: loss {other_loss:.6f}, same bits in {len(same)} of {len(fused)} gradients")
    assert other_loss == fused_loss
    assert set(fused) - set(same) <= ({"conv0.conv.weight", "conv0.conv.bias"} if single else set())
count = threads.get_threads()
threads.set_threads(1)
alone = step()[1]
threads.set_threads(count)
assert all(np.array_equal(fused[name], alone[name]) for name in fused)  # one thread, the same bits

# %% [markdown]
# In a fused step there is nothing to stop at. So that nobody has to believe that it runs on codes, the library keeps a log, on
# request: of every product, the layer, which of the three it was, the kernel family, and the bits of its two operands (32: real
# numbers).

# %%
print("layer  product      family    bits    million multiply-accumulates")
for product in products:
    bits = " x ".join(map(str, product.bits))
    print(f"{product.layer:<7}{product.role:<13}{product.family:<10}{bits:<8}{product.macs / 1e6:6.1f}")
inner = [product for product in products if product.layer in ("conv1", "conv2")]
assert len(inner) == 6 and all(product.family == "popcount" for product in inner)
assert {(product.role, product.bits) for product in inner} == {
    ("forward", (2, 1)), ("input_grad", (4, 1)), ("weight_grad", (4, 2))}

# %% [markdown]
# Six products on codes, three for each inner layer. The first layer has no input gradient, because nobody wants to change the
# images. In this small network it has a large share of the work; chapter 10 asks what that means for speed.
#
# ## What becomes smaller, and what does not
#
# Fused, activations take less memory in training: what a block keeps for backward are the sums (16 bits each), the codes (a
# byte each) and one byte a result that says where in its window the maximum was and whether clip let the gradient pass.
#
# Weights are another matter. Training keeps a float32 *latent* weight (chapter 2), because a step of 0.001 is too small for a
# code of one bit. Watch one step of Adam (chapter 5), which keeps two more floats for each weight, the running means of the
# gradient and of its square:

# %%
optimizer = optimizers.Adam(model.parameters(), lr=1e-3)
weight = model.conv1.conv.weight
before, codes_before = weight.data.copy(), model.conv1.conv.weight_quantizer.encode(weight.data).values
optimizer.step()
codes_after = model.conv1.conv.weight_quantizer.encode(weight.data).values
moved, flipped = np.mean(weight.data != before), np.mean(codes_before != codes_after)
print(f"conv1: {moved:.1%} of the latent weights moved, {flipped:.2%} of the codes changed")
assert 10 * flipped < moved

state = optimizer.state[optimizer.parameters.index(weight)]
training = {"latent weight": weight.data.nbytes, "gradient": weight.grad.nbytes, "Adam": sum(a.nbytes for a in state.values()),
            "codes": codes_after.nbytes}
packed = weight.data.size / 8
for name, size_ in {**training, "packed, for inference": packed}.items():
    print(f"{name:<22} {size_:>9,.0f} bytes, {size_ / weight.data.size:6.3f} a weight")
assert sum(training.values()) == 17 * weight.data.size and weight.data.nbytes == 32 * packed

figure, axis = plt.subplots(figsize=(8, 2.2))
bars = {"inference, packed": (0, 1 / 8), "training in bits": (16, 1), "training in float": (16, 0)}
axis.barh(list(bars), [floats for floats, _ in bars.values()], color=GREY)
axis.barh(list(bars), [codes for _, codes in bars.values()], left=[floats for floats, _ in bars.values()], color=BLUE)
axis.set(title="Weights become smaller only after training", xlabel="bytes a weight")
axis.text(0.5, "inference, packed", "1/8", color=BLUE, va="center")
show(figure, "07-memory")

# %% [markdown]
# ### Your file: `adam`

# %%
check("adam")

# %% [markdown]
# So training in bits needs a byte *more* for each weight: 17 instead of 16. A *frozen network* (chapter 11), where only the
# packed codes are kept, needs an eighth of a byte, 32 times less than float32.
#
# ### Exercise: `kept_bytes`


# %%
def kept_bytes(shape, pool):
    """Bytes that a fused block keeps of its own: int16 sums of ``shape`` (N, H, W, C), a code and a place for each result.

    Results are those of pooling by pool x pool windows; codes and places have a byte each.
    """
    raise YourTurn


def check_kept_bytes(kept_bytes):
    codes = model.conv1(Tensor(a0.codes))
    block = codes._function
    assert kept_bytes(block.accum.shape, 2) == block.accum.nbytes + block.route.nbytes + codes.codes.values.nbytes
    assert kept_bytes((1, 4, 4, 8), 1) == 4 * 128


exercise(kept_bytes, check_kept_bytes)

# %% [markdown]
# ## What to keep
#
# - Inner products see codes of few bits, packed just before; between them, and all through backward, float arithmetic goes on.
# - Fusing keeps floats out of memory, and changes no bit. The kernel family changes no bit either.
# - Activations shrink in training; weights, gradients of weights and the optimizer do not.
#
# Further: Zhou et al., DoReFa-Net, [arXiv:1606.06160](https://arxiv.org/abs/1606.06160), 2016: its algorithm 1 is the step
# that we walked through; look at what it quantizes when, and at what it leaves out. Ioffe and Szegedy, Batch Normalization,
# [arXiv:1502.03167](https://arxiv.org/abs/1502.03167), 2015: the gradients of section 3 are those of `batch_norm_grad`.
# Kingma and Ba, Adam, [arXiv:1412.6980](https://arxiv.org/abs/1412.6980), 2014: algorithm 1, and section 3 for why the means
# are corrected. `ARCHITECTURE.md` follows a layer of the large network in the same way.
