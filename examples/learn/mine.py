"""Your own DoReFa-Net, in NumPy alone. It grows chapter by chapter: put your lines where NotImplementedError is raised.

    python examples/learn/check.py              which pieces are right, and what is wrong with the others
    python examples/learn/check.py pack --hint  one of them, with a hint

What is written out already is not about bits. In chapter 8 the whole file trains a network; ``solutions/mine.py`` is one way.

Images are (N, H, W, C), weights (kh, kw, C, F). Codes are small integers; n = 2**bits - 1 is the largest. An unsigned code c
stands for the level c, a bipolar one for 2c - n; a real number is a level times a scale.
"""

import numpy as np

EPS = 1e-4  # added to the variance by batch norm
INNER = {"conv1": 1, "conv2": 0}  # the layers in bits, and their padding


# Chapter 1: numbers become codes


def activation_codes(x, bits):
    """Unsigned codes (uint8) of real numbers: clip to [0, 1], then the nearest of 2**bits, halves to the even code."""
    raise NotImplementedError


def weight_codes(w, bits):
    """Bipolar codes (uint8) of a layer's weight, and a scale. One bit: sign (0 counts as +1) and mean |w|; else by tanh."""
    raise NotImplementedError


# Chapter 2: gradients go straight through


def activation_grad(x, grad):
    """The gradient at x, the input of ``activation_codes``, where ``grad`` arrives at its output."""
    raise NotImplementedError


# Chapter 3: a product is counted


def pack(bits):
    """Zeros and ones (..., N) as words of 64 (uint64), packed along the last axis; missing bits of the last word are 0."""
    raise NotImplementedError


def planes(codes, bits):
    """Bit planes of codes (rows, N), packed: (bits, rows, words); plane l holds bit l of each code."""
    raise NotImplementedError


def count(left, right):
    """T of every row of ``left`` (planes, rows, words) with every row of ``right`` (planes, columns, words): (rows, columns).

    T = sum over planes l, m of 2**(l + m) * popcount(left[l] XOR right[m])
    """
    raise NotImplementedError


def mixed(u, u_bits, c, c_bits):
    """Dot products of the rows of unsigned codes u (rows, N) with the rows of bipolar codes c (columns, N), of levels."""
    raise NotImplementedError


def signed(v, v_bits, c, c_bits):
    """Dot products of the rows of bipolar codes v (rows, N) with the rows of bipolar codes c (columns, N), of levels."""
    raise NotImplementedError


# Chapter 4: a convolution in bits


def im2col(images, size, padding=0):
    """What a filter of size x size taps sees at each place, as a row: (N, OH, OW, size * size * C), zeros around the image."""
    edge = (padding, padding)
    seen = np.lib.stride_tricks.sliding_window_view(np.pad(images, ((0, 0), edge, edge, (0, 0))), (size, size), axis=(1, 2))
    return np.moveaxis(seen, 3, 5).reshape(*seen.shape[:3], -1)  # (N, OH, OW, C, size, size) -> taps, then channels


def flat(rows):
    """All but the last axis made one: (..., K) -> (M, K)."""
    return rows.reshape(-1, rows.shape[-1])


def forward(u, u_bits, c, c_bits, padding):
    """The convolution of unsigned codes u (N, H, W, C) with bipolar codes c (size, size, C, F), of levels: integers."""
    raise NotImplementedError


# Chapter 5: gradients need noise


def gradient_codes(g, bits, noise):
    """Bipolar codes (uint8) of a gradient (N, H, W, F) and a scale for each sample (N,); noise is even in (-1/2, 1/2).

    A sample without any gradient has the scale 0.
    """
    raise NotImplementedError


# Chapter 6: backward in bits


def input_grad(v, v_bits, c, c_bits, padding):
    """Gradient of the input of ``forward``, of levels: gradient codes v (N, OH, OW, F), weight codes c (size, size, C, F).

    No bipolar code is 0: the zeros around the gradient count as -n, and a table by taps outside takes that back.
    """
    raise NotImplementedError


