"""Label maps: measures by hand, weights of classes, and a training whose bits fall, stopped and resumed."""

import json

import numpy as np
import pytest
from PIL import Image

from bitnet import evaluate, freeze, methods, models, report
from bitnet.datasets import Dataset, Flip, load_scenes
from bitnet.layers import Conv2d, Images, Sequential
from bitnet.optimizers import Adam
from bitnet.quantizers import BFCNActivation, BFCNWeight
from bitnet.storage import load_checkpoint
from bitnet.training import PixelEvaluation, Segmentation, Trainer, median_frequencies, task_for
from bitnet.training.task import count_pairs

SIZE = (16, 24)


@pytest.fixture(scope="module")
def scenes():
    return load_scenes("train", 12, SIZE), load_scenes("test", 6, SIZE)


def small(classes=7, bits=(2, 2, 32)):
    net = models.build("bfcn", shape=(*SIZE, 3), classes=classes, widths=(4, 8), blocks=1, features=6)
    return methods.BFCN(*bits).apply(net)


def test_measures_by_hand():
    labels, predictions = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 2])
    confusion = count_pairs(labels, predictions, 4)
    assert confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    result = PixelEvaluation(confusion, 0.5)
    assert result.accuracy == pytest.approx(4 / 6)
    np.testing.assert_allclose(result.iou, [2 / 4, 1 / 3, 1, np.nan])
    assert result.mean_iou == result.measures["mean_iou"] == pytest.approx((2 / 4 + 1 / 3 + 1) / 3)
    assert "sky" in result.details(["sky", "road", "car", "tree"]) and "50.0%" in result.details("abcd")


def test_weights_are_median_frequencies():
    targets = np.array([[[0, 0], [0, 1]], [[0, 0], [2, 9]]])  # 9 is void, 3 does not occur
    share = np.array([5 / 8, 1 / 4, 1 / 4])
    np.testing.assert_allclose(median_frequencies(targets, 4), [*(np.median(share) / share), 1])


def test_an_evaluation_leaves_void_pixels_out_and_does_not_depend_on_its_batches(scenes):
    train, test = scenes
    net = small()
    whole, parts = evaluate(net, test), evaluate(net, test, batch_size=2)
    assert whole.confusion.sum() == (test.targets != test.void).sum() < test.targets.size
    assert np.array_equal(whole.confusion.sum(axis=1), np.bincount(test.targets.ravel(), minlength=8)[:7])
    assert np.array_equal(whole.confusion, parts.confusion) and whole.loss == pytest.approx(parts.loss, rel=1e-9)
    predictions = net.eval()(test.images).data.argmax(axis=-1)
    assert whole.accuracy == np.mean((predictions == test.targets)[test.targets != test.void])
    task = task_for(train)
    loss = task.loss(net(test.images), type("Batch", (), {"targets": test.targets})(), None)
    assert evaluate(net, test, task=task).loss == pytest.approx(float(loss.data), rel=1e-5)
    assert evaluate(freeze(net), test).mean_iou == whole.mean_iou
    assert task.correct(net(test.images).data, test.targets) == pytest.approx(len(test) * whole.accuracy)


def test_a_network_of_other_sizes_is_refused(scenes):
    with pytest.raises(ValueError, match=r"7 classes for each of \(16, 24\) pixels"):
        evaluate(small(classes=5), scenes[1])


def state(path):
    checkpoint = load_checkpoint(path)
    return checkpoint.description, {name: np.asarray(value).tobytes()
                                    for name, value in (checkpoint.model | checkpoint.optimizer).items()}


@pytest.mark.parametrize("stop_at", [2, 9, 12])  # inside the first width, where the last begins, after all steps
def test_a_resumed_run_is_the_same_whatever_bits_it_has(scenes, tmp_path, stop_at):
    train, test = scenes

    def trainer(path):
        return Trainer(small(), train, test, epochs=4, batch_size=4, augment=Flip(), checkpoint=tmp_path / path)

    whole = trainer("whole.h5")
    assert whole.run()
    steps, first = [], trainer("parts.h5")
    assert not first.run(stop=lambda: steps.append(1) or len(steps) >= stop_at)
    second = trainer("parts.h5")
    second.resume()
    assert second.run()
    assert state(tmp_path / "whole.h5") == state(tmp_path / "parts.h5")
    measures = [[{key: record[key] for key in ("test_loss", "test_accuracy", "test_mean_iou")} for record in one.history]
                for one in (whole, second)]
    assert measures[0] == measures[1]
    assert {m.bits for m in second.model.modules() if isinstance(m, (BFCNWeight, BFCNActivation))} == {2}
    third = trainer("parts.h5")  # finished: nothing is left but to evaluate
    third.resume()
    assert evaluate(third.model, test).accuracy == whole.history[-1]["test_accuracy"]


def test_a_network_of_one_pixel_learns_colours(tmp_path):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, (16, 8, 8)).astype(np.uint8)
    colours = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [0, 0, 0]], np.uint8)
    data = Dataset(colours[targets], targets, ("red", "green", "blue"), "colours", void=3)
    net = Sequential(images=Images(8, 8, 3), score=Conv2d(3, 3, 1, bias=True, rng=rng))
    trainer = Trainer(net, data, data, epochs=15, batch_size=4, task=Segmentation(void=3),
                      optimizer=Adam(net.parameters(), lr=0.1))
    trainer.run()
    assert trainer.evaluation.mean_iou == 1
    assert trainer.history[-1]["train_accuracy"] == 1
    trainer.task.draw(tmp_path, trainer.evaluation, net.eval(), data, "title")
    for name in trainer.task.pictures:
        assert min(Image.open(tmp_path / name).size) > 300
    assert json.dumps(trainer.history)


def test_colours_of_classes_differ():
    colours = report.pictures.palette(40)
    assert len(np.unique(colours, axis=0)) == 41 and (colours[-1] == 0).all()
