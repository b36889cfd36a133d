"""The loop learns, repeats itself bit for bit from any step, and stops where numbers stop making sense."""

import math
import os
import signal

import numpy as np
import pytest

from bitnet import models, random, save
from bitnet.datasets import Digits
from bitnet.kernels.pointwise.finite import all_finite
from bitnet.storage import CheckpointError, load_checkpoint
from bitnet.tensor import Tensor
from bitnet.training import Callback, Evaluation, NonFiniteError, StopRequest, evaluate, fingerprint

TIMES = ("seconds", "step_seconds")


def results(path):
    """Everything in a checkpoint that must not depend on interruptions; what was measured in time is left out."""
    checkpoint = load_checkpoint(path)
    arrays = {name: np.asarray(value).tobytes() for name, value in (checkpoint.model | checkpoint.optimizer).items()}
    more = {name: value for name, value in checkpoint.more.items() if name not in TIMES}
    more["history"] = [
        {name: value for name, value in record.items() if name not in ("seconds", "images_per_second")}
        for record in more["history"]
    ]
    return arrays, more


class StopAfter(Callback):
    """Asks to stop after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def on_step(self, trainer):
        self.left -= 1

    def __call__(self):
        return self.left <= 0


def test_it_learns(make):
    trainer = make(seed=1, epochs=30, lr=3e-3, augment=None)
    trainer.schedule = None
    assert trainer.run()
    first, last = trainer.history[0], trainer.history[-1]
    assert last["train_loss"] < 0.8 * first["train_loss"]
    assert last["train_accuracy"] > first["train_accuracy"] + 0.15


def test_the_history_is_complete(make, test):
    trainer = make(epochs=3, lr=1e-2)
    trainer.run()
    assert [record["epoch"] for record in trainer.history] == [1, 2, 3]
    assert [record["lr"] for record in trainer.history] == pytest.approx([1e-2, 3e-3, 9e-4])
    for record in trainer.history:
        assert all(math.isfinite(value) for value in record.values())
        assert 0 <= record["test_accuracy"] <= 1 and record["images_per_second"] > 0
    seconds = [record["seconds"] for record in trainer.history]
    assert seconds == sorted(seconds)
    assert trainer.history[-1]["test_accuracy"] == evaluate(trainer.model, test).accuracy


@pytest.mark.parametrize("steps", [1, 5, 6, 7, 11])
def test_a_stop_at_any_step_changes_no_bit(make, tmp_path, steps):
    make(checkpoint=tmp_path / "whole.h5").run()
    stop = StopAfter(steps)
    assert not make(callbacks=[stop]).run(stop)
    random.seed(99)  # what a new process would not know
    resumed = make()
    resumed.resume()
    assert (resumed.epoch, resumed.step) == divmod(steps, 6) or (resumed.epoch, resumed.step) == (steps // 6 - 1, 6)
    assert resumed.run()
    assert results(tmp_path / "c.h5") == results(tmp_path / "whole.h5")


def test_a_stop_during_the_evaluation_changes_no_bit(make, tmp_path):
    make(checkpoint=tmp_path / "whole.h5").run()
    trainer = make()
    assert not trainer.run(lambda: trainer.step == 6 and trainer.loss_sum > 0)
    resumed = make()
    resumed.resume()
    assert resumed.step == 6 and resumed.run()
    assert results(tmp_path / "c.h5") == results(tmp_path / "whole.h5")


def test_more_epochs_go_on_from_a_finished_run(make, tmp_path):
    make(epochs=3, checkpoint=tmp_path / "whole.h5").run()
    make(epochs=1).run()
    resumed = make(epochs=3)
    resumed.resume()
    assert resumed.run()
    assert results(tmp_path / "c.h5") == results(tmp_path / "whole.h5")


def test_saving_inside_an_epoch(make):
    steps = []

    class Watch(Callback):
        def on_step(self, trainer):
            if trainer.checkpoint.exists():
                steps.append(load_checkpoint(trainer.checkpoint).more["step"])

    make(epochs=1, save_every=2, callbacks=[Watch()]).run()
    assert steps == [2, 2, 4, 4]


def test_callbacks_hear_of_the_end_even_by_an_error(make):
    ends = []

    class Watch(Callback):
        def on_end(self, trainer):
            ends.append(trainer.step)

    make(epochs=1, callbacks=[Watch()]).run()
    make(epochs=1, callbacks=[Watch()]).run(stop=lambda: len(ends) == 1)
    with pytest.raises(ZeroDivisionError):
        make(epochs=1, callbacks=[Watch()]).run(stop=lambda: 1 / 0)
    assert ends == [0, 1, 1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seed": 1}, "made with seed 0, which contradicts seed 1"),
        ({"batch_size": 16}, "made with batch size 8, which contradicts batch size 16"),
        ({"bits": (1, 1, 4)}, "expected a checkpoint of"),
        ({"config": {"lr": 0.5}}, "made with lr 0.1, which contradicts lr 0.5"),
    ],
)
def test_contradictions_are_refused(make, options, sentence):
    make(epochs=1, config={"lr": 0.1}).save()
    with pytest.raises(CheckpointError, match=sentence):
        make(**{"config": {"lr": 0.1}} | options).resume()


def test_other_data_are_refused(make, train):
    make(epochs=1).save()
    images = train.images.copy()
    images[0, 0, 0, 0] ^= 1
    other = Digits(images, train.labels, train.name)
    with pytest.raises(CheckpointError, match=r"training data 'coloured train' \(48 images, fingerprint"):
        make(digits=other).resume()
    assert fingerprint(other) != fingerprint(train) == fingerprint(Digits(train.images, train.labels, train.name))


def test_fewer_epochs_than_trained_are_refused(make):
    make(epochs=2).run()
    with pytest.raises(CheckpointError, match="expected at most 1 trained epochs, found 2"):
        make(epochs=1).resume()


def test_a_model_without_its_run_is_refused(make, tmp_path):
    save(tmp_path / "c.h5", models.svhn("D", (1, 2, 4), seed=0))
    with pytest.raises(CheckpointError, match="expected the checkpoint of a run, found a saved model"):
        make().resume()


class Poison(Callback):
    """After ``step`` steps, puts ``value`` into a parameter."""

    def __init__(self, name, value, step=3):
        self.name, self.value, self.step = name, value, step

    def on_step(self, trainer):
        if trainer.step == self.step:
            trainer.model.named_parameters()[self.name].data[...] = self.value


class TestNonFinite:
    def test_a_loss_that_is_not_finite_names_step_and_layer(self, make, tmp_path):
        trainer = make(callbacks=[Poison("fc.weight", np.nan)], save_every=2)
        with pytest.raises(NonFiniteError, match="in step 4 of epoch 1 with a loss of nan; it began in layer fc: its weight"):
            trainer.run()
        checkpoint = load_checkpoint(tmp_path / "c.h5")
        assert checkpoint.more["step"] == 2
        assert all(all_finite(value) for value in checkpoint.model.values())

    def test_a_layer_that_overflows_is_named(self, make):
        trainer = make(callbacks=[Poison("fc.weight", 3e38)])
        with pytest.raises(NonFiniteError, match=r"loss of (nan|inf); it began in layer fc: its output is not"):
            trainer.run()
        assert all("forward" not in vars(module) for module in trainer.model.named_modules().values())

    def test_an_overflow_that_a_quantizer_hides_from_the_loss_is_noticed(self, make):
        trainer = make(callbacks=[Poison("conv2.conv.weight", 3e38)])
        with pytest.raises(NonFiniteError, match=r"in step 4 .* loss of \d.*; it began in layer conv2.(conv|norm): its output"):
            trainer.run()

    def test_a_parameter_that_is_not_finite_is_noticed_at_once(self, make):
        with pytest.raises(NonFiniteError, match=r"of step 4 of epoch 1; it began in layer conv0.conv: its weight is not"):
            make(callbacks=[Poison("conv0.conv.weight", np.nan)]).run()

    def test_a_gradient_that_is_not_finite_stops_before_the_update(self, make, monkeypatch):
        trainer = make()
        step, seen = trainer.optimizer.step, []
        trainer.optimizer.step = lambda: (step(), seen.append(1))
        backward = Tensor.backward

        def poisoned(tensor):
            backward(tensor)
            if len(seen) == 2:
                trainer.model.conv3.conv.weight.grad[0, 0, 0, 0] = np.inf

        monkeypatch.setattr(Tensor, "backward", poisoned)
        with pytest.raises(NonFiniteError, match=r"step 3 of epoch 1; it began in layer conv3.conv: the gradient of its"):
            trainer.run()
        assert len(seen) == 2

    def test_a_state_that_is_not_finite_is_never_saved(self, make, tmp_path):
        trainer = make(callbacks=[Poison("conv0.conv.weight", np.inf, step=4)], save_every=2)
        with pytest.raises(NonFiniteError, match=r"before step 5 of epoch 1: conv0\.conv\.weight is not finite"):
            trainer.run()
        assert load_checkpoint(tmp_path / "c.h5").more["step"] == 2


def test_an_evaluation_changes_nothing_and_does_not_depend_on_its_batches(test):
    model = models.svhn("D", (1, 2, 4), seed=0)
    state = {name: np.array(value) for name, value in model.state_dict().items()}
    noise = random.get_state()
    whole, parts = evaluate(model, test), evaluate(model, test, batch_size=7)
    assert np.allclose(whole.probabilities, parts.probabilities, atol=1e-4)
    assert model.training and random.get_state() == noise
    assert all(np.array_equal(value, state[name]) for name, value in model.state_dict().items())
    assert whole.confusion.sum() == len(test)
    assert np.array_equal(whole.confusion.sum(axis=1), np.bincount(test.labels, minlength=10))
    assert whole.accuracy == np.mean(whole.predictions == test.labels)


def test_an_evaluation_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    result = Evaluation(probabilities, np.array([0, 1, 1]))
    assert result.confusion.tolist() == [[1, 0], [1, 1]]
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.loss == pytest.approx(-np.log([0.9, 0.8, 0.4]).mean(), rel=1e-6)


class TestStopRequest:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_signal_is_a_request_and_the_second_is_not(self, number):
        before = signal.getsignal(number)
        with StopRequest() as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop() and stop.signal == number
            assert signal.getsignal(number) == signal.SIG_DFL
        assert signal.getsignal(number) == before
