"""Ternary Neural Networks (Alemdar, Leroy, Prost-Boucle and Petrot, arXiv:1609.00222): a teacher is trained, a student found.

The student has whole numbers only: weights and activations in {-1, 0, 1}, two thresholds a neuron. It is found layer by layer,
neuron by neuron: which weights are +1, -1 and 0, and the thresholds, such that the neuron, fed by the student's layer below,
agrees most with the teacher's neuron on the same images. Weights are taken by magnitude, so there are two numbers to find.
"""

import math

import numpy as np

from bitnet.kernels.pointwise import elementary
from bitnet.layers import Activation, BatchNorm, Block, Dropout, Flatten, Images, Reshape, Weighted
from bitnet.methods.base import Method, Recipe, falling
from bitnet.module import Sequential
from bitnet.quantizers import DoReFaActivation, GXNORWeight, IntegerThresholds, TNNActivation, TNNWeight
from bitnet.quantizers.tnn import closed_form
from bitnet.tensor import no_grad


class TNN(Method):
    """Ternary Neural Network (arXiv:1609.00222): weights and activations in {-1, 0, 1}, nothing but integers in the end.

    With W = 32, the paper's way, ``apply`` makes the teacher: real weights, batch norm, tanh, and activations drawn in
    {-1, 0, 1}; pixels of one bit. ``convert`` finds the student of such a multilayer perceptron once it is trained: see
    ``fit_neuron`` and ``fit_outputs``. With W = 2, what most settings of the authors' program train, the weights are drawn,
    too, and ``convert`` brings any such network to integers in closed form (``quantizers.tnn.closed_form``).

    Parameters
    ----------
    bits : W, A, G, with W = 32 or 2
    """

    name, title, paper = "tnn", "Ternary Neural Network", "1609.00222"
    own_bits, free, extends, ends, clip = (32, 2, 32), "W", False, True, 1.0
    recipe = Recipe(network="mlp", options={"width": 500}, schedule=falling(1e-3, 1e-5), epochs=10)
    published = {"mnist": (1.67, "a network that is not told; the student")}
    note = "trained is the teacher, whose weights are real; examples/convert.py finds the student"
    examples = 10_000

    @classmethod
    def check_bits(cls, bits):
        if bits[0] not in (2, 32):
            raise ValueError(f"{cls.name} has 32 bits for W, of a teacher, or 2, got {bits[0]}")
        return super().check_bits(bits)

    def weight(self):
        return TNNWeight()

    def activation(self):
        return TNNActivation()

    def pixels(self):
        return DoReFaActivation(1)  # 0 and 1, by a threshold of 1/2

    def layer(self, layer, place, rng):
        bias = layer.bias  # the last layer has one
        super().layer(layer, place, rng)
        layer.bias = bias

    def convert(self, tree, data):
        parts = _parts(tree, self.name)
        quantized = {isinstance(_weighted(part).weight_quantizer, TNNWeight) for part in parts if _weighted(part)}
        training = tree.training
        tree.eval()
        with no_grad():
            if quantized == {True}:
                _to_integers(parts)
            elif quantized == {False}:
                _find_student(parts, data.images, np.asarray(data.targets), self.name)
            else:
                raise ValueError(f"{self.name} converts networks whose weights are all real or all drawn, got both kinds")
        tree.method = type(self)(2, 2, 32)
        return tree.train(training)


def _weighted(part):
    """The layer with weights in a part of a network, or None."""
    return part.conv if isinstance(part, Block) else part if isinstance(part, Weighted) else None


def _parts(tree, name):
    """The modules of a network that ``TNN.apply`` made, in their order; ValueError where it is another one."""
    known = (Block, Weighted, Activation, Dropout, Flatten, Images, Reshape)
    strange = [part for part in tree if not isinstance(part, known)] if isinstance(tree, Sequential) else [tree]
    blocks = [part for part in tree if isinstance(part, Block)] if not strange else []
    strange += [part for part in blocks if not (isinstance(part.norm, BatchNorm) and isinstance(part.act, Activation)
                                                and isinstance(part.act.quantizer, TNNActivation))]
    if strange or not blocks or not isinstance(list(filter(_weighted, tree))[-1], Weighted):
        raise ValueError(f"{name} converts networks that it made, blocks of batch norm and ternary activations before a last "
                         f"layer, got {type(strange[0]).__name__ if strange else 'no such blocks'}")
    return list(tree)


def _freeze_weight(layer, weight):
    """Give a layer fixed weights in {-1, 0, 1}."""
    layer.quantize(GXNORWeight())
    layer.weight.data = np.asarray(weight, np.float32).reshape(layer.weight.shape)


def _freeze_block(block, sign, low, high):
    """Thresholds of whole sums in the place of batch norm and activation."""
    thresholds = IntegerThresholds(len(low))
    thresholds.sign[...], thresholds.low[...], thresholds.high[...] = sign, low, high
    block.norm, block.act, block.conv.bias = None, Activation(thresholds), None


