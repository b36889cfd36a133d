"""Frozen networks: the same codes and logits as the networks they were made from, from a file, on any number of threads."""

import json

import numpy as np
import pytest

import bitnet
from bitnet import layers, models
from bitnet.checkpoint import CheckpointError
from bitnet.codes import Codes
from bitnet.frozen import _thresholds, freeze, size_report
from bitnet.kernels.machine import threads
from bitnet.kernels.products.packing import pack_channels


def trained(model, bits, overrides=None):
    """A network whose batch norms have slopes of both signs, one of them 0."""
    net, rng = models.svhn(model, bits, overrides, seed=1), np.random.default_rng(0)
    for name, buffer in net.named_buffers().items():
        buffer[...] = rng.normal(0, 0.3, buffer.shape) if name.endswith("mean") else rng.uniform(0.2, 2, buffer.shape)
    for name, parameter in net.named_parameters().items():
        if name.endswith("gamma"):
            parameter.data[...] = rng.normal(0.4, 0.6, parameter.shape)
            parameter.data[0] = 0
        elif name.endswith("beta"):
            parameter.data[...] = rng.normal(0.3, 0.3, parameter.shape)
    return net.eval()


def images(count=21):
    return np.random.default_rng(2).random((count, 40, 40, 3), dtype=np.float32)


def codes_of(net, x):
    """Codes that each inner layer of the unfrozen network receives."""
    seen, unfrozen = [], [getattr(net, name) for name in models.INNER_LAYERS]
    for layer in unfrozen:
        def forward(x, layer=layer):
            seen.append(x.codes)
            return layers.Conv2d.forward(layer, x)

        layer.__dict__["forward"] = forward
    try:
        with bitnet.no_grad(), layers.unfused():
            net(x)
    finally:
        for layer in unfrozen:
            del layer.__dict__["forward"]
    return seen


CASES = [("D", (1, 2, 4), None), ("D", (1, 1, 4), None), ("C", (2, 3, 8), None), ("D", (8, 4, 4), None),
         ("D", (1, 2, 4), {"conv3": (3, 1, 4), "conv6": (2, 5, 4)})]


@pytest.mark.parametrize(("model", "bits", "overrides"), CASES)
def test_every_code_and_every_logit_is_the_unfrozen_networks(model, bits, overrides):
    net, x = trained(model, bits, overrides), images()
    network = freeze(net)
    packed = network.codes(x)
    for codes, words, layer in zip(codes_of(net, x), packed, network.inner, strict=True):
        np.testing.assert_array_equal(words, pack_channels(Codes(codes.values, codes.bits, "unsigned"), 1, layer.conv.padding))
    with bitnet.no_grad():
        np.testing.assert_array_equal(network(x).data, net(x).data)


def test_a_file_gives_the_same_network_and_numpy_reads_it(tmp_path):
    net, x, path = trained("D", (2, 2, 4)), images(5), tmp_path / "net.npz"
    bitnet.save(path, freeze(net))
    np.testing.assert_array_equal(bitnet.load(path)(x).data, freeze(net)(x).data)
    with np.load(path, allow_pickle=False) as file:
        layer = json.loads(str(file["network"]))["layers"][2]
        bits = np.unpackbits(file[f"{layer['name']}.planes"], axis=1, count=int(np.prod(layer["shape"])), bitorder="little")
    values = bits[0] + 2 * bits[1]
    codes = net.conv3.weight_quantizer.encode(net.conv3.weight.data)
    np.testing.assert_array_equal(values.reshape(layer["shape"]), codes.values)
    assert "times smaller" in size_report(freeze(net), path)


def test_threads_do_not_change_a_bit():
    network, x, before = freeze(trained("D", (1, 2, 4))), images(40), threads.get_threads()
    try:
        results = []
        for count in (1, 3):
            threads.set_threads(count)
            results.append(network(x).data)
    finally:
        threads.set_threads(before)
    np.testing.assert_array_equal(*results)


def test_thresholds_are_where_the_float_staircase_steps():
    rng = np.random.default_rng(3)
    scale, shift = rng.normal(0, 1, 50), rng.normal(0.3, 0.5, 50)
    scale[:2] = 0
    sign, thresholds = _thresholds(0.01, scale, shift, 3, 400)
    accum = np.arange(-400, 401)[:, None]
    z = (accum * 0.01).astype(np.float32) * scale.astype(np.float32) + shift.astype(np.float32)
    expected = np.rint(np.float32(7) * np.clip(z, np.float32(0), np.float32(1)))
    np.testing.assert_array_equal(((accum * sign)[:, None, :] >= thresholds).sum(axis=1), expected)


def test_what_cannot_be_frozen_is_refused():
    with pytest.raises(ValueError, match="1 to 8 bits, conv1 has 1 and 32"):
        freeze(models.svhn("D", (1, 32, 32)))
    with pytest.raises(ValueError, match="takes a network of"):
        freeze(layers.Flatten())


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "net.npz"
    freeze(trained("D", (1, 1, 4))).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    with pytest.raises(CheckpointError):
        bitnet.load(path)
    np.savez(path, other=np.arange(3))
    with pytest.raises(CheckpointError, match="expected a frozen network"):
        bitnet.load(path)
