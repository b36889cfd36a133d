"""The networks: what they consist of, how they are found, described and summed up."""

import json

import numpy as np
import pytest

from bitnet import (
    Module,
    Residual,
    Sequential,
    execution,
    functional,
    layers,
    load,
    methods,
    models,
    networks,
    no_grad,
    save,
)
from bitnet.description import describe, differing, rebuild
from bitnet.module import Signal, without_values
from bitnet.optimizers import Adam


def test_parameters_of_model_a():
    parameters = models.svhn("A").named_parameters()
    weights = {name: p.data.size for name, p in parameters.items() if name.endswith("weight")}
    assert weights == {"conv0.conv.weight": 3600, "conv1.conv.weight": 27648, "conv2.conv.weight": 36864,
                       "conv3.conv.weight": 73728, "conv4.conv.weight": 147456, "conv5.conv.weight": 147456,
                       "conv6.conv.weight": 1638400, "fc.weight": 5120}
    assert sum(weights.values()) == 2_080_272
    others = {name for name in parameters if not name.endswith("weight")}
    norms = {f"conv{i}.norm.{kind}" for i in range(1, 7) for kind in ("gamma", "beta")}
    assert others == norms | {"conv0.conv.bias", "fc.bias"}


@pytest.mark.parametrize("model, factor", [("A", 1), ("B", 2), ("C", 4), ("D", 8)])
def test_widths(model, factor):
    net = models.svhn(model)
    assert [net[f"conv{i}"].conv.weight.shape[3] * factor for i in range(7)] == [48, 64, 64, 128, 128, 128, 512]
    assert net.fc.weight.shape == (512 // factor, 10)


@pytest.mark.parametrize("bits", [(1, 2, 4), (32, 32, 32), (1, 1, 32)])
def test_logits(bits):
    net = models.svhn("D", bits)
    with no_grad():
        assert net(np.zeros((3, 40, 40, 3), np.float32)).shape == (3, 10)
    assert isinstance(net.conv6.act, layers.Clip) == (bits[1] != 32)


def test_same_seed_same_weights():
    first, same, other = (models.svhn("D", seed=seed).state_dict() for seed in (3, 3, 4))
    np.testing.assert_array_equal(first["conv3.conv.weight"], same["conv3.conv.weight"])
    assert (first["conv3.conv.weight"] != other["conv3.conv.weight"]).mean() > 0.99


def test_inner_blocks_of_the_network_are_fused():
    net = models.svhn("D")
    assert [net[f"conv{i}"].fused for i in range(7)] == ["first", *["codes"] * 5, ""]
    assert not any(net[f"conv{i}"].fused for i in range(7) if (net := models.svhn("D", (32, 32, 32))))


def test_other_bits_for_single_layers():
    net = models.svhn("C", "1,3,5", overrides={"conv2": (2, 4, 32)}, seed=9)
    assert net.conv2.conv.weight_quantizer.bits == 2 and net.conv2.conv.grad_quantizer is None
    assert net.conv1.act.quantizer.bits == 4 and net.conv2.act.quantizer.bits == 3


@pytest.mark.parametrize("options, message", [
    ({"model": "E"}, "one of A, B, C, D, got 'E'"),
    ({"bits": (1, 2)}, "three numbers"),
    ({"bits": (1, 2, 16)}, "each 1 to 8 or 32"),
    ({"bits": "1,2,x"}, "three numbers"),
    ({"overrides": {"conv0": (1, 2, 4)}}, "can be overridden for conv1"),
    ({"overrides": {"conv1": (0, 2, 4)}}, "each 1 to 8 or 32"),
])
def test_what_a_model_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        models.svhn(**options)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"shape \(N, 40, 40, 3\), got \(1, 32, 32, 3\)"):
        models.svhn("D")(np.zeros((1, 32, 32, 3), np.float32))


@pytest.mark.parametrize("name, options", [("resnet", {}), ("svhn", {"depth": 3})])
def test_networks_by_name(name, options):
    assert {"svhn", "lenet", "mlp"} <= set(models.names())
    with pytest.raises(ValueError, match="the network"):
        models.build(name, **options)


