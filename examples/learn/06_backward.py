# %% [markdown]
# # 6. Backward in bits
#
# A training step uses each layer three times: forward, then backward for the gradient of its input, and for the gradient of its
# weight. This chapter derives both gradients from one short loop in NumPy, and computes them from codes with the identity of
# chapter 3. Two things make that harder than forward: there is no code for zero, and each image has a scale of its own.

# %%
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
from check import check
from common import AMBER, BLUE, FAINT, GREY, RED, YourTurn, exercise, show, size
from network import small
from numpy.lib.stride_tricks import sliding_window_view

import bitnet
from bitnet import Codes, execution, functional
from bitnet.kernels import products
from bitnet.kernels.products import reference
from bitnet.kernels.products.geometry import Conv

# %% [markdown]
# ## One loop, three products
#
# A convolution is a set of triples: an output position $o$, a tap $t$ of the filter, and the input position $i$ that this tap
# meets there. With stride $s$ and padding $p$, in each dimension, $i = s \cdot o + t - p$. Forward adds up, over all triples,
#
# $$y_o \leftarrow y_o + x_i \, w_t$$
#
# Let $g_o$ be the gradient of the loss with respect to $y_o$. Each triple is a product of two numbers, and the derivative of a
# product by one factor is the other. So the same triples give both gradients:
#
# $$dx_i \leftarrow dx_i + g_o \, w_t$$
#
# $$dw_t \leftarrow dw_t + g_o \, x_i$$
#
# With channels C, filters F and images N, each of the three is a small matrix product. That is the whole backward pass of a
# convolution:


# %%
def convolution(x, w, g, stride, padding):
    """The output y, and the gradients of x and w if g is that of y. Images (N, H, W, channels), weights (kh, kw, C, F)."""
    p = padding
    x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    y, dx, dw = np.zeros_like(g), np.zeros_like(x), np.zeros_like(w)
    for oy, ox, ky, kx in np.ndindex(g.shape[1], g.shape[2], w.shape[0], w.shape[1]):
        iy, ix = stride * oy + ky, stride * ox + kx  # in the padded image
        y[:, oy, ox] += x[:, iy, ix] @ w[ky, kx]
        dx[:, iy, ix] += g[:, oy, ox] @ w[ky, kx].T
        dw[ky, kx] += x[:, iy, ix].T @ g[:, oy, ox]
    return y, dx[:, p:dx.shape[1] - p, p:dx.shape[2] - p], dw


# %% [markdown]
# Do not believe it: check it. A *finite difference* moves one number a little up and a little down and looks how the loss
# changes. We take the loss $\sum_o g_o y_o$, whose gradient with respect to $y$ is $g$, and move every single number of $x$ and
# of $w$.

