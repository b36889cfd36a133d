"""Convolutions of floats: im2col and one matrix product a tile, forward and both gradients.

im2col copies the pixels under the filter into the rows of a matrix, so that a convolution is a matrix product. It is
done a few samples at a time, so that the matrix stays in cache:

    columns (rows of pixels, kh * kw * C)   forward      y  = columns @ w
                                            weight_grad  dw = columns.T @ g
                                            input_grad   dcolumns = g @ w.T, then every entry back to its pixel

Convolutions with few input channels go to ``direct``, which needs no im2col. The products are those of ``matrix``: in float32
the same bits on every machine.
"""

import numpy as np

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import inlined, kernel
from bitnet.kernels.machine.vectors import at, put
from bitnet.kernels.products import direct
from bitnet.kernels.products.matrix import Matrix, multiply, pack, whole

TILE_BYTES = 1 << 20  # of im2col at a time: half of a common level-2 cache
PARTS = 16            # partial sums of a float weight gradient, added in a fixed order


@inlined
def _run(origin, taps_x, width):
    """The taps of one filter row that lie in an image row of ``width``, if its first one lies at ``origin``."""
    first = min(max(0, -origin), taps_x)
    return first, max(first, min(taps_x, width - origin))


@kernel
def _im2col(x, columns, samples, height, width, channels, out_height, out_width, taps_y, taps_x, stride_y, stride_x, top,
            left, first, depth):
    """Rows of ``columns`` (n, OH, OW, kh, kw, depth) from channels first .. first + depth - 1 of x (n, H, W, C)."""
    zero = x.dtype.type(0)
    target = 0
    for n in range(samples):
        for oy in range(out_height):
            for ox in range(out_width):
                origin = ox * stride_x - left
                start, stop = _run(origin, taps_x, width)
                for ky in range(taps_y):
                    y = oy * stride_y + ky - top
                    if y < 0 or y >= height:
                        for i in range(taps_x * depth):
                            put(columns, target + i, zero)
                    else:
                        source = ((n * height + y) * width + origin) * channels + first
                        for i in range(start * depth):
                            put(columns, target + i, zero)
                        if depth == channels:  # neighbouring pixels are neighbours in memory: one run
                            for i in range(start * depth, stop * depth):
                                put(columns, target + i, at(x, source + i))
                        else:
                            for kx in range(start, stop):
                                for c in range(depth):
                                    put(columns, target + kx * depth + c, at(x, source + kx * channels + c))
                        for i in range(stop * depth, taps_x * depth):
                            put(columns, target + i, zero)
                    target += taps_x * depth


@kernel
def _col2im(columns, x, samples, height, width, channels, out_height, out_width, taps_y, taps_x, stride_y, stride_x, top,
            left, first, depth):
    """Add every entry of ``columns`` to the pixel that im2col read it from."""
    source = 0
    for n in range(samples):
        for oy in range(out_height):
            for ox in range(out_width):
                origin = ox * stride_x - left
                start, stop = _run(origin, taps_x, width)
                for ky in range(taps_y):
                    y = oy * stride_y + ky - top
                    if 0 <= y < height:
                        target = ((n * height + y) * width + origin) * channels + first
                        if depth == channels:
                            for i in range(start * depth, stop * depth):
                                put(x, target + i, at(x, target + i) + at(columns, source + i))
                        else:
                            for kx in range(start, stop):
                                for c in range(depth):
                                    i = target + kx * channels + c
                                    put(x, i, at(x, i) + at(columns, source + kx * depth + c))
                    source += taps_x * depth


def _numbers(conv):
    return (*conv.kernel_size, *conv.stride, conv.padding[0][0], conv.padding[1][0])


