"""Every command of ``python -m bitnet``: what it prints, what it writes, and one sentence for bad input."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import bitnet
from bitnet import __main__ as program
from bitnet import datasets, layers, models


@pytest.fixture(scope="module")
def net():
    net = models.svhn("D", (1, 2, 4), seed=0)
    net.classes = tuple("0123456789")
    return net.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory, net):
    path = tmp_path_factory.mktemp("model") / "model.h5"
    bitnet.save(path, net)
    return path


@pytest.fixture
def run(capsys):
    """run(*args) -> (exit code, stdout, stderr)."""
    def run(*args):
        try:
            code = program.main([str(arg) for arg in args])
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of two classes of 16 x 18 images, red ones and green ones."""
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 2), ("test", 3)):
        for name, colour in (("green", (0, 200, 0)), ("red", (200, 0, 0))):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (18, 16), colour).save(folder / split / name / f"{i}.png")
    return folder


def colours(classes=("green", "red"), shape=(16, 18, 3)):
    """A network that tells a green image of 16 x 18 from a red one."""
    net = bitnet.Sequential(layers.Images(*shape), layers.Flatten(), layers.Linear(int(np.prod(shape)), len(classes)))
    weight = np.zeros((*shape, len(classes)), np.float32)
    weight[..., 1, 0] = weight[..., 0, 1] = 0.01
    net[2].weight.data[:] = weight.reshape(-1, len(classes))
    net.classes = tuple(classes)
    return net


def test_summary_of_a_tree_and_of_a_frozen_network(run, net, model, tmp_path):
    assert run("summary", model) == (0, net.summary() + "\n", "")
    frozen = bitnet.freeze(net)
    frozen.save(tmp_path / "frozen.npz")
    assert run("summary", tmp_path / "frozen.npz") == (0, frozen.summary() + "\n", "")


def test_summary_of_a_network_that_does_not_tell_its_shape(run, tmp_path):
    bitnet.save(tmp_path / "m.h5", bitnet.Sequential(layers.Flatten(), layers.Linear(48, 2)))
    code, out, _ = run("summary", tmp_path / "m.h5", "--shape", "4,4,3")
    assert code == 0 and re.search(r"^1 +2 +32,32,32 +98 ", out, re.MULTILINE)
    for options, words in (([], "shape of an image"), (["--shape", "5,4,3"], "48"), (["--shape", "4,4"], "H,W,C")):
        code, out, err = run("summary", tmp_path / "m.h5", *options)
        assert (code, out, err.count("\n")) == (2, "", 1) and words in err


