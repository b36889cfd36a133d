"""Looking inside: what is measured is right, and measuring changes nothing."""

import numpy as np
import pytest
from PIL import Image

from bitnet import layers, methods, models, random
from bitnet.datasets import Digits
from bitnet.quantizers import DoReFaGradient
from bitnet.report.inside import Inside, draw_inside
from bitnet.training import Trainer


def test_looking_changes_no_bit(make):
    states = []
    for callbacks in ([], [Inside(samples=8, draws=2)]):
        trainer = make(callbacks=callbacks)
        trainer.run()
        states.append(trainer.model.state_dict() | {"noise": random.get_state()})
    for name, value in states[0].items():
        np.testing.assert_array_equal(states[1][name], value)


@pytest.fixture
def record(make):
    """A trainer after an epoch that began with weights of its own, and what was measured."""
    trainer = make(epochs=1, callbacks=[Inside(samples=16, draws=4)])
    trainer.run()
    return trainer, trainer.history[0]["inside"]


def test_all_layers_and_activations_are_there(record):
    inner = {f"conv{i}" for i in range(1, 7)}
    assert set(record[1]["weights"]) == set(record[1]["gradients"]) == inner
    assert set(record[1]["activations"]) == {f"conv{i}.act" for i in range(6)}


def test_shares_are_shares(record):
    for part in ("weights", "activations"):
        for entry in record[1][part].values():
            assert sum(entry["codes"]) == pytest.approx(1, abs=1e-3)
    trainer, inside = record
    weight = trainer.model.conv3.conv.weight.data
    assert inside["weights"]["conv3"]["codes"][1] == pytest.approx(np.mean(weight >= 0), abs=1e-4)
    assert inside["weights"]["conv3"]["flipped"] < 0.5
    for entry in inside["activations"].values():
        assert 0 <= entry["saturated"] <= 1 and len(entry["codes"]) == 4


def test_flips_are_counted_between_the_ends_of_epochs(make):
    inside = Inside(samples=8, draws=1)
    trainer = make(epochs=1, callbacks=[inside])
    trainer.run()
    weight = trainer.model.conv2.conv.weight.data
    weight[weight.shape[0] // 2:] *= -1  # two of three rows of taps
    assert inside.measure(trainer)["inside"]["weights"]["conv2"]["flipped"] == pytest.approx(2 / 3, abs=1e-3)
    assert inside.measure(trainer)["inside"]["weights"]["conv2"]["flipped"] == 0


def test_more_bits_make_better_gradients(make):
    found = {}
    for bits in (2, 8):
        trainer = make(epochs=1, bits=(1, 2, bits), callbacks=[Inside(samples=16, draws=6)])
        trainer.run()
        found[bits] = trainer.history[0]["inside"]["gradients"]
    for name in found[2]:
        assert found[8][name]["cosine"] > found[2][name]["cosine"]
        assert found[8][name]["signal_to_noise"] > 10 * found[2][name]["signal_to_noise"]
        assert found[8][name]["bias"] < 0.2
    assert found[8]["conv6"]["cosine"] > 0.98


def test_a_wrong_gradient_quantizer_has_bias(make):
    class Halved(DoReFaGradient):
        def codes(self, values, largest):
            return super().codes(values, largest / 2)

    trainer = make(epochs=1, bits=(1, 2, 8), callbacks=[Inside(samples=16, draws=4)])
    trainer.run()
    trainer.model.conv6.conv.grad_quantizer = Halved(8)
    gradients = trainer.callbacks[0].measure(trainer)["inside"]["gradients"]
    assert gradients["conv6"]["bias"] == pytest.approx(0.5, abs=0.05)
    assert trainer.model.conv6.conv.grad_quantizer.bits == 8  # put back


@pytest.mark.parametrize("name", ["bnn", "gxnor", "ttq", "bitwise", "binaryconnect_stochastic", "float"])
def test_other_methods(name, tmp_path):
    rng = np.random.default_rng(0)
    digits = Digits(rng.integers(0, 256, (40, 28, 28, 1)).astype(np.uint8), (np.arange(40) % 10).astype(np.uint8), "noise")
    mlp = methods.get(name).recipe.network == "mlp"
    model = methods.get(name)().apply(models.build("mlp", width=32) if mlp else layers.Sequential(
        layers.Images(28, 28, 1), layers.Block(1, 4, 5, pool=2), layers.Block(4, 8, 5, pool=2), layers.Block(8, 32, 4),
        layers.Flatten(), layers.Linear(32, 10)))
    trainer = Trainer(model, digits, digits, epochs=2, batch_size=20, callbacks=[Inside(tmp_path, name, 8, 1)],
                      **methods.training_of(model))
    trainer.run()
    inside = trainer.history[-1]["inside"]
    assert inside["gradients"] == {}
    quantized = {"bnn": 4, "gxnor": 4, "ttq": 2, "bitwise": 4, "binaryconnect_stochastic": 4, "float": 0}[name]
    assert len(inside["weights"]) == quantized
    if name in ("gxnor", "ttq"):
        assert all(len(entry["codes"]) == 3 for entry in inside["weights"].values())
    assert Image.open(tmp_path / "inside.png").size[0] > 600


def test_a_picture_of_nothing(tmp_path):
    draw_inside(tmp_path / "inside.png", [], "nothing")
    assert (tmp_path / "inside.png").is_file()


def panels_of(inside, monkeypatch):
    """Titles of the panels that are drawn, and how many of them hold nothing."""
    drawn = []
    monkeypatch.setattr("bitnet.report.inside.write_figure", lambda figure, path: drawn.extend(figure.axes))
    draw_inside("inside.png", [{"epoch": 1, "inside": inside}], "title")
    return [axes.get_title(loc="left") for axes in drawn], sum(not axes.has_data() for axes in drawn)


def test_no_panel_is_empty(monkeypatch):
    weights = {"a": {"flipped": 0.1, "codes": [0.4, 0.6]}}
    activations, gradients = {"a": {"saturated": 0.2, "codes": []}}, {"a": {"cosine": 0.9}}
    for inside, count in (({"weights": weights, "activations": activations, "gradients": gradients}, 4),
                          ({"weights": weights, "activations": {}, "gradients": {}}, 2),
                          ({"weights": {}, "activations": activations, "gradients": gradients}, 2),
                          ({"weights": weights, "activations": activations, "gradients": {}}, 3)):
        titles, empty = panels_of(inside, monkeypatch)
        assert len(titles) == count == len(set(titles)) and empty == 0
