"""Fine-grained ternary quantization: the best ternary groups by trying all, fixed point, and converted networks."""

import itertools

import numpy as np
import pytest

from bitnet import execution, methods, no_grad
from bitnet.codes import Codes, unit_of
from bitnet.deploy.products import Product
from bitnet.layers import BatchNorm
from bitnet.quantizers import FGQWeight, FixedPointActivation, FixedPointWeight, TWNWeight
from bitnet.quantizers.fgq import best_ternary
from bitnet.quantizers.fixed_point import exponent_for

from .converted import DATA, IMAGES, check_converted, small_net

WEIGHT = np.random.default_rng(0).normal(size=(3, 3, 20, 7)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_no_ternary_vector_is_nearer(n):
    w = np.random.default_rng(n).normal(size=(60, n))
    t, alpha = best_ternary(w)
    found = np.square(w - alpha[:, None] * t).sum(axis=1)
    every = np.array(list(itertools.product((-1, 0, 1), repeat=n)))
    every = every[np.abs(every).any(axis=1)]
    inner = w @ every.T
    best = np.square(w).sum(axis=1) - (np.maximum(inner, 0) ** 2 / np.square(every).sum(axis=1)).max(axis=1)
    np.testing.assert_allclose(found, best, atol=1e-12)
    assert (t != 0).any(axis=1).all() and (alpha > 0).all()


def test_zeros_and_equals():
    t, alpha = best_ternary(np.array([[0.0, 0, 0], [2, -2, 2], [1, 0, 0]]))
    assert t.tolist() == [[0, 0, 0], [1, -1, 1], [1, 0, 0]] and alpha.tolist() == [0, 2, 1]


def error(quantizer, weight=WEIGHT):
    return np.square(quantizer.encode(weight).decode(np.float64) - weight).sum()


def test_smaller_groups_are_nearer_and_a_whole_filter_is_better_than_a_threshold():
    errors = [error(FGQWeight(group)) for group in (1, 2, 4, 10, 20, "filter", "layer")]
    assert errors == sorted(errors) and errors[0] < 1e-3 * errors[-1]
    assert errors[4] == error(FGQWeight(64))  # there are only 20 channels
    for per in ("filter", "layer"):
        assert error(FGQWeight(per)) < 1.0001 * error(TWNWeight(per=per))  # but for 8 bits


@pytest.mark.parametrize("group, sizes", [(4, [4] * 5), (6, [5] * 4), (7, [7, 7, 6]), (19, [10, 10]), (64, [20])])
def test_groups_lie_along_channels_and_their_scales_have_eight_bits(group, sizes):
    codes = FGQWeight(group).encode(WEIGHT)
    starts = np.cumsum([0, *sizes])
    unit = unit_of(codes.scale)
    multiples = codes.scale / unit
    assert codes.scale.shape == (3, 3, len(sizes), 7) and np.log2(unit) % 1 == 0
    assert (multiples == np.rint(multiples)).all() and 64 <= multiples.max() <= 127
    for i, (first, last) in enumerate(itertools.pairwise(starts)):
        t, alpha = best_ternary(np.float64(WEIGHT[1, 2, first:last, 3])[None])
        np.testing.assert_array_equal(codes.levels()[1, 2, first:last, 3], t[0])
        assert codes.scale[1, 2, i, 3] == np.rint(alpha[0] / unit) * unit
    real = codes.decode(np.float64)
    np.testing.assert_array_equal(real, sum(term.decode(np.float64) for term in codes.terms()))
    np.testing.assert_array_equal(codes.decode(), real)  # float32 holds them
    flat = codes.reshape((1, 9, 20, 7))
    np.testing.assert_array_equal(flat.decode(np.float64), real.reshape(1, 9, 20, 7))
    assert codes.width == 2 and not codes.one_scale and not codes.per_filter


def test_linear_weights_and_gradients():
    weight = WEIGHT[0, 0]
    codes, saved = FGQWeight(4).encode_and_save(weight)
    assert codes.scale.shape == (5, 7) and FGQWeight(4).grad(saved, weight) is weight
    np.testing.assert_array_equal(codes.decode(), FGQWeight(4).encode(weight[None, None]).decode()[0, 0])


@pytest.mark.parametrize("bad", [0, -4, 2.0, True, "channel", None])
def test_other_groups_are_refused(bad):
    with pytest.raises(ValueError, match='groups are of a positive number of weights, a "filter" or a "layer", got'):
        methods.FGQ(group=bad)


def test_scales_that_no_unit_divides_are_refused():
    codes = Codes(np.ones((4, 2), np.uint8), 2, "ternary", np.array([[1.0, 1 / 3]]), "group")
    with pytest.raises(ValueError, match="scales of groups must be multiples, up to 127, of one power of two"):
        codes.terms()


def test_fixed_point():
    assert [exponent_for(largest, 255) for largest in (0, 255, 255.1, 127.5, 1e-3)] == [0, 0, 1, -1, -17]
    x = np.array([-1, 0, 0.124, 0.126, 0.375, 63.75, 64, 1e9], np.float32)
    codes, inside = FixedPointActivation(8, -2).encode_and_save(x)
    assert codes.values.tolist() == [0, 0, 0, 1, 2, 255, 255, 255] and codes.scale == 0.25
    assert inside.tolist() == [False, True, True, True, True, True, False, False]
    for bits in (1, 2, 4, 8):
        top = (1 << bits) - 1
        codes = FixedPointActivation(bits, 3).encode(8.0 * np.arange(top + 1))
        np.testing.assert_array_equal(codes.decode(np.float64), 8.0 * np.arange(top + 1))  # each level is a fixed point
        levels = np.arange(-top, top + 1, 2) / 64
        codes = FixedPointWeight(bits).encode(levels)
        np.testing.assert_array_equal(codes.decode(np.float64), levels)
    assert (FixedPointWeight(8).encode(np.zeros(3)).decode() == 0).all()
    assert np.abs(FixedPointWeight(8).encode(WEIGHT).decode() - WEIGHT).max() <= 2.0 ** exponent_for(np.abs(WEIGHT).max(), 255)
    with pytest.raises(ValueError, match=r"exponent of a fixed point must be a whole number from -99 to 99, got 0.5"):
        FixedPointActivation(8, 0.5)


# Networks

@pytest.mark.parametrize("bits, group", [((2, 8, 32), 4), ((2, 4, 32), 64), ((2, 8, 32), "filter"), ((2, 8, 32), "layer"),
                                         ((2, 32, 32), 4)])
def test_a_network_is_made_ternary_after_training(bits, group, tmp_path):
    net = methods.FGQ(*bits, group=group).convert(small_net(), DATA)
    _, frozen = check_converted(net, tmp_path)
    with execution.log() as records, no_grad():
        net(IMAGES)
    on_codes = [record for record in records if record.family != "float32"]
    terms = 2 if group == 4 or group == 64 else 1
    assert len(on_codes) == (1 + 4 * terms if bits[1] != 32 else 1)  # pixels meet the first layer as codes in any case
    assert [stage.widths for stage in frozen.stages if isinstance(stage, Product)][1:] == [(2, bits[1])] * 2


def test_statistics_of_batch_norms_are_those_of_the_calibration_images():
    net = methods.FGQ(2, 8, 32).convert(small_net(), DATA)
    assert not net.training and all(isinstance(m.momentum, float) and m.momentum == 0.9 for m in net.modules()
                                    if isinstance(m, BatchNorm))
    with no_grad():
        x = net.images(IMAGES)
        x = net.first.conv(net.first.pool(x) if net.first.order.startswith("pool") else x).data
    np.testing.assert_allclose(net.first.norm.running_mean, x.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(net.first.norm.running_var, x.var((0, 1, 2)), rtol=1e-3)


def test_smaller_groups_keep_more_of_a_network():
    real, errors = small_net(), []
    with no_grad():
        expected = real(IMAGES).data
        methods.conversion.estimate_norms(real, IMAGES)
        expected = real(IMAGES).data
        for group in (1, 4, "layer"):
            net = methods.FGQ(2, 8, 32, group=group).convert(small_net(), DATA)
            errors.append(np.abs(net(IMAGES).data - expected).mean() / np.abs(expected).mean())
    assert errors[0] < 0.1 and errors == sorted(errors), errors


def test_fine_tuning_goes_to_the_real_weights():
    net = methods.FGQ(2, 8, 8, group=64).convert(small_net(), DATA).train()
    with execution.log() as records:
        net(IMAGES).sum().backward()
    assert all(record.family in execution.FAMILIES for record in records)
    assert all(parameter.grad is not None for parameter in net.parameters())