def test_predict_says_what_the_network_says(run, net, model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    with bitnet.no_grad():
        probabilities = bitnet.functional.softmax(net(pixels[None]).data)[0]
    code, out, err = run("predict", model, tmp_path / "a.png", tmp_path / "b.png", "--kernels", "popcount")
    assert (code, out) == (2, f"{tmp_path / 'a.png'}  {probabilities.argmax()}  {probabilities.max():.4f}\n")
    assert re.fullmatch(r"bitnet predict: .*b\.png: expected an image.*\n", err)


def test_evaluate_a_folder_of_images(run, pictures, tmp_path):
    bitnet.save(tmp_path / "m.h5", colours())
    code, out, err = run("evaluate", tmp_path / "m.h5", "--data", pictures)
    assert (code, err) == (0, "") and "test accuracy 100.00%" in out and "6 images" in out


def test_evaluate_is_evaluate(run, net, model):
    code, out, _ = run("evaluate", model, "--data", "synthetic", "--batch-size", 100)
    test = datasets.load_test("synthetic", (40, 40, 3))[0]
    result = bitnet.evaluate(net, test)
    assert code == 0 and f"test accuracy {result.accuracy:.2%}, loss {result.loss:.4f}" in out and "drawn by a program" in out


@pytest.mark.parametrize(("other", "words"), [
    (colours(("red", "green")), "for the classes green, red"),
    (colours(("a", "b", "c")), "for the classes green, red"),
    (bitnet.Sequential(layers.Images(16, 18, 3), layers.Flatten(), layers.Linear(864, 1)), "tells 2 classes"),
    (bitnet.Sequential(layers.Flatten(), layers.Linear(864, 2)), "tells their size"),
])
def test_evaluate_the_wrong_network(run, pictures, tmp_path, other, words):
    bitnet.save(tmp_path / "m.h5", other)
    code, _, err = run("evaluate", tmp_path / "m.h5", "--data", pictures)
    assert code == 2 and words in err and err.count("\n") == 1 and str(tmp_path / "m.h5") in err


def test_evaluate_on_no_data(run, model, tmp_path):
    code, out, err = run("evaluate", model, "--data", tmp_path)
    assert (code, out) == (2, "") and "an empty folder" in err and err.count("\n") == 1
    code, _, err = run("evaluate", model)
    assert code == 2 and "--data" in err and err.count("\n") == 1


def test_freeze(run, net, model, tmp_path):
    code, out, err = run("freeze", model, tmp_path / "frozen.npz")
    images = np.random.default_rng(0).integers(0, 255, (3, 40, 40, 3)).astype(np.uint8)
    with bitnet.no_grad():
        assert np.array_equal(bitnet.load(tmp_path / "frozen.npz")(images).data, net(images).data)
    assert (code, err) == (0, "") and "thresholds" in out and "times smaller" in out


def test_freeze_what_does_not_freeze(run, model, tmp_path):
    bitnet.freeze(bitnet.load(model)).save(tmp_path / "frozen.npz")
    for source, target, words in ((tmp_path / "frozen.npz", tmp_path / "again.npz", "a tree of modules"),
                                  (model, model, "another file"), (model, tmp_path / "no" / "folder.npz", "No such file")):
        before = source.read_bytes()
        code, _, err = run("freeze", source, target)
        assert code == 2 and words in err and err.count("\n") == 1 and source.read_bytes() == before


def test_export(run, model, tmp_path):
    pytest.importorskip("onnx")
    code, out, err = run("export", model, tmp_path / "net.onnx")
    size = (tmp_path / "net.onnx").stat().st_size
    assert (code, out, err) == (0, f"{tmp_path / 'net.onnx'}: {bitnet.text.size_text(size)}\n", "")
    code, _, err = run("export", model, tmp_path / "no" / "net.onnx")
    assert code == 2 and "No such file" in err and err.count("\n") == 1


def test_methods_are_all_there_a_line_each(run):
    code, out, _ = run("methods")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["method", *bitnet.methods.names()]


def test_cache(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BITNET_CACHE", str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    (tmp_path / "mnist-0.images").write_bytes(bytes(2000))
    code, out, _ = run("cache")
    assert code == 0 and "2.0 kB" in out and str(tmp_path) in out
    code, out, _ = run("cache", "--clear")
    assert code == 0 and "removed 2.0 kB" in out and not (tmp_path / "mnist-0.images").exists()


def test_doctor(run, monkeypatch, thread_count):
    monkeypatch.setattr("bitnet.kernels.machine.peak._bandwidth", lambda repeats: 1.0)
    code, out, _ = run("doctor", "--threads", 1)
    assert code == 0 and all(word in out for word in ("popcount", "GMAC/s", "numba", "slow on this machine:\n- "))


@pytest.mark.parametrize("name", [None, *program.COMMANDS])
def test_help_tells_every_option(run, name):
    code, out, _ = run(*[name] * (name is not None), "--help")
    wanted = [names[0] for names, _ in program.COMMANDS[name][2]] if name else program.COMMANDS
    assert code == 0 and all(one in out or one.upper() in out for one in wanted)
    assert max(map(len, out.splitlines())) <= 128


@pytest.mark.parametrize("args", [[], ["nonsense"], ["summary"], ["summary", "none.h5"], ["predict", "none.h5", "a.png"],
                                  ["doctor", "--threads", "0"]])
def test_bad_input_is_one_sentence(run, args):
    code, out, err = run(*args)
    assert (code, out) == (2, "") and re.fullmatch(r"bitnet( \w+)?: .+\n", err)


def test_as_a_program():
    done = subprocess.run([sys.executable, "-m", "bitnet", "summary", "none.h5"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and done.stderr.startswith("bitnet summary: ")
