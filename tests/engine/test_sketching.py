"""Network Sketching: sign vectors and scales against least squares, the spanning tree, and converted networks."""

import numpy as np
import pytest

from bitnet import execution, methods, no_grad
from bitnet.codes import Codes
from bitnet.kernels.products.geometry import Conv
from bitnet.methods.sketching import spanning_tree, sums_along
from bitnet.quantizers import SketchWeight, XNORWeight
from bitnet.quantizers.sketch import sketch

from .converted import DATA, IMAGES, check_converted, small_net

T = 36
FILTERS = np.random.default_rng(0).normal(size=(3, 3, 4, 200))


def left(m, refined, weight=FILTERS):
    """Squared residual of each filter, sign vectors as columns, and scales."""
    signs, scales = sketch(weight, m, refined)
    vectors = np.where(signs, 1.0, -1.0).reshape(m, -1, weight.shape[-1])
    rest = weight.reshape(-1, weight.shape[-1]) - np.einsum("mtf,mf->tf", vectors, scales)
    return np.square(rest).sum(axis=0), vectors, scales


@pytest.mark.parametrize("refined", [False, True])
def test_residuals_fall_within_their_bounds(refined):
    total = np.square(FILTERS).sum((0, 1, 2))
    before, bound = total, total
    for m in range(1, 9):
        errors, vectors, scales = left(m, refined)
        assert (scales >= 0).all() and (errors <= before).all()
        if refined:
            # the m-th vector has a part of squared length t - lambda outside of those before it
            outside = [np.linalg.norm(v - (np.linalg.lstsq(b, v, rcond=None)[0] @ b.T if m > 1 else 0)) ** 2
                       for b, v in ((vectors[:-1, :, f].T, vectors[-1, :, f]) for f in range(200))]
            bound = before * (1 - 1 / np.array(outside))
        else:
            bound = bound * (1 - 1 / T)
        assert (errors <= bound * (1 + 1e-12)).all()
        before = errors


def test_refined_scales_are_those_of_least_squares():
    for m in (1, 2, 3, 5, 12):
        _, vectors, scales = left(m, True)
        for f in range(0, 200, 20):
            best, *_ = np.linalg.lstsq(vectors[..., f].T, FILTERS[..., f].ravel(), rcond=None)
            np.testing.assert_allclose(scales[:, f], best, rtol=1e-9, atol=1e-12)


