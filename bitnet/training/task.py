"""What a network is trained for: what a target is, the loss, and how well targets are met.

A task is asked by the ``Trainer`` for the loss of a batch and for how much of it is right; by ``evaluate`` for what is to be
kept of a batch (``measure``), and for what all of that says (``evaluation``); and by training scripts for pictures.
"""

import numpy as np

from bitnet import functional, report
from bitnet.kernels.pointwise import elementary
from bitnet.module import Module
from bitnet.tensor import no_grad

TABLE = 20  # classes; a confusion of more is shown as a picture only
TINY = np.finfo(np.float32).tiny


def count_pairs(labels, predictions, classes):
    """How often each prediction met each label: int64 (classes, classes), [label, prediction]."""
    pairs = labels.ravel().astype(np.int64) * classes + predictions.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


class Evaluation:
    """How a classifier does on a dataset.

    Attributes
    ----------
    loss, accuracy : float
    measures : {"top5": share of the images whose class is among the five most probable ones}, of more than ten classes
    confusion : int64 array, shape (classes, classes)       # [label, prediction]
    probabilities : float32 array, shape (N, classes)
    predictions : int64 array, shape (N,)
    """

    def __init__(self, probabilities, labels):
        self.probabilities, self.predictions = probabilities, probabilities.argmax(axis=1)
        self.confusion = count_pairs(labels, self.predictions, probabilities.shape[1])
        self.accuracy = float(self.confusion.trace() / len(labels))
        chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        self.loss = float(-elementary.log(np.maximum(chosen, TINY)).mean())
        self.measures = {"top5": self.top(5, chosen)} if probabilities.shape[1] > 10 else {}

    def top(self, count, chosen):
        """Share of the images whose class, of probability ``chosen``, is among the ``count`` most probable; ties are lost."""
        return float(((self.probabilities >= chosen[:, None]).sum(axis=1) <= count).mean())

    def details(self, classes):
        """A table as text."""
        if len(classes) > TABLE:
            return f"confusion.png shows labels against predictions of {len(classes):,} classes"
        return f"labels against predictions:\n{report.confusion_table(self.confusion)}"


class PixelEvaluation:
    """How a network that tells a class for each pixel does on a dataset; void pixels count for nothing.

    Parameters
    ----------
    confusion : int64 array (classes, classes)   # [label, prediction], pixels of all images
    loss : float

    Attributes
    ----------
    accuracy : share of the pixels whose class is right
    iou : float64 (classes,)   # intersection over union: right / (right + missed + wrongly taken for it), NaN for 0 / 0
    mean_iou : its mean over the classes that there are, of labels or of predictions
    measures : {"mean_iou": mean_iou}
    """

    def __init__(self, confusion, loss):
        self.confusion, self.loss = confusion, loss
        right = confusion.diagonal().astype(np.float64)
        union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
        self.accuracy = float(right.sum() / max(confusion.sum(), 1))
        self.iou = np.divide(right, union, out=np.full(len(union), np.nan), where=union > 0)
        self.mean_iou = float(np.nanmean(self.iou)) if (union > 0).any() else 0.0
        self.measures = {"mean_iou": self.mean_iou}

    def details(self, classes):
        """A table as text."""
        found = self.confusion.diagonal() / np.maximum(self.confusion.sum(axis=1), 1)
        share = self.confusion.sum(axis=1) / max(self.confusion.sum(), 1)
        rows = [["class", "of all pixels", "found", "IoU"]]
        rows += [[name, f"{s:.1%}", f"{f:.1%}", "-" if np.isnan(i) else f"{i:.1%}"]
                 for name, s, f, i in zip(classes, share, found, self.iou, strict=True)]
        return report.columns(rows, left=(0,))


class Classification:
    """One of several classes for each image.

    Parameters
    ----------
    loss : (logits (N, classes), integer labels (N,)) -> loss
    """

    batch_size = 256  # images that are evaluated at a time
    pictures = ("confusion.png", "mistakes.png")

    def __init__(self, loss=functional.softmax_cross_entropy):
        self.function = loss

    def loss(self, logits, batch, trainer):
        """The loss of a batch's logits."""
        return self.function(logits, batch.targets)

    def correct(self, logits, targets):
        """How many targets are met."""
        return int((logits.argmax(axis=1) == targets).sum())

    def measure(self, logits, targets, dataset):
        """What is to be kept of the logits of some images; ValueError where they cannot be those of the dataset's classes."""
        if logits.ndim != 2 or logits.shape[1] < len(dataset.classes):
            raise ValueError(f"expected a network that tells {len(dataset.classes)} classes, as {dataset.name} has, "
                             f"found one that gives {logits.shape[1:]}")
        return functional.softmax(logits)

    def evaluation(self, parts, dataset):
        """What was kept of all images, as an Evaluation."""
        return Evaluation(np.concatenate(parts), dataset.targets)

    def draw(self, folder, evaluation, model, dataset, title):
        """Draw ``pictures`` into a folder."""
        about = f"{title}\ntest accuracy {evaluation.accuracy:.2%}"
        report.draw_confusion(folder / self.pictures[0], evaluation.confusion, about, dataset.classes)
        report.draw_mistakes(folder / self.pictures[1], dataset, evaluation,
                             f"Most confident mistakes on the test set\n{title}")


