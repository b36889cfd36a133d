"""The program that a user should be able to write: a tree of one's own, rewritten, trained, saved, loaded elsewhere, frozen."""

import os
import subprocess
import sys

import numpy as np
import pytest

import bitnet as bn


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """data/mnist in the working folder: noise whose brightest rows tell the label."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for split, count, seed in (("train", 300, 0), ("t10k", 100, 1)):
        labels = np.arange(count) % 10
        images = np.random.default_rng(seed).integers(0, 60, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4:2 * label + 8] += 180
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = np.array([0x0800 + array.ndim, *array.shape], ">i4").tobytes()
            (folder / f"{split}-{kind}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())
    monkeypatch.chdir(tmp_path)
    return folder


LOAD = """
import sys
import numpy as np
import bitnet as bn
train, test = bn.datasets.load("mnist", "data/mnist")
net = bn.load("mine.h5")
frozen = bn.freeze(net)
with bn.no_grad():
    np.testing.assert_array_equal(frozen(test.images).data, net(test.images).data)
found = {name: codes.values for name, codes in frozen.codes(test.images[:20]).items()}
assert found, "no integer stage"
y = test.images[:20]
with bn.no_grad(), bn.layers.unfused():
    for name, module in net.layers.items():
        y = module(y)
        if name in found and y.codes is not None:
            np.testing.assert_array_equal(found[name].reshape(y.shape), y.codes.values)
print(repr(bn.evaluate(frozen, test).accuracy), net.method, sorted(found))
"""


def elsewhere():
    """What a fresh process prints that loads and freezes the network."""
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_of_the_readme(mnist, capsys):
    train, test = bn.datasets.load("mnist", "data/mnist")
    net = bn.Sequential(
        bn.layers.Block(1, 32, 5, pool=2),
        bn.Residual(bn.layers.Block(32, 32, 3, padding="same"), bn.layers.Block(32, 32, 3, padding="same")),
        bn.layers.Flatten(), bn.layers.Linear(32 * 12 * 12, 10))
    net = bn.methods.DoReFa(1, 2, 4).apply(net)          # float until here; first and last layer stay float
    print(net.summary(train.shape))                      # shapes, bits, bytes, kernels
    bn.Trainer(net, train, test, epochs=5).run()
    bn.save("mine.h5", net)
    frozen = bn.freeze(bn.load("mine.h5"))
    accuracy = bn.evaluate(frozen, test).accuracy
    assert accuracy > 0.5
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in table[1:5]] == ["32,32,32", "1,2,4", "1,2,4", "32,32,32"]
    assert [line.split()[-1] for line in table[1:5]] == ["float32", "integers", "integers", "float32"]
    assert elsewhere().startswith(f"{accuracy!r} DoReFa(1, 2, 4)")


def test_a_program_with_a_depthwise_convolution_a_residual_and_a_list(mnist):
    class Steps(bn.Module):
        """Blocks one after the other, in a list."""

        def __init__(self, steps):
            self.steps = list(steps)

        def forward(self, x):
            for step in self.steps:
                x = step(x)
            return x

        def flow(self, signal, visit):
            for step in self.steps:
                signal = step.trace(signal, visit)
            return signal

    train, test = bn.datasets.load("mnist", "data/mnist")
    net = bn.Sequential(
        bn.layers.Block(1, 16, 5, pool=2),
        Steps([bn.layers.Block(16, 16, 3, padding=1, groups=16), bn.layers.Block(16, 24, 1)]),
        bn.Residual(bn.layers.Block(24, 24, 3, padding="same")), bn.layers.AvgPool(2), bn.layers.Flatten(),
        bn.layers.Linear(24 * 36, 10))
    net = bn.methods.DoReFa(1, 2, 4).apply(net)
    before = {name: parameter.data.copy() for name, parameter in net.named_parameters().items()}
    trainer = bn.Trainer(net, train, test, epochs=2)
    trainer.run()
    assert all((parameter.data != before[name]).any() for name, parameter in net.named_parameters().items())
    with bn.no_grad():
        expected = net.eval()(test.images).data
    bn.save("mine.h5", net)
    np.testing.assert_array_equal(bn.load("mine.h5")(test.images).data, expected)

    @bn.deploy.reads(Steps)
    def _(module, name, out):
        for i, step in enumerate(module.steps):
            out.read(step, f"{name}.steps.{i}")

    try:
        np.testing.assert_array_equal(bn.freeze(bn.load("mine.h5"))(test.images).data, expected)
    finally:
        del bn.deploy.freezing.READERS[Steps]