def test_a_new_network_is_one_file():
    source = '''
from bitnet.layers import Block, Flatten, Images, Linear, Sequential
from bitnet.networks import network


@network("tiny")
def tiny(classes=4):
    """Two blocks and a layer."""
    return Sequential(images=Images(12, 12, 3), a=Block(3, 8, 3, pool=2), b=Block(8, 8, 3), flatten=Flatten(),
                      fc=Linear(72, classes))
'''
    try:
        exec(source, {"__name__": "tiny"})
        net = methods.DoReFa(1, 2, 4).apply(models.build("tiny", classes=3))
        assert net(np.zeros((2, 12, 12, 3), np.uint8)).shape == (2, 3) and net.b.conv.weight_quantizer.bits == 1
    finally:
        networks.NETWORKS.pop("tiny", None)


# ImageNet's networks; tests/storage/test_tensorpack.py compares them with their authors' arithmetic

@pytest.mark.parametrize("name, shapes, weights, macs", [
    ("alexnet", {"conv0": (54, 54, 96), "conv1": (27, 27, 256), "conv2": (14, 14, 384), "conv3": (14, 14, 384),
                 "conv4": (6, 6, 256), "fc0": (1, 1, 4096), "fc1": (1, 1, 4096), "fct": (1000,)}, 60.9e6, 1.94e9),
    ("resnet18", {"conv1": (112, 112, 64), "conv2blk2.c3x3b": (56, 56, 64), "conv3blk1.stem.shortcut": (28, 28, 128),
                  "conv4blk2.c3x3b": (14, 14, 256), "conv5blk2.c3x3b": (7, 7, 512), "fct": (1000,)}, 11.7e6, 1.83e9),
])
def test_networks_of_imagenet(name, shapes, weights, macs):
    with without_values():
        net = methods.DoReFa(1, 2, 6).apply(models.build(name)).name_layers()
    found, work = {}, []

    def visit(module, before, after):
        found[module.name] = after.shape
        work.append(module.work(before, after))

    net.trace(Signal((224, 224, 3)), visit)
    assert {layer: found[layer] for layer in shapes} == shapes
    assert sum(one.data.size for one in net.parameters()) == pytest.approx(weights, rel=2e-3)
    assert sum(one[1] for one in work if one) == pytest.approx(macs, rel=2e-3)
    on_codes = [one for one in work if one and one[2].startswith("integers")]
    assert len(on_codes) == len([one for one in work if one]) - 2  # all but the first layer and the last


def test_what_imagenets_networks_keep():
    net = methods.DoReFa(1, 2, 6).apply(models.build("alexnet", classes=3, size=64))
    assert {name for name, one in net.named_parameters().items() if one.weight_decay} == {
        "fc0.conv.weight", "fc1.conv.weight", "fct.weight"}
    assert net.fc0.conv.bias is not None and net.fc1.conv.bias is None and net.conv0.norm is None
    assert methods.TTQ().apply(models.build("alexnet", classes=3, size=64)).conv0.norm is None


@pytest.mark.parametrize("name, size", [("alexnet", 43), ("resnet18", 29)])
def test_images_too_small_for_a_network(name, size):
    with without_values():
        models.build(name, size=size + 1)
        with pytest.raises(ValueError, match=f"{size + 1} x {size + 1} pixels and more, got {size} x {size}"):
            models.build(name, size=size)


def test_a_resnet_trains(tmp_path):
    net = methods.DoReFa(1, 4, 32).apply(models.build("resnet18", classes=4, size=32))
    rng = np.random.default_rng(0)
    labels = np.arange(16) % 4
    images = (rng.integers(0, 90, (16, 32, 32, 3)) + 40 * labels[:, None, None, None]).astype(np.uint8)
    optimizer, losses = Adam(net.parameters(), 2e-3), []
    for _ in range(4):
        optimizer.zero_grad()
        with execution.log() as records:
            loss = functional.softmax_cross_entropy(net(images), labels)
            loss.backward()
        optimizer.step()
        losses.append(float(loss.data))
    assert losses[-1] < losses[0] / 2
    forward = [record for record in records if record.role == "forward"]
    assert len(forward) == 22 and [record.layer for record in forward if record.family == "float32"] == ["conv1", "fct"]
    save(tmp_path / "net.h5", net)
    with no_grad():
        np.testing.assert_array_equal(load(tmp_path / "net.h5")(images).data, net.eval()(images).data)


