"""What maps codes to codes keeps them: a lost code is a layer silently back in float."""

import numpy as np
import pytest

from bitnet import Codes, Tensor, layers, quantizers, random
from bitnet import functional as F


def tensor_of(encoding="unsigned", bits=2, requires_grad=False):
    values = np.random.default_rng(0).integers(0, 1 << bits, (2, 6, 6, 5)).astype(np.uint8)
    return Tensor(Codes(values, bits, encoding, 1 / 3), requires_grad)


def real(tensor, requires_grad=False):
    return Tensor(tensor.codes.decode(), requires_grad)


KEPT = {
    "reshape": lambda x: x.reshape(2, 180),
    "flatten": layers.Flatten(),
    "detach": lambda x: x.detach(),
    "max pool": lambda x: F.max_pool(x, 2),
    "max pool with padding": lambda x: F.max_pool(x, 3, 2, 1),
    "dropout in evaluation": layers.Dropout(0.5).eval(),
}


@pytest.mark.parametrize("encoding", ["unsigned", "bipolar"])
@pytest.mark.parametrize("name", KEPT)
def test_codes_in_codes_out(name, encoding):
    x = tensor_of(encoding)
    y = KEPT[name](x)
    assert y.codes is not None and (y.codes.bits, y.codes.encoding) == (2, encoding)
    assert x._data is None and y._data is None  # nobody went through floats
    np.testing.assert_array_equal(y.data, KEPT[name](real(x)).data)


def test_dropout_zeroes_codes_and_rescales():
    x = tensor_of()
    random.seed(3)
    y = F.dropout(x, 0.25)
    random.seed(3)
    expected = F.dropout(real(x), 0.25)
    assert y.codes is not None and x._data is None
    assert y.codes.scale == pytest.approx(1 / 3 / 0.75)
    np.testing.assert_allclose(y.data, expected.data, rtol=1e-6)
    assert (y.codes.values == 0).sum() > (x.codes.values == 0).sum()


def test_dropout_of_codes_without_a_zero_is_refused():
    with pytest.raises(ValueError, match="codes that can be zero"):
        F.dropout(tensor_of("bipolar"), 0.5)


@pytest.mark.parametrize("path", [lambda x: F.max_pool(x, 2), lambda x: F.dropout(x, 0.25), lambda x: x.reshape(2, 180)])
def test_gradients_pass_as_if_they_were_floats(path):
    x = tensor_of(requires_grad=True)
    as_real = real(x, requires_grad=True)
    for one in (x, as_real):
        random.seed(3)
        y = path(one)
        y.backward(np.random.default_rng(1).standard_normal(y.shape).astype(np.float32))
    np.testing.assert_array_equal(x.grad, as_real.grad)


def test_pooling_and_quantizing_commute():
    # rounding is monotone, so pooling the codes is pooling the numbers
    x = np.random.default_rng(0).uniform(-0.5, 1.5, (2, 6, 6, 5)).astype(np.float32)
    quantizer = quantizers.DoReFaActivation(3)
    pooled_codes = F.max_pool(quantizer(x), 2)
    np.testing.assert_array_equal(pooled_codes.codes.values, quantizer(F.max_pool(Tensor(x), 2)).codes.values)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_quantizers_give_codes(bits):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    for quantizer in (quantizers.DoReFaActivation(bits), quantizers.DoReFaWeight(bits)):
        assert quantizer(x).codes.bits == bits
    assert quantizers.DoReFaGradient(bits).encode(x).bits == bits
