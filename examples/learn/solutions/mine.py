"""DoReFa-Net in NumPy alone: quantizers, packing, one product in bits, both gradients, a step, a training.

Images are (N, H, W, C), weights (kh, kw, C, F). Codes are small integers; n = 2**bits - 1 is the largest. An unsigned code c
stands for the level c, a bipolar one for 2c - n; a real number is a level times a scale.
"""

import numpy as np

EPS = 1e-4  # added to the variance by batch norm
INNER = {"conv1": 1, "conv2": 0}  # the layers in bits, and their padding


# Chapter 1: numbers become codes


def activation_codes(x, bits):
    """Unsigned codes (uint8) of real numbers: clip to [0, 1], then the nearest of 2**bits, halves to the even code."""
    return np.rint((2**bits - 1) * np.clip(x, 0, 1)).astype(np.uint8)


def weight_codes(w, bits):
    """Bipolar codes (uint8) of a layer's weight, and a scale. One bit: sign (0 counts as +1) and mean |w|; else by tanh."""
    if bits == 1:
        return (w >= 0).astype(np.uint8), float(np.abs(w).mean(dtype=np.float64))
    n, t = 2**bits - 1, np.tanh(w)
    return np.rint(n * (t / (2 * np.abs(t).max()) + 0.5)).astype(np.uint8), 1 / n


# Chapter 2: gradients go straight through


def activation_grad(x, grad):
    """The gradient at x, the input of ``activation_codes``, where ``grad`` arrives at its output."""
    return grad * ((x >= 0) & (x <= 1))


# Chapter 3: a product is counted


def pack(bits):
    """Zeros and ones (..., N) as words of 64 (uint64), packed along the last axis; missing bits of the last word are 0."""
    octets = np.packbits(bits, axis=-1)
    octets = np.pad(octets, [(0, 0)] * (octets.ndim - 1) + [(0, -octets.shape[-1] % 8)])
    return np.ascontiguousarray(octets).view(np.uint64)


def planes(codes, bits):
    """Bit planes of codes (rows, N), packed: (bits, rows, words); plane l holds bit l of each code."""
    return np.stack([pack(codes >> l & 1) for l in range(bits)])


def count(left, right):
    """T of every row of ``left`` (planes, rows, words) with every row of ``right`` (planes, columns, words): (rows, columns).

    T = sum over planes l, m of 2**(l + m) * popcount(left[l] XOR right[m])
    """
    T = np.zeros((left.shape[1], right.shape[1]), np.int64)
    for l, m, word in np.ndindex(len(left), len(right), left.shape[2]):
        T += np.bitwise_count(left[l, :, word, None] ^ right[m, :, word]).astype(np.int64) << (l + m)
    return T


def mixed(u, u_bits, c, c_bits):
    """Dot products of the rows of unsigned codes u (rows, N) with the rows of bipolar codes c (columns, N), of levels."""
    return (2**u_bits - 1) * c.sum(axis=1, dtype=np.int64) - count(planes(u, u_bits), planes(c, c_bits))


def signed(v, v_bits, c, c_bits):
    """Dot products of the rows of bipolar codes v (rows, N) with the rows of bipolar codes c (columns, N), of levels."""
    return (2**v_bits - 1) * (2**c_bits - 1) * v.shape[1] - 2 * count(planes(v, v_bits), planes(c, c_bits))


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
    rows = im2col(u, len(c), padding)
    return mixed(flat(rows), u_bits, flat(c).T, c_bits).reshape(*rows.shape[:3], -1)


# Chapter 5: gradients need noise


def gradient_codes(g, bits, noise):
    """Bipolar codes (uint8) of a gradient (N, H, W, F) and a scale for each sample (N,); noise is even in (-1/2, 1/2).

    A sample without any gradient has the scale 0.
    """
    n, largest = 2**bits - 1, np.abs(g).max(axis=(1, 2, 3), keepdims=True)
    factor = n / 2 / np.where(largest > 0, largest, 1)
    return np.rint(np.clip(g * factor + n / 2 + noise, 0, n)).astype(np.uint8), largest.ravel() / n


# Chapter 6: backward in bits


def input_grad(v, v_bits, c, c_bits, padding):
    """Gradient of the input of ``forward``, of levels: gradient codes v (N, OH, OW, F), weight codes c (size, size, C, F).

    No bipolar code is 0: the zeros around the gradient count as -n, and a table by taps outside takes that back.
    """
    size, n_v, n_c = len(c), 2**v_bits - 1, 2**c_bits - 1
    back = size - 1 - padding
    turned = np.moveaxis(c[::-1, ::-1], 2, 0).reshape(c.shape[2], -1)  # (C, taps * F)
    rows = im2col(v, size, back)
    naive = signed(flat(rows), v_bits, turned, c_bits).reshape(*rows.shape[:3], -1)
    inside = im2col(np.ones((1, *v.shape[1:3], 1), int), size, back)  # (1, H, W, taps): 1 where there is a gradient
    sums = (2 * turned.astype(int) - n_c).reshape(len(turned), size * size, -1).sum(axis=2)  # (C, taps)
    return naive + n_v * (1 - inside) @ sums.T


