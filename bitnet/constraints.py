"""What a parameter is subject to after each update: ``Parameter(constraint=...)``."""

import numpy as np

from bitnet.checks import number
from bitnet.description import Described
from bitnet.kernels.pointwise import update


class Constraint(Described):
    """Changes a parameter's array in place, after each update."""

    prefix = "constraint."

    def __call__(self, array):
        raise NotImplementedError


class Clip(Constraint):
    """Limits a latent weight to [-bound, bound]: farther away, many updates would pass before its sign can change."""

    def __init__(self, bound=1.0):
        self.bound = number("the bound of a clip", bound, 0)

    def __call__(self, array):
        update.clip(array, self.bound)


class Centre(Constraint):
    """Subtracts from a weight (kh, kw, in, out) its mean over input channels, as XNOR-Net's authors do (arXiv:1603.05279)."""

    def __call__(self, array):
        array -= array.mean(axis=-2, keepdims=True, dtype=np.float64).astype(array.dtype)


class Each(Constraint):
    """Several constraints, one after the other."""

    def __init__(self, constraints):
        self.constraints = tuple(constraints)
        if not all(isinstance(one, Constraint) for one in self.constraints):
            raise ValueError(f"expected constraints, got {constraints!r}")

    def __call__(self, array):
        for constraint in self.constraints:
            constraint(array)