def _to_integers(parts):
    """Trained ternary weights as they are drawn last, thresholds in closed form."""
    for part in parts:
        layer = _weighted(part)
        if layer is None:
            continue
        bias = 0.0 if layer.bias is None else layer.bias.data.astype(np.float64)
        weight = layer.quantized_weight().codes.decode()
        if isinstance(part, Block):
            norm, order = part.norm, part.order.split()
            mean, var = norm.statistics(None)
            gamma, beta = (parameter.data.astype(np.float64) for parameter in (norm.gamma, norm.beta))
            sign, low, high = closed_form(gamma, beta, mean - bias, np.sqrt(var + norm.eps))
            if order.index("norm") < order.index("pool"):  # what is pooled rises with the sums: weights change their sign
                weight, sign = weight * sign, 1.0
            _freeze_block(part, sign, low, high)
        _freeze_weight(layer, weight)
    # the bias of the last layer, if it has one, stays: it decides between whole sums


# The student

def _find_student(parts, images, labels, name):
    teacher = student = images
    for part in parts:
        layer = _weighted(part)
        if layer is None:
            teacher, student = part(teacher), part(student)
            continue
        sums = layer(teacher)
        if sums.data.size != len(images) * sums.shape[-1]:
            raise ValueError(f"{name} finds the student of a multilayer perceptron, got a layer with outputs of shape "
                             f"{sums.shape[1:]}; with W = 2 it trains and converts convolutions, too")
        inputs = np.ascontiguousarray(student.codes.levels(np.int8).reshape(len(images), -1).T)
        weight = layer.weight.data.reshape(len(inputs), -1).astype(np.float64)
        if isinstance(part, Block):
            above = elementary.tanh(part.norm(sums).data.reshape(len(images), -1).astype(np.float64))
            columns = zip((weight * part.norm.gamma.data).T, above.T, strict=True)
            found = [fit_neuron(column, inputs, y) for column, y in columns]
            teacher = part(teacher)
            _freeze_weight(layer, np.stack([one[0] for one in found], axis=1))
            _freeze_block(part, 1.0, *np.array([one[1:3] for one in found]).T)
            student = part(student)
        else:
            found, bias = fit_outputs(weight, inputs, labels)
            _freeze_weight(layer, found)
            layer.bias = layer.zero_bias()
            layer.bias.data = bias.astype(np.float32)
            teacher, student = sums, layer(student)


class _Candidates:
    """Sums of a neuron whose i largest weights are +1 and whose j smallest are -1, for any i and j."""

    def __init__(self, weight, inputs):
        self.positive = np.argsort(-weight, kind="stable")[:np.count_nonzero(weight > 0)]
        self.negative = np.argsort(weight, kind="stable")[:np.count_nonzero(weight < 0)]
        dtype = np.int16 if len(weight) < 1 << 15 else np.int32
        self.plus, self.minus = (np.concatenate([np.zeros((1, inputs.shape[1]), dtype),
                                                 np.cumsum(inputs[order], axis=0, dtype=dtype)])
                                 for order in (self.positive, self.negative))
        self.size = len(weight)

    def sums(self, i, j):
        return self.plus[i] - self.minus[j]

    def weight(self, i, j):
        t = np.zeros(self.size, np.int8)
        t[self.positive[:i]], t[self.negative[:j]] = 1, -1
        return t

    def best(self, score):
        """(i, j) with the largest score among those looked at: a search in i of searches in j, as if either rose and then fell
        (Fibonacci's; the authors' program narrows by thirds), then all in a window of about 2 ln(inputs) around what was found.
        """
        known = {}

        def at(i, j):
            if (i, j) not in known:
                known[i, j] = score(self.sums(i, j))
            return known[i, j]

        rows, columns = len(self.plus), len(self.minus)

        def best_j(i):
            return _search(lambda j: at(i, j), columns)

        i = _search(lambda i: at(i, best_j(i)), rows)
        j, reach = best_j(i), (int(2 * math.log(max(self.size, 2))) + 1) // 2
        for near_i in range(max(i - reach, 0), min(i + reach + 1, rows)):
            for near_j in range(max(j - reach, 0), min(j + reach + 1, columns)):
                at(near_i, near_j)
        return max(sorted(known), key=known.get)


def _search(value, count):
    """Where in range(count) a function that rises, then falls, is largest: Fibonacci's search, one new number a step."""
    short, long = 1, 1
    while short + long <= count:
        short, long = long, short + long
    before = -1  # what is left lies between here and short + long further on
    while short + long > 2:
        near, far = before + short, before + long
        if far < count and value(near) < value(far):
            before, short, long = near, long - short, short
        else:
            short, long = long - short, short
    return before + 1


