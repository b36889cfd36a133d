"""The pieces of ``mine.py``: for each, what it is tried on, what bitnet makes of that, a hint, and frequent mistakes.

Wrong versions are there to be recognised: ``check.py`` names the mistake of one that gives the numbers of a reader's piece.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from network import small

from bitnet import Codes, Tensor, functional, optimizers, random
from bitnet.kernels import products
from bitnet.kernels.pointwise import pool
from bitnet.kernels.products.geometry import Conv
from bitnet.layers import unfused
from bitnet.module import Parameter
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight


@dataclass
class Piece:
    """A function of the reader's file: what it is tried on, what is right, and which wrong versions are known."""

    chapter: int
    truth: Callable                                # what it should return, by bitnet
    cases: Callable                                # () -> {what is special about a case: arguments}
    hint: str
    mistakes: dict = field(default_factory=dict)   # {what was done wrong: a function that does it wrong}
    call: Callable = lambda function, *args: function(*args)
    read: Callable = lambda result: result         # what of a result is compared
    tolerance: float = 1e-4                        # of floats, in parts of the largest


# --- what is right: the same by bitnet

def _rows(left, left_bits, left_kind, right, right_bits, right_kind):
    """Dot products of rows of codes, as a convolution of one pixel."""
    x = Codes(left[:, None, None].astype(np.uint8), left_bits, left_kind)
    w = Codes(np.ascontiguousarray(right.T[None, None]).astype(np.uint8), right_bits, right_kind)
    return products.forward("popcount", x, w, Conv(left.shape[1], len(right), (1, 1)))[:, 0, 0].astype(int)


def _conv(c, padding):
    return Conv(c.shape[2], c.shape[3], c.shape[:2], (1, 1), ((padding, padding),) * 2)


def _forward(u, u_bits, c, c_bits, padding):
    x, w = Codes(u, u_bits, "unsigned"), Codes(c, c_bits, "bipolar")
    return products.forward("popcount", x, w, _conv(c, padding)).astype(int)


def _input_grad(v, v_bits, c, c_bits, padding):
    size = tuple(edge + len(c) - 1 - 2 * padding for edge in v.shape[1:3])
    ones = np.ones(len(v))
    g = Codes(v, v_bits, "bipolar", ones)
    return products.input_grad("popcount", g, Codes(c, c_bits, "bipolar"), _conv(c, padding), size, ones).astype(int)


def _weight_grad(u, u_bits, v, v_bits, padding, scales):
    size = u.shape[1] + 2 * padding - v.shape[1] + 1
    conv = Conv(u.shape[3], v.shape[3], (size, size), (1, 1), ((padding, padding),) * 2)
    g = Codes(v, v_bits, "bipolar", scales)
    return products.weight_grad("popcount", g, Codes(u, u_bits, "unsigned"), conv, scales.astype(np.float32))


def _gradient_codes(g, bits, noise):
    random.seed(5)  # the draw that the cases have as an array
    codes = DoReFaGradient(bits).encode(g)
    return codes.values, codes.scale


def _weight_codes(w, bits):
    codes = DoReFaWeight(bits).encode(w)
    return codes.values, codes.scale


def _through(function, *inputs, grad):
    """Gradients of the inputs of a function of Tensors."""
    tensors = [Tensor(array, requires_grad=True) for array in inputs]
    function(*tensors).backward(grad)
    return tuple(tensor.grad for tensor in tensors)


def _batch_norm_grad(grad, x, gamma, mean, var):
    beta = np.zeros_like(gamma)
    return _through(lambda *inputs: functional.batch_norm(*inputs, mean, var, 1e-4, True), x, gamma, beta, grad=grad)


def _count(left, right):
    def bits(planes):
        return np.unpackbits(np.ascontiguousarray(planes).view(np.uint8), axis=-1).astype(int)

    return sum(2 ** (l + m) * (bits(x)[:, None] != bits(y)).sum(-1) for l, x in enumerate(left) for m, y in enumerate(right))


def _fill(codes):
    """Rows of codes, filled up with zeros to whole words."""
    return np.pad(codes, [(0, 0), (0, -codes.shape[1] % 64)])


def _words(codes, bits):
    """Planes of codes whose rows have 64 numbers, packed."""
    return np.stack([np.packbits(codes >> l & 1, axis=-1).view(np.uint64) for l in range(bits)])


