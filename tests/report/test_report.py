"""Tables say what was executed and change nothing; files are whole; pictures can be drawn of any run."""

import json
import re
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from bitnet import models, random, report
from bitnet.report.inside import draw_inside
from bitnet.training import Evaluation

HISTORY = [
    {"epoch": epoch, "train_loss": 1 / epoch, "test_loss": 1.1 / epoch, "train_accuracy": 1 - 0.5 / epoch,
     "test_accuracy": 0.9 - 0.5 / epoch, "images_per_second": 500.0, "seconds": 10.0 * epoch}
    for epoch in range(1, 6)
]  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.random((4, 40, 40, 3), dtype=np.float32), np.array([1, 2, 3, 4])


def test_the_layer_table_changes_nothing(batch):
    model = models.svhn("D", (1, 2, 4), seed=0)
    model.eval()
    state = {name: np.array(value) for name, value in model.state_dict().items()}
    noise = random.get_state()
    report.layer_table(model, *batch)
    assert random.get_state() == noise and not model.training
    assert state.keys() == model.state_dict().keys()
    assert all(np.array_equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_layer_table_shows_what_ran(batch):
    model = models.svhn("D", (1, 2, 4), seed=0)
    lines = report.layer_table(model, *batch).splitlines()
    inner = [line for line in lines if "1,2,4" in line]
    assert len(inner) == 6
    # three products of each inner layer run on integers; the first and the last layer are float by design
    assert all(re.search(r"( +(popcount|byte_dot|float)){3}( \*)?$", line) for line in inner)
    assert sum("32,32,32" in line for line in lines) == 2
    count = sum(parameter.data.size for parameter in model.parameters())
    total = next(line for line in lines if line.startswith("all"))
    assert f" {count:,} " in total


def test_the_confusion_table():
    lines = report.confusion_table(np.array([[3, 1], [0, 4]])).splitlines()
    assert [line.split() for line in lines] == [["label", "0", "1", "right"], ["0", "3", "1", "75.0%"],
                                                ["1", ".", "4", "100.0%"]]  # fmt: skip


def test_metrics_have_a_line_an_epoch(tmp_path):
    report.write_metrics(tmp_path / "metrics.jsonl", HISTORY)
    report.write_metrics(tmp_path / "metrics.jsonl", HISTORY)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == HISTORY
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("epochs", [0, 1, 5])
def test_curves_can_be_drawn_of_any_run(tmp_path, epochs):
    report.draw_curves(tmp_path / "curves.png", HISTORY[:epochs], "generated digits")
    assert Image.open(tmp_path / "curves.png").size > (800, 300)


def test_the_other_pictures(tmp_path, test):
    perfect = np.eye(10, dtype=np.float32)[test.labels]
    for probabilities in (perfect, np.roll(perfect, 1, axis=1)):
        evaluation = Evaluation(probabilities, test.labels)
        report.draw_confusion(tmp_path / "confusion.png", evaluation.confusion, "title")
        report.draw_mistakes(tmp_path / "mistakes.png", test, evaluation, "title")
        for name in ("confusion.png", "mistakes.png"):
            assert Image.open(tmp_path / name).size > (500, 300)


def test_durations():
    assert [report.duration(s) for s in (0.4, 59.4, 60, 3599, 3600, 90000)] == [
        "0 s", "59 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "25 h 00 min"
    ]  # fmt: skip


def test_without_a_terminal_there_is_a_line_an_epoch_and_no_bar(make, capsys):
    make(epochs=2, callbacks=[report.Progress()]).run()
    out, err = capsys.readouterr()
    assert err == "" and len(out.splitlines()) == 2
    assert re.match(
        r"epoch 1/2: loss \d\.\d+, accuracy .*% in training, .*% on the test set, \d+ images/s, \d+ s, \d+ s left", out
    )


def test_on_a_terminal_there_is_a_bar_an_epoch(make, capsys):
    make(epochs=2, callbacks=[report.Progress(bar=True)]).run()
    out, err = capsys.readouterr()
    assert "epoch 1/2" in err and "epoch 2/2" in err and "left" in err
    assert len(out.splitlines()) == 2


def test_events_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    for epochs in (HISTORY[:2], HISTORY[1:3]):  # the second start repeats an epoch
        board = report.Board(tmp_path / "events")
        for record in epochs:
            board.on_epoch(None, record | {"inside": {}})
        board.on_end(None)
    files = sorted((tmp_path / "events").iterdir())
    content = b"".join(path.read_bytes() for path in files)
    assert len(files) in (1, 2)  # named after the second in which they begin
    assert all(tag in content for tag in (b"loss/train", b"accuracy/test", b"images_per_second")) and b"inside" not in content


def test_without_tensorboardx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"needs the package tensorboardX.*bitnet-dorefa\[tensorboard\]"):
        report.Board(tmp_path)


@pytest.mark.parametrize("setting", [{"text.usetex": True}, {"font.size": 0.001, "savefig.bbox": "tight"}])
def test_a_matplotlibrc_has_no_say(tmp_path, setting, test):
    evaluation = Evaluation(np.eye(10, dtype=np.float32)[(test.labels + 1) % 10], test.labels)
    drawings = {"curves.png": lambda path: report.draw_curves(path, HISTORY, "title"),
                "confusion.png": lambda path: report.draw_confusion(path, evaluation.confusion, "title"),
                "mistakes.png": lambda path: report.draw_mistakes(path, test, evaluation, "title"),
                "inside.png": lambda path: draw_inside(path, [], "title")}
    for name, draw in drawings.items():
        draw(tmp_path / f"own-{name}")
        with matplotlib.rc_context(setting):  # a LaTeX that is not there
            draw(tmp_path / name)
        assert (tmp_path / name).read_bytes() == (tmp_path / f"own-{name}").read_bytes()


def test_names_with_dollars_are_names(tmp_path):
    report.draw_confusion(tmp_path / "confusion.png", np.eye(2, dtype=int), "$\\frac{", ["$\\what$", "b$"])
    assert Image.open(tmp_path / "confusion.png").size > (500, 300)