# Descriptions

class Scaled(Module):
    """A module of one's own that keeps its argument."""

    def __init__(self, factor, inner):
        self.factor, self.inner = factor, inner

    def forward(self, x):
        return self.inner(x) * self.factor


class Forgetful(Module):
    """One that does not."""

    def __init__(self, factor):
        self.scale = factor


TREES = {name: (lambda name=name: methods.build(name)) for name in methods.names()} | {
    "svhn": lambda: models.svhn("D"), "overrides": lambda: models.svhn("D", overrides={"conv2": (2, 4, 32)}),
    "own": lambda: Sequential(layers.Block(3, 4, 3),
                              Residual(layers.Block(4, 4, 3, padding="same"), shortcut=layers.Conv2d(4, 4, 1)),
                              Scaled(0.5, layers.AvgPool(2)), layers.Reshape((36,)), layers.Linear(36, 2)),
}


@pytest.mark.parametrize("name", TREES)
def test_a_description_makes_the_tree_again(name):
    net = TREES[name]()
    text = json.dumps(describe(net))
    again = rebuild(json.loads(text))
    assert repr(again) == repr(net) and json.dumps(describe(again)) == text
    assert not differing(json.loads(text), describe(again))
    own = [(p.shape, p.weight_decay, p.lr_factor, type(p.constraint)) for p in net.parameters()]
    assert own == [(p.shape, p.weight_decay, p.lr_factor, type(p.constraint)) for p in again.parameters()]
    again.load_state_dict(net.state_dict())
    assert repr(getattr(again, "method", None)) == repr(getattr(net, "method", None))


def test_descriptions_tell_where_they_differ():
    one, other = describe(models.svhn("D")), describe(models.svhn("D", (1, 3, 4)))
    assert "bits" in differing(one, other) or "conv0" in differing(one, other)
    soft, hard = methods.build("staircase"), methods.build("staircase")
    for module in hard.modules():
        module.advance(0.7)  # what changes in the course of a run is no difference
    assert differing(describe(soft), describe(hard)) == ""


@pytest.mark.parametrize("description, message", [
    ({"kind": "Path", "options": {}}, "there is no 'Path' among the modules"),
    ({"kind": "Linear", "options": {"in_features": 3}}, "Linear cannot be made with"),
    ({"kind": "Linear", "options": {"in_features": "x", "out_features": {}}}, "cannot be made|expected a description"),
    ({"kind": ["Linear"], "options": {}}, "there is no"),
    ({"name": "svhn"}, "expected a description with kind and options"),
    (json.loads("[" * 60 + "]" * 60), "nested at most 50 deep"),
])
def test_what_is_no_description(description, message):
    with pytest.raises(ValueError, match=message):
        rebuild(description)


def test_what_cannot_be_described():
    with pytest.raises(ValueError, match="Forgetful cannot be saved: expected its argument 'factor' as an attribute"):
        describe(Forgetful(2))
    with pytest.raises(ValueError, match="a Lambda cannot be saved"):
        describe(Sequential(layers.Lambda(lambda x: x)))
    assert "Forgetful" in repr(Forgetful(2))


def test_pixels_reach_the_first_layer_as_codes():
    net, pixels = methods.build("bnn"), np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1)).astype(np.uint8)
    with no_grad(), execution.log() as records:
        found = net.eval()(pixels).data
        expected = net(pixels / np.float32(256)).data
    np.testing.assert_array_equal(found, expected)
    assert records[0].bits == (8, 1) and records[0].family != "float32"
