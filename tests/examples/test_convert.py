"""Converting trained networks from outside."""

import re

import numpy as np
import pytest

import bitnet
from bitnet import methods, no_grad
from bitnet.datasets import load_mnist
from bitnet.module import Signal

from .conftest import load

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def script():
    return load("convert")


@pytest.fixture
def run(script, mnist, tmp_path, in_process):
    def run(method, *more, name="net", kind="float"):
        net = methods.build(kind)
        bitnet.save(tmp_path / f"{name}.h5", net)
        return in_process(script.main, str(tmp_path / f"{name}.h5"), "--method", method, "--data", str(mnist), *more)

    return run


@pytest.mark.parametrize("method, more, bits, kind", [
    ("fgq", [], "2,8,32", "float"),
    ("fgq", ["--bits", "2,4,32", "--with", "group=64", "--images", "30", "--epochs", "1", "--lr", "0.001"], "2,4,32", "float"),
    ("sketching", ["--with", "refined=false", "norms=true"], "3,8,32", "float"),
])
def test_what_it_prints_and_writes(run, mnist, tmp_path, method, more, bits, kind):
    if method == "sketching":
        more = [*more, "--bits", bits]
    code, out, err = run(method, *more, kind=kind)
    assert (code, err) == (0, "")
    accuracies = re.findall(r"test accuracy (\d+\.\d+)%", out)
    assert len(accuracies) == 2 and bits in out
    net, frozen = bitnet.load(tmp_path / f"net-{method}.h5"), bitnet.load(tmp_path / f"net-{method}.npz")
    assert net.method.name == method and net.method.bits == tuple(map(int, bits.split(",")))
    test = load_mnist(mnist)[1]
    with no_grad():
        np.testing.assert_array_equal(net(test.images).data, frozen(test.images).data)
    right = (net(test.images).data.argmax(axis=1) == test.targets).mean()
    assert f"{right:.2%}" == f"{accuracies[-1]}%" or "--epochs" in more


def test_the_same_command_gives_the_same_network(run, tmp_path):
    for name in ("one", "other"):
        assert run("fgq", "--images", "20", "--seed", "3", "--epochs", "1", name=name)[0] == 0
    one, other = (bitnet.load(tmp_path / f"{name}-fgq.h5").state_dict() for name in ("one", "other"))
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key])


@pytest.mark.parametrize("method, more, message", [
    ("fgq", ["--with", "group"], "expected NAME=VALUE such as group=64, found 'group'"),
    ("fgq", ["--with", "group=0"], 'fgq does not take what it was given: groups are of a positive number of weights'),
    ("fgq", ["--with", "size=3"], "fgq does not take what it was given: .*size"),
    ("fgq", ["--bits", "1,8,32"], "fgq has 2 bits for W, got 1"),
    ("twn", [], "argument --method: invalid choice: 'twn'"),
    ("fgq", ["--out", "net.h5"], r"net\.h5: expected a file that is not there yet, found one"),
])
def test_what_is_wrong_is_one_sentence(run, tmp_path, monkeypatch, method, more, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(method, *more)
    assert code == 2 and re.search(message, err) and err.count("\n") == 1 and "Traceback" not in err


def test_other_networks_are_refused(run, script, mnist, tmp_path, in_process):
    code, _, err = run("fgq", kind="gxnor")
    assert code == 2 and "fgq converts networks with real weights, got quantized ones in block0" in err
    bitnet.save(tmp_path / "frozen.npz", bitnet.freeze(methods.build("float")))
    narrow = methods.build("float")
    narrow.replace("fc", bitnet.layers.Conv2d(64, 7, 1, bias=True))
    assert narrow.trace(Signal((28, 28, 1))).shape == (7,)
    bitnet.save(tmp_path / "narrow.h5", narrow)
    for name, message in (("frozen.npz", "expected a network that can be trained on pictures"),
                          ("narrow.h5", "expected a network for the 10 classes of"), ("none.h5", "none.h5")):
        code, _, err = in_process(script.main, str(tmp_path / name), "--method", "fgq", "--data", str(mnist))
        assert code == 2 and message in err and err.count("\n") == 1, err
