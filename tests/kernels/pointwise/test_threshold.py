"""From accumulators to packed codes by thresholds: the number of thresholds reached, packed as codes are."""

import numpy as np
import pytest

from bitnet.kernels.pointwise.threshold import pack_thresholds
from bitnet.kernels.products.geometry import Operand
from bitnet.kernels.products.packing import pack_channels


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 16, 17, 31, 33, 64])
@pytest.mark.parametrize("pool, padding", [(1, ((0, 0), (0, 0))), (2, ((1, 0), (2, 1))), (3, ((1, 1), (1, 1)))])
def test_a_code_is_the_number_of_thresholds_reached(channels, bits, pool, padding, dtype):
    rng = np.random.default_rng(channels)
    accum = rng.integers(-40, 40, (2, 7, 9, channels)).astype(dtype)
    sign = rng.choice(np.array([-1, 1], np.int32), channels)
    thresholds = np.sort(rng.integers(-40, 40, (2**bits - 1, channels)).astype(np.int32), axis=0)
    signed = accum.astype(np.int32)[:, :7 // pool * pool, :9 // pool * pool] * sign
    best = signed.reshape(2, 7 // pool, pool, 9 // pool, pool, channels).max(axis=(2, 4))
    codes = (best[..., None, :] >= thresholds).sum(axis=-2).astype(np.uint8)
    np.testing.assert_array_equal(pack_thresholds(accum, sign, thresholds, pool, bits, padding),
                                  pack_channels(Operand(codes, bits, "unsigned"), 1, padding))
