"""Steps of optimizers, and what latent weights are subject to after a step; in place, one walk over memory each."""

import math

import numpy as np

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.arrays import address_of
from bitnet.kernels.machine.compile import kernel
from bitnet.kernels.machine.vectors import array_at, at, put
from bitnet.kernels.pointwise.walk import TILE, tiles_of, tiles_of_all


@kernel
def _sgd(start, stop, parameter, grad, velocity, lr, momentum, nesterov, decay):
    for i in range(start * TILE, min(stop * TILE, parameter.size)):
        g = at(grad, i) + decay * at(parameter, i)
        v = momentum * at(velocity, i) + g
        put(velocity, i, v)
        put(parameter, i, at(parameter, i) - lr * (g + momentum * v if nesterov else v))


def sgd(parameter, grad, velocity, lr, momentum, nesterov, decay):
    """One step of stochastic gradient descent, in place."""
    number = parameter.dtype.type
    threads.run(_sgd, tiles_of(parameter.size), parameter.reshape(-1), grad.reshape(-1), velocity.reshape(-1), number(lr),
                number(momentum), nesterov, number(decay))


@kernel
def _adam(start, stop, tiles, places, sizes, numbers, constants):
    beta1, beta2, correction, eps, one = constants
    for tile in range(start, stop):
        k, first = at(tiles, 2 * tile), at(tiles, 2 * tile + 1)
        size, rate, decay = at(sizes, k), at(numbers, 2 * k), at(numbers, 2 * k + 1)
        parameter, grad = array_at(at(places, 4 * k), size, numbers), array_at(at(places, 4 * k + 1), size, numbers)
        mean, square = array_at(at(places, 4 * k + 2), size, numbers), array_at(at(places, 4 * k + 3), size, numbers)
        for i in range(first, min(first + TILE, size)):
            g = at(grad, i) + decay * at(parameter, i)
            m = beta1 * at(mean, i) + (one - beta1) * g
            v = beta2 * at(square, i) + (one - beta2) * g * g
            put(mean, i, m)
            put(square, i, v)
            put(parameter, i, at(parameter, i) - rate * m / (np.sqrt(v * correction) + eps))


def adam(parameters, step, beta1, beta2, eps):
    """Step number ``step`` (from 1) of Adam, in place: arXiv:1412.6980, algorithm 1.

    Many a parameter is small, so all of them are one launch.

    Parameters
    ----------
    parameters : list of (parameter, grad, mean, square, lr, decay), C-contiguous arrays of one shape and type, and numbers
    """
    for number in {parameter.dtype.type for parameter, *_ in parameters}:
        own = [entry for entry in parameters if entry[0].dtype.type is number and entry[0].size]
        sizes = tuple(entry[0].size for entry in own)
        places = np.array([address_of(array) for entry in own for array in entry[:4]], np.int64)
        numbers = np.array([(lr / (1 - beta1 ** step), decay) for *_, lr, decay in own], number).reshape(-1)
        constants = tuple(map(number, (beta1, beta2, 1 / (1 - beta2 ** step), eps, 1)))
        tiles = tiles_of_all(sizes)
        threads.run(_adam, len(tiles) // 2, tiles, places, np.array(sizes), numbers, constants)


@kernel
def _clip(start, stop, weight, bound):
    for i in range(start * TILE, min(stop * TILE, weight.size)):
        put(weight, i, min(max(at(weight, i), -bound), bound))


def clip(weight, bound):
    """``weight[...] = clip(weight, -bound, bound)``, in place."""
    threads.run(_clip, tiles_of(weight.size), weight.reshape(-1), weight.dtype.type(bound))


def ap2_constants(dtype):
    """(carry, exponent): ((bits of |x|) + carry) & exponent are the bits of the power of two whose exponent is nearest to x's.

    carry is 2 - sqrt(2) in units of the mantissa's last bit, rounded down.
    """
    integer, mantissa, exponent = (np.int32, 23, 0xFF) if dtype == np.float32 else (np.int64, 52, 0x7FF)
    root = math.isqrt(2 << (2 * mantissa))  # sqrt(2) in these units, rounded down: not enough to carry
    return integer((2 << mantissa) - root - 1), integer(exponent << mantissa)


@kernel
def _shift_adamax(start, stop, parameter, grad, mean, largest, bits, carry, exponent, rate, beta1, beta2, eps, decay, paper):
    one = parameter.dtype.type(1)
    for i in range(start * TILE, min(stop * TILE, parameter.size)):
        g = at(grad, i) + decay * at(parameter, i)
        m = beta1 * at(mean, i) + (one - beta1) * g
        put(mean, i, m)
        v = max(beta2 * at(largest, i), abs(g))
        put(largest, i, v)
        kept = at(bits, i)
        put(bits, i, (kept + carry) & exponent)  # the same memory as ``largest``
        power = at(largest, i) + eps
        if paper:
            put(bits, i, kept)
        else:
            put(largest, i, power)
        put(parameter, i, at(parameter, i) - rate * m / power)


def shift_adamax(parameter, grad, mean, largest, rate, beta1, beta2, eps, decay, paper):
    """One step of shift-based AdaMax, in place: see ``optimizers.ShiftAdaMax``."""
    number = parameter.dtype.type
    carry, exponent = ap2_constants(parameter.dtype)
    threads.run(_shift_adamax, tiles_of(parameter.size), parameter.reshape(-1), grad.reshape(-1), mean.reshape(-1),
                largest.reshape(-1), largest.reshape(-1).view(carry.dtype), carry, exponent, number(rate), number(beta1),
                number(beta2), number(eps), number(decay), paper)