def best_thresholds(sums, y):
    """The thresholds with which whole sums agree most with a teacher who is at y in [-1, 1] on the mean.

    The teacher gives 1 with probability max(y, 0), -1 with max(-y, 0), else 0. Largest is

        sum over S < low of p_minus + sum over low <= S <= high of p_zero + sum over S > high of p_plus,  low <= high + 1

    and of equals the first. Exact, by prefix sums over the values of S.

    Parameters
    ----------
    sums : integer array (n,); y : float64 array (n,)

    Returns
    -------
    low, high : int; agreement : float, the mean probability that both give the same
    """
    first = int(sums.min())
    places = sums - first
    count, plus, minus = (np.concatenate([[0], np.cumsum(np.bincount(places, weights))])
                          for weights in (None, np.maximum(y, 0), np.maximum(-y, 0)))
    zero = count - plus - minus
    below, above = minus - zero, zero + (plus[-1] - plus)
    reached = np.maximum.accumulate(below)
    end = int(np.argmax(reached + above))
    low = int(np.argmax(below[:end + 1]))
    return first + low, first + end - 1, float((below[low] + above[end]) / len(sums))


def fit_neuron(weight, inputs, y):
    """The ternary neuron that agrees most with a teacher's, greedily.

    Parameters
    ----------
    weight : float64 array (inputs,), the teacher's, with the sign of its batch norm
    inputs : int8 array (inputs, n), the student's own, in {-1, 0, 1}
    y : float64 array (n,), the teacher's outputs before they are drawn, in [-1, 1]

    Returns
    -------
    t : int8 array (inputs,); low, high : thresholds, see ``best_thresholds``; agreement : float
    """
    candidates = _Candidates(weight, inputs)
    i, j = candidates.best(lambda sums: best_thresholds(sums, y)[2])
    return candidates.weight(i, j), *best_thresholds(candidates.sums(i, j), y)


def best_bias(sums, others, labels, own):
    """The whole bias of a class with which most images have the largest output at their label, ties shared.

    Parameters
    ----------
    sums : integer array (n,), of the class; others : integer array (n, classes - 1), complete outputs of the other classes
    labels : bool array (n, classes - 1), where among these the label is; own : bool array (n,), where it is this class

    Returns
    -------
    bias : int, the first of the best ones; right : float, the number of images
    """
    top = others.max(axis=1)
    winners = (others == top[:, None]).sum(axis=1)
    theirs = (labels & (others == top[:, None])).any(axis=1)
    even = top - sums  # with this bias the class draws level
    first = int(even.min()) - 1
    places, size = even - first, int(even.max()) - first + 2
    gained, shared, lost = (np.bincount(places, weights, size) for weights in (
        own, (own | theirs) / (winners + 1), theirs / winners))
    right = (np.cumsum(gained) - gained) + shared + (lost.sum() - np.cumsum(lost))
    best = int(np.argmax(right))
    return first + best, float(right[best])


def fit_outputs(weight, inputs, labels):
    """The last layer by coordinate ascent: ternary weights and whole biases with which most images are classified right.

    First each class alone, +1 for its own images and -1 for others. Then one after the other is searched anew with all others
    as they are, until a round gains nothing.

    Parameters
    ----------
    weight : float64 array (inputs, classes), the teacher's
    inputs : int8 array (inputs, n); labels : integer array (n,)

    Returns
    -------
    t : int8 array (inputs, classes); bias : int64 array (classes,)
    """
    count = weight.shape[1]
    candidates = [_Candidates(column, inputs) for column in weight.T]
    chosen, outputs, bias = [None] * count, np.empty((inputs.shape[1], count), np.int64), np.zeros(count, np.int64)
    for c in range(count):
        target = np.where(labels == c, 1.0, -1.0)
        chosen[c] = candidates[c].best(lambda sums, y=target: best_thresholds(sums, y)[2])
        sums = candidates[c].sums(*chosen[c])
        bias[c] = -best_thresholds(sums, target)[1]
        outputs[:, c] = sums + bias[c]
    right = (outputs == outputs.max(axis=1, keepdims=True))
    right = float((right[np.arange(len(labels)), labels] / right.sum(axis=1)).sum())
    gained = True
    while gained:
        gained = False
        for c in range(count):
            others, own = np.delete(outputs, c, 1), labels == c
            where = np.delete(labels[:, None] == np.arange(count), c, 1)
            best = candidates[c].best(lambda sums, o=others, w=where, mine=own: best_bias(sums, o, w, mine)[1])
            sums = candidates[c].sums(*best)
            found, value = best_bias(sums, others, where, own)
            if value > right + 1e-3:
                chosen[c], bias[c], right, gained = best, found, value, True
                outputs[:, c] = sums + found
    return np.stack([one.weight(*best) for one, best in zip(candidates, chosen, strict=True)], axis=1), bias
