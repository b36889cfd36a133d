"""Optimizers, and learning rates as functions of progress."""

from bitnet.optimizers.rules import DST, SGD, Adam, Optimizer, ShiftAdaMax, glorot_factor
from bitnet.optimizers.schedules import ExponentialDecay, StepDecay, Steps, Tenths

__all__ = ["DST", "SGD", "Adam", "ExponentialDecay", "Optimizer", "ShiftAdaMax", "StepDecay", "Steps", "Tenths",
           "glorot_factor"]
