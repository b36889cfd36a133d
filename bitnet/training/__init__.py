"""Training: the loop, what it is for, how it is watched, evaluated and stopped; ``run`` is what training scripts share."""

from bitnet.report.callback import Callback
from bitnet.training.evaluation import Evaluation, evaluate, fingerprint
from bitnet.training.finite import NonFiniteError, find_non_finite
from bitnet.training.stop import StopRequest
from bitnet.training.task import Classification, Distilled
from bitnet.training.trainer import Trainer, refuse_contradictions

__all__ = ["Callback", "Classification", "Distilled", "Evaluation", "NonFiniteError", "StopRequest", "Trainer", "evaluate",
           "find_non_finite", "fingerprint", "refuse_contradictions"]
