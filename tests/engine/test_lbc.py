"""Local Binary Convolution: anchors that stay as they are, on ternary codes, and the little that is learned beside them."""

import numpy as np
import pytest

import bitnet
from bitnet import Tensor, execution, layers, methods, models, no_grad
from bitnet import functional as F
from bitnet.datasets import Digits
from bitnet.quantizers import AnchorWeight, DoReFaActivation, DoReFaGradient
from bitnet.storage import load, load_checkpoint, save
from bitnet.training import Trainer


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small(bits=(2, 2, 4)):
    return methods.LBC(bits, anchors=12).apply(models.build("lbc", shape=(14, 14, 1), channels=4, blocks=2, hidden=8), seed=1)


@pytest.fixture(scope="module")
def digits():
    """Noise in which the place of a bright stripe is the label."""
    rng, labels = np.random.default_rng(0), (np.arange(80) % 10).astype(np.uint8)
    images = rng.integers(0, 60, (80, 14, 14, 1))
    for image, label in zip(images, labels, strict=True):
        image[label + 2:label + 4] += 180
    return Digits(images.astype(np.uint8), labels, "rows")


@pytest.mark.parametrize("density", [0.001, 0.5, 0.9, 3.0])
def test_anchors_are_as_dense_as_draws_with_replacement(density):
    values = AnchorWeight(density).draw((3, 3, 100, 200))
    share = np.mean(values != 1)
    assert share == pytest.approx(1 - np.exp(-density), abs=4 * np.sqrt(density) / 400 if density > 0.01 else 1e-4)
    assert set(np.unique(values)) <= {0, 1, 2} and np.mean(values[values != 1]) == pytest.approx(1, abs=0.2)
    np.testing.assert_array_equal(AnchorWeight(density).draw((3, 3, 100, 200)), values)
    assert (AnchorWeight(density, seed=1).draw((3, 3, 100, 200)) != values).any()


def test_anchors_run_on_ternary_codes_and_want_no_gradient():
    g, results = normal(2, 6, 7, 20, seed=2), []
    for family in execution.FAMILIES:
        layer = layers.AnchorConv2d(5, 20, 3, padding=1, input_quantizer=DoReFaActivation(2), grad_quantizer=DoReFaGradient(8))
        x = Tensor(np.abs(normal(2, 6, 7, 5)) / 2, requires_grad=True)
        bitnet.random.set_state((0, 0))
        with execution.use_kernels(family), execution.log() as records:
            y = layer(x)
            y.backward(g)
        assert [(record.role, record.family, record.bits) for record in records] == [
            ("forward", family, (2, 2)), ("input_grad", family, (8, 2))]
        results.append((y.data, x.grad))
    real = layer.anchors.astype(np.float32) - 1
    expected = F.conv2d(DoReFaActivation(2)(x.detach()).data, Tensor(real), padding=1).data
    np.testing.assert_allclose(results[0][0], expected, rtol=1e-5, atol=1e-5)
    for one in results[1:]:
        for result, same in zip(one, results[0], strict=True):
            np.testing.assert_array_equal(result, same)
    assert layer.parameters() == [] and list(layer.named_buffers()) == ["anchors"]


def test_a_block_is_anchors_relu_and_a_learned_pixel():
    net = small((2, 32, 32)).eval()
    body = net.block0[1] if hasattr(net.block0, "__getitem__") else net.block0.body[1]
    x = np.abs(normal(2, 8, 8, 4))
    middle = np.maximum(F.conv2d(x, Tensor(body.anchors.anchors.astype(np.float32) - 1), padding=1).data, 0)
    expected = middle @ body.point.weight.data[0, 0] + body.point.bias.data
    with no_grad():
        np.testing.assert_allclose(body(x).data, expected, rtol=1e-4, atol=1e-4)


def test_how_little_is_learned():
    def learned(net):
        return sum(parameter.data.size for name, parameter in net.named_parameters().items() if name.startswith("block"))

    # 16 channels and 128 anchors: of a layer, 128 * 16 + 16 numbers instead of the 9 * 16 * 128 more that the anchors are
    assert learned(methods.build("lbc")) == 10 * (128 * 16 + 16 + 2 * 16)
    assert learned(methods.LBC(anchors=16).apply(models.build("lbc"))) == 10 * (16 * 16 + 16 + 2 * 16)
    assert learned(models.build("lbc")) == 10 * (9 * 16 * 16 + 2 * 16)


def test_anchors_are_data_and_the_network_freezes(tmp_path):
    net, x = small().eval(), np.random.default_rng(2).integers(0, 256, (5, 14, 14, 1)).astype(np.uint8)
    save(tmp_path / "net.h5", net)
    net.block0.body[1].anchors.seed = 99  # a file holds the anchors, not how they were drawn
    with no_grad():
        expected = net(x).data
        np.testing.assert_array_equal(load(tmp_path / "net.h5").eval()(x).data, expected)
    np.testing.assert_array_equal(bitnet.freeze(net)(x).data, expected)
    net.block0.body[1].anchors.anchors[:] = 255  # whatever a file may hold
    assert net.block0.body[1].anchors.weight.codes.values.max() == 2


@pytest.mark.parametrize("bits", [(2, 2, 4), (2, 32, 32)])
def test_it_learns_and_goes_on_to_the_same_bits(bits, digits, tmp_path):
    def trainer(**more):
        net = small(bits)
        return Trainer(net, digits, digits, epochs=3, batch_size=20, **methods.training_of(net), **more)

    whole, before = trainer(), small(bits).state_dict()
    assert whole.run() and whole.history[-1]["train_loss"] < whole.history[0]["train_loss"]
    first, steps = trainer(checkpoint=tmp_path / "run.h5"), iter(range(100))
    assert not first.run(stop=lambda: next(steps) == 6)
    second = trainer()
    second.resume(load_checkpoint(tmp_path / "run.h5"))
    with execution.use_kernels("float"):
        assert second.run()
    for name, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(value, second.model.state_dict()[name])
        assert not name.endswith("anchors") or (value == before[name]).all()


def test_what_is_refused():
    with pytest.raises(ValueError, match="fixed, and cannot be quantized otherwise"):
        layers.AnchorConv2d(3, 4, 3).quantize(None)
    tree = layers.Sequential(layers.Conv2d(2, 4, 3), layers.Conv2d(4, 4, 3, groups=2), layers.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match="no groups"):
        methods.LBC().apply(tree)
    with pytest.raises(ValueError, match="lbc has 2 bits for W, got 1"):
        methods.LBC(1, 2, 4)
    with pytest.raises(ValueError, match="images of 5 x 5 pixels with their margin and more"):
        models.build("lbc", shape=(2, 2, 1), margin=1)