class Distilled(Classification):
    """Classification that listens to a teacher: a third of the run to labels, a third to the teacher alone, a third to both.

    After the outline of Wu et al. (arXiv:1604.03058), who do not tell temperature, weights or phases in the sources at hand.

    Parameters
    ----------
    loss : see ``Classification``
    teacher : a network, or images -> logits; a Module is switched to evaluation
    temperature : of the teacher's classes
    """

    def __init__(self, loss, teacher, temperature=2.0):
        super().__init__(loss)
        self.teacher, self.temperature = teacher, temperature
        if isinstance(teacher, Module):
            teacher.eval()

    def loss(self, logits, batch, trainer):
        if trainer.progress < 1 / 3:
            return super().loss(logits, batch, trainer)
        with no_grad():
            targets = self.teacher(batch.images).data
        soft = functional.soft_targets(logits, targets, self.temperature)
        if trainer.progress < 2 / 3:
            return soft
        return super().loss(logits, batch, trainer) * 0.5 + soft * 0.5


class Segmentation:
    """A class for each pixel, except for void ones: logits (N, H, W, classes), targets (N, H, W).

    Parameters
    ----------
    void : the target of pixels that count for nothing, or None
    weights : of the classes in the loss, see ``functional.pixel_cross_entropy``; None: all alike
    """

    batch_size = 16
    pictures = ("confusion.png", "predictions.png")
    shown = 6  # images of predictions.png

    def __init__(self, void=None, weights=None):
        self.void, self.weights = void, weights

    def loss(self, logits, batch, trainer):
        """The loss of a batch's logits."""
        return functional.pixel_cross_entropy(logits, batch.targets, self.weights, self.void)

    def correct(self, logits, targets):
        """As how many images the labelled pixels that are right count."""
        labelled = targets != self.void
        return len(targets) * float((logits.argmax(axis=-1) == targets)[labelled].sum() / max(labelled.sum(), 1))

    def measure(self, logits, targets, dataset):
        """Confusion, and sums of weighted losses and of weights. ValueError where the logits cannot be those of the classes."""
        classes = len(dataset.classes)
        if logits.shape != (*targets.shape, classes):
            raise ValueError(f"expected a network that tells {classes} classes for each of {targets.shape[1:]} pixels, as "
                             f"{dataset.name} has, found one that gives {logits.shape[1:]}")
        labelled = targets != self.void
        logits, targets = logits[labelled], targets[labelled]
        weights = np.ones(len(targets)) if self.weights is None else np.asarray(self.weights, np.float64)[targets]
        chosen = functional.softmax(logits)[np.arange(len(targets)), targets].astype(np.float64)
        losses = -(weights * elementary.log(np.maximum(chosen, TINY))).sum()
        return count_pairs(targets, logits.argmax(axis=1), classes), losses, weights.sum()

    def evaluation(self, parts, dataset):
        """What was kept of all images, as a PixelEvaluation."""
        confusion, losses, weights = (sum(part) for part in zip(*parts, strict=True))
        return PixelEvaluation(confusion, float(losses / (weights or 1.0)))

    def draw(self, folder, evaluation, model, dataset, title):
        """Draw ``pictures`` into a folder."""
        about = f"{title}\npixel accuracy {evaluation.accuracy:.2%}, mean IoU {evaluation.mean_iou:.2%}"
        report.draw_confusion(folder / self.pictures[0], evaluation.confusion, about, dataset.classes)
        places = np.unique(np.linspace(0, len(dataset) - 1, self.shown).round().astype(int))
        with no_grad():
            predictions = model(np.ascontiguousarray(dataset.images[places])).data.argmax(axis=-1)
        report.draw_segmentation(folder / self.pictures[1], dataset, places, predictions, about)


def median_frequencies(targets, classes):
    """Weights of classes in a loss of pixels, so that rare ones count: median(f) / f[c], 1 for a class that there is not.

    f[c] is the share of class c in the pixels of those images that have any of it (Eigen and Fergus, arXiv:1411.4734; SegNet,
    arXiv:1511.00561). Void ones are among these pixels here.

    Parameters
    ----------
    targets : integer array (N, H, W); classes : their number

    Returns
    -------
    weights : float64 (classes,)
    """
    pixels, present = np.zeros(classes), np.zeros(classes)
    for image in targets:
        counts = np.bincount(image.ravel(), minlength=classes)[:classes]
        pixels += counts
        present += (counts > 0) * image.size
    there = present > 0
    share = pixels[there] / present[there]
    weights = np.ones(classes)
    weights[there] = np.median(share) / share
    return weights


def task_for(dataset, loss=functional.softmax_cross_entropy):
    """The task of a dataset: of label maps Segmentation with median frequencies as weights, else Classification with a loss."""
    if dataset.targets.ndim == 1:
        return Classification(loss)
    return Segmentation(dataset.void, median_frequencies(dataset.targets, len(dataset.classes)))
