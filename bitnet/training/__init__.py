"""Training: the loop, what it is for, how it is watched, evaluated and stopped; ``run`` is what training scripts share."""

from bitnet.report.callback import Callback
from bitnet.training.evaluation import evaluate, fingerprint
from bitnet.training.finite import NonFiniteError, find_non_finite
from bitnet.training.stop import StopRequest
from bitnet.training.task import (
    Classification,
    Distilled,
    Evaluation,
    PixelEvaluation,
    Segmentation,
    median_frequencies,
    task_for,
)
from bitnet.training.trainer import Trainer, refuse_contradictions

__all__ = ["Callback", "Classification", "Distilled", "Evaluation", "NonFiniteError", "PixelEvaluation", "Segmentation",
           "StopRequest", "Trainer", "evaluate", "find_non_finite", "fingerprint", "median_frequencies",
           "refuse_contradictions", "task_for"]
