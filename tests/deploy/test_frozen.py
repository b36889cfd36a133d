"""Frozen networks: the same codes and logits as the networks they were made from, from a file, on any number of threads."""

import copy
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from network_cases import CASES, lenet, pixels, trained

import bitnet
from bitnet import Sequential, layers, methods, models
from bitnet.codes import Codes
from bitnet.deploy import freeze, load_frozen, reads, size_report, stages
from bitnet.deploy.freezing import READERS, staircase
from bitnet.deploy.stages import real
from bitnet.kernels.machine import threads
from bitnet.storage import CheckpointError

BEFORE = Path(__file__).parents[1] / "storage" / "before" / "frozen.npz"


@pytest.mark.parametrize("case", CASES)
def test_every_code_and_every_logit_is_the_unfrozen_networks(case, tmp_path):
    net = trained(CASES[case]())
    if case == "bitwise":
        [module.start_bits() for module in net if isinstance(module, layers.BitwiseLinear)]
    x, network = pixels(net.input_shape), freeze(net)
    expected, y = {}, x
    with bitnet.no_grad():
        for name, module in net.layers.items():
            y = module(y)
            if y.codes is not None:
                expected[name] = y.codes
    np.testing.assert_array_equal(network(x).data, y.data)
    np.testing.assert_array_equal(network(x / np.float32(256)).data, y.data)
    codes = network.codes(x)
    for name in codes.keys() & expected.keys():
        found = codes.get(f"{name}.pool", codes[name])  # of windows that overlap, pooling is a stage of its own
        np.testing.assert_array_equal(found.values.reshape(expected[name].shape), expected[name].values)
        assert (codes[name].bits, codes[name].encoding) == (expected[name].bits, expected[name].encoding)
    network.save(tmp_path / "net.npz")
    again = load_frozen(tmp_path / "net.npz")
    np.testing.assert_array_equal(again(x).data, y.data)
    assert again.summary() == network.summary()


def test_inner_blocks_become_integer_stages():
    network = freeze(trained(models.svhn("D", (1, 2, 4))))
    assert [stage.kind for stage in network.stages][:7] == ["first", *["thresholds"] * 5, "product"]
    assert {"conv1", "conv5"} <= network.codes(pixels((40, 40, 3))).keys()
    network = freeze(trained(lenet(methods.BNN())))
    assert [stage.kind for stage in network.stages].count("thresholds") == 3


def test_numpy_reads_a_file(tmp_path):
    net, path = trained(models.svhn("D", (2, 2, 4))), tmp_path / "net.npz"
    bitnet.save(path, freeze(net))
    with np.load(path, allow_pickle=False) as file:
        stages = {stage["name"]: stage for stage in json.loads(str(file["network"]))["stages"]}
        assert stages["conv3"]["kind"] == "thresholds" and stages["conv3"]["weight"]["bits"] == 2
        shape = net.conv3.conv.weight.shape
        bits = np.unpackbits(file["conv3.planes"], axis=1, count=int(np.prod(shape)), bitorder="little")
    codes = net.conv3.conv.quantized_weight().codes
    np.testing.assert_array_equal((bits[0] + 2 * bits[1]).reshape(shape), codes.values)
    assert "times smaller" in size_report(freeze(net), path)


def test_threads_do_not_change_a_bit():
    net, x, before = trained(models.svhn("D", (1, 2, 4))), pixels((40, 40, 3), 70), threads.get_threads()
    network = freeze(net)
    try:
        results = []
        for count in (1, 3):
            threads.set_threads(count)
            results.append(network(x).data)
    finally:
        threads.set_threads(before)
    np.testing.assert_array_equal(*results)
    with bitnet.no_grad():
        np.testing.assert_array_equal(network(x[:1]).data, net(x[:1]).data)
    assert network(x[:0]).shape == (0, 10)


def test_thresholds_are_where_the_float_staircase_steps():
    rng = np.random.default_rng(3)
    scale, shift = rng.normal(0, 1, 50).astype(np.float32), rng.normal(0.3, 0.5, 50).astype(np.float32)
    scale[:2] = 0

    def code(sums):
        z = (sums * 0.01).astype(np.float32) * scale + shift
        return np.rint(np.float32(7) * np.clip(z, np.float32(0), np.float32(1)))

    sign = np.where(scale < 0, -1, 1)
    thresholds = staircase(code, sign, 400, 7)
    accum = np.arange(-400, 401)[:, None]
    np.testing.assert_array_equal(((accum * sign)[:, None, :] >= thresholds).sum(axis=1), code(accum))


