"""Training on a folder of pictures from outside, with a small network in the place of the AlexNet."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from bitnet import layers, load, networks
from bitnet.datasets import prepare_for
from bitnet.storage import load_checkpoint

CLASSES = [f"n{i:02d}" for i in range(12)]


def small(classes=1000, size=224, seed=0):
    rng = np.random.default_rng(seed)
    return layers.Sequential(
        images=layers.Images(size, size, 3), pixels=layers.Standardize((100, 110, 120), (60, 60, 60), (2, 1, 0)),
        conv0=layers.Block(3, 8, 5, stride=4, norm=False, rng=rng),
        conv1=layers.Block(8, 16, 3, padding="same", groups=2, pool=layers.MaxPool(3, 2, "same"), rng=rng),
        fc0=layers.Block(16, 32, 4, rng=rng), flatten=layers.Flatten(), fct=layers.Linear(32, classes, rng=rng))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve classes, each of a colour, and a flat val."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    (root / "val").mkdir()
    for number, name in enumerate(CLASSES):
        (root / "train" / name).mkdir(parents=True)
        colour = np.array([number % 3, number // 3 % 2, number // 6]) * [100, 200, 200] + 10
        for i in range(5):
            noise = rng.integers(0, 40, (40 + i, 50, 3))
            path = root / "train" / name / f"{i}.JPEG" if i < 4 else root / "val" / f"{name}.JPEG"
            Image.fromarray((colour + noise).astype(np.uint8)).save(path, "JPEG")
    (root / "val.txt").write_text("".join(f"{name}.JPEG {number}\n" for number, name in enumerate(CLASSES)))
    return root


@pytest.fixture
def run(pictures, tmp_path, train_imagenet, in_process, monkeypatch):
    """run(...) -> (exit code, stdout, stderr), in this process; 4 steps an epoch."""
    monkeypatch.setitem(networks.NETWORKS, "alexnet", small)

    def run(*more, out="run", data=("--data", str(pictures))):
        return in_process(train_imagenet.main, *data, "--size", "36", "--workers", "0", "--batch-size", "12", "--lr", "0.01",
                          "--out", str(tmp_path / out), *more)

    run.out = tmp_path / "run"
    return run


def state(folder):
    checkpoint = load_checkpoint(folder / "checkpoint.h5")
    return {name: np.asarray(value).tobytes() for name, value in (checkpoint.model | checkpoint.optimizer).items()}


def test_what_it_prints_and_writes(run, pictures, predict, in_process):
    code, out, err = run("--epochs", "6")
    assert code == 0 and err == "" and "alexnet, DoReFa-Net in (1,2,6) bits" in out and "top-5" in out
    history = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    assert all(record["test_accuracy"] <= record["test_top5"] <= 1 and 0 <= record["waiting"] <= 1 for record in history)
    assert [record["lr"] for record in history] == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.002, 0.0004])
    frozen, net = load(run.out / "frozen.npz"), load(run.out / "checkpoint.h5")
    assert net.classes == tuple(CLASSES) == tuple(frozen.classes) and net.pictures == frozen.pictures == "crop"
    picture = str(pictures / "val" / "n03.JPEG")
    logits = net(prepare_for(picture, "crop", (36, 36, 3))[None]).data
    for model in ("frozen.npz", "checkpoint.h5"):
        code, out, _ = in_process(predict.main, str(run.out / model), picture)
        assert code == 0 and out.split()[1] == CLASSES[int(logits.argmax())]


def test_a_resumed_run_is_the_same(run, tmp_path):
    assert run("--epochs", "2", "--model", "alexnet", "--bits", "1,2,4", out="whole")[0] == 0
    assert run("--epochs", "2", "--model", "alexnet", "--bits", "1,2,4", "--save-every", "3")[0] == 0
    assert state(tmp_path / "whole") == state(run.out)
    code, out, _ = run("--resume", "--epochs", "3", data=())
    assert code == 0 and "continuing with step 1 of epoch 3 of 3" in out


def test_ternary_weights(run):
    code, out, _ = run("--method", "ttq", "--epochs", "1")
    assert code == 0 and "Trained Ternary Quantization in (2,32,32) bits" in out


@pytest.mark.parametrize("options, data, part", [
    ((), (), "expected --data with a folder of pictures"), ((), ("--data", "nowhere"), "expected a folder for each class"),
    (("--method", "twn", "--bits", "1,2,4"), None, "twn has 2 bits for W"),
    (("--bits", "0,1,2"), None, "expected three numbers W,A,G"),
])
def test_what_cannot_be_followed_is_one_sentence(run, pictures, options, data, part):
    code, _, err = run(*options, data=("--data", str(pictures)) if data is None else data)
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith("train_imagenet.py: ") and part in err


def test_tensorpacks_rows_side_by_side(pictures, tmp_path, compare_methods, in_process, monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "alexnet", small)
    monkeypatch.setattr("bitnet.training.compare.MEASURED", 0.05)
    monkeypatch.setattr("bitnet.training.compare.PictureEntry.batch", 12)
    chosen = compare_methods.entries(compare_methods.parse(["--imagenet", "alexnet"]))
    assert len({entry.name for entry in chosen}) == 9 and all(entry.published() for entry in chosen)
    code, out, err = in_process(compare_methods.main, "--imagenet", "alexnet", "--size", "36", "--data", str(pictures),
                                "--bits", "1,2,4", "2,32,32", "--minutes", "0.005", "--out", str(tmp_path / "out"))
    assert (code, err) == (0, "") and "top-5 error" in out
    rows = {row["name"]: row for row in json.loads((tmp_path / "out" / "results.json").read_text())["rows"]}
    assert rows["dorefa-alexnet-1-2-4"]["published"] == [54.0, "ImageNet, tensorpack"]
    assert rows["ttq-alexnet-2-32-32"]["top5_error"] <= rows["ttq-alexnet-2-32-32"]["error"]


def test_photographs_through_a_network(tmp_path, predict, in_process):
    root = os.environ.get("BITNET_TEST_DATA")
    if not root or not os.path.isdir(os.path.join(root, "imagenet-samples")):
        pytest.skip("BITNET_TEST_DATA names no folder with imagenet-samples")
    import bitnet

    net = bitnet.methods.DoReFa(1, 2, 6).apply(small(1000, 36))
    net.pictures = "crop"
    bitnet.save(tmp_path / "net.h5", net)
    paths = sorted(os.path.join(where, name) for where, _, names in os.walk(os.path.join(root, "imagenet-samples"))
                   for name in names)
    code, out, err = in_process(predict.main, str(tmp_path / "net.h5"), *paths)
    assert code == 0 and err == "" and len(out.splitlines()) == len(paths) == 8
