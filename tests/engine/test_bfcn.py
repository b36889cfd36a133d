"""BFCN: upsampling, the loss of pixels, quantizers whose bits fall, and the network from float to frozen."""

import numpy as np
import pytest
from PIL import Image

import bitnet
from bitnet import Tensor, execution, layers, methods, models, no_grad, use_kernels
from bitnet import functional as F
from bitnet.codes import Codes
from bitnet.description import describe, rebuild
from bitnet.methods.bfcn import falling_bits
from bitnet.quantizers import BFCNActivation, BFCNWeight, DoReFaActivation


def normal(*shape):
    return np.random.default_rng(list(shape)).standard_normal(shape)


# Upsampling

@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("smooth", [False, True])
def test_gradients_of_upsampling(gradcheck, factor, smooth):
    gradcheck(lambda x: F.upsample(x, factor, smooth), normal(2, 3, 4, 2))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 3)])
def test_upsampling_is_pillows(size):
    x = normal(2, *size, 3).astype(np.float32)
    for smooth, filter in ((False, Image.Resampling.NEAREST), (True, Image.Resampling.BILINEAR)):
        y = F.upsample(x, 4, smooth).data
        assert y.shape == (2, 4 * size[0], 4 * size[1], 3) and y.dtype == np.float32
        for image, large in zip(x, y, strict=True):
            for channel in range(3):
                expected = Image.fromarray(image[..., channel]).resize((4 * size[1], 4 * size[0]), filter)
                np.testing.assert_allclose(large[..., channel], np.asarray(expected), atol=1e-6)


def test_repeated_codes_stay_codes():
    codes = Codes(np.arange(12, dtype=np.uint8).reshape(1, 2, 3, 2) % 4, 2, "unsigned", 1 / 3)
    large = F.upsample(Tensor(codes), 3)
    assert large.codes.bits == 2 and large.codes.scale == 1 / 3
    np.testing.assert_array_equal(large.codes.values, codes.values.repeat(3, axis=1).repeat(3, axis=2))
    assert F.upsample(Tensor(codes), 3, smooth=True).codes is None


@pytest.mark.parametrize("factor", [0, -1, 1.5, 17])
def test_factors_that_there_are_not(factor):
    with pytest.raises(ValueError, match="whole number from 1 to 16"):
        layers.Upsample(factor)
    with pytest.raises(ValueError, match="takes images"):
        F.upsample(np.zeros((2, 3), np.float32), 2)


# The loss of pixels

LABELS = np.random.default_rng(0).integers(0, 5, (2, 3, 4))  # 4 is void


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 0.0, 1.0)])
def test_gradients_of_the_loss_of_pixels(gradcheck, weights):
    gradcheck(lambda x: F.pixel_cross_entropy(x, LABELS, weights, void=4), normal(2, 3, 4, 4))


def test_the_loss_of_pixels_by_hand():
    logits, weights = normal(2, 3, 4, 4), np.array([0.5, 2.0, 1.0, 3.0])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    total = weight = 0.0
    for place in np.ndindex(LABELS.shape):
        if LABELS[place] != 4:
            total -= weights[LABELS[place]] * np.log(probabilities[place][LABELS[place]])
            weight += weights[LABELS[place]]
    loss = F.pixel_cross_entropy(Tensor(logits), LABELS, weights, void=4)
    assert float(loss.data) == pytest.approx(total / weight, rel=1e-12)
    # on images whose pixels are all labelled and alike it is the cross entropy of classes
    one = F.softmax_cross_entropy(Tensor(logits[:, 0, 0]), np.array([3, 1]))
    labels = np.array([3, 1])[:, None, None].repeat(5, axis=1)
    many = F.pixel_cross_entropy(Tensor(logits[:, :1, :1].repeat(5, axis=1)), labels)
    assert float(one.data) == pytest.approx(float(many.data), rel=1e-12)