def _adam(p, grads):
    parameter = Parameter(p["w"].copy())
    optimizer = optimizers.Adam([parameter], lr=0.01, eps=1e-5)
    for grad in grads:
        parameter.grad = grad
        optimizer.step()
    return {"w": parameter.data}


def _call_adam(function, p, grads):
    state = {}
    for grad in grads:
        function(p, {"w": grad}, state, 0.01)
    return p


def parameters_of(network):
    """Parameters of the small network (no method of which changes their shapes) as mine.py names them: copies."""
    short = {name: name.replace(".conv.", ".").replace(".norm.", ".") for name in network.named_parameters()}
    return {short[name]: p.data.copy() for name, p in network.named_parameters().items()}


def noise(shape):
    """The next draw of bitnet's noise, even in (-1/2, 1/2)."""
    return random.uniform(shape) - np.float32(0.5)


def _gradients(p, images, labels, bits, draw):
    network = small(bits, width=p["conv0.bias"].size).train()
    for parameter, array in zip(network.named_parameters().values(), p.values(), strict=True):
        parameter.data[...] = array
    random.seed(5)
    with unfused():
        loss = functional.softmax_cross_entropy(network(images), labels)
        loss.backward()
    grads = {name: q.grad for name, q in zip(p, network.named_parameters().values(), strict=True)}
    return float(loss.data), grads


def _call_gradients(function, *args):
    random.seed(5)
    loss, grads, *_ = function(*args)
    return loss, {name: grads[name] for name in args[0] if name in grads}


# --- what they are tried on, and wrong versions

_rng = np.random.default_rng


def _codes(seed, bits, *shape):
    return _rng(seed).integers(0, 2**bits, shape, np.uint8)


def _reals(seed, *shape):
    return _rng(seed).standard_normal(shape).astype(np.float32)


def _seeded(*shape):
    random.seed(5)
    return noise(shape)


def _tie(*shape):
    return _rng(4).integers(0, 2, shape).astype(np.float32)


def _normed(x):
    """Arguments of batch_norm_grad, with the mean and variance of x."""
    return _reals(2, *x.shape), x, _reals(3, x.shape[3]), x.mean((0, 1, 2), np.float64), x.var((0, 1, 2), np.float64)


def _wrong_bn(grad, x, gamma, mean, var):
    rstd = 1 / np.sqrt(var + 1e-4)
    return gamma * rstd * grad, (grad * (x - mean) * rstd).sum((0, 1, 2)), grad.sum((0, 1, 2))


def _wrong_adam(correct, inside):
    def adam(p, grads, state, rate):
        state["t"] = t = state.get("t", 0) + 1
        for name, g in grads.items():
            m, v = state.get(name, (0, 0))
            state[name] = m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            m, v = (m / (1 - 0.9**t), v / (1 - 0.999**t)) if correct else (m, v)
            p[name] -= rate * m / (np.sqrt(v + 1e-5) if inside else np.sqrt(v) + 1e-5)
    return adam


def _spread(grad, place, shape):
    """The gradient to all four places of a window."""
    out = np.zeros(shape, grad.dtype)
    out[:, :2 * grad.shape[1], :2 * grad.shape[2]] = grad.repeat(2, 1).repeat(2, 2)
    return out


def _last_tie(x):
    y, _ = pool.max_pool(x, 2, 2, 0)
    _, taps = pool.max_pool(np.ascontiguousarray(x[:, -1 - x.shape[1] % 2::-1, -1 - x.shape[2] % 2::-1]), 2, 2, 0)
    return y, 3 - taps[:, ::-1, ::-1]


def _scaled(g, bits, noise, scales, by=1.0):
    n = 2**bits - 1
    codes = np.rint(np.clip(g * (n / 2 / scales) + n / 2 + by * noise, 0, n))
    return codes, np.broadcast_to(scales, (len(g), 1, 1, 1)).ravel() / n


def _largest(g):
    return np.abs(g).max((1, 2, 3), keepdims=True)


def _naive_input_grad(v, v_bits, c, c_bits, padding):
    """As if the gradient went on outside with levels -n."""
    n, back = 2**v_bits - 1, len(c) - 1 - padding
    edge = (back, back)
    levels = np.pad(2 * v.astype(float) - n, ((0, 0), edge, edge, (0, 0)), constant_values=-n)
    seen = np.lib.stride_tricks.sliding_window_view(levels, c.shape[:2], axis=(1, 2))
    return np.einsum("nhwfyx,yxcf->nhwc", seen, (2.0 * c - (2**c_bits - 1))[::-1, ::-1])


