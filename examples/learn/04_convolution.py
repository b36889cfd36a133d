# %% [markdown]
# # 4. A convolution in bits
#
# Chapter 3 computed one dot product with XOR and popcount. A convolution computes thousands, on the same numbers again and
# again. This chapter writes it in a few lines of NumPy, checks it against floats and against bitnet, and finds out what happens
# at the border of the image, where a filter meets pixels that do not exist.

# %%
import matplotlib.pyplot as plt
import numpy as np
from check import check
from common import AMBER, YourTurn, exercise, show
from numpy.lib.stride_tricks import sliding_window_view

from bitnet import Codes
from bitnet.kernels import products
from bitnet.kernels.products import reference
from bitnet.kernels.products.geometry import Conv

# %% [markdown]
# ## Dot products at every pixel
#
# An image is an array (N, H, W, C): N images, H rows, W columns, C channels. A weight is (kh, kw, C, F): F filters, each of kh
# times kw *taps*, with C numbers a tap. At every pixel a filter lies over the image, and the result is one dot product over all
# its taps and channels. The image gets a border of zeros, the *padding*, so that a 3 x 3 filter fits on the outermost pixels,
# too.
#
# The classic way to compute this is *im2col* (image to columns): copy what the filter sees at each pixel into one row. Then the
# convolution is a product of two matrices, and a row meets each filter.


# %%
def im2col(image):
    """What a 3 x 3 filter sees at each place, as one row: (N, H, W, C) -> (N, H - 2, W - 2, 9 * C)."""
    seen = sliding_window_view(image, (3, 3), axis=(1, 2))       # (N, H - 2, W - 2, C, 3, 3)
    return np.moveaxis(seen, 3, 5).reshape(*seen.shape[:3], -1)  # (N, H - 2, W - 2, 3, 3, C), flattened


def pad(image):
    """One pixel of zeros around each image."""
    return np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))


def float_conv(x, w):
    """The convolution of real numbers: (N, H, W, C) and (3, 3, C, F) -> (N, H, W, F)."""
    return im2col(pad(x)) @ w.reshape(-1, w.shape[3])


places = np.arange(1, 37).reshape(1, 6, 6, 1)  # an image whose pixels are numbered
figure, axes = plt.subplots(1, 2, figsize=(8, 3), width_ratios=(1, 1.5))
axes[0].imshow(pad(places)[0, :, :, 0], cmap="Blues")
axes[0].add_patch(plt.Rectangle((1.5, 1.5), 3, 3, fill=False, color=AMBER, lw=3))
axes[1].imshow(im2col(pad(places))[0].reshape(36, 9).T, cmap="Blues", aspect="auto")
axes[1].add_patch(plt.Rectangle((6 * 2 + 2 - 0.5, -0.5), 1, 9, fill=False, color=AMBER, lw=3))
axes[0].set(title="What a filter sees at a place", xticks=[], yticks=[])
axes[1].set(title="becomes a row of a matrix (drawn upright)", xlabel="36 places", ylabel="9 taps", xticks=[], yticks=[])
show(figure, "04-im2col")
assert im2col(pad(places))[0, 2, 2, :3].ravel().tolist() == [8, 9, 10]

# %% [markdown]
# For bits only two things change. The channels of a pixel are packed into words, so im2col copies words. And instead of a
# matrix product, each row of words meets each filter's words in an XOR. These are all the lines it takes; the identity of
# chapter 3 stands in the last one.


# %%
def pack(bits):
    """Bits along the last axis, 64 to a word; those that are missing in the last word are 0."""
    octets = np.packbits(bits, axis=-1)
    octets = np.pad(octets, [(0, 0)] * (octets.ndim - 1) + [(0, -octets.shape[-1] % 8)])
    return np.ascontiguousarray(octets).view(np.uint64)


def bit_conv(u, u_bits, c, c_bits):
    """Sum of u * (2c - n) at every pixel, for codes u (N, H, W, C) and c (3, 3, C, F)."""
    T = 0
    for l in range(u_bits):
        x = im2col(pack(pad(u) >> l & 1))                                 # (N, H, W, words)
        for m in range(c_bits):
            w = pack(np.moveaxis(c >> m & 1, 3, 0)).reshape(c.shape[3], -1)  # (F, words)
            ones = np.bitwise_count(x[..., None, :] ^ w)                  # (N, H, W, F, words)
            T = T + 2 ** (l + m) * ones.sum(axis=-1, dtype=np.int64)
    return (2**u_bits - 1) * c.sum(axis=(0, 1, 2)) - T


rng = np.random.default_rng(0)
for channels, filters, u_bits, c_bits in ((8, 2, 1, 1), (64, 3, 2, 1), (70, 5, 3, 2)):
    u = rng.integers(0, 2**u_bits, (2, 5, 4, channels))
    c = rng.integers(0, 2**c_bits, (3, 3, channels, filters))
    levels = 2 * c - (2**c_bits - 1)
    assert (bit_conv(u, u_bits, c, c_bits) == float_conv(u.astype(float), levels.astype(float))).all()
    x, w = Codes(u.astype(np.uint8), u_bits, "unsigned"), Codes(c.astype(np.uint8), c_bits, "bipolar")
    theirs = products.forward("popcount", x, w, Conv(channels, filters, (3, 3), padding=((1, 1), (1, 1))))
    assert (bit_conv(u, u_bits, c, c_bits) == theirs).all()
print("first pixel, first image:", bit_conv(u, u_bits, c, c_bits)[0, 0, 0], "in bits,",
      float_conv(u.astype(float), levels.astype(float))[0, 0, 0], "in floats")

# %% [markdown]
# Exactly equal: integers in both, and floats are exact for integers this small.

# %% [markdown]
# ### Exercise: `strided`


