"""The differentiable operations, each a Function with forward beside backward, and a plain function to call it by.

Images are (N, H, W, C), weights (kh, kw, C / groups, F).
"""

import numpy as np

from bitnet import execution, random
from bitnet.codes import Codes
from bitnet.kernels import block, direct, elementwise
from bitnet.kernels.geometry import Conv
from bitnet.tensor import Function, Tensor


def as_tensor(x):
    """``x`` itself if it is a Tensor, else a Tensor of it."""
    return x if isinstance(x, Tensor) else Tensor(x)


def pair(value):
    """(vertical, horizontal) from one number or two."""
    return (value, value) if np.ndim(value) == 0 else tuple(value)


def same_padding(size, kernel, stride):
    """Zeros before and after, such that the output has ceil(size / stride) pixels; the odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _paddings(padding, size, kernel, stride):
    """((top, bottom), (left, right)) from "same", one number, or two that may be pairs themselves."""
    if isinstance(padding, str):
        if padding != "same":
            raise ValueError(f'padding must be "same" or numbers of pixels, got {padding!r}')
        return tuple(same_padding(*args) for args in zip(size, kernel, stride, strict=True))
    return tuple(pair(one) for one in pair(padding))


class Conv2d(Function):
    """y = x * w + b (cross-correlation, zero padding). DoReFa-Net, arXiv:1606.06160, algorithm 1, steps 3, 12, 13 and 14.

    With a gradient quantizer, backward encodes grad_output once and both gradient products run on the codes.
    """

    takes_codes = True

    def forward(self, x, w, b=None, conv=None, grad_quantizer=None):
        self.x, self.w, self.conv, self.grad_quantizer = x, w, conv, grad_quantizer
        self.layer = execution.current_layer()
        return execution.forward(x, w, conv, b)

    def backward(self, grad_output):
        needs = self.needs_grad
        grad = self.grad_quantizer.encode(grad_output) if self.grad_quantizer else grad_output
        with execution.layer(self.layer):
            grads = [execution.input_grad(grad, self.w, self.conv, self.x.shape[1:3]) if needs[0] else None,
                     execution.weight_grad(grad, self.x, self.conv) if needs[1] else None]
        if len(needs) > 2:
            real = grad.decode() if isinstance(grad, Codes) else grad
            grads.append(elementwise.channel_sums(real, real)[0].astype(real.dtype) if needs[2] else None)
        return tuple(grads)


def conv2d(x, weight, bias=None, stride=1, padding=0, groups=1, grad_quantizer=None):
    """Two-dimensional convolution.

    Parameters
    ----------
    x : Tensor (N, H, W, C); weight : Tensor (kh, kw, C / groups, F); bias : Tensor (F,) or None
    stride : one number or (vertical, horizontal)
    padding : zeros around the image: one number, (vertical, horizontal), or "same" for ceil(size / stride) outputs
    grad_quantizer : quantizer of the gradient at the convolution's output, or None

    Returns
    -------
    Tensor (N, OH, OW, F)

    Raises
    ------
    ValueError : shapes that do not fit each other.
    """
    x = as_tensor(x)
    conv = convolution_of(x, weight, stride, padding, groups)
    inputs = (x, weight) if bias is None else (x, weight, bias)
    return Conv2d.apply(*inputs, conv=conv, grad_quantizer=grad_quantizer)


def convolution_of(x, weight, stride=1, padding=0, groups=1):
    """The Conv that fits an input and a weight; ValueError where their shapes do not fit each other."""
    if len(x.shape) != 4 or len(weight.shape) != 4:
        raise ValueError("conv2d takes images (N, H, W, C) and weights (kh, kw, C, F), "
                         f"got shapes {x.shape} and {weight.shape}")
    kernel, stride = weight.shape[:2], pair(stride)
    conv = Conv(x.shape[3], weight.shape[3], kernel, stride, _paddings(padding, x.shape[1:3], kernel, stride), groups).check()
    if weight.shape != conv.weight_shape:
        raise ValueError(f"the weight must have shape {conv.weight_shape} for {x.shape[3]} input channels in {groups} groups, "
                         f"got {weight.shape}")
    conv.output_size(*x.shape[1:3])
    return conv


def linear(x, weight, bias=None, grad_quantizer=None):
    """``x @ weight + bias`` for x (N, D), weight (D, F): a convolution of one pixel, so codes meet the same kernels."""
    x = as_tensor(x)
    if len(x.shape) != 2 or x.shape[1] != weight.shape[0]:
        raise ValueError(f"linear takes an input (N, {weight.shape[0]}), got shape {x.shape}")
    pixels = x.reshape(x.shape[0], 1, 1, x.shape[1])
    y = conv2d(pixels, weight.reshape(1, 1, *weight.shape), bias, grad_quantizer=grad_quantizer)
    return y.reshape(x.shape[0], weight.shape[1])


class BatchNorm(Function):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, each channel (last axis) by itself. arXiv:1502.03167."""

    def forward(self, x, gamma, beta, mean, var, eps, training):
        self.x, self.gamma, self.training = x, gamma, training
        self.mean, self.rstd = mean, 1 / np.sqrt(var + eps)
        scale = gamma * self.rstd
        return elementwise.channel_affine(x, scale, beta - self.mean * scale)

    def backward(self, grad_output):
        g, x = np.ascontiguousarray(grad_output), self.x
        sum_g, sum_gx = elementwise.channel_sums(g, x)
        grad_gamma, scale, slope, offset = _batch_norm_grad(sum_g, sum_gx, self.mean, self.rstd, self.gamma,
                                                            x.size // x.shape[-1])
        if self.training:
            grad_x = elementwise.channel_blend(g, x, scale, slope, offset)
        else:
            grad_x = elementwise.channel_affine(g, scale, np.zeros_like(scale))
        return grad_x, grad_gamma.astype(self.gamma.dtype), sum_g.astype(self.gamma.dtype)


def _batch_norm_grad(sum_g, sum_gx, mean, rstd, gamma, rows):
    """The gradient of gamma, and scale, slope and offset of dx = scale * g + slope * x + offset.

    slope and offset are there because the batch's own mean and variance depend on x too.
    """
    grad_gamma = (sum_gx - mean * sum_g) * rstd
    scale = gamma * rstd
    slope = -scale * rstd * grad_gamma / rows
    return grad_gamma, scale, slope, -scale * sum_g / rows - slope * mean


def _moments(sums, rows):
    mean = sums[0] / rows
    return mean, np.maximum(sums[1] / rows - mean * mean, 0)


def batch_statistics(x):
    """Mean and biased variance of each channel (last axis) of an array: float64 arrays (C,)."""
    return _moments(elementwise.channel_sums(x, x), x.size // x.shape[-1])


def batch_norm(x, gamma, beta, mean, var, eps=1e-4, training=False):
    """Batch normalisation of the last axis with given statistics (float64 arrays (C,)).

    ``training`` says that the statistics are those of x itself, so that the gradient flows through them.
    """
    return BatchNorm.apply(x, gamma, beta, mean=mean, var=var, eps=eps, training=training)


class ConvBlock(Function):
    """Convolution of codes, batch norm, max pool, clip and quantize in one: the fast path of a DoReFa block.

    Bit for bit what Conv2d, BatchNorm, MaxPool and Quantize do one after the other, with fewer walks over memory. Between
    blocks travel codes; for backward stay the accumulators, the codes and one byte a result.
    """

    takes_codes = True

    def forward(self, x, w, gamma, beta, conv, norm, pool, quantizer, grad_quantizer):
        self.x, self.w, self.gamma, self.conv, self.pool, self.grad_quantizer = x, w, gamma, conv, pool, grad_quantizer
        self.layer, self.kappa = execution.current_layer(), x.scale * w.scale
        self.accum = execution.forward_accum(x, w, conv)
        rows = self.accum.size // self.accum.shape[-1]
        mean, var = norm.statistics(lambda: _moments(block.sums(self.accum, self.kappa), rows))
        self.mean, self.rstd = mean, 1 / np.sqrt(var + norm.eps)
        scale = gamma * self.rstd
        values, self.route = block.encode(self.accum, self.kappa, scale, beta - mean * scale, pool, quantizer.bits)
        return Codes(values, quantizer.bits, "unsigned", 1 / quantizer.top)

    def backward(self, grad_output):
        g = np.ascontiguousarray(grad_output)
        sum_g, sum_gy = block.grad_sums(g, self.route, self.accum, self.kappa, self.pool)
        grad_gamma, scale, slope, offset = _batch_norm_grad(sum_g, sum_gy, self.mean, self.rstd, self.gamma,
                                                            self.accum.size // self.accum.shape[-1])
        values, largest = block.grad_codes(g, self.route, self.accum, self.kappa, scale, slope, offset, self.pool,
                                           self.grad_quantizer.bits, random.next_key())
        grad = self.grad_quantizer.codes(values, largest)
        with execution.layer(self.layer):
            grad_x = execution.input_grad(grad, self.w, self.conv, self.x.shape[1:3]) if self.needs_grad[0] else None
            grad_w = execution.weight_grad(grad, self.x, self.conv) if self.needs_grad[1] else None
        return grad_x, grad_w, grad_gamma.astype(self.gamma.dtype), sum_g.astype(self.gamma.dtype)


class FirstBlock(Function):
    """Convolution of real images, bias, max pool, clip and quantize in one: the fast path of a network's first block.

    Its codes are bit for bit those of Conv2d, MaxPool and Quantize one after the other; its gradients are theirs, summed in
    another order. Images get no gradient. For backward stay the images and one byte a result.
    """

    def forward(self, x, w, b=None, conv=None, pool=1, quantizer=None):
        self.x, self.conv, self.pool, self.layer = x, conv, pool, execution.current_layer()
        execution.record_float("forward", x, w, conv, x.shape[1:3])
        with execution.path("forward"):
            values, self.route = direct.encode(x, w, conv, b, pool, quantizer.bits)
        return Codes(values, quantizer.bits, "unsigned", 1 / quantizer.top)

    def backward(self, grad_output):
        with execution.layer(self.layer), execution.path("weight_grad"):
            execution.record_float("weight_grad", grad_output, self.x, self.conv, self.x.shape[1:3])
            grad_w, grad_b = direct.block_grads(grad_output, self.route, self.x, self.conv, self.pool)
        return (None, grad_w, grad_b)[:len(self.needs_grad)]


class MaxPool(Function):
    """Largest value of each window; the gradient goes to where it came from, the first place on ties. Codes stay codes."""

    takes_codes = True

    def forward(self, x, size, stride, padding):
        self.shape, self.window = x.shape, (size, stride, padding)
        values = x.values if isinstance(x, Codes) else x
        y, self.taps = elementwise.max_pool(values, size, stride, padding)
        return x.with_values(y) if isinstance(x, Codes) else y

    def backward(self, grad_output):
        return elementwise.max_pool_grad(np.ascontiguousarray(grad_output), self.taps, self.shape, *self.window)


def _check_window(x, size, stride, padding):
    stride = size if stride is None else stride
    if len(x.shape) != 4 or not 0 <= 2 * padding <= size or min(x.shape[1:3]) + 2 * padding < size or stride < 1:
        raise ValueError(f"a pooling window of {size} with stride {stride} and padding {padding} does not fit shape {x.shape}")
    return stride


def max_pool(x, size, stride=None, padding=0):
    """Max pooling over size x size windows (stride: size by default); padding counts as minus infinity."""
    if size > 16:  # a byte tells where in the window a maximum was
        raise ValueError(f"a max-pooling window has at most 16 pixels a side, got {size}")
    x = as_tensor(x)
    return MaxPool.apply(x, size=size, stride=_check_window(x, size, stride, padding), padding=padding)


class AvgPool(Function):
    """Mean of each window, padding counting as zeros."""

    def forward(self, x, size, stride, padding):
        self.shape, self.window = x.shape, (size, stride, padding)
        padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
        return np.ascontiguousarray(windows.mean(axis=(-2, -1), dtype=x.dtype))

    def backward(self, grad_output):
        size, stride, padding = self.window
        samples, height, width, channels = self.shape
        grad = np.zeros((samples, height + 2 * padding, width + 2 * padding, channels), grad_output.dtype)
        share = grad_output / (size * size)
        rows, columns = grad_output.shape[1] * stride, grad_output.shape[2] * stride
        for y in range(size):
            for x in range(size):
                grad[:, y:y + rows:stride, x:x + columns:stride][:, :share.shape[1], :share.shape[2]] += share
        return np.ascontiguousarray(grad[:, padding:padding + height, padding:padding + width])


def avg_pool(x, size, stride=None, padding=0):
    """Average pooling over size x size windows (stride: size by default)."""
    x = as_tensor(x)
    return AvgPool.apply(x, size=size, stride=_check_window(x, size, stride, padding), padding=padding)


class Clip(Function):
    """min(max(x, low), high); the gradient passes where low <= x <= high."""

    def forward(self, x, low, high):
        self.x, self.bounds = x, (low, high)
        return elementwise.clip(np.ascontiguousarray(x), low, high)

    def backward(self, grad_output):
        return elementwise.clip_grad(np.ascontiguousarray(grad_output), np.ascontiguousarray(self.x), *self.bounds)


def clip(x, low=0.0, high=1.0):
    """Limit to [low, high]."""
    return Clip.apply(as_tensor(x), low=low, high=high)


class ReLU(Function):
    """max(x, 0); the gradient passes where x > 0."""

    def forward(self, x):
        self.y = elementwise.clip(np.ascontiguousarray(x), 0, np.inf)
        return self.y

    def backward(self, grad_output):
        smallest = np.nextafter(self.y.dtype.type(0), self.y.dtype.type(1))
        return elementwise.clip_grad(np.ascontiguousarray(grad_output), self.y, smallest, np.inf)


def relu(x):
    """Rectified linear unit."""
    return ReLU.apply(as_tensor(x))


class Dropout(Function):
    """Zero each value with probability ``drop`` and divide the others by 1 - drop. Unsigned codes stay codes."""

    takes_codes = True

    def forward(self, x, drop):
        self.mask, self.keep = elementwise.keep_mask(x.shape, drop, random.next_key()), 1 - drop
        if isinstance(x, Codes):
            if x.encoding != "unsigned":
                raise ValueError(f"dropout needs codes that can be zero: unsigned, got {x.encoding}")
            return x.with_values(x.values * self.mask, x.scale / self.keep)
        return x * self.mask * x.dtype.type(1 / self.keep)

    def backward(self, grad_output):
        return grad_output * self.mask * grad_output.dtype.type(1 / self.keep)


def dropout(x, drop=0.5):
    """Dropout with the next draw of ``bitnet.random``."""
    if not 0 <= drop < 1:
        raise ValueError(f"the share to drop must be in [0, 1), got {drop}")
    return Dropout.apply(as_tensor(x), drop=drop)


def softmax(logits):
    """exp(logits) / sum of exp(logits) over the last axis, of an array."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _check_labels(logits, labels):
    labels = np.asarray(labels)
    if len(logits.shape) != 2 or labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"a loss takes logits (N, classes) and integer labels (N,), got shapes {logits.shape} and "
                         f"{labels.shape} of {labels.dtype}")
    return labels


class SoftmaxCrossEntropy(Function):
    """Mean over the batch of -log softmax(logits)[label]."""

    def forward(self, logits, labels):
        self.probabilities, self.labels = softmax(logits), labels
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1))
        return (log_sum - shifted[np.arange(len(labels)), labels]).mean(dtype=logits.dtype)

    def backward(self, grad_output):
        grad = self.probabilities.copy()
        grad[np.arange(len(self.labels)), self.labels] -= 1
        return grad * (grad_output / len(grad))


@execution.layer("loss")
def softmax_cross_entropy(logits, labels):
    """Cross entropy of softmax(logits) (N, classes) with integer labels (N,), the mean over the batch."""
    return SoftmaxCrossEntropy.apply(logits, labels=_check_labels(logits, labels))


class SquaredHinge(Function):
    """Mean over batch and classes of max(0, 1 - t * logit)**2, t = +1 for the label and -1 for the others."""

    def forward(self, logits, labels):
        self.targets = -np.ones_like(logits)
        self.targets[np.arange(len(labels)), labels] = 1
        self.slack = np.maximum(1 - self.targets * logits, 0)
        return (self.slack * self.slack).mean(dtype=logits.dtype)

    def backward(self, grad_output):
        return -2 * self.targets * self.slack * (grad_output / self.slack.size)


@execution.layer("loss")
def squared_hinge(logits, labels):
    """Squared hinge loss of logits (N, classes) with integer labels (N,), the mean over batch and classes."""
    return SquaredHinge.apply(logits, labels=_check_labels(logits, labels))