def weight_grad(u, u_bits, v, v_bits, padding, scales):
    """Gradient of the weight (size, size, C, F): the sum over samples of scale * integer, float32.

    u : input codes (N, H, W, C), unsigned; v : gradient codes (N, OH, OW, F), bipolar; scales : (N,)
    """
    raise NotImplementedError


# Chapter 7: the rest of a step


def batch_norm(x, gamma, beta, mean, var):
    """gamma * (x - mean) / sqrt(var + EPS) + beta for each channel."""
    scale = gamma / np.sqrt(var + EPS)
    return x * scale.astype(x.dtype) + (beta - mean * scale).astype(x.dtype)


def batch_norm_grad(grad, x, gamma, mean, var):
    """Gradients of x, gamma and beta of ``batch_norm`` if mean and variance are those of x: they depend on x, too."""
    raise NotImplementedError


def max_pool(x):
    """The largest number of each window of 2 x 2, and its place in it, 0 to 3: the first of equal ones. Odd edges are cut."""
    raise NotImplementedError


def max_pool_grad(grad, place, shape):
    """The gradient of the input of ``max_pool``, of that shape: each goes to the place of its maximum."""
    raise NotImplementedError


def cross_entropy(logits, labels):
    """The mean of -log softmax(logits)[label], and its gradient."""
    rows, shifted = np.arange(len(labels)), logits - logits.max(axis=1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return loss, p / len(labels)


def adam(p, grads, state, rate, eps=1e-5):
    """One step of Adam, in place: means of the gradient (0.9) and of its square (0.999), both corrected for starting at 0."""
    raise NotImplementedError


# Chapter 8: it trains


def predict(p, images, bits, statistics=None):
    """Logits (N, 10), and what backward needs. p : {"conv0.weight": array, ...}; bits : (W, A, G).

    statistics : {"conv1": (mean, var), ...} for batch norm; None: those of this batch
    """
    w_bits, a_bits, _ = bits
    rows = im2col(images, len(p["conv0.weight"]))
    y = rows @ p["conv0.weight"].reshape(rows.shape[-1], -1) + p["conv0.bias"]
    z, place = max_pool(y)
    kept = {"conv0": (rows, y.shape, z, place)}
    for name, padding in INNER.items():
        u = activation_codes(z, a_bits)
        c, scale = weight_codes(p[f"{name}.weight"], w_bits)
        scale = scale / (2**a_bits - 1)
        y = forward(u, a_bits, c, w_bits, padding).astype(np.float32) * np.float32(scale)
        mean, var = statistics[name] if statistics else (y.mean((0, 1, 2), np.float64), y.var((0, 1, 2), np.float64))
        z, place = max_pool(batch_norm(y, p[f"{name}.gamma"], p[f"{name}.beta"], mean, var))
        kept[name] = (u, c, y, mean, var, z, place)
    a = np.clip(z, 0, 1).reshape(len(z), -1)
    kept["fc"] = a
    return a @ p["fc.weight"] + p["fc.bias"], kept


def gradients(p, images, labels, bits, noise):
    """The loss, the gradients of all parameters by their names, what ``predict`` kept; noise(shape): even in (-1/2, 1/2)."""
    raise NotImplementedError


def train(p, batches, bits, rate, noise):
    """Train the parameters, in place, on (images, labels) of ``batches``: losses, and running statistics of batch norm."""
    losses, state, statistics = [], {}, {name: (0.0, 1.0) for name in INNER}
    for images, labels in batches:
        loss, grads, kept = gradients(p, images, labels, bits, noise)
        adam(p, grads, state, rate)
        losses.append(loss)
        statistics = {name: (0.9 * mean + 0.1 * kept[name][3], 0.9 * var + 0.1 * kept[name][4])
                      for name, (mean, var) in statistics.items()}
    return losses, statistics
