"""Arrays begin at cache lines, whatever their shape and type."""

import numpy as np
import pytest

from bitnet.kernels.machine import arrays


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5, 7), (1 << 20,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.int64])
@pytest.mark.parametrize("make", [arrays.empty, arrays.zeros])
def test_alignment_shape_and_type(make, dtype, shape):
    found = make(shape, dtype)
    assert found.shape == shape and found.dtype == dtype and found.flags.c_contiguous and found.flags.writeable
    assert found.ctypes.data % arrays.LINE == 0
    if make is arrays.zeros:
        assert not found.any()


def test_aligned_copies():
    source = np.arange(10)[::2]
    found = arrays.aligned(source, np.float32)
    assert found.dtype == np.float32 and found.tolist() == [0, 2, 4, 6, 8] and found.ctypes.data % arrays.LINE == 0
    found[0] = 9
    assert source[0] == 0
