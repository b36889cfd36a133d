"""Solutions of chapter 2."""

import math

import numpy as np


def steps_to_flip(w, grad, rate):
    return math.floor(w / (rate * grad)) + 1  # after floor(...) steps w is still 0 or more


def sign_gradient(x, grad):
    return grad * (np.abs(x) <= 1)


def folded_gradient(x, grad):
    return grad * np.sign(x) * (np.abs(x) <= 1)
