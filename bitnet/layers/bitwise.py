"""The layer of Bitwise Neural Networks (Kim and Smaragdis, arXiv:1601.06071)."""

import numpy as np

from bitnet import functional
from bitnet.kernels.pointwise import elementary
from bitnet.layers.weighted import Linear, glorot_uniform
from bitnet.module import initial
from bitnet.quantizers import BitwiseActivation, BitwiseWeight


class BitwiseLinear(Linear):
    """A fully connected layer with its activation, in both stages of training.

        stage 1    z = tanh(tanh(b) + x @ tanh(W)), all in float
        stage 2    z = sign(b_q + x @ W_q), on bits; the latent W and b, which collect the updates, start from stage 1's
        tanh(W), tanh(b)

    Takes and gives arrays (N, in_features) and (N, out_features). Stage 2 begins at half of a run.

    Parameters
    ----------
    in_features, out_features : of the layer
    zeros : share of weights that are 0 in stage 2, see ``BitwiseWeight``
    hidden : with activation; a last layer has none, and its sums are divided by sqrt(in_features) in stage 2, which changes no
        class but the loss: this project's choice
    rng : numpy Generator of the initial weights, Glorot's uniform ones
    """

    def __init__(self, in_features, out_features, zeros=0.0, hidden=False, rng=None):
        super().__init__(in_features, out_features, weight_quantizer=BitwiseWeight(zeros), rng=rng)
        self.zeros, self.hidden, self.bias_quantizer = zeros, hidden, BitwiseWeight()
        self.act = BitwiseActivation(1 / np.sqrt(in_features)) if hidden else None
        self.bits = initial((1,), lambda: np.zeros(1), np.float64)  # a buffer, so that a file knows the stage: 0 or 1

    def options(self):
        return {name: getattr(self, name) for name in ("in_features", "out_features", "zeros", "hidden")}

    @staticmethod
    def draw(rng, shape, fan_in):
        return glorot_uniform(rng, shape, *shape)

    @property
    def stage(self):
        """1 or 2."""
        return 2 if self.bits[0] >= 1 else 1  # whatever number a file may hold there

    def start_bits(self):
        """Go from stage 1 to stage 2; in stage 2 nothing happens, and the answer is False."""
        if self.stage == 2:
            return False
        for parameter in (self.weight, self.bias):
            parameter.data = elementary.tanh(parameter.data)
        self.bits[0] = 1
        return True

    def advance(self, progress):
        # the gradients of bits are many times those at the end of stage 1: by Adam's mean of squares of these, the first steps
        # would be so long that signs could not come back; so the optimizer restarts
        return progress >= 0.5 and self.start_bits()

    def forward(self, x):
        if self.stage == 1:
            a = functional.linear(x, functional.tanh(self.weight)) + functional.tanh(self.bias)
            return functional.tanh(a) if self.hidden else a
        a = functional.linear(x, self.quantized_weight()) + self.bias_quantizer(self.bias)
        return self.act(a) if self.hidden else a * float(1 / np.sqrt(self.in_features))

    def flow(self, signal, visit):
        after = super().flow(signal, visit)
        return self.act.trace(after, visit) if self.hidden and self.stage == 2 else after
