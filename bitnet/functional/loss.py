"""Losses: means over a batch."""

import numpy as np

from bitnet import execution
from bitnet.functional.pointwise import tanh
from bitnet.kernels.pointwise import elementary
from bitnet.tensor import Function


def softmax(logits):
    """exp(logits) / sum of exp(logits) over the last axis, of an array."""
    shifted = elementary.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _with_losses(logits, labels):
    """softmax of logits (N, classes), and -log of it at the labels (N,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = elementary.exp(shifted)
    sums = powers.sum(axis=1)
    return powers / sums[:, None], elementary.log(sums) - shifted[np.arange(len(labels)), labels]


def _check_labels(logits, labels):
    labels = np.asarray(labels)
    if len(logits.shape) != 2 or labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"a loss takes logits (N, classes) and integer labels (N,), got shapes {logits.shape} and "
                         f"{labels.shape} of {labels.dtype}")
    if labels.size and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"labels of {logits.shape[1]} classes are 0 to {logits.shape[1] - 1}, got {wrong}")
    return labels


class SoftmaxCrossEntropy(Function):
    """Mean over the batch of -log softmax(logits)[label]."""

    def forward(self, logits, labels):
        self.labels = labels
        self.probabilities, losses = _with_losses(logits, labels)
        return losses.mean(dtype=logits.dtype)

    def backward(self, grad_output):
        grad = self.probabilities.copy()
        grad[np.arange(len(self.labels)), self.labels] -= 1
        return grad * (grad_output / len(grad))


@execution.layer("loss")
def softmax_cross_entropy(logits, labels):
    """Cross entropy of softmax(logits) (N, classes) with integer labels (N,), the mean over the batch."""
    return SoftmaxCrossEntropy.apply(logits, labels=_check_labels(logits, labels))


class PixelCrossEntropy(Function):
    """Weighted mean of -log softmax(logits)[label] over the pixels of a batch; void ones have no weight and no gradient."""

    def forward(self, logits, labels, shares):
        self.shape, self.labels, self.shares = logits.shape, labels, shares.astype(logits.dtype)
        self.probabilities, losses = _with_losses(logits.reshape(-1, logits.shape[-1]), labels)
        return logits.dtype.type((losses * shares).sum(dtype=np.float64))

    def backward(self, grad_output):
        grad = self.probabilities
        grad[np.arange(len(self.labels)), self.labels] -= 1
        return (grad * (self.shares * grad_output)[:, None]).reshape(self.shape)


@execution.layer("loss")
def pixel_cross_entropy(logits, labels, weights=None, void=None):
    """Cross entropy of softmax(logits) with a label for each pixel: sum of w[label] * -log p[label] / sum of w[label].

    A mean over the labelled pixels of the whole batch, of those of a class with w = 1 without weights; 0 where all are void.

    Parameters
    ----------
    logits : Tensor (N, H, W, classes)
    labels : integer array (N, H, W)
    weights : w, a number of 0 or more for each class; None: all alike
    void : the label of pixels that count for nothing, or None

    Raises
    ------
    ValueError : other shapes, other weights, or labels that are no class.
    """
    labels, classes = np.asarray(labels), logits.shape[-1]
    if len(logits.shape) != 4 or labels.shape != logits.shape[:3] or labels.dtype.kind not in "iu":
        raise ValueError(f"a loss of pixels takes logits (N, H, W, classes) and integer labels (N, H, W), got shapes "
                         f"{logits.shape} and {labels.shape} of {labels.dtype}")
    weights = np.ones(classes) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != (classes,) or not (weights >= 0).all():
        raise ValueError(f"expected a weight of 0 or more for each of {classes} classes, got {weights}")
    labels = labels.ravel()
    counts = np.ones(len(labels), bool) if void is None else labels != void
    if (wrong := labels[counts & ((labels < 0) | (labels >= classes))]).size:
        raise ValueError(f"labels of {classes} classes are 0 to {classes - 1}{'' if void is None else f' or {void}'}, "
                         f"got {wrong[0]}")
    labels = np.where(counts, labels, 0)
    shares = weights[labels] * counts
    return PixelCrossEntropy.apply(logits, labels=labels, shares=shares / (shares.sum() or 1.0))


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
        teachers, students = (elementary.log(np.maximum(one, tiny)) for one in (self.teacher, self.student))
        divergence = self.teacher * (teachers - students)
        return logits.dtype.type(temperature**2 * divergence.sum() / len(logits))

    def backward(self, grad_output):
        return (self.student - self.teacher) * (self.temperature * grad_output / len(self.student))


def soft_targets(logits, teacher, temperature=1.0):
    """How far the softened probabilities of logits (N, classes) are from a teacher's: of an array of logits, as large.

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


@execution.layer("loss")
def bitwise_disagreement(logits, labels):
    """Mean over the batch of the sum of (1 - t * tanh(logit)) / 2, t = +1 for the label and -1 for the others.

    logits (N, classes), integer labels (N,). arXiv:1601.06071's count of wrong bits, with tanh for the sign.
    """
    labels = _check_labels(logits, labels)
    targets = -np.ones(logits.shape, logits.data.dtype)
    targets[np.arange(len(labels)), labels] = 1
    agreement = (tanh(logits) * targets).sum()
    return (agreement * (-1 / len(labels)) + float(logits.shape[1])) * 0.5