def test_direct_scales_are_mean_magnitudes_and_one_vector_is_a_binary_filter():
    errors, _, scales = left(1, False)
    np.testing.assert_allclose(scales[0], np.abs(FILTERS).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(errors, np.square(FILTERS).sum((0, 1, 2)) - T * scales[0] ** 2, rtol=1e-9)
    for refined in (False, True):
        one, other = SketchWeight(1, refined).encode(FILTERS), XNORWeight().encode(FILTERS)
        np.testing.assert_allclose(one.decode(np.float64), other.decode(np.float64), rtol=1e-12)


def test_refined_is_the_better_one_and_as_many_vectors_as_numbers_leave_nothing():
    for m in (2, 3, 4):
        direct, refined = left(m, False)[0], left(m, True)[0]
        assert refined.mean() < direct.mean()
        assert m > 2 or (refined <= direct * (1 + 1e-12)).all()  # from three on the two have other vectors
    assert left(T, True)[0].max() < 1e-20 * np.square(FILTERS).sum((0, 1, 2)).min()


def test_vectors_that_depend_on_others_are_left_out():
    weight = np.array([3.0, -3.0, 3.0, 3.0])[:, None]  # one vector says it all
    errors, _, scales = left(4, True, weight)
    assert errors == 0 and scales[:, 0].tolist() == [3, 0, 0, 0]
    assert np.isfinite(sketch(np.zeros((5, 2)), 3)[1]).all()


def test_terms_add_up_and_gradients_pass():
    weight = FILTERS[..., :7].astype(np.float32)
    codes, saved = SketchWeight(2).encode_and_save(weight)
    first, second = codes.terms()
    assert codes.shape == weight.shape == first.shape and first.per_filter and codes.width == 2
    np.testing.assert_array_equal(codes.decode(np.float64), first.decode(np.float64) + second.decode(np.float64))
    np.testing.assert_array_equal(codes.reshape((36, 7)).decode(), codes.decode().reshape(36, 7))
    assert SketchWeight(2).grad(saved, weight) is weight
    for bad in (0, 1.5, 5000):
        with pytest.raises(ValueError, match="number of vectors of a sketch must be a whole number from 1 to 4096"):
            SketchWeight(bad)


# Along a spanning tree

def prim(distances):
    """The weight of a minimum spanning tree, vector by vector."""
    reached, total = {0}, 0
    while len(reached) < len(distances):
        outside = [i for i in range(len(distances)) if i not in reached]
        best = min((distances[i, j], j) for i in reached for j in outside)
        total += best[0]
        reached.add(best[1])
    return total


@pytest.mark.parametrize("encoding, bits", [("unsigned", 8), ("bipolar", 1), ("ternary", 2)])
def test_sums_along_the_tree_are_the_direct_ones(encoding, bits):
    rng = np.random.default_rng(1)
    conv = Conv(4, 24, (3, 3), padding=((1, 1), (1, 1)))
    signs, _ = sketch(rng.normal(size=(3, 3, 4, 8)), 3)
    vectors = np.moveaxis(signs, 0, -1).reshape(3, 3, 4, 24)
    vectors[..., 5], vectors[..., 6] = vectors[..., 2], ~vectors[..., 2]  # no differences at all
    x = Codes(rng.integers(0, {"ternary": 3}.get(encoding, 1 << bits), (2, 6, 5, 4)).astype(np.uint8), bits, encoding)
    tree = spanning_tree(vectors.reshape(36, 24))
    direct = execution.forward_accum(x, Codes(vectors.view(np.uint8), 1, "bipolar"), conv)
    np.testing.assert_array_equal(sums_along(tree, x, vectors, conv), direct)
    flat = vectors.reshape(36, 24)
    apart = np.array([[min((a != b).sum(), (a == b).sum()) for b in flat.T] for a in flat.T])
    assert tree.additions == 36 + prim(apart) < 36 * 24
    assert sorted(tree.order) == list(range(24))


# Networks

def test_a_network_is_sketched_after_training(tmp_path):
    real = small_net()
    with no_grad():
        expected, errors = real(IMAGES).data, {}
        for m in (1, 2, 4, 8):
            net = methods.Sketching(m, 32, 32, norms=False).convert(small_net(), DATA)
            errors[m] = np.abs(net(IMAGES).data - expected).mean() / np.abs(expected).mean()
    assert errors[1] > 1.3 * errors[2] > 2 * errors[4] > 4 * errors[8], errors
    net = methods.Sketching(3, 8, 32).convert(small_net(), DATA)
    check_converted(net, tmp_path)
    with execution.log() as records:
        net(IMAGES)
    assert len(records) == 5 * 3 and {record.bits for record in records} == {(8, 1)}
    assert {record.family for record in records} <= set(execution.FAMILIES)
    assert "3,8,32" in net.summary()
    direct = methods.Sketching(3, 32, 32, refined=False).convert(small_net(), DATA)
    assert not direct.fc.weight_quantizer.refined
    check_converted(direct, tmp_path)


def test_fine_tuning_goes_to_the_latent_filters():
    net = methods.Sketching(2, 8, 8).convert(small_net(), DATA).train()
    with execution.log() as records:
        net(IMAGES).sum().backward()
    roles = [record.role for record in records]  # images get no gradient
    assert [roles.count(role) for role in ("forward", "input_grad", "weight_grad")] == [2 * 5, 2 * 4, 5]
    assert all(record.family in execution.FAMILIES for record in records)
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_only_real_weights_are_converted():
    net = methods.TWN().apply(small_net())
    with pytest.raises(ValueError, match="sketching converts networks with real weights, got quantized ones in first"):
        methods.Sketching().convert(net, DATA)