PIECES = {
    "activation_codes": Piece(
        1, lambda x, bits: DoReFaActivation(bits).encode(x).values,
        lambda: {"numbers of all sizes, 2 bits": (_reals(0, 40), 2), "0.5 with one bit": (np.float32([0.5, 0.2, 0.8]), 1),
                 "numbers of all sizes, 8 bits": (_reals(1, 40), 8)},
        "Clip to [0, 1], multiply by n = 2**bits - 1, round with np.rint, and make it uint8.",
        {"it was rounded down, not to the nearest": lambda x, k: np.floor((2**k - 1) * x.clip(0, 1)),
         "halves were rounded up, not to the even code": lambda x, k: np.floor((2**k - 1) * x.clip(0, 1) + 0.5),
         "n was taken as 2**bits": lambda x, k: np.rint(2**k * x.clip(0, 1)),
         "the numbers were not clipped": lambda x, k: np.rint((2**k - 1) * x),
         "the levels were returned as reals, not as codes": lambda x, k: np.rint((2**k - 1) * x.clip(0, 1)) / (2**k - 1)}),
    "weight_codes": Piece(
        1, _weight_codes,
        lambda: {"one bit, with a weight of 0": (np.float32([0.3, -0.1, 0, -0.6]), 1), "one bit": (_reals(2, 3, 3, 4, 5), 1),
                 "two bits": (_reals(3, 3, 3, 4, 5), 2)},
        "One bit: code 1 where w >= 0, the scale is the mean of |w|. Else rint(n * (tanh(w) / (2 m) + 1/2)), scale 1 / n.",
        {"the sign of 0 was taken as -1": lambda w, k: ((w > 0), np.abs(w).mean()),
         "the largest |w| was taken as the scale, not the mean": lambda w, k: (w >= 0, np.abs(w).max()),
         "the mean of w was taken, not that of |w|": lambda w, k: (w >= 0, w.mean()),
         "tanh was left out": lambda w, k: (np.rint((2**k - 1) * (w / (2 * np.abs(w).max()) + 0.5)), 1 / (2**k - 1))}),
    "activation_grad": Piece(
        2, lambda x, grad: _through(DoReFaActivation(2), x, grad=grad)[0],
        lambda: {"inside, outside and on the borders": (np.float32([-1, -0.1, 0, 0.4, 1, 1.2]), np.float32(range(1, 7)))},
        "Straight through the rounding; the clip lets the gradient pass where 0 <= x <= 1, both ends included.",
        {"the window is missing": lambda x, g: g, "the borders 0 and 1 were shut out": lambda x, g: g * ((x > 0) & (x < 1)),
         "only the side below 0 was stopped, as for ReLU": lambda x, g: g * (x >= 0)}),
    "pack": Piece(
        3, lambda bits: _words(_fill(bits), 1)[0],
        lambda: {f"rows of {count} bits": (_codes(count, 1, 3, count),) for count in (64, 100, 7)},
        "np.packbits makes bytes; fill them up with zeros to a multiple of 8 (np.pad), and look at them as np.uint64 (view).",
        {"missing bits were filled with ones": lambda bits: np.pad(
            np.packbits(bits, axis=-1), [(0, 0), (0, -bits.shape[1] % 64 // 8)], constant_values=255).view(np.uint64)},
        read=lambda words: {"words of a row": np.asarray(words).shape[-1],
                            "bits of a word": 8 * np.asarray(words).itemsize,
                            "ones of a row": np.bitwise_count(words).sum(-1, dtype=int),
                            "places where rows 1 and 2 differ": np.bitwise_count(words[0] ^ words[1]).sum(dtype=int)}),
    "planes": Piece(
        3, lambda codes, bits: _words(_fill(codes), bits),
        lambda: {"codes of 3 bits": (_codes(1, 3, 2, 70), 3), "codes of one bit": (_codes(2, 1, 4, 64), 1)},
        "Bit l of codes is codes >> l & 1. Pack each and stack them, the lowest first.",
        {"the highest bit came first": lambda codes, bits: _words(_fill(codes), bits)[::-1]},
        read=lambda words: np.bitwise_count(words).sum(-1, dtype=int)),
    "count": Piece(
        3, _count,
        lambda: {"one plane each": (_words(_codes(1, 1, 2, 128), 1), _words(_codes(2, 1, 3, 128), 1)),
                 "2 planes with 4": (_words(_codes(3, 2, 2, 128), 2), _words(_codes(4, 4, 3, 128), 4))},
        "For each pair of planes: left[l][:, None] ^ right[m], count the ones, add up the words, times 2**(l + m).",
        {"equal bits were counted (XNOR), not different ones": lambda x, y: sum(
            2 ** (l + m) * np.bitwise_count(~(x[l][:, None] ^ y[m])).sum(-1, dtype=int) for l, m in np.ndindex(len(x), len(y))),
         "AND was taken, not XOR": lambda x, y: sum(
            2 ** (l + m) * np.bitwise_count(x[l][:, None] & y[m]).sum(-1, dtype=int) for l, m in np.ndindex(len(x), len(y))),
         "planes were not weighted with 2**(l + m)": lambda x, y: sum(
            np.bitwise_count(x[l][:, None] ^ y[m]).sum(-1, dtype=int) for l, m in np.ndindex(len(x), len(y)))}),
    "mixed": Piece(
        3, lambda u, u_bits, c, c_bits: _rows(u, u_bits, "unsigned", c, c_bits, "bipolar"),
        lambda: {"2 bits with 1": (_codes(1, 2, 3, 70), 2, _codes(2, 1, 4, 70), 1),
                 "3 bits with 2": (_codes(3, 3, 3, 20), 3, _codes(4, 2, 4, 20), 2)},
        "Step 3: n_u times the sum of each row of c, minus T. Sum c in np.int64: uint8 overflows.",
        {"T was subtracted twice": lambda u, a, c, w: (2**a - 1) * c.sum(1, dtype=int) - 2 * _count(
            _words(_fill(u), a), _words(_fill(c), w)),
         "the sum of u was taken, not that of c": lambda u, a, c, w: (2**a - 1) * u.sum(1, dtype=int)[:, None] - _count(
            _words(_fill(u), a), _words(_fill(c), w)),
         "n of c was taken, not that of u": lambda u, a, c, w: (2**w - 1) * c.sum(1, dtype=int) - _count(
            _words(_fill(u), a), _words(_fill(c), w))}),
    "signed": Piece(
        3, lambda v, v_bits, c, c_bits: _rows(v, v_bits, "bipolar", c, c_bits, "bipolar"),
        lambda: {"4 bits with 1": (_codes(1, 4, 3, 70), 4, _codes(2, 1, 4, 70), 1)},
        "Step 4: n_v * n_c * N, minus 2 T. N is the number of codes in a row, not of bits in its words.",
        {"T was subtracted once, not twice": lambda v, a, c, w: (2**a - 1) * (2**w - 1) * v.shape[1] - _count(
            _words(_fill(v), a), _words(_fill(c), w)),
         "N was taken as the bits of all words, the idle ones too": lambda v, a, c, w: (
            (2**a - 1) * (2**w - 1) * _fill(v).shape[1] - 2 * _count(_words(_fill(v), a), _words(_fill(c), w)))}),
    "forward": Piece(
        4, _forward,
        lambda: {"3 x 3, padding 1": (_codes(1, 2, 2, 5, 6, 10), 2, _codes(2, 1, 3, 3, 10, 4), 1, 1),
                 "3 x 3, no padding": (_codes(3, 2, 1, 5, 5, 70), 2, _codes(4, 2, 3, 3, 70, 3), 2, 0)},
        "im2col gives rows; flat(c).T gives a row for each filter; `mixed` does the rest. Shape it back to (N, OH, OW, F).",
        {"the filter was turned around": lambda u, a, c, w, p: _forward(u, a, np.ascontiguousarray(c[::-1, ::-1]), w, p),
         "padding was left out": lambda u, a, c, w, p: _forward(u, a, c, w, 0)}),
    "gradient_codes": Piece(
        5, _gradient_codes,
        lambda: {"samples of very different size": (_reals(1, 3, 4, 4, 5) * np.float32([1, 0.1, 0.01])[:, None, None, None], 4,
                                                    _seeded(3, 4, 4, 5)),
                 "a sample without gradient": (_reals(2, 2, 3, 3, 2) * np.float32([1, 0])[:, None, None, None], 2,
                                               _seeded(2, 3, 3, 2))},
        "The largest |g| of each sample, with keepdims; then rint(clip(g * (n / 2 / largest) + n / 2 + noise, 0, n)).",
        {"all samples share one scale": lambda g, k, s: _scaled(g, k, s, np.abs(g).max()),
         "the noise is missing": lambda g, k, s: _scaled(g, k, s, _largest(g), 0),
         "the noise was added before the multiplication by n, which makes it n times as strong": lambda g, k, s: _scaled(
            g, k, s, _largest(g), 2**k - 1)}),
    "input_grad": Piece(
        6, _input_grad,
        lambda: {"3 x 3, padding 1": (_codes(1, 4, 2, 5, 6, 10), 4, _codes(2, 1, 3, 3, 7, 10), 1, 1),
                 "3 x 3, no padding": (_codes(3, 2, 1, 4, 4, 6), 2, _codes(4, 2, 3, 3, 5, 6), 2, 0)},
        "Turn the filter around, pad the codes with zeros by size - 1 - padding, take `signed`; then add n_v times the sum of "
        "the weight levels of the taps that lie outside.",
        {"the table for the border is missing": _naive_input_grad,
         "the filter was not turned around": lambda v, a, c, w, p: _input_grad(v, a, c[::-1, ::-1].copy(), w, p)}),
    "weight_grad": Piece(
        6, _weight_grad,
        lambda: {"3 x 3, padding 1": (_codes(1, 2, 3, 5, 6, 7), 2, _codes(2, 4, 3, 5, 6, 4), 4, 1, np.array([1, 0.3, 0.01])),
                 "3 x 3, no padding": (_codes(3, 2, 2, 6, 6, 3), 2, _codes(4, 2, 2, 4, 4, 5), 2, 0, np.array([0.5, 2]))},
        "For one sample: `mixed` of the columns of im2col (transpose the rows) with those of v. Times its scale; then add.",
        {"the scales of the samples are missing": lambda u, a, v, g, p, s: _weight_grad(u, a, v, g, p, np.ones(len(s))),
         "all samples got the mean of the scales": lambda u, a, v, g, p, s: _weight_grad(u, a, v, g, p, 0 * s + s.mean())}),
    "batch_norm_grad": Piece(
        7, _batch_norm_grad,
        lambda: {"mean and variance of x itself": _normed(_reals(1, 4, 3, 3, 3))},
        "normal = (x - mean) * rstd; gamma's gradient sums grad * normal, beta's sums grad; x's is gamma * rstd times what is "
        "left of grad without its mean and without its share along normal.",
        {"mean and variance were treated as constants": _wrong_bn}),
    "max_pool": Piece(
        7, lambda x: pool.max_pool(x, 2, 2, 0),
        lambda: {"reals, odd edges": (_reals(1, 2, 5, 7, 3),), "many equal numbers": (_tie(2, 4, 4, 3),)},
        "Bring the four numbers of a window onto one axis; max and argmax along it. argmax takes the first of equal ones.",
        {"the last of equal numbers was taken, not the first": _last_tie}),
    "max_pool_grad": Piece(
        7, lambda grad, place, shape: pool.max_pool_grad(grad, place.astype(np.uint8), shape, 2, 2, 0),
        lambda: {"even edges": (_reals(1, 2, 2, 3, 4), _codes(2, 2, 2, 2, 3, 4), (2, 4, 6, 4)),
                 "odd edges": (_reals(3, 1, 2, 3, 4), _codes(4, 2, 1, 2, 3, 4), (1, 5, 7, 4))},
        "Zeros of that shape; for each of the four taps, out[:, y:2 * H:2, x:2 * W:2] = grad where place is this tap.",
        {"all four places of a window got the gradient": _spread}),
    "adam": Piece(
        7, _adam,
        lambda: {"three steps": ({"w": _reals(1, 20)}, [_reals(2, 20), _reals(3, 20), _reals(4, 20)])},
        "Running means start at 0, so they are too small at first: divide by 1 - 0.9**step and 1 - 0.999**step.",
        {"the correction for the start at 0 is missing": _wrong_adam(False, False),
         "eps stands inside the root": _wrong_adam(True, True)},
        call=_call_adam),
    "gradients": Piece(
        8, _gradients,
        lambda: {"a whole step, (1, 2, 4)": (parameters_of(small(width=8)), _rng(1).random((4, 40, 40, 3), np.float32),
                                             np.array([3, 1, 4, 1]), (1, 2, 4), noise)},
        "Backwards through `predict`: pool, window, batch norm, codes of the gradient, both products, layer by layer. Scales: "
        "a level of the gradient is scales, of an activation 1 / (2**a_bits - 1), of a weight that of `weight_codes`.",
        call=_call_gradients, read=lambda result: (result[0], result[1]), tolerance=1e-3),
}
