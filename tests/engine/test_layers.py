"""Modules: what they find, keep, and compute."""

import numpy as np
import pytest

from bitnet import Parameter, Tensor, layers, models, no_grad
from bitnet import functional as F
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small():
    rng = np.random.default_rng(0)
    return layers.Sequential(
        layers.Conv2d(3, 4, 3, padding=1, bias=True, rng=rng), layers.BatchNorm(4), layers.Activation(DoReFaActivation(2)),
        layers.MaxPool(2), layers.Dropout(0.5), layers.Flatten(), layers.Linear(36, 5, rng=rng))


def test_parameters_buffers_and_modules_are_found_by_name():
    net = small()
    assert list(net.named_parameters()) == ["layer0.weight", "layer0.bias", "layer1.gamma", "layer1.beta", "layer6.weight",
                                            "layer6.bias"]
    assert list(net.named_buffers()) == ["layer1.running_mean", "layer1.running_var"]
    assert list(net.named_modules()) == ["", *(f"layer{i}" for i in range(7))]
    assert all(isinstance(p, Parameter) and p.requires_grad for p in net.parameters())


def test_modules_inside_modules_have_dotted_names():
    net = layers.Sequential(layers.Sequential(layers.Linear(2, 3)), layers.BatchNorm(3)).name_layers()
    assert next(iter(net.named_parameters())) == "layer0.layer0.weight"
    assert net.layer0.layer0.name == "layer0.layer0"


def test_a_state_is_copied_out_and_in():
    net, other = small(), small()
    net(normal(4, 6, 6, 3))  # running statistics that are not the initial ones
    for i, parameter in enumerate(net.parameters()):
        parameter.data += i + 1
    state = net.state_dict()
    assert state["layer1.running_mean"].dtype == np.float64 and state["layer0.weight"].dtype == np.float32
    other.load_state_dict(state)
    x = normal(2, 6, 6, 3, seed=1)
    np.testing.assert_array_equal(other.eval()(x).data, net.eval()(x).data)
    state["layer0.weight"] += 1  # neither network sees this
    np.testing.assert_array_equal(other.layer0.weight.data, net.layer0.weight.data)


def test_loading_keeps_the_arrays_that_an_optimizer_holds():
    net = small()
    before = net.layer0.weight.data
    net.load_state_dict(small().state_dict())
    assert net.layer0.weight.data is before


@pytest.mark.parametrize("change, message", [
    (lambda state: state.pop("layer1.gamma"), r"missing \['layer1.gamma'\], unexpected nothing"),
    (lambda state: state.update(extra=np.zeros(1)), r"missing nothing, unexpected \['extra'\]"),
    (lambda state: state.update({"layer6.bias": np.zeros(6)}), r"layer6.bias must have shape \(5,\), got \(6,\)"),
    (lambda state: state.update({"layer1.running_var": np.ones((4, 1))}), "layer1.running_var must have shape"),
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


class TestModels:
    def test_parameters_of_model_a(self):
        parameters = models.svhn("A").named_parameters()
        weights = {name: p.data.size for name, p in parameters.items() if name.endswith("weight")}
        assert weights == {"conv0.weight": 3600, "conv1.weight": 27648, "conv2.weight": 36864, "conv3.weight": 73728,
                           "conv4.weight": 147456, "conv5.weight": 147456, "conv6.weight": 1638400, "fc.weight": 5120}
        assert sum(weights.values()) == 2_080_272
        others = {name for name in parameters if not name.endswith("weight")}
        assert others == {"conv0.bias", "fc.bias", *(f"bn{i}.{kind}" for i in range(1, 7) for kind in ("gamma", "beta"))}

    @pytest.mark.parametrize("model, factor", [("A", 1), ("B", 2), ("C", 4), ("D", 8)])
    def test_widths(self, model, factor):
        net = models.svhn(model)
        widths = [net.named_modules()[f"conv{i}"].weight.shape[3] * factor for i in range(7)]
        assert widths == [48, 64, 64, 128, 128, 128, 512]
        assert net.fc.weight.shape == (512 // factor, 10)

    @pytest.mark.parametrize("bits", [(1, 2, 4), (32, 32, 32), (1, 1, 32)])
    def test_logits(self, bits):
        net = models.svhn("D", bits)
        with no_grad():
            assert net(np.zeros((3, 40, 40, 3), np.float32)).shape == (3, 10)
        assert net.clip_last == (bits[1] != 32)

    def test_same_seed_same_weights(self):
        first, same, other = (models.svhn("D", seed=seed).state_dict() for seed in (3, 3, 4))
        np.testing.assert_array_equal(first["conv3.weight"], same["conv3.weight"])
        assert (first["conv3.weight"] != other["conv3.weight"]).mean() > 0.99

    def test_a_configuration_builds_the_network_again(self):
        net = models.svhn("C", "1,3,5", overrides={"conv2": (2, 4, 32)}, seed=9)
        again = models.build(net.config)
        assert again.config == net.config
        np.testing.assert_array_equal(again.conv6.weight.data, net.conv6.weight.data)
        assert again.conv2.weight_quantizer.bits == 2 and again.conv2.grad_quantizer is None
        assert again.act1.quantizer.bits == 4 and again.act2.quantizer.bits == 3

    @pytest.mark.parametrize("options, message", [
        ({"model": "E"}, "one of A, B, C, D, got 'E'"),
        ({"bits": (1, 2)}, "three numbers"),
        ({"bits": (1, 2, 16)}, "each 1 to 8 or 32"),
        ({"bits": "1,2,x"}, "three numbers"),
        ({"overrides": {"conv0": (1, 2, 4)}}, "can be overridden for conv1"),
        ({"overrides": {"conv1": (0, 2, 4)}}, "each 1 to 8 or 32"),
    ])
    def test_what_a_model_refuses(self, options, message):
        with pytest.raises(ValueError, match=message):
            models.svhn(**options)

    @pytest.mark.parametrize("config", [{"name": "resnet"}, {}, {"name": "svhn", "depth": 3}])
    def test_what_a_configuration_must_not_say(self, config):
        with pytest.raises(ValueError, match="the network"):
            models.build(config)

    def test_images_of_another_size_are_refused(self):
        with pytest.raises(ValueError, match=r"shape \(N, 40, 40, 3\), got \(1, 32, 32, 3\)"):
            models.svhn("D")(np.zeros((1, 32, 32, 3), np.float32))
