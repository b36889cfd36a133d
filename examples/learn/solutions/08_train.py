"""Solutions of chapter 8."""

import math


def images_for(accuracy, error):
    """error**2 = p * (1 - p) / n, solved for n."""
    return math.ceil(accuracy * (1 - accuracy) / error**2)


def is_clear(right, other, count):
    """The errors of both add up as squares."""
    variance = sum(p * (1 - p) / count for p in (right / count, other / count))
    return abs(right - other) / count > 2 * math.sqrt(variance)


def seeds_for(scatter, difference):
    """difference = 2 * sqrt(2 * scatter**2 / k), solved for k."""
    return math.ceil(8 * (scatter / difference) ** 2)