# %%
rng = np.random.default_rng(0)
for stride in (1, 2):
    x, w = rng.standard_normal((2, 4, 4, 2)), rng.standard_normal((3, 3, 2, 2))
    g = rng.standard_normal((2, 4 // stride, 4 // stride, 2))
    _, dx, dw = convolution(x, w, g, stride, 1)
    worst = 0
    for array, grad in ((x, dx), (w, dw)):
        for place in np.ndindex(array.shape):
            kept, losses = array[place], []
            for step in (1e-5, -1e-5):
                array[place] = kept + step
                losses.append((g * convolution(x, w, g, stride, 1)[0]).sum())
            array[place] = kept
            worst = max(worst, abs((losses[0] - losses[1]) / 2e-5 - grad[place]))
    print(f"stride {stride}: {x.size + w.size} finite differences, largest deviation {worst:.0e}")
    assert worst < 1e-8

# %% [markdown]
# Here are the triples of a small case in one dimension. A row is an output, a column an input, the number is the tap. Forward
# adds along rows, the input gradient along columns, and the weight gradient along the diagonal of each tap.

# %%
figure, axes = plt.subplots(1, 2, sharey=False, figsize=(8, 3.6))
for axis, stride, outputs in zip(axes, (1, 2), (6, 3), strict=True):
    for o, t in product(range(outputs), range(3)):
        i = stride * o + t - 1
        outside = not 0 <= i < 6
        axis.add_patch(plt.Rectangle((i, -o), 0.92, 0.92, color=FAINT if outside else (BLUE, AMBER, GREY)[t],
                                     alpha=0.4 if outside else 0.6))
        axis.text(i + 0.46, 0.46 - o, t, ha="center", va="center")
    axis.set(xlim=(-1.1, 7.1), ylim=(-5.1, 1.05), aspect="equal")
    axis.set_xticks(np.arange(-1, 7) + 0.46, ["pad", *range(6), "pad"])
    axis.set_yticks(0.46 - np.arange(outputs), range(outputs))
    axis.set(title=f"Stride {stride}: " + ("rows, columns, diagonals" if stride == 1 else "columns of two kinds"),
             xlabel="input position", ylabel="output position")
show(figure, "06-triples")

# %% [markdown]
# On the built page, choose a product and a result, and see which triples it sums.
#
# <div class="widget" data-widget="triples"></div>
#
# The direction of the sum decides what lies side by side in a word, because a popcount adds up one word. Forward packs input
# channels. The input gradient packs output channels, of gradient and weight. The weight gradient packs *positions*: of one
# channel, the bits of 32 or 64 pixels. So gradients and activations are packed twice, in two directions.

# %% [markdown]
# ### Exercise: `linear_grads`


# %%
def linear_grads(x, w, g):
    """A fully connected layer is y = x @ w. From the gradient g of y: the gradients of x and of w."""
    raise YourTurn


def check_linear_grads(linear_grads):
    rng = np.random.default_rng(1)
    x, w, g = rng.standard_normal((4, 5)), rng.standard_normal((5, 3)), rng.standard_normal((4, 3))
    _, dx, dw = convolution(x[:, None, None], w[None, None], g[:, None, None], 1, 0)
    ours = linear_grads(x, w, g)
    assert np.allclose(ours[0], dx[:, 0, 0]) and np.allclose(ours[1], dw[0, 0])


exercise(linear_grads, check_linear_grads)

# %% [markdown]
# ## Input gradient: no code is zero
#
# Now to codes. From chapter 5: a gradient is quantized with noise, and becomes bipolar codes $v$, levels $2v - n$, with a scale
# for each image. Weights are bipolar, too. Step 4 of chapter 3 applies:
#
# $$\sum (2v - n_g)(2c - n_w) = n_g n_w N - 2T$$
#
# An input pixel looks back at the outputs whose filters covered it: at $o = i + p - t$ for each tap. That is a convolution of
# the gradient with the filter turned around, and at the border some of those outputs do not exist. They should count as zeros.
# But the levels of bipolar codes are all odd, none is 0:

# %%
for bits in (1, 2, 4):
    levels = 2 * np.arange(2**bits) - (2**bits - 1)
    print(f"{bits} bits: levels {levels.tolist()}")
    assert (levels % 2 == 1).all()

# %% [markdown]
# Three ways out: leave the missing taps out of the loop (then border pixels have loops of other lengths); mask them (an AND
# more a step); or let zero words stand there, which read as $-n_g$, and correct by a constant. The library takes the third,
# since its inner loop stays as it is. It is the table of chapter 4: for each border class, $n_g$ times the sum of the weight
# levels whose taps lie outside.


# %%
def pack(bits):
    """As in chapter 4: bits along the last axis, 64 to a word."""
    octets = np.packbits(bits, axis=-1)
    octets = np.pad(octets, [(0, 0)] * (octets.ndim - 1) + [(0, -octets.shape[-1] % 8)])
    return np.ascontiguousarray(octets).view(np.uint64)


def im2col(image):
    """As in chapter 4: what a 3 x 3 filter sees at each place, as one row."""
    seen = sliding_window_view(image, (3, 3), axis=(1, 2))
    return np.moveaxis(seen, 3, 5).reshape(*seen.shape[:3], -1)


def pad(image):
    return np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))


