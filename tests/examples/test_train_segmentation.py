"""Segmentation from outside: on a folder, resumed, evaluated, and with options that cannot be followed."""

import json

import numpy as np
import pytest
from PIL import Image

import bitnet
import bitnet.__main__ as command_line
from bitnet import datasets
from bitnet.datasets import load_scenes
from bitnet.storage import load_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight streets for training and four for testing, as files, with the names of their classes."""
    folder = tmp_path_factory.mktemp("streets")
    for split, count in (("train", 8), ("test", 4)):
        scenes = load_scenes(split, count, (16, 32))
        for kind in (split, f"{split}annot"):
            (folder / kind).mkdir()
        for i, (image, labels) in enumerate(zip(scenes.images, scenes.targets, strict=True)):
            Image.fromarray(image).save(folder / split / f"{i}.png")
            Image.fromarray(labels).save(folder / f"{split}annot" / f"{i}.png")
    (folder / "classes.txt").write_text("\n".join(scenes.classes))
    return folder


@pytest.fixture
def run(folder, tmp_path, train_segmentation, in_process):
    """run(...) -> (exit code, stdout, stderr), in this process; two steps an epoch."""

    def run(*more, out="run"):
        return in_process(train_segmentation.main, "--data", str(folder), "--size", "16,32", "--batch-size", "4", "--out",
                          str(tmp_path / out), *more)

    run.out = tmp_path / "run"
    return run


def state(folder):
    checkpoint = load_checkpoint(folder / "checkpoint.h5")
    return {name: np.asarray(value).tobytes() for name, value in (checkpoint.model | checkpoint.optimizer).items()}


def test_what_it_prints_and_writes_and_goes_on_with(run, folder, in_process, train_segmentation):
    code, out, err = run("--epochs", "2", "--bits", "1,2,32")
    assert code == 0 and err == ""
    assert "BFCN in (1,2,32) bits, by decay" in out and "7 classes" in out and "mean IoU" in out and "times as fast" in out
    assert {path.name for path in run.out.iterdir()} == {"checkpoint.h5", "metrics.jsonl", "curves.png", "confusion.png",
                                                         "predictions.png", "frozen.npz"}  # fmt: skip
    history = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= record["test_mean_iou"] <= record["test_accuracy"] <= 1 for record in history)
    frozen, trained = bitnet.load(run.out / "frozen.npz"), bitnet.load(run.out / "checkpoint.h5")
    _, test = datasets.load("segmentation", folder, size=(16, 32))
    assert bitnet.evaluate(frozen, test).mean_iou == bitnet.evaluate(trained, test).mean_iou == history[-1]["test_mean_iou"]
    code, out, _ = in_process(command_line.main, "evaluate", str(run.out / "frozen.npz"), "--data", str(folder))
    assert code == 0 and f"mean IoU {history[-1]['test_mean_iou']:.2%}" in out and "pavement" in out

    more = "--save-every", "1", "--threads", "1", "--kernels", "popcount"
    assert run("--epochs", "2", "--bits", "1,2,32", *more, out="again")[0] == 0
    assert state(run.out) == state(run.out.parent / "again")
    code, out, _ = in_process(train_segmentation.main, "--resume", "--epochs", "3", "--out", str(run.out))
    assert code == 0 and "continuing with step 1 of epoch 3 of 3" in out


@pytest.mark.parametrize("more, message", [
    (("--size", "16,40"), "multiples of 16 as height and width, got shape (16, 40, 3)"),
    (("--size", "16"), "expected H,W such as 96,128, found '16'"),
    (("--size", "0,-16"), "expected H,W"),
    (("--split", "val"), "val: expected a folder of pictures, found no such folder"),
    (("--bits", "2,2"), "expected three numbers W,A,G"),
    (("--data", "nowhere"), "expected a folder of pictures, found no such folder"),
])
def test_errors_are_one_line(run, more, message):
    code, _, err = run(*more)
    assert code == 2 and message in err and len(err.splitlines()) == 1
