"""Blocks as one Function: the same bits as their parts one after the other, with fewer walks over memory."""

import numpy as np

from bitnet import execution, random
from bitnet.codes import Codes
from bitnet.functional.norm import batch_norm_grad, moments
from bitnet.kernels.pointwise import block
from bitnet.kernels.products import direct
from bitnet.tensor import Function


class ConvBlock(Function):
    """Convolution of codes, batch norm, max pool, clip and quantize in one: a DoReFa block, fused.

    Bit for bit what Conv2d, BatchNorm, MaxPool and Quantize do one after the other, with fewer walks over memory. Between
    blocks travel codes; for backward stay the accumulators, the codes and one byte a result.
    """

    takes_codes = True

    def forward(self, x, w, gamma, beta, conv, norm, pool, quantizer, grad_quantizer):
        self.x, self.w, self.gamma, self.conv, self.pool, self.grad_quantizer = x, w, gamma, conv, pool, grad_quantizer
        self.kappa = x.scale * w.scale
        self.accum = execution.forward_accum(x, w, conv)
        norm.check(self.accum.shape)
        rows = self.accum.size // self.accum.shape[-1]
        mean, var = norm.statistics(lambda: moments(block.sums(self.accum, self.kappa), rows), rows)
        self.mean, self.rstd = mean, 1 / np.sqrt(var + norm.eps)
        scale = gamma * self.rstd
        values, self.route = block.encode(self.accum, self.kappa, scale, beta - mean * scale, pool, quantizer.bits)
        return Codes(values, quantizer.bits, "unsigned", 1 / quantizer.top)

    def backward(self, grad_output):
        g = np.ascontiguousarray(grad_output)
        sum_g, sum_gy = block.grad_sums(g, self.route, self.accum, self.kappa, self.pool)
        grad_gamma, scale, slope, offset = batch_norm_grad(sum_g, sum_gy, self.mean, self.rstd, self.gamma,
                                                            self.accum.size // self.accum.shape[-1])
        values, largest = block.grad_codes(g, self.route, self.accum, self.kappa, scale, slope, offset, self.pool,
                                           self.grad_quantizer.bits, random.next_key())
        grad = self.grad_quantizer.codes(values, largest)
        grad_x = execution.input_grad(grad, self.w, self.conv, self.x.shape[1:3]) if self.needs_grad[0] else None
        grad_w = execution.weight_grad(grad, self.x, self.conv) if self.needs_grad[1] else None
        return grad_x, grad_w, grad_gamma.astype(self.gamma.dtype), sum_g.astype(self.gamma.dtype)


class FirstBlock(Function):
    """Convolution of real images, bias, max pool, clip and quantize in one: a network's first block, fused.

    Its codes are bit for bit those of Conv2d, MaxPool and Quantize one after the other; its gradients are theirs, summed in
    another order. Images get no gradient. For backward stay the images, real or 8-bit pixels, and one byte a result.
    """

    takes_codes = True

    def forward(self, x, w, b=None, conv=None, pool=1, quantizer=None):
        self.x, self.conv, self.pool = x, conv, pool
        execution.record_float("forward", x, w, conv, x.shape[1:3])
        with execution.role("forward"):
            values, self.route = direct.encode(_real(x), w, conv, b, pool, quantizer.bits)
        return Codes(values, quantizer.bits, "unsigned", 1 / quantizer.top)

    def backward(self, grad_output):
        with execution.role("weight_grad"):
            execution.record_float("weight_grad", grad_output, self.x, self.conv, self.x.shape[1:3])
            grad_w, grad_b = direct.block_grads(grad_output, self.route, _real(self.x), self.conv, self.pool)
        return (None, grad_w, grad_b)[:len(self.needs_grad)]


def _real(images):
    return images.decode() if isinstance(images, Codes) else images
