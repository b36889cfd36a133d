"""A folder with a tiny SVHN in its published format, and the scripts as modules."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from bitnet import layers, models, networks

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def svhn(tmp_path_factory):
    """64 training and 40 test digits: noise whose colour gives the label away."""
    folder = tmp_path_factory.mktemp("svhn")
    for split, count, seed in (("train", 64, 0), ("test", 40, 1)):
        rng = np.random.default_rng(seed)
        labels = np.arange(count) % 10
        images = rng.integers(0, 60, (32, 32, 3, count))
        images += np.stack([20 * labels, 180 - 20 * labels, 90 * (labels % 3)])[None, None]
        labels[labels == 0] = 10
        scipy.io.savemat(folder / f"{split}_32x32.mat", {"X": images.astype(np.uint8), "y": labels[:, None]})
    return folder


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def in_process(capsys):
    """in_process(main, *args) -> (exit code, stdout, stderr)."""

    def in_process(main, *args):
        try:
            code = main(list(args))
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return in_process


@pytest.fixture
def small_networks(monkeypatch):
    """The networks of the methods for MNIST, narrow."""
    def lenet(order="conv pool norm act", seed=0):
        rng = np.random.default_rng(seed)
        return layers.Sequential(
            images=layers.Images(28, 28, 1), block0=layers.Block(1, 8, 5, pool=2, order=order, rng=rng),
            block1=layers.Block(8, 16, 5, pool=2, order=order, rng=rng), block2=layers.Block(16, 64, 4, order=order, rng=rng),
            fc=layers.Conv2d(64, 10, 1, bias=True, rng=rng), flatten=layers.Flatten())

    monkeypatch.setitem(networks.NETWORKS, "mlp", lambda width=0, seed=0: models.mlp(width=64, seed=seed))
    monkeypatch.setitem(networks.NETWORKS, "lenet", lenet)


@pytest.fixture(scope="session")
def train_svhn():
    return load("train_svhn")


@pytest.fixture(scope="session")
def train_mnist(train_svhn):
    return load("train_mnist")


@pytest.fixture(scope="session")
def train_segmentation(train_svhn):
    return load("train_segmentation")


@pytest.fixture(scope="session")
def train_imagenet(train_svhn):
    return load("train_imagenet")


@pytest.fixture(scope="session")
def compare_methods(train_svhn):
    return load("compare_methods")


@pytest.fixture(scope="session")
def mnist(tmp_path_factory):
    """200 training and 100 test digits of 28 x 28 in MNIST's format: noise whose brightest rows tell the label."""
    folder = tmp_path_factory.mktemp("mnist")
    for split, count, seed in (("train", 200, 0), ("t10k", 100, 1)):
        labels = np.arange(count) % 10
        images = np.random.default_rng(seed).integers(0, 60, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4:2 * label + 8] += 180
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = [0x0800 + array.ndim, *array.shape]
            content = np.array(head, ">i4").tobytes() + array.astype(np.uint8).tobytes()
            (folder / f"{split}-{kind}-ubyte").write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def predict():
    return load("predict")
