"""The differentiable operations, each a Function with forward beside backward, and a plain function to call it by.

Images are (N, H, W, C), weights (kh, kw, C / groups, F).
"""

import numpy as np

from bitnet import execution, random
from bitnet.codes import Codes
from bitnet.kernels.pointwise import block, norm, pool, quantize, update
from bitnet.kernels.products import direct
from bitnet.kernels.products.geometry import Conv
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

    With a gradient quantizer, backward encodes grad_output once and both gradient products run on the codes. Where the weight
    has a scale for each filter, the input gradient sums over these scales: they go into grad_output before it is encoded, and
    the weight gradient, which they do not concern, has an encoding of its own.
    """

    takes_codes = True

    def forward(self, x, w, b=None, conv=None, grad_quantizer=None):
        self.x, self.w, self.conv, self.grad_quantizer = x, w, conv, grad_quantizer
        return execution.forward(x, w, conv, b)

    def backward(self, grad_output):
        needs = self.needs_grad
        grad = self.grad_quantizer.encode(grad_output) if self.grad_quantizer else grad_output
        scaled, w = grad, self.w
        if needs[0] and isinstance(grad, Codes) and isinstance(w, Codes) and w.per == "filter" and not execution.one_scale(w):
            scaled = self.grad_quantizer.encode(grad_output * w.scale.astype(grad_output.dtype))
            w = w.with_values(w.values, scale=1.0)
        grads = [execution.input_grad(scaled, w, self.conv, self.x.shape[1:3]) if needs[0] else None,
                 execution.weight_grad(grad, self.x, self.conv) if needs[1] else None]
        if len(needs) > 2:
            real = grad.decode() if isinstance(grad, Codes) else grad
            grads.append(norm.channel_sums(real, real)[0].astype(real.dtype) if needs[2] else None)
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
        return norm.channel_affine(x, scale, beta - self.mean * scale)

    def backward(self, grad_output):
        g, x = np.ascontiguousarray(grad_output), self.x
        sum_g, sum_gx = norm.channel_sums(g, x)
        grad_gamma, scale, slope, offset = _batch_norm_grad(sum_g, sum_gx, self.mean, self.rstd, self.gamma,
                                                            x.size // x.shape[-1])
        if self.training:
            grad_x = norm.channel_blend(g, x, scale, slope, offset)
        else:
            grad_x = norm.channel_affine(g, scale, np.zeros_like(scale))
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
    return _moments(norm.channel_sums(x, x), x.size // x.shape[-1])


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
        self.kappa = x.scale * w.scale
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
        grad_x = execution.input_grad(grad, self.w, self.conv, self.x.shape[1:3]) if self.needs_grad[0] else None
        grad_w = execution.weight_grad(grad, self.x, self.conv) if self.needs_grad[1] else None
        return grad_x, grad_w, grad_gamma.astype(self.gamma.dtype), sum_g.astype(self.gamma.dtype)


class FirstBlock(Function):
    """Convolution of real images, bias, max pool, clip and quantize in one: the fast path of a network's first block.

    Its codes are bit for bit those of Conv2d, MaxPool and Quantize one after the other; its gradients are theirs, summed in
    another order. Images get no gradient. For backward stay the images and one byte a result.
    """

    def forward(self, x, w, b=None, conv=None, pool=1, quantizer=None):
        self.x, self.conv, self.pool = x, conv, pool
        execution.record_float("forward", x, w, conv, x.shape[1:3])
        with execution.path("forward"):
            values, self.route = direct.encode(x, w, conv, b, pool, quantizer.bits)
        return Codes(values, quantizer.bits, "unsigned", 1 / quantizer.top)

    def backward(self, grad_output):
        with execution.path("weight_grad"):
            execution.record_float("weight_grad", grad_output, self.x, self.conv, self.x.shape[1:3])
            grad_w, grad_b = direct.block_grads(grad_output, self.route, self.x, self.conv, self.pool)
        return (None, grad_w, grad_b)[:len(self.needs_grad)]


class MaxPool(Function):
    """Largest value of each window; the gradient goes to where it came from, the first place on ties. Codes stay codes."""

    takes_codes = True

    def forward(self, x, size, stride, padding):
        self.shape, self.window = x.shape, (size, stride, padding)
        values = x.values if isinstance(x, Codes) else x
        y, self.taps = pool.max_pool(values, size, stride, padding)
        return x.with_values(y) if isinstance(x, Codes) else y

    def backward(self, grad_output):
        return pool.max_pool_grad(np.ascontiguousarray(grad_output), self.taps, self.shape, *self.window)


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
        return quantize.clip(np.ascontiguousarray(x), low, high)

    def backward(self, grad_output):
        return quantize.clip_grad(np.ascontiguousarray(grad_output), np.ascontiguousarray(self.x), *self.bounds)


def clip(x, low=0.0, high=1.0):
    """Limit to [low, high]."""
    return Clip.apply(as_tensor(x), low=low, high=high)


class ReLU(Function):
    """max(x, 0); the gradient passes where x > 0."""

    def forward(self, x):
        self.y = quantize.clip(np.ascontiguousarray(x), 0, np.inf)
        return self.y

    def backward(self, grad_output):
        smallest = np.nextafter(self.y.dtype.type(0), self.y.dtype.type(1))
        return quantize.clip_grad(np.ascontiguousarray(grad_output), self.y, smallest, np.inf)


def relu(x):
    """Rectified linear unit."""
    return ReLU.apply(as_tensor(x))


class Dropout(Function):
    """Zero each value with probability ``drop`` and divide the others by 1 - drop. Codes stay codes.

    A +-1 code has no zero: it becomes a ternary one.
    """

    takes_codes = True

    def forward(self, x, drop):
        self.mask, self.keep = quantize.keep_mask(x.shape, drop, random.next_key()), 1 - drop
        if isinstance(x, Codes):
            scale = x.scale / self.keep
            if x.encoding == "unsigned":
                return x.with_values(x.values * self.mask, scale)
            if x.encoding == "ternary":
                return x.with_values(np.where(self.mask, x.values, np.uint8(1)), scale)
            if x.bits == 1:
                return Codes(np.where(self.mask, 2 * x.values, np.uint8(1)), 2, "ternary", scale)
            raise ValueError(f"dropout needs codes that can be zero, got {x.bits}-bit {x.encoding} ones")
        return x * self.mask * x.dtype.type(1 / self.keep)

    def backward(self, grad_output):
        return grad_output * self.mask * grad_output.dtype.type(1 / self.keep)


def dropout(x, drop=0.5):
    """Dropout with the next draw of ``bitnet.random``, of an array or codes of any shape.

    Raises
    ------
    ValueError : a share outside [0, 1), or bipolar codes of several bits, among which there is no 0.
    """
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
    """Squared hinge loss of logits (N, classes) with integer labels (N,), the mean over batch and classes.

    The L2-SVM of BinaryConnect and BNN (arXiv:1511.00363, arXiv:1602.02830). ValueError for other shapes or labels.
    """
    return SquaredHinge.apply(logits, labels=_check_labels(logits, labels))


class SoftTargets(Function):
    """Mean over the batch of T**2 * KL(teacher || student), both softmax(logits / T)."""

    def forward(self, logits, teacher, temperature):
        self.temperature = temperature
        self.student, self.teacher = softmax(logits / temperature), softmax(teacher / temperature)
        tiny = np.finfo(logits.dtype).tiny
        divergence = self.teacher * (np.log(np.maximum(self.teacher, tiny)) - np.log(np.maximum(self.student, tiny)))
        return logits.dtype.type(temperature**2 * divergence.sum() / len(logits))

    def backward(self, grad_output):
        return (self.student - self.teacher) * (self.temperature * grad_output / len(self.student))


def soft_targets(logits, teacher, temperature=1.0):
    """How far the softened classes of logits (N, classes) are from those of a teacher's logits, an array of the same shape.

        temperature**2 * KL(softmax(teacher / temperature) || softmax(logits / temperature)), the mean over the batch

    The square keeps gradients as large as those of hard targets (Hinton, Vinyals and Dean, arXiv:1503.02531).

    Raises
    ------
    ValueError : shapes differ, or the temperature is not positive.
    """
    if np.shape(teacher) != logits.shape or not temperature > 0:
        raise ValueError(f"soft targets need a teacher's logits of shape {logits.shape} and a temperature > 0, got shape "
                         f"{np.shape(teacher)} and {temperature}")
    return SoftTargets.apply(logits, teacher=np.asarray(teacher, logits.data.dtype), temperature=temperature)


class Tanh(Function):
    """tanh(x)."""

    def forward(self, x):
        self.y = np.tanh(x)
        return self.y

    def backward(self, grad_output):
        return grad_output * (1 - self.y * self.y)


def tanh(x):
    """Hyperbolic tangent."""
    return Tanh.apply(as_tensor(x))


class MeanMagnitude(Function):
    """Mean over channels of |x|: (N, H, W, C) to (N, H, W, 1)."""

    def forward(self, x):
        self.x = x
        return np.abs(x).mean(axis=-1, keepdims=True, dtype=x.dtype)

    def backward(self, grad_output):
        return np.sign(self.x) * (grad_output / self.x.shape[-1])


def mean_magnitude(x):
    """Mean over channels (last axis) of |x|, which stays an axis of size 1."""
    return MeanMagnitude.apply(as_tensor(x))


def ap2(x):
    """The approximate power of two AP2(x) = sign(x) * 2**rint(log2 |x|) of a float array; AP2(0) = 0.

    Without a logarithm: x = m * 2**e with m in [1, 2) goes to 2**e where m < sqrt(2), else to 2**(e + 1). Added to the bits of
    m, 2 - sqrt(2) carries into those of e just then. Numbers below the smallest normal one become 0 or that one.
    """
    x = np.asarray(x)
    if x.dtype != np.float32:
        x = x.astype(np.float64, copy=False)
    carry, exponent = update.ap2_constants(x.dtype)
    bits = x.view(carry.dtype)
    sign = np.iinfo(bits.dtype).min
    with np.errstate(over="ignore"):  # a NaN's bits
        power = ((bits & ~sign) + carry) & exponent | (bits & sign)
    return np.where(np.isnan(x), x, power.view(x.dtype))


def _channel_means(x):
    return x.mean(axis=tuple(range(x.ndim - 1)), dtype=np.float64)


def shift_statistics(x, eps):
    """Mean and inverse deviation of each channel by shifts: mean(x), 1 / sqrt(mean(c * AP2(c)) + eps) with c = x - mean."""
    mean = _channel_means(x)
    centred = x - mean.astype(x.dtype)
    return mean, 1 / np.sqrt(_channel_means(centred * ap2(centred)) + eps)


class ShiftBatchNorm(Function):
    """y = AP2(gamma) * c * AP2(rstd) + beta, c = x - mean: batch norm whose products are shifts. arXiv:1602.02830.

    Backward, as in the authors' Torch code, with s = AP2(rstd):
        dx     = (g - mean(g) - AP2(c) * s**2 * mean(AP2(c) * g)) * s * AP2(gamma)
        dgamma = sum(g * AP2(c * s)), dbeta = sum(g)
    With given statistics only dx = g * s * AP2(gamma).
    """

    def forward(self, x, gamma, beta, mean, rstd, training):
        self.centred, self.training = x - mean.astype(x.dtype), training
        self.gamma, self.rstd = ap2(gamma), ap2(rstd).astype(x.dtype)
        return self.centred * (self.rstd * self.gamma) + beta

    def backward(self, grad_output):
        g, axes = grad_output, tuple(range(grad_output.ndim - 1))
        grad_gamma = np.sum(g * ap2(self.centred * self.rstd), axis=axes, dtype=np.float64).astype(g.dtype)
        grad_beta = np.sum(g, axis=axes, dtype=np.float64).astype(g.dtype)
        if self.training:
            shifted = ap2(self.centred)
            slope = (_channel_means(shifted * g) * self.rstd.astype(np.float64) ** 2).astype(g.dtype)
            g = g - _channel_means(g).astype(g.dtype) - shifted * slope
        return g * (self.rstd * self.gamma), grad_gamma, grad_beta


def shift_batch_norm(x, gamma, beta, mean, rstd, training=False):
    """Shift-based batch norm of the last axis with given statistics (float64 arrays (C,)); see ``ShiftBatchNorm``."""
    return ShiftBatchNorm.apply(x, gamma, beta, mean=mean, rstd=rstd, training=training)


class LowPrecisionBatchNorm(Function):
    """y = gamma * q((x - mean) * rstd) + beta; of the activations only the codes of q are kept. arXiv:1702.08231.

    Backward is that of batch norm with q in the place of what it was rounded from; q itself passes the gradient on.
    """

    def forward(self, x, gamma, beta, mean, rstd, quantizer, training):
        self.gamma, self.rstd, self.training, self.quantizer = gamma, rstd, training, quantizer
        normal = norm.channel_affine(np.ascontiguousarray(x), rstd, -mean * rstd)
        self.codes, self.saved = quantizer.encode_and_save(normal)
        return norm.channel_affine(self.codes.decode(x.dtype), gamma, beta)

    def backward(self, grad_output):
        g, q = np.ascontiguousarray(grad_output), self.codes.decode(grad_output.dtype)
        sum_g, sum_gq = norm.channel_sums(g, q)
        inner = self.quantizer.grad(self.saved, g)
        scale, rows = self.gamma * self.rstd, q.size // q.shape[-1]
        if self.training:
            sums = norm.channel_sums(inner, q) if inner is not g else (sum_g, sum_gq)
            grad_x = norm.channel_blend(inner, q, scale, -scale * sums[1] / rows, -scale * sums[0] / rows)
        else:
            grad_x = norm.channel_affine(inner, scale, np.zeros_like(scale))
        return grad_x, sum_gq.astype(g.dtype), sum_g.astype(g.dtype)


def low_precision_batch_norm(x, gamma, beta, mean, var, quantizer, eps=1e-4, training=False):
    """Batch norm of the last axis whose activations are quantized in its middle; see ``LowPrecisionBatchNorm``."""
    return LowPrecisionBatchNorm.apply(x, gamma, beta, mean=mean, rstd=1 / np.sqrt(var + eps), quantizer=quantizer,
                                       training=training)
