"""What the numbers that modules and stages are made with must be: a file may say anything, and a person may mistype."""

import math
from numbers import Integral, Real

LARGEST = 1 << 28  # no size of a layer is larger


def whole(what, value, low=0, high=LARGEST):
    """``value``; ValueError where it is no whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
        raise ValueError(f"{what} must be a whole number from {low} to {high}, got {value!r}")
    return value


def wholes(what, values, count=None, low=0, high=LARGEST):
    """A tuple of whole numbers; ValueError where there are others, or not ``count`` of them."""
    if not isinstance(values, (list, tuple)) or count not in (None, len(values)):
        raise ValueError(f"{what} must be a list of {'' if count is None else count} whole numbers, got {values!r}")
    return tuple(whole(what, value, low, high) for value in values)


def padding(what, value):
    """``value``; ValueError where it is neither "same", nor a whole number, nor two, nor two pairs of them."""
    if value != "same":
        for side in value if isinstance(value, (list, tuple)) and len(value) == 2 else [value]:
            for one in wholes(what, side, 2) if isinstance(side, (list, tuple)) else [side]:
                whole(what, one)
    return value


def number(what, value, low=-math.inf, high=math.inf):
    """``value``; ValueError where it is no number within bounds, or a whole one that compiled code could not take."""
    good = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high
    if not good or (isinstance(value, Integral) and abs(value) > LARGEST):
        raise ValueError(f"{what} must be a number from {low} to {high}, got {value!r}")
    return value


def check_name(name):
    """ValueError where a part of a network cannot have a name: it stands in tables and messages."""
    if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable():
        raise ValueError(f"a name must be a text of at most 200 characters that can be printed, got {name!r:.200}")


def truth(what, value):
    """``value``; ValueError where it is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"{what} must be true or false, got {value!r}")
    return value


def instance(what, value, kind):
    """``value``; ValueError where it is neither None nor of a kind."""
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{what} must be a {kind.__name__} or None, got {value!r}")
    return value
