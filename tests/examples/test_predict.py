"""Predictions from a checkpoint, a line a picture; what is no picture is said and does not stop the rest."""

import re

import numpy as np
import pytest
from PIL import Image

import bitnet
from bitnet import functional, layers, models


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.h5"
    bitnet.save(path, models.svhn("D", (1, 2, 4), seed=0))
    return path


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)).save(path)
    return path


def test_a_line_a_picture(predict, model, picture, tmp_path, capsys):
    Image.open(picture).convert("L").resize((57, 91)).save(tmp_path / "grey.jpg")
    assert predict.main([str(model), str(picture), str(tmp_path / "grey.jpg")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[0] for line in out.splitlines()] == [str(picture), str(tmp_path / "grey.jpg")]
    assert all(re.fullmatch(r".*  \d  [01]\.\d{4}", line) for line in out.splitlines())


def test_the_line_is_what_the_model_says(predict, model, picture, capsys):
    predict.main([str(model), str(picture)])
    image = np.asarray(Image.open(picture), np.float32)[None] / 256
    with bitnet.no_grad():
        probabilities = functional.softmax(bitnet.load(model)(image).data)[0]
    assert capsys.readouterr().out == f"{picture}  {probabilities.argmax()}  {probabilities.max():.4f}\n"


def test_a_bad_picture_among_good_ones(predict, model, picture, tmp_path, capsys):
    (tmp_path / "note.png").write_text("not a picture")
    names = [str(picture), str(tmp_path / "note.png"), str(tmp_path / "none.png"), str(picture)]
    assert predict.main([str(model), *names]) == 2
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == [str(picture)] * 2
    assert [re.match(r"predict\.py: (\S+): expected an image", line)[1] for line in err.splitlines()] == names[1:3]


def network(classes):
    net = models.svhn("D", (1, 2, 4), seed=0)
    net.classes = classes
    return net


def test_pictures_of_a_network_that_is_not_square(predict, picture, tmp_path, capsys):
    net = bitnet.Sequential(layers.Images(16, 18, 3), layers.Flatten(), layers.Linear(864, 2))
    bitnet.save(tmp_path / "m.h5", net)
    assert predict.main([str(tmp_path / "m.h5"), str(picture)]) == 0
    assert re.fullmatch(r".*picture\.png  [01]  [01]\.\d{4}\n", capsys.readouterr().out)


def test_names_of_classes_reach_the_terminal_as_plain_text(predict, picture, tmp_path, capsys):
    bitnet.save(tmp_path / "m.h5", network(("\x1b[2J\n",) * 10))
    assert predict.main([str(tmp_path / "m.h5"), str(picture)]) == 0
    out, _ = capsys.readouterr()
    assert len(out.splitlines()) == 1 and out[:-1].isprintable()


@pytest.mark.parametrize("net", [
    network(("one",) * 2), bitnet.Sequential(layers.Images(8, 8, 2)), bitnet.Sequential(layers.Images(1 << 13, 1 << 13, 3)),
    bitnet.Sequential(layers.Images(8, 8, 3)), bitnet.Sequential(layers.Images(8, 8, 3), layers.Linear(5, 2)),
    bitnet.Sequential(layers.Flatten(), layers.Linear(5, 2)),
])
def test_networks_that_do_not_tell_classes_of_pictures(predict, picture, tmp_path, capsys, net):
    bitnet.save(tmp_path / "m.h5", net)
    assert predict.main([str(tmp_path / "m.h5"), str(picture)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"predict\.py: .*m\.h5: expected a network .*\n", err)


@pytest.mark.parametrize("content", [None, b"hello", b"\x89HDF\r\n\x1a\n cut short"])
def test_a_bad_model(predict, picture, tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "m.h5").write_bytes(content)
    assert predict.main([str(tmp_path / "m.h5"), str(picture)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"predict\.py: .*m\.h5: expected a (checkpoint|network).*\n", err)


def test_no_picture(predict, model, capsys):
    with pytest.raises(SystemExit) as exit:
        predict.main([str(model)])
    assert exit.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1