def weight_grad(u, u_bits, v, v_bits, padding, scales):
    """Gradient of the weight (size, size, C, F): the sum over samples of scale * integer, float32.

    u : input codes (N, H, W, C), unsigned; v : gradient codes (N, OH, OW, F), bipolar; scales : (N,)
    """
    size, total = u.shape[1] + 2 * padding - v.shape[1] + 1, np.float32(0)
    for rows, grads, scale in zip(im2col(u, size, padding), v, scales, strict=True):
        integers = mixed(flat(rows).T, u_bits, flat(grads).T, v_bits)  # sums over positions: (taps * C, F)
        total = total + integers.astype(np.float32) * np.float32(scale)
    return total.reshape(size, size, u.shape[3], v.shape[3])


# Chapter 7: the rest of a step


def batch_norm(x, gamma, beta, mean, var):
    """gamma * (x - mean) / sqrt(var + EPS) + beta for each channel."""
    scale = gamma / np.sqrt(var + EPS)
    return x * scale.astype(x.dtype) + (beta - mean * scale).astype(x.dtype)


def batch_norm_grad(grad, x, gamma, mean, var):
    """Gradients of x, gamma and beta of ``batch_norm`` if mean and variance are those of x: they depend on x, too."""
    axes, rstd = (0, 1, 2), 1 / np.sqrt(var + EPS)
    normal = (x - mean) * rstd
    grad_gamma, grad_beta = (grad * normal).sum(axis=axes), grad.sum(axis=axes, dtype=np.float64)
    share = (grad_beta + normal * grad_gamma) * x.shape[3] / x.size
    return (gamma * rstd * (grad - share)).astype(np.float32), grad_gamma, grad_beta


def max_pool(x):
    """The largest number of each window of 2 x 2, and its place in it, 0 to 3: the first of equal ones. Odd edges are cut."""
    N, H, W, C = x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3]
    windows = x[:, :2 * H, :2 * W].reshape(N, H, 2, W, 2, C).swapaxes(2, 3).reshape(N, H, W, 4, C)
    return windows.max(axis=3), windows.argmax(axis=3)


def max_pool_grad(grad, place, shape):
    """The gradient of the input of ``max_pool``, of that shape: each goes to the place of its maximum."""
    out, (H, W) = np.zeros(shape, grad.dtype), grad.shape[1:3]
    for tap in range(4):
        out[:, tap // 2:2 * H:2, tap % 2:2 * W:2] = grad * (place == tap)
    return out


def cross_entropy(logits, labels):
    """The mean of -log softmax(logits)[label], and its gradient."""
    rows, shifted = np.arange(len(labels)), logits - logits.max(axis=1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return loss, p / len(labels)


def adam(p, grads, state, rate, eps=1e-5):
    """One step of Adam, in place: means of the gradient (0.9) and of its square (0.999), both corrected for starting at 0."""
    state["step"] = step = state.get("step", 0) + 1
    for name, grad in grads.items():
        mean, square = state.get(name, (0, 0))
        mean, square = 0.9 * mean + np.float32(1 - 0.9) * grad, 0.999 * square + np.float32(1 - 0.999) * grad * grad
        state[name] = mean, square
        p[name] -= rate / (1 - 0.9**step) * mean / (np.sqrt(square / (1 - 0.999**step)) + eps)


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
    w_bits, a_bits, g_bits = bits
    logits, kept = predict(p, images, bits)
    loss, g = cross_entropy(logits, labels)
    found = {"fc.weight": kept["fc"].T @ g, "fc.bias": g.sum(axis=0)}
    g = (g @ p["fc.weight"].T).reshape(kept["conv2"][5].shape)
    for name in reversed(INNER):
        u, c, y, mean, var, z, place = kept[name]
        g = max_pool_grad(activation_grad(z, g), place, y.shape)
        g, found[f"{name}.gamma"], found[f"{name}.beta"] = batch_norm_grad(g, y, p[f"{name}.gamma"], mean, var)
        v, scales = gradient_codes(g, g_bits, noise(g.shape))
        found[f"{name}.weight"] = weight_grad(u, a_bits, v, g_bits, INNER[name], scales / (2**a_bits - 1))
        scales = (scales * weight_codes(p[f"{name}.weight"], w_bits)[1]).astype(np.float32)
        g = input_grad(v, g_bits, c, w_bits, INNER[name]).astype(np.float32) * scales[:, None, None, None]
    rows, shape, z, place = kept["conv0"]
    g = max_pool_grad(activation_grad(z, g), place, shape)
    found["conv0.weight"], found["conv0.bias"] = flat(rows).T @ flat(g), g.sum(axis=(0, 1, 2))
    return loss, {name: grad.reshape(p[name].shape).astype(np.float32) for name, grad in found.items()}, kept


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
