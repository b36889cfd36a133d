"""What a network is trained for: what a target is, the loss, and how well targets are met."""

from bitnet import functional
from bitnet.module import Module
from bitnet.tensor import no_grad


class Classification:
    """One of several classes for each image.

    Parameters
    ----------
    loss : (logits (N, classes), integer labels (N,)) -> loss
    """

    def __init__(self, loss=functional.softmax_cross_entropy):
        self.function = loss

    def loss(self, logits, batch, trainer):
        """The loss of a batch's logits."""
        return self.function(logits, batch.targets)

    def correct(self, logits, targets):
        """How many targets are met."""
        return int((logits.argmax(axis=1) == targets).sum())


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
