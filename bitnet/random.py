"""The one source of noise in training: stochastic rounding of gradients, dropout.

Noise is counter-based (``bitnet.kernels.noise``): every draw has a number, and element i of draw d is a function of (seed,
d, i). The state is thus two integers, which a checkpoint keeps; draws happen in the order of the program, which is the same
whichever kernels run and on however many threads.
"""

from contextlib import contextmanager

import numpy as np

from bitnet.kernels.machine.noise import key_of
from bitnet.kernels.pointwise.draw import uniform_array

_state = (0, 0)


def seed(value):
    """Start the stream of draws that belongs to the integer ``value``."""
    set_state((value, 0))


def get_state():
    """(seed, number of the next draw)."""
    return _state


def set_state(state):
    """Continue from a state that ``get_state`` returned."""
    global _state
    seed_, draw = state
    _state = (int(seed_), int(draw))


def next_key():
    """The key of the next draw: two uint32."""
    global _state
    key = key_of(*_state)
    _state = (_state[0], _state[1] + 1)
    return key


@contextmanager
def preserved():
    """Leave the stream after the block where it was before."""
    state = get_state()
    try:
        yield
    finally:
        set_state(state)


def uniform(shape):
    """The next draw as an array of ``shape``: float32 in (0, 1), never 0 nor 1."""
    return uniform_array(shape, next_key()) + np.float32(0.5)
