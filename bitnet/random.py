"""The one source of noise in training: stochastic rounding of gradients, dropout.

Noise is counter-based (``bitnet.kernels.noise``): every draw has a number, and element i of draw d is a function of (seed,
d, i). The state is thus two integers, which a checkpoint keeps; draws happen in the order of the program, which is the same
whichever kernels run and on however many threads. Each Python thread has a stream of its own, so that two trainings side by
side are what each would have been alone.
"""

from contextlib import contextmanager

import numpy as np

from bitnet.kernels.machine.noise import key_of
from bitnet.kernels.pointwise.draw import uniform_array
from bitnet.settings import Setting

_state = Setting("random", (0, 0))


def seed(value):
    """Start the stream of draws of the integer ``value``; for this thread."""
    set_state((value, 0))


def get_state():
    """(seed, number of the next draw)."""
    return _state.get()


def set_state(state):
    """Continue from a state that ``get_state`` returned."""
    seed_, draw = state
    _state.value = int(seed_), int(draw)


def next_key():
    """The key of the next draw: two uint32."""
    seed_, draw = _state.get()
    _state.value = seed_, draw + 1
    return key_of(seed_, draw)


def generator():
    """A numpy Generator seeded by the next draw: initial weights of layers that were given none."""
    return np.random.default_rng([int(half) for half in next_key()])


@contextmanager
def preserved():
    """Restore the stream after ``with``: what is drawn inside does not count."""
    with _state.set_to(_state.get()):
        yield


def uniform(shape):
    """The next draw as an array of ``shape``: float32 in (0, 1), never 0 nor 1."""
    return uniform_array(shape, next_key()) + np.float32(0.5)
