"""A folder with a tiny SVHN in its published format, and the scripts as modules."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io

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


@pytest.fixture(scope="session")
def train_svhn():
    return load("train_svhn")


@pytest.fixture(scope="session")
def predict():
    return load("predict")