@pytest.mark.parametrize("make, message", [
    (lambda: np.zeros((1, 40, 40, 3), np.int64), "pixels of uint8, or floats of 32 or 64 bits, got int64"),
    (lambda: np.full((1, 40, 40, 3), 200, np.float32), "floats from 0 to 1, which are pixels / 256, got 200 to 200"),
    (lambda: np.full((1, 40, 40, 3), -0.5, np.float32), "got -0.5 to -0.5"),
    (lambda: np.full((1, 40, 40, 3), np.nan, np.float32), "got nan to nan"),
    (lambda: np.zeros((1, 32, 40, 3), np.uint8), r"shape \(N, 40, 40, 3\), got \(1, 32, 40, 3\)"),
])
def test_other_images_than_the_network_was_trained_on_are_refused(make, message):
    network = freeze(models.svhn("D", (1, 2, 4)).eval())
    with pytest.raises(ValueError, match=message):
        network(make())


class Doubled(layers.Module):
    """A layer of one's own."""

    def forward(self, x):
        return x * 2.0


def test_what_cannot_be_frozen_is_named_and_can_be_taught():
    net = Sequential(images=layers.Images(6, 6, 3), flatten=layers.Flatten(), twice=Doubled(), fc=layers.Linear(108, 2)).eval()
    with pytest.raises(ValueError, match=r"twice cannot be frozen: there is no reader .* for Doubled"):
        freeze(net)
    with pytest.raises(ValueError, match="0 cannot be frozen: a Lambda is a function of one's own"):
        freeze(Sequential(layers.Lambda(np.abs)), (4,))
    with pytest.raises(ValueError, match="expected freeze"):
        freeze(Sequential(layers.Linear(3, 2)))
    with pytest.raises(ValueError, match="takes a network, a tree of modules, got int"):
        freeze(3)

    @reads(Doubled)
    def _(module, name, out):
        from bitnet.deploy.stages import Affine

        out.add(Affine, name, scale=np.full(out.wire.shape[-1], 2, np.float32), shift=np.zeros(out.wire.shape[-1], np.float32))

    try:
        with bitnet.no_grad():
            np.testing.assert_array_equal(freeze(net)(pixels((6, 6, 3))).data, net(pixels((6, 6, 3))).data)
    finally:
        del READERS[Doubled]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.npz"
    freeze(trained(models.svhn("D", (1, 2, 4)))).save(path)
    with np.load(path) as content:
        return path, {name: content[name] for name in content.files}


def damaged(arrays, **changes):
    return {name: array for name, array in (arrays | changes).items() if array is not None}


CLIP = {"kind": "clip", "name": "a clip", "low": None, "high": None}


def stages_with(arrays, change):
    network = json.loads(str(arrays["network"]))
    change(network)
    return {"network": np.array(json.dumps(network))}