def planes_xor(left, left_bits, right, right_bits):
    """T of packed rows: left(l) is (..., words), right(m) is (columns, words)."""
    return sum(2 ** (l + m) * np.bitwise_count(left(l)[..., None, :] ^ right(m)).sum(axis=-1, dtype=np.int64)
               for l in range(left_bits) for m in range(right_bits))


def input_grad_bits(v, v_bits, c, c_bits):
    """Levels of the input gradient: 3 x 3, stride 1, padding 1; v (N, H, W, F), c (3, 3, C, F)."""
    n_v, n_c, channels = 2**v_bits - 1, 2**c_bits - 1, c.shape[2]
    turned = np.moveaxis(c[::-1, ::-1], 2, 0)  # (C, 3, 3, F)
    T = planes_xor(lambda l: im2col(pack(pad(v) >> l & 1)), v_bits,
                   lambda m: pack(turned >> m & 1).reshape(channels, -1), c_bits)
    naive = n_v * n_c * 9 * c.shape[3] - 2 * T  # as if there were a gradient of -n_v around the image
    inside = im2col(pad(np.ones((1, *v.shape[1:3], 1), int)))
    level_sums = (2 * turned - n_c).sum(axis=3).reshape(channels, 9)
    return naive + n_v * (1 - inside) @ level_sums.T


v, c = rng.integers(0, 16, (2, 5, 6, 10)), rng.integers(0, 2, (3, 3, 7, 10))
u = rng.integers(0, 4, (2, 5, 6, 7))
_, dx, dw = convolution(u, 2 * c - 1, 2 * v - 15, 1, 1)  # on levels, by the loop
assert (input_grad_bits(v, 4, c, 1) == dx).all()
print("input gradient of one pixel, bits:", input_grad_bits(v, 4, c, 1)[0, 0, 0], "loop:", dx[0, 0, 0])

# %% [markdown]
# ### Exercise: `masked_dot`


# %%
def masked_dot(v, v_bits, c, c_bits, valid):
    """Sum of (2v - n_v) * (2c - n_c) where ``valid`` is 1, from packed planes: the second way out, with a mask.

    Vectors of codes and of zeros and ones. One AND more for each pair of planes, and another constant.
    """
    raise YourTurn


def check_masked_dot(masked_dot):
    rng = np.random.default_rng(2)
    for v_bits, c_bits, length in ((1, 1, 8), (4, 1, 30), (3, 2, 100)):
        n_v, n_c = 2**v_bits - 1, 2**c_bits - 1
        v, c = rng.integers(0, n_v + 1, length), rng.integers(0, n_c + 1, length)
        valid = rng.integers(0, 2, length)
        assert masked_dot(v, v_bits, c, c_bits, valid) == ((2 * v - n_v) * (2 * c - n_c) * valid).sum()


exercise(masked_dot, check_masked_dot)

# %% [markdown]
# Real numbers are this integer times both scales. Both are constant within the sum: it runs over filters and taps of one image.
# That is why DoReFa-Net gives a *layer* one weight scale and not each filter its own. A scale for each filter would sit inside
# this sum.

# %% [markdown]
# ### Your file: `input_grad`

# %%
check("input_grad")

# %% [markdown]
# ## Strides: phases
#
# With stride 2, look at the columns of the right picture: odd inputs meet taps 0 and 2, even ones tap 1 alone. The textbook's
# way is to put zeros between the gradient's pixels and convolve with all taps. We have no zeros to put there, and three
# quarters of the work would be wasted. Instead the input pixels are sorted by position modulo stride into *phases*. Each phase
# is a small convolution of its own, without a hole in it:

# %%
taps = np.zeros((6, 6), int)  # how many taps meet each input pixel, if there were no border
for iy, ix, ky, kx in np.ndindex(6, 6, 3, 3):
    taps[iy, ix] += (iy + 1 - ky) % 2 == 0 and (ix + 1 - kx) % 2 == 0
