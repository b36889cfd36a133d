"""The three products of a convolution as their formulas say, in NumPy integers. Slow; every kernel is tested against it.

Levels are int64 arrays: x (N, H, W, C), w (kh, kw, C / groups, F), g (N, OH, OW, F). With stride s and top left
padding p, all three sum over the same triples (output position o, tap t, input position i = s * o + t - p):

    forward      y[n, o, f]  = sum over t, c     x[n, i, c] * w[t, c, f]
    input_grad  dx[n, i, c]  = sum over o, t, f  g[n, o, f] * w[t, c, f]
    weight_grad dw[n, t, c, f] = sum over o      g[n, o, f] * x[n, i, c]     (one result per sample)
"""

import numpy as np


def _taps(conv, height, width):
    """Yield (ky, kx, window): the slices of the padded input that tap (ky, kx) meets, one per output position."""
    out_height, out_width = conv.output_size(height, width)
    for ky in range(conv.kernel_size[0]):
        for kx in range(conv.kernel_size[1]):
            rows = slice(ky, ky + conv.stride[0] * (out_height - 1) + 1, conv.stride[0])
            columns = slice(kx, kx + conv.stride[1] * (out_width - 1) + 1, conv.stride[1])
            yield ky, kx, (slice(None), rows, columns)


def _groups(conv):
    for group in range(conv.groups):
        yield (slice(group * conv.group_in, (group + 1) * conv.group_in),
               slice(group * conv.group_out, (group + 1) * conv.group_out))


def pad(x, conv):
    """Zeros around the image, as a convolution with padding sees it."""
    return np.pad(x, ((0, 0), *conv.padding, (0, 0)))


def forward(x, w, conv):
    """Sum of input times weight: (N, OH, OW, F)."""
    padded = pad(x, conv)
    y = np.zeros((len(x), *conv.output_size(*x.shape[1:3]), conv.out_channels), x.dtype)
    for ky, kx, window in _taps(conv, *x.shape[1:3]):
        for inputs, outputs in _groups(conv):
            y[..., outputs] += padded[window][..., inputs] @ w[ky, kx][:, outputs]
    return y


def input_grad(g, w, conv, size):
    """Sum of gradient times weight, for inputs of ``size`` = (H, W): (N, H, W, C)."""
    (top, bottom), (left, right) = conv.padding
    padded = np.zeros((len(g), size[0] + top + bottom, size[1] + left + right, conv.in_channels), g.dtype)
    for ky, kx, window in _taps(conv, *size):
        for inputs, outputs in _groups(conv):
            padded[window][..., inputs] += g[..., outputs] @ w[ky, kx][:, outputs].T
    return padded[:, top:top + size[0], left:left + size[1]]


def weight_grad(g, x, conv):
    """Sum of gradient times input over positions, for each sample apart: (N, kh, kw, C / groups, F)."""
    padded = pad(x, conv)
    dw = np.zeros((len(x), *conv.weight_shape), g.dtype)
    for ky, kx, window in _taps(conv, *x.shape[1:3]):
        for inputs, outputs in _groups(conv):
            dw[:, ky, kx, :, outputs] = np.einsum("nyxc,nyxf->ncf", padded[window][..., inputs], g[..., outputs])
    return dw