def test_void_pixels_count_for_nothing():
    x = Tensor(normal(2, 3, 4, 4), requires_grad=True)
    F.pixel_cross_entropy(x, LABELS, void=4).backward()
    assert (x.grad[LABELS == 4] == 0).all() and (x.grad[LABELS != 4] != 0).all()
    x = Tensor(normal(1, 2, 2, 3), requires_grad=True)
    loss = F.pixel_cross_entropy(x, np.full((1, 2, 2), 255), void=255)
    loss.backward()
    assert float(loss.data) == 0 and (x.grad == 0).all()


@pytest.mark.parametrize("labels, options, message", [
    (np.zeros((2, 3)), {}, r"got shapes \(2, 3, 4, 4\) and \(2, 3\)"),
    (np.full((2, 3, 4), 4), {}, "0 to 3, got 4"),
    (np.full((2, 3, 4), 5), {"void": 4}, "0 to 3 or 4, got 5"),
    (np.full((2, 3, 4), -1), {"void": 4}, "got -1"),
    (np.zeros((2, 3, 4), int), {"weights": (1, 2)}, "a weight of 0 or more for each of 4 classes"),
    (np.zeros((2, 3, 4), int), {"weights": (1, 2, -1, 1)}, "a weight of 0 or more"),
])
def test_targets_that_are_none(labels, options, message):
    with pytest.raises(ValueError, match=message):
        F.pixel_cross_entropy(Tensor(normal(2, 3, 4, 4)), labels, **options)


# Quantizers

@pytest.mark.parametrize("bits", range(1, 9))
def test_weights_by_the_formula(bits):
    w = (0.3 * normal(3, 3, 4, 5)).astype(np.float32)
    codes = BFCNWeight(bits).encode(w)
    n, m = 2**bits - 1, float(np.abs(w).max())
    place = n * (w.astype(np.float64) / (2 * m) + 0.5)
    sure = np.abs(place % 1 - 0.5) > 1e-4  # what lies between two codes may go either way in float32
    expected = np.abs(w).mean() * np.where(w >= 0, 1, -1) if bits == 1 else 2 * m * (np.rint(place) / n - 0.5)
    assert codes.bits == bits and codes.one_scale and sure.mean() > 0.99
    np.testing.assert_allclose(codes.decode()[sure], expected[sure], rtol=2e-6)
    x = Tensor(w, requires_grad=True)
    BFCNWeight(bits)(x).backward(np.ones_like(w))
    assert (x.grad == 1).all()


def test_activations_are_dorefas():
    x = Tensor(normal(50).astype(np.float32), requires_grad=True)
    ours = BFCNActivation(2)(x)
    np.testing.assert_array_equal(ours.codes.values, DoReFaActivation(2).encode(x.data).values)
    assert BFCNActivation(2).rounds_unit


@pytest.mark.parametrize("bits, expected", [(1, [8, 4, 1]), (2, [8, 4, 2]), (4, [8, 4, 4]), (6, [8, 6, 6]), (8, [8, 8, 8]),
                                            (32, None)])
def test_how_bits_fall(bits, expected):
    if expected is None:
        assert falling_bits(32) == ()
        return
    quantizer = methods.BFCN(bits, 2, 32)._decaying(BFCNWeight, bits)
    seen, restarts = [], []
    for progress in (0, 0.49, 0.5, 0.74, 0.75, 1):
        restarts.append(quantizer.advance(progress))
        seen.append(quantizer.bits)
    assert seen == [step for step in expected for _ in range(2)]
    assert restarts == [i in (2, 4) and seen[i] != seen[i - 1] for i in range(6)]
    quantizer.advance(0.6)  # a run made longer goes on where it then is
    assert quantizer.bits == expected[1]


@pytest.mark.parametrize("decay", [((0.1, 8),), ((0, 8), (0.5, 4), (0.5, 2)), ((0, 8), (1.5, 2)), ((0, 9),)])
def test_ways_in_which_bits_cannot_fall(decay):
    with pytest.raises(ValueError):
        BFCNWeight(2, decay)


