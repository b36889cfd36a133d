"""The networks that come along: small, complete, and as good as their records say, on real data where it is at hand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitnet
from bitnet import datasets, pretrained
from bitnet.deploy import FrozenNetwork
from bitnet.training.evaluation import evaluate

FOLDER = Path(pretrained.__file__).parent
DATA = os.environ.get("BITNET_TEST_DATA")


def test_every_file_has_a_record_and_all_are_small():
    files = {path.stem: path.stat().st_size for path in FOLDER.glob("*.npz")}
    assert files.keys() == set(pretrained.names())
    assert sum(files.values()) < 1.5e6


@pytest.mark.parametrize("name", pretrained.names())
def test_a_network_reads_pictures_of_ten_classes(name):
    network = bitnet.models.pretrained(name)
    assert isinstance(network, FrozenNetwork) and len(network.classes) == 10
    images = np.zeros((2, *network.input_shape), np.uint8)
    assert network(images).data.shape == (2, 10)
    record = pretrained.about(name)
    assert record.keys() == {"network", "method", "bits", "data", "test", "accuracy", "command", "seed", "licence"}
    assert re.fullmatch(r"python examples/train_(svhn|mnist)\.py .*", record["command"])


def test_names_are_taken_where_no_file_is_in_the_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(bitnet.load("svhn"), FrozenNetwork)
    (tmp_path / "svhn").write_text("hello")
    with pytest.raises(ValueError, match="another kind of file"):
        bitnet.load("svhn")


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"must be one of svhn, .*, got 'alexnet'"):
        bitnet.models.pretrained("alexnet")


@pytest.mark.skipif(DATA is None, reason="needs real data")
@pytest.mark.parametrize("name", pretrained.names())
def test_the_accuracy_of_the_record(name):
    kind, folder = ("svhn", "svhn-subset") if name.startswith("svhn") else ("mnist", "mnist")
    _, test = datasets.load(kind, Path(DATA) / folder)
    accuracy = evaluate(pretrained.load(name), test).accuracy
    assert accuracy == pytest.approx(pretrained.about(name)["accuracy"], abs=2.5 / len(test))  # fc is a float product: ties


def test_predict_needs_nothing_but_a_picture(tmp_path):
    picture = np.full((40, 40, 3), 90, np.uint8)
    picture[8:32, 18:23] = 230
    Image.fromarray(picture).save(tmp_path / "one.png")
    result = subprocess.run([sys.executable, "-m", "bitnet", "predict", "svhn", "one.png"], cwd=tmp_path, capture_output=True,
                            text=True, timeout=120)
    assert result.returncode == 0 and re.fullmatch(r"one\.png  1  [01]\.\d{4}\n", result.stdout), result.stderr
