"""How a network does on a dataset."""

import hashlib

import numpy as np

from bitnet import functional
from bitnet.kernels.pointwise import elementary
from bitnet.tensor import no_grad


class Evaluation:
    """How a classifier does on a dataset.

    Attributes
    ----------
    loss, accuracy : float
    confusion : int64 array, shape (classes, classes)       # [label, prediction]
    probabilities : float32 array, shape (N, classes)
    predictions : int64 array, shape (N,)
    """

    def __init__(self, probabilities, labels):
        self.probabilities, self.predictions = probabilities, probabilities.argmax(axis=1)
        self.confusion = np.zeros((probabilities.shape[1],) * 2, np.int64)
        np.add.at(self.confusion, (labels, self.predictions), 1)
        self.accuracy = float(self.confusion.trace() / len(labels))
        chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        self.loss = float(-elementary.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean())


def evaluate(model, dataset, batch_size=256, stop=lambda: False, task=None):
    """Classify all images, in eval mode and without gradients; the network's mode is restored.

    Parameters
    ----------
    model : Module, or a frozen network
    dataset : Dataset
    batch_size : int
    stop : callable      # asked before every batch
    task : the Trainer's, whose networks are classifiers here

    Returns
    -------
    evaluation : Evaluation, or None where ``stop`` became true

    Raises
    ------
    ValueError : a network that does not tell as many classes as the dataset has.
    """
    training, probabilities = model.training, []
    model.eval()
    try:
        with no_grad():
            for start in range(0, len(dataset), batch_size):
                if stop():
                    return None
                images = np.ascontiguousarray(dataset.images[start : start + batch_size])
                logits = model(images).data
                if logits.ndim != 2 or logits.shape[1] < len(dataset.classes):
                    raise ValueError(f"expected a network that tells {len(dataset.classes)} classes, as {dataset.name} has, "
                                     f"found one that gives {logits.shape[1:]}")
                probabilities.append(functional.softmax(logits))
    finally:
        if training:
            model.train()
    return Evaluation(np.concatenate(probabilities), dataset.targets)


def fingerprint(dataset):
    """One line that tells these images from others: name, number, and a hash of all labels and 64 of the images."""
    digest = hashlib.sha256(np.ascontiguousarray(dataset.targets))
    for index in np.linspace(0, len(dataset) - 1, 64).astype(int):
        digest.update(np.ascontiguousarray(dataset.images[index]))
    return f"'{dataset.name}' ({len(dataset)} images, fingerprint {digest.hexdigest()[:12]})"
