"""Convolutions and fully connected layers. Images are (N, H, W, C), weights (kh, kw, C / groups, F)."""

from functools import lru_cache

from bitnet import execution
from bitnet.codes import Codes
from bitnet.functional.pointwise import pair
from bitnet.kernels.pointwise.norm import channel_sums
from bitnet.kernels.products.geometry import Conv
from bitnet.tensor import Function, as_tensor


def same_padding(size, kernel, stride):
    """Zeros before and after an axis of ``size`` pixels, such that ceil(size / stride) come out; an odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def paddings(padding, size, kernel, stride):
    """((top, bottom), (left, right)) from "same", one number, or two, or two pairs; other arguments are pairs."""
    if isinstance(padding, str):
        if padding != "same":
            raise ValueError(f'padding must be "same" or numbers of pixels, got {padding!r}')
        return tuple(same_padding(*args) for args in zip(size, kernel, stride, strict=True))
    return tuple(pair(one) for one in pair(padding))


class Conv2d(Function):
    """y = x * w + b (cross-correlation, zero padding). DoReFa-Net, arXiv:1606.06160, algorithm 1, steps 3, 12, 13 and 14.

    With a gradient quantizer, backward encodes grad_output once and both gradient products run on the codes. Where a term of
    the weight has a scale for each filter, the input gradient sums over these scales: they go into grad_output before it is
    encoded once more, and the weight gradient, which they do not concern, keeps the first encoding.
    """

    takes_codes = True

    def forward(self, x, w, b=None, conv=None, grad_quantizer=None):
        self.x, self.w, self.conv, self.grad_quantizer = x, w, conv, grad_quantizer
        return execution.forward(x, w, conv, b)

    def backward(self, grad_output):
        needs = self.needs_grad
        grad = self.grad_quantizer.encode(grad_output) if self.grad_quantizer else grad_output
        grads = [self._input_grad(grad, grad_output) if needs[0] else None,
                 execution.weight_grad(grad, self.x, self.conv) if needs[1] else None]
        if len(needs) > 2:
            real = grad.decode() if isinstance(grad, Codes) else grad
            grads.append(channel_sums(real, real)[0].astype(real.dtype) if needs[2] else None)
        return tuple(grads)

    def _input_grad(self, grad, grad_output):
        size = self.x.shape[1:3]
        if not (isinstance(grad, Codes) and isinstance(self.w, Codes)):
            return execution.input_grad(grad, self.w, self.conv, size)
        parts = []
        for term in self.w.terms():
            g = grad
            if term.per_filter:
                g = self.grad_quantizer.encode(grad_output * term.scale.astype(grad_output.dtype))
                term = term.with_values(term.values, scale=1.0)
            parts.append(execution.input_grad(g, term, self.conv, size))
        return execution.sum_of(parts)


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
    padding = padding if isinstance(padding, str) else tuple(map(pair, pair(padding)))
    return _convolution(x.shape[1:], weight.shape, pair(stride), padding, groups)


@lru_cache(maxsize=1024)
def _convolution(image, weight, stride, padding, groups):
    conv = Conv(image[2], weight[3], weight[:2], stride, paddings(padding, image[:2], weight[:2], stride), groups).check()
    if weight != conv.weight_shape:
        raise ValueError(f"the weight must have shape {conv.weight_shape} for {image[2]} input channels in {groups} groups, "
                         f"got {weight}")
    conv.output_size(*image[:2])
    return conv


def linear(x, weight, bias=None, grad_quantizer=None):
    """``x @ weight + bias``, as a convolution of one pixel: codes run on the same kernels. See ``conv2d``.

    Parameters
    ----------
    x : Tensor (N, D); weight : Tensor (D, F); bias : Tensor (F,) or None
    """
    x = as_tensor(x)
    if len(x.shape) != 2 or x.shape[1] != weight.shape[0]:
        raise ValueError(f"linear takes an input (N, {weight.shape[0]}), got shape {x.shape}")
    pixels = x.reshape(x.shape[0], 1, 1, x.shape[1])
    y = conv2d(pixels, weight.reshape(1, 1, *weight.shape), bias, grad_quantizer=grad_quantizer)
    return y.reshape(x.shape[0], weight.shape[1])
