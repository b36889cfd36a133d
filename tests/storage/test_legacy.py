"""Files of version 1: a run goes on to the same bits, a frozen network gives the same logits, all names find their place."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import bitnet
from bitnet import models
from bitnet.datasets import Digits
from bitnet.optimizers import Adam, StepDecay
from bitnet.storage import CheckpointError, legacy, load_checkpoint
from bitnet.training import Trainer

BEFORE = Path(__file__).parent / "before"
STATE = "691ec8c51f9ec4192c20451ad952db08284e01e51938646da182e13ba8a75078"
LOGITS = "163e4cd2f07866202770647717be4a1c0099329ead952a4d28a34a56afa65038"
LOSSES = [2.576213836669922, 2.4928902626037597, 2.440237808227539]


def rows(seed, count):
    """Noise in which the place of a bright stripe is the label."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    images = rng.integers(0, 60, (count, 40, 40, 3))
    for image, label in zip(images, labels, strict=True):
        image[3 * label + 4:3 * label + 10] += 150
    return Digits(images.astype(np.uint8), labels, "rows")


def digest(arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def test_a_run_goes_on_to_the_same_bits():
    model = models.svhn("D", (1, 2, 4), seed=1)
    optimizer = Adam(model.parameters(), lr=1e-3, eps=1e-5)
    trainer = Trainer(model, rows(0, 160), rows(1, 40), epochs=3, batch_size=32, seed=5, optimizer=optimizer,
                      schedule=StepDecay(1e-3, 0.3, 1 / 3), config={"bits": [1, 2, 4]})
    trainer.resume(load_checkpoint(BEFORE / "run.h5"))
    assert trainer.where == "step 3 of epoch 2"
    trainer.run()
    # float products and exp were BLAS' and NumPy's then, whose last bits depend on the machine
    assert [record["train_loss"] for record in trainer.history] == pytest.approx(LOSSES, rel=1e-6)
    assert digest(model.state_dict().values()) == STATE


def test_a_frozen_network_gives_the_same_logits():
    assert digest([bitnet.load(BEFORE / "frozen.npz")(rows(1, 40).images).data]) == LOGITS


@pytest.mark.parametrize("what, ended", [("os.kill(os.getpid(), 11)", "crash"), ("import time; time.sleep(60)", "hang")])
def test_a_file_on_which_hdf5_crashes_or_hangs(monkeypatch, what, ended):
    monkeypatch.setattr(legacy, "_WALK", f"import os; {what}")
    monkeypatch.setattr(legacy, "PATIENCE", 1)
    with pytest.raises(CheckpointError, match="damaged: HDF5 cannot read it"):
        load_checkpoint(BEFORE / "run.h5")


CONFIG = {"name": "method", "data": "mnist", "network": "lenet", "model": "A", "seed": 3}


@pytest.mark.parametrize("config, there", [
    ({"name": "svhn", "model": "D", "bits": [1, 2, 4], "overrides": {"conv2": [2, 2, 4]}, "seed": 3}, {
        "conv2.weight": "conv2.conv.weight", "bn2.running_var": "conv2.norm.running_var", "fc.bias": "fc.bias"}),
    (CONFIG | {"method": "ttq", "bits": [2, 32, 32]}, {"block1.conv.weight_scales": "block1.conv.weight_quantizer.scales"}),
    (CONFIG | {"method": "xnor", "bits": [1, 1, 32]}, {"last_bn.gamma": "last_bn.gamma", "fc.bias": "fc.bias"}),
    (CONFIG | {"method": "bnn", "bits": [1, 1, 32], "network": "mlp"}, {"bn.gamma": "bn.gamma"}),
    (CONFIG | {"method": "bnn_shift", "bits": [1, 1, 32], "network": "mlp"}, {"bn.running_rstd": "bn.running_rstd"}),
    (CONFIG | {"method": "twn", "bits": [2, 32, 32], "data": "svhn", "network": "svhn", "model": "D"}, {
        "block6.conv.weight": "block6.conv.weight"}),
    ({"name": "bitwise", "width": 32, "zeros": 0.0, "seed": 3}, {"fc3.bits": "fc3.bits"}),
])
def test_old_names_find_their_place(config, there):
    tree, names = legacy.described(config, [f"model/{name}" for name in there] + ["optimizer/mean.3"], "x.h5")
    state = bitnet.description.rebuild(tree).state_dict()
    for old, new in there.items():
        assert names[f"model/{old}"] == f"model/{new}" and new in state
    assert names["optimizer/mean.3"] == "optimizer/mean.3"


def test_a_lenet_of_twn_as_it_was():
    tree, _ = legacy.described(CONFIG | {"method": "twn", "bits": [2, 32, 32]}, ["model/block0.conv.weight"], "x.h5")
    net = bitnet.description.rebuild(tree)
    assert net.fc.bias is None and net.block0.order == "conv pool norm act"


@pytest.mark.parametrize("config", [{}, {"name": "resnet"}, {"name": "svhn", "depth": 3},
                                    CONFIG | {"method": "tnw", "bits": None}])
def test_what_was_never_a_configuration(config):
    with pytest.raises(CheckpointError, match="no model is known for its configuration"):
        legacy.described(config, [], "x.h5")