# %%
def strided(u, u_bits, c, c_bits, stride):
    """Like bit_conv, but without padding, and only at every ``stride``-th row and column of places."""
    raise YourTurn


def check_strided(strided):
    rng = np.random.default_rng(1)
    for edge, stride, u_bits, c_bits in ((6, 1, 1, 1), (7, 2, 2, 1), (9, 3, 1, 2)):
        u, c = rng.integers(0, 2**u_bits, (2, edge, edge, 10)), rng.integers(0, 2**c_bits, (3, 3, 10, 4))
        truth = reference.forward(u, 2 * c - (2**c_bits - 1), Conv(10, 4, (3, 3), (stride, stride)))
        ours = strided(u, u_bits, c, c_bits, stride)
        assert np.shape(ours) == truth.shape and (ours == truth).all()


exercise(strided, check_strided)

# %% [markdown]
# ### Your file: `forward`

# %%
check("forward")

# %% [markdown]
# ## Why zeros may surround the image
#
# We padded codes with code 0. For activations that is right, since code 0 is level 0. In the identity it even costs nothing:
# where $u$ is 0, the XOR of each plane gives back the weight's plane, so $T$ grows by $n_u \sum c$, just as the constant does.
# Both cancel.
#
# With bipolar codes it goes wrong. Code 0 is level $-n$, for signs -1: padding with zero *words* surrounds the image with -1.
# Some methods (binarized networks, with activations of -1 and +1) need this case, and so does the input gradient of chapter 6.
# Let us see it. Each pixel's error depends on which taps lie outside, and on the weights there:

# %%
n = 1
v = rng.integers(0, 2, (1, 8, 8, 64))  # signs as codes: -1 is 0, +1 is 1
c = rng.integers(0, 2, (3, 3, 64, 4))
levels = 2 * c - 1
truth = float_conv(2.0 * v - n, levels.astype(float))  # zeros around the levels
# bipolar times bipolar: n_u * n_c * N - 2T, and bit_conv gives n_u * sum(c) - T
naive = n * n * c[..., 0].size + 2 * (bit_conv(v, 1, c, 1) - n * c.sum(axis=(0, 1, 2)))
inside = im2col(pad(np.ones((1, 8, 8, 1), int)))[0]  # (8, 8, 9): 1 where a tap lies in the image
table = n * (1 - inside) @ levels.sum(axis=2).reshape(9, 4)
wrong = naive != truth
assert (naive + table == truth).all()
assert not wrong[0, 1:-1, 1:-1].any() and wrong[0, 0].any()
classes = np.unique(inside.reshape(64, 9), axis=0)
print(f"{len(classes)} kinds of pixels: {[int(9 - taps.sum()) for taps in classes]} taps outside")
assert len(classes) == 9

figure, axes = plt.subplots(1, 2)
largest = np.abs(naive - truth).max()
panels = [((naive - truth)[0, :, :, 0], "Zero words around signs: errors at the border", "RdBu", (-largest, largest)),
          (9 - inside.sum(axis=-1), "A table by taps outside takes them back", "Blues", (0, 9))]
for axis, (values, title, colors, (lowest, highest)) in zip(axes, panels, strict=True):
    axis.imshow(values, cmap=colors, vmin=lowest, vmax=highest)
    for (row, column), value in np.ndenumerate(values):
        axis.text(column, row, int(value), ha="center", va="center", fontsize=9)
    axis.set(title=title, xticks=[], yticks=[])
axes[0].set_xlabel("naive result minus true one, filter 0")
axes[1].set_xlabel("taps outside the image")
show(figure, "04-border")

# %% [markdown]
# The cure is a constant. A tap outside added $-n$ times its weight levels, so add $n$ times the sum of these. Pixels with the
# same taps outside share the constant: here 9 kinds of pixels, *border classes*, in a small table with a row for each. The
# library keeps such a table and adds nothing to its inner loop.
#
# On the built page, move over the image: which taps lie outside, and what the table gives back.
#
# <div class="widget" data-widget="border"></div>

# %% [markdown]
# ### Exercise: `border_constants`


# %%
def border_constants(c, c_bits, v_bits, inside):
    """What to add to a convolution of bipolar codes of ``v_bits`` bits that was padded with code 0.

    c : weight codes (3, 3, C, F), bipolar; inside : (pixels, 9), 1 where a tap lies in the image. Result: (pixels, F).
    """
    raise YourTurn


def check_border_constants(border_constants):
    rng = np.random.default_rng(2)
    for c_bits, v_bits in ((1, 1), (2, 3)):
        n_c, n_v = 2**c_bits - 1, 2**v_bits - 1
        c, v = rng.integers(0, n_c + 1, (3, 3, 5, 4)), rng.integers(0, n_v + 1, (1, 4, 6, 5))
        levels = (2 * c - n_c).reshape(-1, 4)
        inside = im2col(pad(np.ones((1, 4, 6, 1), int))).reshape(24, 9)
        padded, truth = im2col(2 * pad(v) - n_v) @ levels, im2col(pad(2 * v - n_v)) @ levels
        assert (padded.reshape(24, 4) + border_constants(c, c_bits, v_bits, inside) == truth.reshape(24, 4)).all()


exercise(border_constants, check_border_constants)

# %% [markdown]
# Now to speed: how many bits does a step treat, and what limits a machine? That is chapter 9. First the convolution has to
# learn.
#
# Further: Zhou et al., DoReFa-Net, [arXiv:1606.06160](https://arxiv.org/abs/1606.06160), section 2.1. Chellapilla et al.,
# High Performance Convolutional Neural Networks for Document Processing, 2006: im2col, and why a matrix product is worth the
# copies. Border tables at the head of `kernels/products/popcount.py`.