# The network

def small(bits=(2, 2, 32), decay=False, seed=1):
    net = models.build("bfcn", shape=(16, 24, 3), classes=5, widths=(4, 8, 8), blocks=2, features=6, seed=seed)
    return methods.BFCN(*bits, decay=decay).apply(net)


def images(count=3):
    return np.random.default_rng(count).integers(0, 256, (count, 16, 24, 3)).astype(np.uint8)


def test_the_network_of_the_default_sizes():
    net = methods.BFCN().apply(models.build("bfcn"))
    shapes = {}
    net.name_layers()
    net.trace(bitnet.module.Signal((96, 128, 3)), lambda module, before, after: shapes.setdefault(module.name, after.shape))
    assert [shapes[name] for name in ("stem", "stage0", "stage1", "reconstruct", "score", "enlarge")] == [
        (48, 64, 32), (48, 64, 32), (24, 32, 64), (24, 32, 32), (24, 32, 11), (96, 128, 11)]
    assert not net.stem.conv.weight_quantizer and not net.score.weight_quantizer


@pytest.mark.parametrize("options", [{"shape": (90, 128, 3)}, {"shape": (96, 128)}, {"widths": (8,)}])
def test_shapes_that_it_does_not_take(options):
    with pytest.raises(ValueError, match="multiples of"):
        models.bfcn(**options)


def test_every_layer_but_the_first_and_the_last_gets_codes_in_all_its_products():
    net = small((2, 2, 4))
    with execution.log() as records:
        F.pixel_cross_entropy(net(images()), np.zeros((3, 16, 24), int)).backward()
    inner = [record for record in records if record.layer not in ("stem", "score")]
    assert {record.family for record in inner} <= set(execution.FAMILIES) and len({record.layer for record in inner}) > 15
    assert all(32 not in record.bits for record in inner)
    assert {record.role for record in inner} == {"forward", "input_grad", "weight_grad"}


def test_steps_are_the_same_bits_in_every_family_and_on_any_number_of_threads(thread_count):
    def step():
        net = small((2, 2, 4))
        with bitnet.random.preserved():
            bitnet.random.seed(3)
            F.pixel_cross_entropy(net(images()), np.arange(3 * 16 * 24).reshape(3, 16, 24) % 6, void=5).backward()
        return [parameter.grad.tobytes() for parameter in net.parameters()]

    found = []
    for family in execution.FAMILIES:
        with use_kernels(family):
            for count in (1, 3):
                thread_count(count)
                found.append(step())
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("bits", [(1, 2, 32), (2, 2, 4), (8, 8, 32), (32, 32, 32)])
def test_saved_and_frozen_it_gives_the_same_bits(bits, tmp_path, thread_count):
    net = small(bits)
    net(images(6))  # statistics of batch norm
    net.eval()
    with no_grad():
        expected = net(images()).data
    bitnet.save(tmp_path / "net.h5", net)
    bitnet.freeze(net).save(tmp_path / "net.npz")
    for path in ("net.h5", "net.npz"):
        network = bitnet.load(tmp_path / path)
        for count in (1, 3):
            thread_count(count)
            with no_grad():
                np.testing.assert_array_equal(network(images()).data, expected)
    if bits[0] != 32:
        stages = str(bitnet.load(tmp_path / "net.npz"))
        assert stages.count("3x3 integers") == stages.count("3x3") - 1  # all but the stem


def test_bits_that_have_fallen_are_saved():
    net = small(decay=True)
    assert net.stage0.block1.conv1.weight_quantizer.bits == 8
    for module in net.modules():
        module.advance(0.8)
    again = rebuild(describe(net))
    assert {module.bits for module in again.modules() if isinstance(module, (BFCNWeight, BFCNActivation))} == {2}
    assert again.method.decay and again.method.bits == (2, 2, 32)