phases = sorted(taps[:2, :2].ravel().tolist())
print(f"taps of the four phases: {phases}, {sum(phases)} in all; with zeros put in: {4 * 9}")
assert phases == [1, 2, 2, 4] and sum(phases) == 9 and 1 - 9 / 36 == 3 / 4

figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), width_ratios=[2, 1])
phase_colors = {(0, 0): FAINT, (0, 1): AMBER, (1, 0): GREY, (1, 1): BLUE}
for axis, count, shift, title in ((axes[0], 6, 0, "Stride 2: inputs of four phases, taps each meets"),
                                  (axes[1], 3, 1, "The filter's taps, by phase")):
    for y, x in np.ndindex(count, count):
        color = phase_colors[(y + shift) % 2, (x + shift) % 2]
        axis.add_patch(plt.Rectangle((x, -y), 0.94, 0.94, color=color, alpha=0.6))
        axis.text(x + 0.47, 0.47 - y, taps[y, x] if count == 6 else f"{y}, {x}", ha="center", va="center")
    axis.set(title=title, xlim=(-0.1, 6.1), ylim=(-5.1, 1.05), aspect="equal")
    axis.axis("off")
show(figure, "06-phases")

# %% [markdown]
# ### Exercise: `taps_of`


# %%
def taps_of(position, kernel_size, stride, padding):
    """The taps that meet an input position in one dimension, in rising order, if outputs had no end on either side."""
    raise YourTurn


def check_taps_of(taps_of):
    assert [list(taps_of(i, 3, 2, 1)) for i in (0, 1, 2)] == [[1], [0, 2], [1]]
    assert list(taps_of(4, 5, 1, 2)) == [0, 1, 2, 3, 4]
    assert [list(taps_of(i, 3, 4, 0)) for i in range(4)] == [[0], [1], [2], []]


exercise(taps_of, check_taps_of)

# %% [markdown]
# ## Weight gradient: bits along positions
#
# For one image, one tap, one input channel and one filter, the weight gradient is a dot product over all output positions:
# activation codes $u$ (unsigned) with gradient codes $v$ (bipolar), step 3 of chapter 3:
#
# $$D = \sum u (2v - n_g) = n_u \sum v - T$$
#
# Padding is no trouble here: it is the activation that is padded, and level 0 is its code 0. The constant is one sum for each
# image and filter.


# %%
def weight_grad_bits(u, u_bits, v, v_bits):
    """Levels of the weight gradient of one image: 3 x 3, stride 1, padding 1; u (H, W, C), v (H, W, F)."""
    channels, filters = u.shape[2], v.shape[2]
    rows = im2col(pad(u[None])).reshape(-1, 9 * channels).T  # (taps and channels, positions)
    columns = v.reshape(-1, filters).T                       # (filters, positions)
    T = planes_xor(lambda l: pack(rows >> l & 1), u_bits, lambda m: pack(columns >> m & 1), v_bits)
    return ((2**u_bits - 1) * columns.sum(axis=1) - T).reshape(3, 3, channels, filters)


assert (sum(weight_grad_bits(u[i], 2, v[i], 4) for i in range(2)) == dw).all()
print("weight gradient, tap (0, 0), channel 0, bits:", sum(weight_grad_bits(u[i], 2, v[i], 4) for i in range(2))[0, 0, 0, :5],
      "loop:", dw[0, 0, 0, :5])

# %% [markdown]
# <details><summary>Predict: along which axis do the bits of a word lie in each of the three products?</summary>
#
# Along the axis that is summed: input channels forward, output channels for the input gradient, positions for the weight
# gradient.
#
# </details>

# %% [markdown]
# We copied the positions for each of the nine taps. The library copies nothing: a tap is the *same* stream of bits, shifted by
# a few places. Between two rows of outputs that leaves places which belong to no output. There both bits are set to 0, and the
# XOR is 0. With a stride, positions are sorted into phases first, so that those of one tap lie side by side again.

