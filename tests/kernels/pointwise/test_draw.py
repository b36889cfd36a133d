"""Noise as an array."""

import numpy as np
import pytest

from bitnet.kernels.machine.noise import key_of
from bitnet.kernels.pointwise import draw as draws
from bitnet.kernels.pointwise import walk


@pytest.mark.parametrize("shape", [(), (1,), (3, walk.TILE + 1), (0, 4)])
def test_an_array_holds_the_first_numbers_of_its_draw(shape, draw):
    found = draws.uniform_array(shape, key_of(3, 4))
    np.testing.assert_array_equal(found, draw(key_of(3, 4), int(np.prod(shape))).reshape(shape), strict=True)
