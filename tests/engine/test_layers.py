"""Modules: what they find, keep, and compute."""

import numpy as np
import pytest

from bitnet import Parameter, Residual, Tensor, constraints, layers, random
from bitnet import functional as F
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small():
    rng = np.random.default_rng(0)
    return layers.Sequential(
        layers.Conv2d(3, 4, 3, padding=1, bias=True, rng=rng), layers.BatchNorm(4), layers.Activation(DoReFaActivation(2)),
        layers.MaxPool(2), layers.Dropout(0.5), layers.Flatten(), layers.Linear(36, 5, rng=rng))


@pytest.mark.parametrize("make", [
    lambda: layers.MaxPool((2,)), lambda: layers.AvgPool(2, "2"), lambda: layers.Images(0.5, 40, 3),
    lambda: layers.Reshape([2.0]), lambda: layers.Conv2d(3, 4, "3"), lambda: layers.Conv2d(3, 4, 3, stride=0),
    lambda: layers.Conv2d(3, 4, 3, padding=[1.5, 1]), lambda: layers.Conv2d(3, 4, 3, padding=[[1], 1]),
    lambda: layers.Conv2d(3, 4, 3, padding=[[], []]), lambda: layers.Conv2d(3, 4, 3, weight_quantizer=7),
    lambda: layers.Linear(True, 2), lambda: layers.Activation(max), lambda: layers.Clip((0,), 1),
    lambda: layers.Clip(0, 10**30), lambda: layers.Dropout("0.5"), lambda: layers.BatchNorm(2, eps="x"),
    lambda: layers.Block.of("conv norm pool act", "conv"), lambda: constraints.Clip("1"),
])  # fmt: skip
def test_what_no_layer_can_be_made_with(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize("kind", [layers.BatchNorm, layers.ShiftBatchNorm, layers.LowPrecisionBatchNorm])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_norm_of_other_channels_touches_no_memory(kind, training):
    for x in (normal(2, 40), normal(2, 3, 3, 81), normal(2, 1)):
        with pytest.raises(ValueError, match=r"the batch norm takes 80 channels, got shape \(2, "):
            kind(80).train(training)(x)


def test_parameters_buffers_and_modules_are_found_by_name():
    net = small()
    assert list(net.named_parameters()) == ["0.weight", "0.bias", "1.gamma", "1.beta", "6.weight",
                                            "6.bias"]
    assert list(net.named_buffers()) == ["1.running_mean", "1.running_var"]
    assert list(net.named_modules()) == ["", "0", "1", "2", "2.quantizer", "3", "4", "5", "6"]
    assert all(isinstance(p, Parameter) and p.requires_grad for p in net.parameters())


def test_modules_inside_modules_have_dotted_names():
    net = layers.Sequential(layers.Sequential(layers.Linear(2, 3)), layers.BatchNorm(3)).name_layers()
    assert next(iter(net.named_parameters())) == "0.0.weight"
    assert net[0][0].name == "0.0"


def test_a_state_is_copied_out_and_in():
    net, other = small(), small()
    net(normal(4, 6, 6, 3))  # running statistics that are not the initial ones
    for i, parameter in enumerate(net.parameters()):
        parameter.data += i + 1
    state = net.state_dict()
    assert state["1.running_mean"].dtype == np.float64 and state["0.weight"].dtype == np.float32
    other.load_state_dict(state)
    x = normal(2, 6, 6, 3, seed=1)
    np.testing.assert_array_equal(other.eval()(x).data, net.eval()(x).data)
    state["0.weight"] += 1  # neither network sees this
    np.testing.assert_array_equal(other[0].weight.data, net[0].weight.data)


def test_loading_keeps_the_arrays_that_an_optimizer_holds():
    net = small()
    before = net[0].weight.data
    net.load_state_dict(small().state_dict())
    assert net[0].weight.data is before


@pytest.mark.parametrize("change, message", [
    (lambda state: state.pop("1.gamma"), r"missing \['1.gamma'\], unexpected nothing"),
    (lambda state: state.update(extra=np.zeros(1)), r"missing nothing, unexpected \['extra'\]"),
    (lambda state: state.update({"6.bias": np.zeros(6, np.float32)}), r"6.bias must have shape \(5,\), got \(6,\)"),
    (lambda state: state.update({"1.running_var": np.ones((4, 1))}), "1.running_var must have shape"),
    (lambda state: state.update({"0.weight": state["0.weight"].astype(np.int64)}), "0.weight must be float32, got int64"),
    (lambda state: state.update({"1.running_var": np.ones(4, np.float32)}), "1.running_var must be float64, got float32"),
])
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    net = small()
    state = {name: array + 1 for name, array in net.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        net.load_state_dict(state)
    for name, array in small().state_dict().items():
        np.testing.assert_array_equal(net.state_dict()[name], array)


def test_train_and_eval_reach_every_module():
    net = layers.Sequential(layers.Sequential(layers.Dropout(0.5)), layers.BatchNorm(3))
    assert net.eval() is net
    assert not any(module.training for module in net.named_modules().values())
    net.train()
    assert all(module.training for module in net.named_modules().values())


def test_zero_grad():
    net = small()
    net(normal(2, 6, 6, 3)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


class TestBatchNorm:
    def test_training_normalises_by_the_batch(self):
        norm = layers.BatchNorm(3, eps=0)
        y = norm(5 + 3 * normal(16, 4, 4, 3)).data
        np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-6)
        np.testing.assert_allclose(y.var(axis=(0, 1, 2)), 1, rtol=1e-5)

    def test_running_statistics(self):
        norm, mean, var = layers.BatchNorm(3, momentum=0.8), np.zeros(3), np.ones(3)
        for seed in range(4):
            x = (seed + 1) * normal(6, 4, 4, 3, seed=seed) + seed
            norm(x)
            mean = 0.8 * mean + 0.2 * x.mean(axis=(0, 1, 2), dtype=np.float64)
            var = 0.8 * var + 0.2 * x.var(axis=(0, 1, 2), dtype=np.float64)
        np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-6)
        np.testing.assert_allclose(norm.running_var, var, rtol=1e-6)

    def test_evaluation_uses_and_leaves_them(self):
        norm = layers.BatchNorm(3)
        norm.running_mean[:], norm.running_var[:] = [1, 2, 3], [4, 5, 6]
        x = normal(2, 4, 4, 3)
        y = norm.eval()(x).data
        np.testing.assert_allclose(y, (x - [1, 2, 3]) / np.sqrt(np.array([4, 5, 6]) + norm.eps), rtol=1e-5, atol=1e-6)
        assert norm.running_mean.tolist() == [1, 2, 3] and norm.running_var.tolist() == [4, 5, 6]

    def test_defaults_are_those_of_the_reference_implementation(self):
        norm = layers.BatchNorm(2)
        assert (norm.momentum, norm.eps) == (0.9, 1e-4)
        assert norm.gamma.data.tolist() == [1, 1] and norm.beta.data.tolist() == [0, 0]


def test_evaluated_statistics_are_those_of_their_time():
    norm, x = layers.BatchNorm(3), Tensor(np.arange(12, dtype=np.float32).reshape(4, 3), requires_grad=True)
    norm.eval()
    y = norm(x)
    norm.train()
    norm(Tensor(np.full((4, 3), 50.0, np.float32)))  # moves the running statistics before y's gradient is asked for
    y.sum().backward()
    np.testing.assert_allclose(norm.gamma.grad, x.data.sum(axis=0), rtol=1e-3)


def test_dropout_acts_in_training_only():
    drop, x = layers.Dropout(0.5), Tensor(np.ones((10, 100), np.float32))
    assert (drop(x).data == 0).any()
    assert drop.eval()(x) is x


def test_an_activation_without_quantizer_is_relu():
    x = normal(3, 4)
    np.testing.assert_array_equal(layers.Activation()(x).data, np.maximum(x, 0))
    assert layers.Activation(DoReFaActivation(2))(x).codes.bits == 2


def test_a_layer_quantizes_its_input_and_weight():
    conv = layers.Conv2d(3, 4, 3, weight_quantizer=DoReFaWeight(1), input_quantizer=DoReFaActivation(2))
    x = np.random.default_rng(0).random((2, 5, 5, 3), np.float32)
    expected = F.conv2d(DoReFaActivation(2)(x).data, Tensor(DoReFaWeight(1)(conv.weight).data)).data
    np.testing.assert_allclose(conv(x).data, expected, rtol=1e-5, atol=1e-5)
    linear = layers.Linear(6, 4, weight_quantizer=DoReFaWeight(2), input_quantizer=DoReFaActivation(3))
    x = np.random.default_rng(1).random((2, 6), np.float32)
    expected = DoReFaActivation(3)(x).data @ DoReFaWeight(2)(linear.weight).data
    np.testing.assert_allclose(linear(x).data, expected, rtol=1e-5, atol=1e-5)


def test_latent_weights_are_never_quantized_in_place():
    conv = layers.Conv2d(3, 4, 3, weight_quantizer=DoReFaWeight(1), grad_quantizer=DoReFaGradient(4))
    before = conv.weight.data.copy()
    conv(normal(2, 5, 5, 3)).sum().backward()
    np.testing.assert_array_equal(conv.weight.data, before)
    assert conv.weight.codes is None and conv.weight.data.dtype == np.float32


def test_initialisers_have_the_variance_they_are_named_for():
    rng = np.random.default_rng(0)
    count = 100_000
    for sample, variance, kurtosis in ((layers.he_normal(rng, count, 50), 2 / 50, 3),
                                       (layers.glorot_uniform(rng, count, 30, 20), 2 / 50, 1.8)):
        assert sample.dtype == np.float32
        sample = sample.astype(np.float64)
        assert abs(sample.mean()) < 5 * np.sqrt(variance / count)
        assert abs(sample.var() / variance - 1) < 5 * np.sqrt((kurtosis - 1) / count)
        assert np.mean(sample**4) / variance**2 == pytest.approx(kurtosis, rel=0.05)  # normal or uniform, indeed


@pytest.mark.parametrize("layer, fan_in", [
    (layers.Conv2d(64, 128, 3, rng=np.random.default_rng(0)), 9 * 64),
    (layers.Conv2d(64, 128, (3, 5), groups=4, rng=np.random.default_rng(0)), 15 * 16),
    (layers.Linear(400, 100, rng=np.random.default_rng(0)), 400),
])
def test_layers_start_from_he_normal(layer, fan_in):
    weight = layer.weight.data
    assert abs(weight.var() * fan_in / 2 - 1) < 5 * np.sqrt(2 / weight.size)
    assert layer.bias is None or not layer.bias.data.any()


class Held(layers.Module):
    """A module of one's own whose parts lie in a list and a dict."""

    def __init__(self, width):
        self.width = width
        self.steps = [layers.Linear(width, width), layers.Linear(width, width)]
        self.heads = {"small": layers.Linear(width, 2), "gain": Parameter(np.ones(1, np.float32))}

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return self.heads["small"](x) * self.heads["gain"]


def test_parts_in_lists_and_dicts_are_found_and_trained():
    net = Held(3)
    assert list(net.named_parameters()) == ["heads.gain", "steps.0.weight", "steps.0.bias", "steps.1.weight", "steps.1.bias",
                                            "heads.small.weight", "heads.small.bias"]
    net(normal(4, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert net.steps[1].name == "steps.1" and not net.eval().steps[0].training
    net.steps.append(layers.Linear(3, 3))  # names follow where a tree grows
    net(normal(4, 3))
    assert net.steps[2].name == "steps.2"


def test_a_part_called_by_itself_keeps_its_name():
    net = layers.Sequential(a=layers.Linear(3, 3), b=layers.Sequential(layers.Linear(3, 3)))
    net(normal(2, 3))
    layers.Linear(1, 1)  # another module anywhere
    net.b[0](normal(2, 3))
    assert net.b[0].name == "b.0"
    alone = net.b
    del net
    layers.Linear(1, 1)
    alone[0](normal(2, 3))
    alone(normal(2, 3))
    assert alone[0].name == "0"


def test_a_sequential_is_read_and_changed_by_name():
    net = layers.Sequential(first=layers.Linear(2, 3), act=layers.Activation(), last=layers.Linear(3, 1))
    assert net.first is net[0] is net["first"] and len(net) == 3
    net.replace("act", layers.Clip())
    net.insert("last", drop=layers.Dropout(0.0))
    net.insert(None, end=layers.Flatten())
    assert list(net.children()) == ["first", "act", "drop", "last", "end"] and isinstance(net.act, layers.Clip)
    assert net(normal(5, 2)).shape == (5, 1)
    with pytest.raises(AttributeError, match="no layer and no attribute 'middle'"):
        assert net.middle
    with pytest.raises(ValueError, match="one of the layers first, act, drop, last, end, got 'middle'"):
        net.insert("middle", x=layers.Flatten())


def test_a_residual_adds_its_input_or_a_shortcut():
    body, x = layers.Linear(3, 3), normal(4, 3)
    np.testing.assert_array_equal(Residual(body)(x).data, body(x).data + x)
    short = layers.Linear(3, 3)
    net = Residual(body, shortcut=short)
    np.testing.assert_array_equal(net(x).data, body(x).data + short(x).data)
    assert list(net.named_parameters()) == ["0.weight", "0.bias", "shortcut.weight", "shortcut.bias"]
    with pytest.raises(ValueError, match=r"end in one shape, got \(2,\) and \(3,\)"):
        Residual(layers.Linear(3, 2)).summary((3,))


def test_layers_of_one_shape_start_differently_and_a_seed_repeats_them():
    random.seed(5)
    first, second = layers.Linear(4, 4), layers.Linear(4, 4)
    random.seed(5)
    np.testing.assert_array_equal(layers.Linear(4, 4).weight.data, first.weight.data)
    assert (first.weight.data != second.weight.data).all()


def test_shapes_and_bits_are_known_without_running():
    net = layers.Sequential(layers.Block(3, 8, 3, padding="same", pool=2), Residual(layers.Block(8, 8, 3, padding=1)),
                            layers.AvgPool(2), layers.Flatten(), layers.Linear(8 * 4 * 5, 7))
    rows = net.summary((16, 20, 3)).splitlines()
    assert [row.split()[:3] for row in rows[1:4]] == [["0", "16x20x8", "32,32,32"], ["1.0", "8x10x8", "32,32,32"],
                                                      ["4", "7", "32,32,32"]]
    x = normal(2, 16, 20, 3)
    for i, shape in ((0, (8, 10, 8)), (1, (8, 10, 8)), (2, (4, 5, 8)), (3, (160,)), (4, (7,))):
        x = net[i](x)
        assert x.shape == (2, *shape)
    with pytest.raises(ValueError, match="takes images \\(H, W, 3\\), got shape \\(16, 20, 4\\)"):
        net.summary((16, 20, 4))
    with pytest.raises(ValueError, match="expected the shape of an image"):
        net.summary()


def test_an_unknown_module_is_asked_by_running_it():
    net = layers.Sequential(layers.Lambda(lambda x: x * 2), Held(3))
    assert "0" in net.summary((3,))
    assert net.training


def test_images_are_checked_at_the_door():
    door = layers.Images(4, 5, 3)
    pixels = np.full((2, 4, 5, 3), 200, np.uint8)
    assert door(pixels).codes.bits == 8
    np.testing.assert_array_equal(door(pixels).data, np.float32(200 / 256))
    for wrong, message in ((pixels[:, :3], r"shape \(N, 4, 5, 3\), got \(2, 3, 5, 3\)"), (pixels.astype(np.int64), "got int64"),
                           (pixels.astype(np.float32), "got 0 to 200"), (np.full((1, 4, 5, 3), -0.5), "got -0.5 to 0"),
                           (np.full((1, 4, 5, 3), np.nan, np.float32), "got nan to nan")):
        with pytest.raises(ValueError, match=message):
            door(wrong)


@pytest.mark.parametrize("norm", [layers.BatchNorm(3), layers.ShiftBatchNorm(3), layers.LowPrecisionBatchNorm(3)])
def test_one_value_a_channel_cannot_be_normalised_in_training(norm):
    with pytest.raises(ValueError, match=r"more than one value a channel in training, got a batch of shape \(1, 1, 1, 3\)"):
        norm(normal(1, 1, 1, 3))
    assert norm.eval()(normal(1, 1, 1, 3)).shape == (1, 1, 1, 3)


def test_padding_that_a_file_may_ask_for_takes_no_memory():
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    huge = 1 << 24  # 3.4 PB of it
    for net in (layers.Conv2d(3, 4, 3, padding=huge), layers.Block(3, 4, 3, padding=huge),
                layers.Sequential(layers.Activation(DoReFaActivation(2)),
                                  layers.Conv2d(3, 4, 3, padding=huge, weight_quantizer=DoReFaWeight(1))),
                layers.AvgPool(2 * huge, padding=huge)):
        with pytest.raises(ValueError, match="padding"):
            net(pixels)
    with pytest.raises(ValueError, match="padding"):
        layers.Conv2d(3, 4, 3, padding=huge).summary((8, 8, 3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_network_takes_no_number_that_is_not_finite(value):
    net = layers.Sequential(layers.Conv2d(3, 8, 3), layers.Activation(DoReFaActivation(2)), layers.Flatten(),
                            layers.Linear(8 * 36, 5))
    images = normal(2, 8, 8, 3)
    assert np.isfinite(net(images).data).all()
    images[1, 2, 3, 0] = value  # would become some code, and the step be taken
    with pytest.raises(ValueError, match=r"a network takes finite numbers, got .*(nan|inf)"):
        net(images)
