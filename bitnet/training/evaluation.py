"""How a network does on a dataset."""

import hashlib

import numpy as np

from bitnet.datasets import Loader
from bitnet.tensor import no_grad
from bitnet.training.task import task_for


def evaluate(model, dataset, batch_size=None, stop=lambda: False, task=None):
    """Classify all images, or all their pixels, in eval mode and without gradients; the network's mode is restored.

    Parameters
    ----------
    model : Module, or a frozen network
    dataset : Dataset
    batch_size : int or None   # None: the task's
    stop : callable            # asked before every batch
    task : the Trainer's; None: what the dataset's targets are for, see ``task.task_for``

    Returns
    -------
    evaluation : Evaluation, of label maps PixelEvaluation, or None where ``stop`` became true

    Raises
    ------
    ValueError : a network that does not tell as many classes as the dataset has.
    """
    task = task or task_for(dataset)
    training, parts, batch_size = model.training, [], batch_size or task.batch_size
    model.eval()
    try:
        with no_grad():
            for batch in Loader(dataset, batch_size, shuffle=False, drop_last=False).epoch(0):
                if stop():
                    return None
                parts.append(task.measure(model(batch.images).data, batch.targets, dataset))
    finally:
        if training:
            model.train()
    return task.evaluation(parts, dataset)


def fingerprint(dataset):
    """One line that tells these images from others: name, number, and a hash of all labels and 64 of the images."""
    digest = hashlib.sha256(np.ascontiguousarray(dataset.targets))
    for index in np.linspace(0, len(dataset) - 1, 64).astype(int):
        digest.update(np.ascontiguousarray(dataset.images[index]))
    return f"'{dataset.name}' ({len(dataset)} images, fingerprint {digest.hexdigest()[:12]})"