@pytest.mark.parametrize("change", [
    lambda arrays: {"conv2.thresholds": arrays["conv2.thresholds"][:1]},           # one row of three
    lambda arrays: {"conv2.planes": arrays["conv2.planes"][:, :-9]},               # 9 bytes short
    lambda arrays: {"conv2.planes": arrays["conv2.planes"].astype(np.int64)},
    lambda arrays: {"conv2.thresholds": arrays["conv2.thresholds"][::-1].copy()},  # falling
    lambda arrays: {"conv2.sign": np.zeros_like(arrays["conv2.sign"])},
    lambda arrays: {"fc.bias": None},
    lambda arrays: {"more": np.zeros(3)},
    lambda arrays: {"fc.weight": np.array([object()])},
    lambda arrays: stages_with(arrays, lambda network: network.update(version=3)),
    lambda arrays: stages_with(arrays, lambda network: network.update(stages=3)),
    lambda arrays: stages_with(arrays, lambda network: network.update(input=[40, 40, 10**9])),
    lambda arrays: stages_with(arrays, lambda network: network["stages"].reverse()),
    lambda arrays: stages_with(arrays, lambda network: network["stages"].pop(3)),
    lambda arrays: stages_with(arrays, lambda network: network["stages"][2]["weight"].update(bits=32)),
    lambda arrays: stages_with(arrays, lambda network: network["stages"][2].update(out=10**7)),
    lambda arrays: stages_with(arrays, lambda network: network["stages"][2].update(kernel=[3, "3"])),
    lambda arrays: stages_with(arrays, lambda network: network["stages"][2].update(name="../x")),
    lambda arrays: stages_with(arrays, lambda network: network["stages"][-1].update(name="\x1b[2J"))
        | {"fc.weight": None, "fc.bias": None, "\x1b[2J.weight": arrays["fc.weight"], "\x1b[2J.bias": arrays["fc.bias"]},
    lambda arrays: stages_with(arrays, lambda network: network["stages"].insert(-1, CLIP | {"low": -10**30})),
    lambda arrays: stages_with(arrays, lambda network: network["stages"].insert(-1, CLIP | {"high": True})),
    lambda arrays: stages_with(arrays, lambda network: network.update(more=10**400)),
    lambda arrays: {"network": np.array("[" * 100_000)},
])
def test_a_file_that_lies_is_refused_before_anything_is_built(file, change):
    path, arrays = file
    np.savez_compressed(path, **damaged(arrays, **change(arrays)))
    with pytest.raises(CheckpointError, match=r"net.npz: expected") as caught:
        bitnet.load(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1500


def test_a_damaged_file_is_refused(file):
    path, _ = file
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            bitnet.load(path)
    np.savez(path, other=np.arange(3))
    with pytest.raises(CheckpointError, match="expected a frozen network"):
        bitnet.load(path)


@pytest.mark.parametrize("change", [lambda config: config.update(bits=[1, 32, 32]), lambda config: config.update(model="Z"),
                                    lambda config: config.update(overrides={"conv9": [1, 1, 1]}),
                                    lambda config: config.update(bits=[8, 2, 4])])
def test_files_of_version_1_do_not_lie_either(tmp_path, change):
    with np.load(BEFORE) as content:
        arrays = {name: content[name] for name in content.files}
    np.savez(tmp_path / "old.npz", **arrays | stages_with(arrays, lambda network: change(network["config"])))
    with pytest.raises(CheckpointError, match=r"old.npz: expected"):
        bitnet.load(tmp_path / "old.npz")


def test_programs_give_what_stages_give_for_any_number_of_images(thread_count):
    net = models.svhn("D", seed=3).eval()
    frozen, images = bitnet.freeze(net), pixels((40, 40, 3), 70)
    expected = {n: frozen.chain.walk(images[:n] / np.float32(256), lambda *_: None) for n in (1, 2, 5, 33, 70)}
    for count in (1, 2, 3):
        thread_count(count)
        for n in (1, 2, 5, 33, 70, 1):
            for given in (images[:n], images[:n] / np.float32(256)):
                np.testing.assert_array_equal(frozen(given).data, expected[n])
    first = frozen.chain.parts[0]
    assert first.programs and all(idle for idle in first.programs.values())  # nothing fell back
    assert len(first.programs) <= stages.PROGRAMS
    with pytest.raises(ValueError, match="floats from 0 to 1"):
        frozen(images[:1].astype(np.float32))


def test_two_python_threads_run_one_frozen_network(thread_count):
    thread_count(2)
    frozen, images = bitnet.freeze(models.svhn("D", seed=3).eval()), pixels((40, 40, 3), 8)
    expected, wrong = [frozen(images[i:i + 4]).data for i in range(4)], []

    def caller(i):
        for _ in range(30):
            if not np.array_equal(frozen(images[i:i + 4]).data, expected[i]):
                wrong.append(i)

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(4)]
    for one in callers:
        one.start()
    for one in callers:
        one.join(60)
    assert not wrong


def test_a_copy_of_a_frozen_network_has_programs_of_its_own():
    frozen, images = bitnet.freeze(models.svhn("D", seed=3).eval()), pixels((40, 40, 3), 4)
    expected = frozen(images).data
    again = copy.deepcopy(frozen)
    del frozen
    np.testing.assert_array_equal(again(images).data, expected)


class Halved(stages.Stage):
    kind = "halved"

    def plan(self):
        return self.before.reals()

    def run(self, x):
        return stages.real(x) / np.float32(2)  # by NumPy, which no program knows


def test_a_stage_that_is_more_than_kernels_has_no_program():
    try:
        series = stages.Series([Halved("halved", stages.Wire((4,)), {})])
        for factor in (1, 3):
            x = np.full((2, 4), factor, np.float32)
            np.testing.assert_array_equal(series(x), x / 2)
        assert list(series.programs.values()) == [None]
    finally:
        del stages.KINDS["halved"]


class InNumPy:
    """A stage that NumPy computes."""

    def run(self, x):
        return np.ascontiguousarray(real(x) / 2)


@pytest.mark.parametrize("x", [
    np.random.default_rng(0).integers(0, 256, (2, 3, 3, 1)).astype(np.uint8), np.zeros((2, 3, 3, 1), np.uint8),
    np.random.default_rng(0).random((2, 3, 3, 1)).astype(np.float32), np.zeros((2, 3, 3, 1), np.float32),
    Codes(np.random.default_rng(0).integers(0, 4, (2, 3, 3, 1)).astype(np.uint8), 2, "unsigned", 1 / 3),
    Codes(np.ones((2, 3, 3, 1), np.uint8), 2, "ternary"), Codes(np.ones((2, 3, 3, 1), np.uint8), 1, "bipolar"),
], ids=range(7))
def test_a_program_never_stands_for_what_numpy_computes(x):
    # it once did: the images that it was made with were those that it was tried with
    program = stages.Recorded([InNumPy()], x)
    assert not program.is_faithful()
    # nor where a later stage hides the difference
    assert not stages.Recorded([InNumPy(), flat()], x).is_faithful()


def flat():
    class Flat:
        def run(self, x):
            return np.clip(x, 5, 5)

    return Flat()
