"""What is asked of every converted network: it freezes, is saved and loaded, and gives the same bits wherever it runs."""

from types import SimpleNamespace

import numpy as np

import bitnet
from bitnet import execution, no_grad
from bitnet.kernels.machine import threads
from bitnet.layers import Block, Flatten, Images, Linear, Residual, Sequential

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3)).astype(np.uint8)
DATA = SimpleNamespace(images=IMAGES, targets=np.arange(40) % 5)


def small_net(seed=0):
    """A float network with a stride, groups, a residual, and statistics in its batch norms that a training might leave."""
    rng = np.random.default_rng(seed)
    net = Sequential(
        images=Images(12, 12, 3), first=Block(3, 8, 3, pool=2, rng=rng),
        body=Residual(Block(8, 8, 3, padding=1, groups=2, rng=rng), Block(8, 8, 3, padding="same", rng=rng)),
        last=Block(8, 24, 5, stride=2, padding=2, rng=rng, order="conv pool norm act"),
        flatten=Flatten(), fc=Linear(216, 5, rng=rng))
    for name, array in net.named_buffers().items():
        array[...] = rng.uniform(0.5, 2, array.shape) if name.endswith("var") else rng.normal(size=array.shape)
    for name, parameter in net.named_parameters().items():
        if name.endswith(("gamma", "beta", "bias")):
            parameter.data = rng.normal(size=parameter.shape).astype(np.float32)
    return net.eval()


def check_converted(net, tmp_path, images=IMAGES):
    """Logits, the same bits however they are computed; returns them with the frozen network."""
    net.eval()
    with no_grad():
        expected = net(images).data
        for family in execution.FAMILIES:
            with bitnet.use_kernels(family):
                np.testing.assert_array_equal(net(images).data, expected)
        count = threads.get_threads()
        try:
            threads.set_threads(1 if count > 1 else 2)
            np.testing.assert_array_equal(net(images).data, expected)
        finally:
            threads.set_threads(count)
        frozen = bitnet.freeze(net)
        np.testing.assert_array_equal(frozen(images).data, expected)
        bitnet.save(tmp_path / "net.h5", net)
        bitnet.save(tmp_path / "net.npz", frozen)
        for name in ("net.h5", "net.npz"):
            np.testing.assert_array_equal(bitnet.load(tmp_path / name)(images).data, expected)
    assert repr(bitnet.load(tmp_path / "net.h5").method) == repr(net.method)
    return expected, frozen
