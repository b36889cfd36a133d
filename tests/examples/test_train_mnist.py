"""Training on MNIST from outside, by several methods."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from bitnet import load, models, no_grad, save
from bitnet.storage import load_checkpoint

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture
def run(mnist, tmp_path, train_mnist, in_process):
    """run(...) -> (exit code, stdout, stderr), in this process; 10 steps an epoch."""

    def run(*more, out="run"):
        return in_process(train_mnist.main, "--data", str(mnist), "--batch-size", "20", "--out", str(tmp_path / out), *more)

    run.out = tmp_path / "run"
    return run


def state(folder):
    checkpoint = load_checkpoint(folder / "checkpoint.h5")
    return {name: np.asarray(value).tobytes() for name, value in (checkpoint.model | checkpoint.optimizer).items()}


def test_what_it_prints_and_writes(run):
    code, out, err = run("--method", "bnn", "--epochs", "2", "--inside", "--profile")
    assert code == 0 and err == ""
    assert "Binarized Neural Network in (1,1,32) bits" in out and "1,1,32" in out and out.count("epoch ") == 2
    assert "profile of 10 steps" in out
    assert {path.name for path in run.out.iterdir()} == {"checkpoint.h5", "metrics.jsonl", "curves.png", "confusion.png",
                                                         "mistakes.png", "inside.png", "frozen.npz"}  # fmt: skip
    history = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [1, 2] and set(history[0]["inside"]["weights"]) >= {"block0", "fc"}
    for picture in run.out.glob("*.png"):
        assert Image.open(picture).size > (500, 300)


def test_events_of_tensorboard_beside_metrics(run):
    pytest.importorskip("tensorboardX")
    assert run("--method", "bnn", "--epochs", "1", "--tensorboard")[0] == 0
    code, _, err = run("--resume", "--epochs", "2", "--tensorboard")
    events = b"".join(path.read_bytes() for path in (run.out / "tensorboard").iterdir())
    assert (code, err) == (0, "") and events.count(b"accuracy/test") == 2 and events.count(b"loss/train") == 2


def test_without_tensorboardx(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    code, _, err = run("--method", "bnn", "--epochs", "1", "--tensorboard")
    assert code == 2 and err.count("\n") == 1 and "bitnet-dorefa[tensorboard]" in err and not run.out.exists()


def test_a_resumed_run_is_the_same(run, tmp_path):
    assert run("--method", "gxnor", "--epochs", "2", out="whole")[0] == 0
    assert run("--method", "gxnor", "--epochs", "2", "--save-every", "7")[0] == 0
    assert state(tmp_path / "whole") == state(run.out)
    code, out, _ = run("--resume", "--epochs", "3")
    assert code == 0 and "continuing with step 1 of epoch 3 of 3" in out
    assert load_checkpoint(run.out / "checkpoint.h5").more["epoch"] == 3


def test_bits_models_rates_and_a_teacher(run, tmp_path, predict, mnist, capsys):
    assert run("--method", "float", "--epochs", "1", out="teacher")[0] == 0
    code, out, _ = run("--method", "twn", "--model", "mlp", "--bits", "2,2,4", "--lr", "0.02", "--lr-decay", "0.5", "--teacher",
                       str(tmp_path / "teacher" / "checkpoint.h5"), "--epochs", "3")
    assert code == 0 and "in (2,2,4) bits, an extension by DoReFa-Net's quantizers" in out
    more = load_checkpoint(run.out / "checkpoint.h5").more
    assert [record["lr"] for record in more["history"]] == [0.02, 0.01, 0.005]
    assert more["config"]["bits"] == [2, 2, 4] and more["config"]["teacher"].endswith("checkpoint.h5")
    paper = np.full((60, 50), 230, np.uint8)
    paper[10:50, 22:28] = 30  # a stroke of a pen
    Image.fromarray(paper).save(tmp_path / "digit.png")
    assert predict.main([str(run.out / "checkpoint.h5"), str(tmp_path / "digit.png")]) == 0
    assert str(tmp_path / "digit.png") in capsys.readouterr().out


def test_a_teacher_for_other_images(run, tmp_path, monkeypatch):
    save(tmp_path / "svhn.h5", models.svhn("D"))
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = run("--teacher=~/svhn.h5")
    assert code == 2 and "svhn.h5: expected a network for MNIST as the teacher" in err and not run.out.exists()


@pytest.mark.parametrize("options, parts", [
    (["--method", "tnw"], ["invalid choice: 'tnw'"]),
    (["--method", "twn", "--bits", "1,32,32"], ["twn has 2 bits for W, got 1"]),
    (["--method", "bitwise", "--model", "lenet"], ["a Bitwise Neural Network is a multilayer perceptron"]),
    (["--teacher", "nowhere.h5"], ["nowhere.h5", "cannot be read"]),
    (["--data", "/nowhere"], ["expected train-images-idx3-ubyte", "no such folder"]),
    (["--resume"], ["found no checkpoint.h5"]),
])
def test_what_cannot_be_followed_is_one_sentence(run, options, parts):
    code, _, err = run(*options)
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith("train_mnist.py: ")
    assert all(part in err for part in parts)
    assert not run.out.exists()


def test_a_resume_that_contradicts_is_refused(run):
    assert run("--method", "dorefa", "--epochs", "1")[0] == 0
    code, _, err = run("--resume", "--method", "bnn")
    assert code == 2 and "it was made with method dorefa, which contradicts method bnn" in err


def test_other_methods_on_svhn(svhn, train_svhn, tmp_path, capsys):
    arguments = ["--method", "bnn", "--model", "D", "--data", str(svhn), "--epochs", "1", "--batch-size", "16"]
    assert train_svhn.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "model D, Binarized Neural Network in (1,1,32) bits, batches" in out
    images = np.zeros((2, 40, 40, 3), np.uint8)
    with no_grad():
        expected = load(tmp_path / "run" / "checkpoint.h5")(images).data
    np.testing.assert_array_equal(load(tmp_path / "run" / "frozen.npz")(images).data, expected)
    assert train_svhn.main(["--resume", "--data", str(svhn), "--epochs", "2", "--out", str(tmp_path / "run")]) == 0
    more = load_checkpoint(tmp_path / "run" / "checkpoint.h5").more
    assert more["config"]["method"] == "bnn" and more["config"]["bits"] == [1, 1, 32] and more["epoch"] == 2
    assert train_svhn.main(["--method", "bnn", "--bits", "2,1,32", "--out", str(tmp_path / "other"), "--data", str(svhn)]) == 2
    assert "bnn has 1 bits for W, got 2" in capsys.readouterr().err
