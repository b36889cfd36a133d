"""A handful of coloured digits, a small model, and a trainer of both."""

import numpy as np
import pytest

from bitnet import models
from bitnet.datasets import Augmentation, Digits
from bitnet.optimizers import Adam, StepDecay
from bitnet.training import Trainer


def coloured(count, seed, name):
    """Noise whose colour and brightness give the label away: something to learn in a few steps."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    images = rng.integers(0, 60, (count, 40, 40, 3))
    images += np.stack([20 * labels, 180 - 20 * labels, 90 * (labels % 3)], axis=1)[:, None, None, :]
    return Digits(images.astype(np.uint8), labels, name)


@pytest.fixture(scope="session")
def train():
    return coloured(48, 0, "coloured train")


@pytest.fixture(scope="session")
def test():
    return coloured(30, 1, "coloured test")


@pytest.fixture
def make(train, test, tmp_path):
    """make(epochs=..., ...) -> Trainer of model D with 6 steps an epoch."""

    def make(seed=0, lr=1e-3, digits=train, bits=(1, 2, 4), **options):
        model = models.svhn("D", bits, seed=seed)
        options = {"epochs": 2, "batch_size": 8, "augment": Augmentation(), "checkpoint": tmp_path / "c.h5"} | options
        optimizer = Adam(model.parameters(), lr=lr, eps=1e-5)
        schedule = StepDecay(lr, 0.3, 1 / options["epochs"])
        return Trainer(model, digits, test, seed=seed, optimizer=optimizer, schedule=schedule, **options)

    return make