def _tile_samples(conv, out_size, itemsize):
    """Samples whose im2col fills a tile."""
    per_sample = out_size[0] * out_size[1] * conv.tap_count * conv.group_in * itemsize
    return max(1, TILE_BYTES // per_sample)


def _is_pointwise(conv):
    return conv.kernel_size == conv.stride == (1, 1) and conv.padding == ((0, 0), (0, 0)) and conv.groups == 1


def _is_fully_connected(conv, size):
    """Does each output see all inputs? ``conv`` and the input's ``size`` as flattened."""
    return size == (1, 1) and _is_pointwise(conv)


def _columns_of(x, conv, out_size, group, buffer):
    """The im2col matrix of a few samples, in ``buffer``; of a 1x1 convolution, x itself."""
    if _is_pointwise(conv):
        return x.reshape(-1, conv.in_channels)
    columns = buffer[:len(x)]
    _im2col(x.reshape(-1), columns.reshape(-1), *x.shape, *out_size, *_numbers(conv), group * conv.group_in, conv.group_in)
    return columns.reshape(len(x) * out_size[0] * out_size[1], -1)


def _buffer(samples, conv, out_size, dtype):
    return np.empty((samples, *out_size, *conv.kernel_size, conv.group_in), dtype)


def _over(work, size, tile):
    """Call ``work(first, last)`` for ranges of at most ``tile`` of ``size`` samples or columns, shared among threads."""

    def tiles(start, stop):
        for i in range(start, stop):
            work(i * tile, min((i + 1) * tile, size))

    threads.run(tiles, -(-size // tile))


def forward(x, w, conv, bias=None):
    """Convolution of floats.

    Parameters
    ----------
    x : float array (N, H, W, C), C-contiguous; w : array of the same dtype (kh, kw, C / groups, F); conv : Conv
    bias : array (F,) to add, or None

    Returns
    -------
    y : array (N, OH, OW, F) of the same dtype
    """
    if len(x) and direct.serves(x, conv):
        return direct.forward(x, w, conv, bias)
    out_size = conv.output_size(*x.shape[1:3])
    y = np.empty((len(x), *out_size, conv.out_channels), x.dtype)
    conv, size = conv.flattened(*x.shape[1:3])
    x = x.reshape(len(x), *size, conv.in_channels)
    weights = [pack(_weight_of(w, conv, group)) for group in range(conv.groups)]
    if _is_fully_connected(conv, size):
        multiply(whole(x.reshape(len(x), -1)), weights[0], whole(y.reshape(len(x), -1)))
        if bias is not None:
            y += bias
        return y
    tile = _tile_samples(conv, out_size, x.itemsize)

    def work(first, last):
        buffer = _buffer(last - first, conv, out_size, x.dtype)
        for group, weight in enumerate(weights):
            columns = _columns_of(x[first:last], conv, out_size, group, buffer)
            multiply(whole(columns), weight, _pixels_of(y[first:last], conv, group))
        if bias is not None:
            y[first:last] += bias

    _over(work, len(x), tile)
    return y


def input_grad(g, w, conv, size):
    """Gradient of ``forward`` with respect to its input: (N, H, W, C) for inputs of ``size`` = (H, W)."""
    out_size = g.shape[1:3]
    result = grad = np.zeros((len(g), *size, conv.in_channels), g.dtype)
    conv, size = conv.flattened(*size)
    grad = grad.reshape(len(g), *size, conv.in_channels)
    weights = [pack(_weight_of(w, conv, group).T) for group in range(conv.groups)]
    if _is_fully_connected(conv, size):
        multiply(whole(g.reshape(len(g), -1)), weights[0], whole(grad.reshape(len(g), -1)))
        return result
    tile = _tile_samples(conv, out_size, g.itemsize)

    def work(first, last):
        if _is_pointwise(conv):
            multiply(_pixels_of(g[first:last], conv, 0), weights[0], whole(grad[first:last].reshape(-1, conv.in_channels)))
            return
        buffer = _buffer(last - first, conv, out_size, g.dtype)
        for group, weight in enumerate(weights):
            part = _pixels_of(g[first:last], conv, group)
            multiply(part, weight, whole(buffer.reshape(part.shape[0], -1)))
            _col2im(buffer.reshape(-1), grad[first:last].reshape(-1), last - first, *size, conv.in_channels, *out_size,
                    *_numbers(conv), group * conv.group_in, conv.group_in)

    _over(work, len(g), tile)
    return result


def weight_grad(g, x, conv):
    """Gradient of ``forward`` with respect to its weight: (kh, kw, C / groups, F).

    The work is cut into fixed parts (of the samples, or of the rows where the output is one pixel), so that the result does
    not depend on threads.
    """
    out_size, shape = g.shape[1:3], conv.weight_shape
    if len(x) == 0:
        return np.zeros(shape, x.dtype)
    if direct.serves(x, conv):
        return direct.weight_grad(g, x, conv)
    conv, size = conv.flattened(*x.shape[1:3])
    x = x.reshape(len(x), *size, conv.in_channels)
    if _is_fully_connected(conv, size):
        return product_over_samples(x.reshape(len(x), -1), g.reshape(len(g), -1)).reshape(shape)
    parts = min(PARTS, len(x))
    bounds = [len(x) * part // parts for part in range(parts + 1)]
    partial = np.zeros((parts, conv.groups, conv.tap_count * conv.group_in, conv.group_out), x.dtype)
    tile = _tile_samples(conv, out_size, x.itemsize)

    def work(part, _):
        for first in range(bounds[part], bounds[part + 1], tile):
            last = min(first + tile, bounds[part + 1])
            buffer = _buffer(last - first, conv, out_size, x.dtype)
            for group in range(conv.groups):
                columns = _columns_of(x[first:last], conv, out_size, group, buffer)
                multiply(whole(columns).T, pack(_pixels_of(g[first:last], conv, group)), whole(partial[part, group]), add=True)

    _over(work, parts, 1)
    total = partial[0]
    for part in partial[1:]:
        total += part
    return np.ascontiguousarray(total.transpose(1, 0, 2)).reshape(shape)


def product_over_samples(x, g):
    """``x.T @ g`` for C-contiguous x (N, D) and g (N, F)."""
    product = np.empty((x.shape[1], g.shape[1]), x.dtype)
    multiply(whole(x).T, pack(whole(g)), whole(product))
    return product


def _weight_of(w, conv, group):
    """The weights of a group as a Matrix (taps and inputs, outputs)."""
    return Matrix(w.reshape(-1), (conv.tap_count * conv.group_in, conv.group_out), (conv.out_channels, 1),
                  group * conv.group_out)


def _pixels_of(y, conv, group):
    """The outputs of a group, (N, OH, OW, F), as a Matrix (pixels, group's outputs)."""
    return Matrix(y.reshape(-1), (y.size // conv.out_channels, conv.group_out), (conv.out_channels, 1), group * conv.group_out)