# %% [markdown]
# ### Your file: `weight_grad`

# %%
check("weight_grad")

# %% [markdown]
# ## One scale for each image splits the sum
#
# The sum of $D$ over images above was a sum of levels. The real gradient has a scale $M_s / n_g$ for each image $s$, with $M_s$
# its largest magnitude. So images cannot share a popcount:
#
# $$dw = \sum_s \frac{M_s}{n_g n_u} D_s$$
#
# An integer for each image, made a float, scaled, and added up in float. On a layer of 7 x 7 outputs that costs: 49 positions
# fill two words of 32 bits, with 15 places idle. With *one* scale for the whole batch, all positions would form a single run of
# bits, and each weight would be scaled once. Why not do that? Because images differ. One that the network already classifies
# well has a small gradient, one that it mistakes has a large one. With the largest magnitude as everyone's scale, a small
# gradient lies within a fraction of one step, and is mostly noise. Measure it:

# %%
images, positions = 128, 7 * 7
words = images * -(-positions // 32), -(-images * positions // 32)
print(f"{images} images: {words[0]} words a plane and channel with a scale each, {words[1]} with one scale")
assert words == (256, 196) and 2 * 32 - positions == 15

magnitude = np.geomspace(1, 1 / 32, 12)
gradient = magnitude[:, None] * rng.standard_normal((12, size(4000, 1000)))
largest = np.abs(gradient).max(axis=1)


def quantized(gradient, largest, bits):
    """Chapter 5's f_gamma, on levels: n times the gradient over its scale, rounded to the next odd ones with noise."""
    n = 2**bits - 1
    codes = np.rint(n * (gradient / (2 * largest) + 0.5) + rng.uniform(-0.5, 0.5, gradient.shape))
    return (2 * np.clip(codes, 0, n) - n) * largest / n


figure, axis = plt.subplots()
power = {}
each, shared = "one scale for each image", "one scale for the batch"
for name, scales, color in ((each, largest[:, None], BLUE), (shared, largest.max(), RED)):
    error = quantized(gradient, scales, 4) - gradient
    power[name] = (error**2).sum()
    noise = np.linalg.norm(error, axis=1) / np.linalg.norm(gradient, axis=1)
    axis.loglog(magnitude, noise, "o-", color=color, label=name)
axis.axhline(1, color=GREY, lw=1, ls="--")
axis.set(title="One scale for all drowns small gradients in noise (4 bits)", xlabel="magnitude of an image's gradient",
         ylabel="noise / gradient")
axis.set_xticks([1, 0.3, 0.1, 0.03], ["1", "0.3", "0.1", "0.03"])
axis.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
axis.minorticks_off()
axis.invert_xaxis()
axis.legend(frameon=False)
show(figure, "06-scales")
ratio = power[shared] / power[each]
expected = len(largest) * largest.max() ** 2 / (largest**2).sum()
print(f"noise in the sum over images: {ratio:.1f} times the power, expected {expected:.1f}")
assert 0.8 < ratio / expected < 1.25 and ratio > 4
assert magnitude[-1] < 2 * largest.max() / 15 / 4  # a fraction of one step of the batch's scale
assert noise[-1] > 3 and 4 < (31 / 15) ** 2 < 4.5  # of the smallest gradient, one scale; what a fifth bit brings

# %% [markdown]
# The noise of a code has the size of a step, and a step is proportional to its scale. With one scale, the smallest gradients
# here are several times smaller than their noise (above the dashed line). In the weight gradient, which adds all images up, the
# power of the noise grows by a factor that is printed above. A bit more for $G$ would buy a factor of about four back, at the
# price of more pairs of planes everywhere. A scale for each image costs one multiplication for each weight and image.
#
# On the built page: two samples, one smaller than the other.
#
# <div class="widget" data-widget="scales"></div>
#
# There is one case where nothing is left to count. Where the output is a single pixel, the run of positions has length 1. Each
# weight sums one term an image, each with its own scale. The library then multiplies scaled levels in float.
#
# ## The library's three products
#
# The same on the library: same codes, integers exactly equal to the plain loops, for every kernel family, with stride and
# padding.

# %%
for stride, padding in ((1, 1), (2, 1), (2, 0)):
    conv = Conv(40, 24, (3, 3), (stride, stride), ((padding, padding), (padding, padding)))
    out = conv.output_size(9, 9)
    a = Codes(rng.integers(0, 4, (3, 9, 9, 40), np.uint8), 2, "unsigned", 1 / 3)
    w = Codes(rng.integers(0, 2, (3, 3, 40, 24), np.uint8), 1, "bipolar", 0.05)
    g = Codes(rng.integers(0, 16, (3, *out, 24), np.uint8), 4, "bipolar", np.array([1.0, 0.3, 0.01]) / 15)
    y, dx, dw = convolution(a.levels(), w.levels(), g.levels(), stride, padding)
    each = reference.weight_grad(g.levels(), a.levels(), conv)  # (3, 3, 3, 40, 24): an integer for each image
    assert (each.sum(axis=0) == dw).all()
    scale = np.float32(g.scale * a.scale)
    total = np.zeros(w.shape, np.float32)
    for s in range(3):  # convert, scale, add, in the order of images
        total += each[s].astype(np.float32) * scale[s]
    for family in execution.FAMILIES:
        ones = np.ones(3)
        assert (products.forward(family, a, w, conv) == y).all()
        assert (products.input_grad(family, g, w, conv, (9, 9), ones) == dx).all()
        assert (products.weight_grad(family, g, a, conv, ones) == dw).all()
        assert (products.weight_grad(family, g, a, conv, scale) == total).all()
print("families", execution.FAMILIES, "agree with the loops")

# %% [markdown]
# Even the float sum is the same bit for bit, because every family adds images in the same order. So changing the family, or the
# number of threads, changes nothing in a training.
#
# Last, the network of this course (chapter 7 takes it apart) does one real step, and the *execution log* tells what ran. The
# first and last layers are float, as in the paper; the input of the network needs no gradient.

# %%
network, rng = small(width=16).train(), np.random.default_rng(0)
images, labels = rng.random((8, 40, 40, 3), np.float32), rng.integers(0, 10, 8)
with bitnet.use_kernels("popcount"), execution.log() as log:
    loss = functional.softmax_cross_entropy(network(images), labels)
    loss.backward()
print(f"{'layer':8}{'product':13}{'bits':>8}{'MMAC':>8}  kernels")
for record in log:
    bits = f"{record.bits[0]} x {record.bits[1]}"
    print(f"{record.layer:8}{record.role:13}{bits:>8}{record.macs / 1e6:8.2f}  {record.family}")
on_bits = [(record.role, record.bits) for record in log if record.family == "popcount"]
assert sorted(on_bits) == sorted(2 * [("forward", (2, 1)), ("input_grad", (4, 1)), ("weight_grad", (4, 2))])

# %% [markdown]
# Two inner layers, three products each, all on popcount. The pairs of planes are 2 forward, 4 and 8 backward: gradients of 4
# bits make backward the dearer part.

# %%
assert [bits[0] * bits[1] for _, bits in sorted(set(on_bits))] == [2, 4, 8]


# %% [markdown]
# Further: Zhou et al., DoReFa-Net, [arXiv:1606.06160](https://arxiv.org/abs/1606.06160), section 2.5 and equation 7
# (gradients): find where it says that the scale belongs to a sample. Dumoulin and Visin, A Guide to Convolution Arithmetic,
# [arXiv:1603.07285](https://arxiv.org/abs/1603.07285), 2016: pictures of transposed convolutions with stride, where zeros are
# put between pixels; compare with our phases. The border tables and streams of positions in `kernels/products/popcount.py`
# and `kernels/products/spatial.py`.
