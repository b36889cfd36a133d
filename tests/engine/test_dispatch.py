"""The choice by measured times: made-up times decide, and whatever happens to the file, the product is right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitnet import execution, models, random, report, use_kernels
from bitnet import functional as F
from bitnet.codes import Codes
from bitnet.execution import dispatch
from bitnet.execution.dispatch import Product
from bitnet.kernels.machine import threads
from bitnet.kernels.products.geometry import Conv

CONV = Conv(64, 32, (3, 3), (1, 1), ((1, 1), (1, 1)))
PRODUCT = Product("forward", CONV, (18, 18), 128, (2, "unsigned"), (1, "bipolar"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Each test begins as a new process on a new machine."""
    monkeypatch.setenv("BITNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dispatch, "_tables", {})
    return tmp_path / "cache"


@pytest.fixture
def restart(monkeypatch):
    """restart() forgets what is in memory, as a new process does."""
    return lambda: monkeypatch.setattr(dispatch, "_tables", {})


class Runner:
    """Computes a product in as many made-up milliseconds as each family is said to take, first call and later ones alike."""

    def __init__(self, monkeypatch, **milliseconds):
        self.milliseconds, self.calls, self.now = milliseconds, [], 0.0
        monkeypatch.setattr(dispatch, "clock", lambda: self.now)
        monkeypatch.setattr(dispatch, "float_rate", lambda: self.float_rate)

    float_rate = 1e12  # a matrix product takes no time: float is always worth a try

    def __call__(self, family):
        self.calls.append(family)
        self.now += self.milliseconds[family] / 1e3
        return "result"


@pytest.fixture
def runner(monkeypatch):
    return lambda popcount, byte_dot, float: Runner(monkeypatch, popcount=popcount, byte_dot=byte_dot, float=float)


@pytest.mark.parametrize("quickest", execution.FAMILIES)
def test_the_quickest_family_is_chosen_and_known_from_then_on(runner, quickest):
    run = runner(**(dict.fromkeys(execution.FAMILIES, 3.0) | {quickest: 2.0}))
    assert dispatch.choose(PRODUCT, run) == ("result", (quickest, "measured"))
    # one call compiles and warms up; then they take turns, and float comes after them
    assert run.calls == ["popcount", "byte_dot"] * (1 + dispatch.CALLS) + ["float"] * (1 + dispatch.CALLS)
    run.calls.clear()
    assert dispatch.choose(PRODUCT, run) == ("result", (quickest, "known"))
    assert run.calls == [quickest]


def test_the_best_of_the_timed_calls_counts_and_the_first_call_does_not(runner):
    times = {"popcount": iter([50, 5, 2, 5]), "byte_dot": iter([1, 3, 3, 3]), "float": iter([9, 9])}

    class Uneven(dict):
        def __getitem__(self, family):
            return next(times[family])

    run = runner(0, 0, 0)
    run.milliseconds = Uneven()
    assert dispatch.choose(PRODUCT, run)[1].family == "popcount"
    assert dispatch.table().costs == {PRODUCT.kind(): {"popcount": 2, "byte_dot": 3, "float": 9}}


def test_a_hopeless_family_is_timed_once(runner):
    run = runner(1.0, 2.1, 1.9)
    dispatch.choose(PRODUCT, run)
    assert [run.calls.count(family) for family in execution.FAMILIES] == [4, 2, 4]


@pytest.mark.parametrize("share, tried", [(0.4, False), (0.6, True)])
def test_float_is_tried_only_where_a_matrix_product_could_keep_up(runner, share, tried):
    run = runner(2.0, 1.0, 5.0)
    run.float_rate = share * PRODUCT.macs / threads.get_threads()  # a matrix product takes 1 / share milliseconds
    dispatch.choose(PRODUCT, run)
    assert ("float" in run.calls) == tried == ("float" in dispatch.table().costs[PRODUCT.kind()])


def test_the_rate_of_a_matrix_product_is_one_that_machines_have():
    assert 1e5 < dispatch.float_rate() < 1e9  # 0.1 to 1000 GMAC/s


def test_whatever_times_depend_on_makes_another_kind(monkeypatch):
    others = [PRODUCT._replace(**change) for change in (
        {"role": "input_grad"}, {"size": (18, 19)}, {"batch": 129}, {"lhs": (3, "unsigned")}, {"lhs": (2, "bipolar")},
        {"rhs": (2, "bipolar")})]
    others += [PRODUCT._replace(conv=CONV._replace(**change)) for change in (
        {"in_channels": 32}, {"out_channels": 64}, {"kernel_size": (3, 2)}, {"stride": (1, 2)}, {"padding": ((1, 1), (1, 0))},
        {"groups": 2})]
    kinds = {product.kind() for product in [PRODUCT, *others]}
    monkeypatch.setattr(threads, "_threads", threads.get_threads() + 1)
    kinds.add(PRODUCT.kind())
    assert len(kinds) == len(others) + 2


def test_batches_count_as_the_power_of_two_above():
    kinds = {batch: PRODUCT._replace(batch=batch).kind() for batch in range(1, 300)}
    assert kinds[65] == kinds[100] == kinds[128] != kinds[129] == kinds[256] and kinds[64] != kinds[65]
    assert len(set(kinds.values())) == 10


def test_nothing_is_measured_where_there_is_nothing_to_compute(runner):
    run = runner(1, 1, 1)
    dispatch.choose(PRODUCT._replace(batch=0), run)
    assert run.calls == ["popcount"] and dispatch.table().costs == {}


class TestFile:
    def test_it_survives_a_restart(self, runner, restart, own_cache):
        dispatch.choose(PRODUCT, runner(3, 2, 4))
        (path,) = own_cache.iterdir()
        assert str(path) == dispatch.table().path and dispatch.table().kept
        restart()
        run = runner(1, 9, 9)
        assert dispatch.choose(PRODUCT, run)[1] == ("byte_dot", "known") and run.calls == ["byte_dot"]

    @pytest.mark.parametrize("content", [
        "", "{", "[]", "null", "[" * 100_000, '{"machine": 1}', '{"machine": MACHINE, "milliseconds": []}',
        '{"machine": MACHINE, "milliseconds": {"KIND": {}}}', '{"machine": MACHINE, "milliseconds": {"KIND": 3}}',
        '{"machine": MACHINE, "milliseconds": {"KIND": {"gpu": 1}}}',
        '{"machine": MACHINE, "milliseconds": {"KIND": {"float": "1"}}}',
        '{"machine": MACHINE, "milliseconds": {"KIND": {"float": -1}}}',
        '{"machine": MACHINE, "milliseconds": {"KIND": {"float": NaN}}}',
        '{"machine": {}, "milliseconds": {"KIND": {"float": 1}}}', b"\xff\xfe\x00",
    ])
    def test_what_is_damaged_is_measured_again(self, runner, restart, content):
        path = Path(dispatch.table().path)
        path.parent.mkdir()
        if isinstance(content, str):
            content = content.replace("MACHINE", json.dumps(dispatch.machine())).replace("KIND", PRODUCT.kind())
            if "milliseconds" in content:
                costs = json.loads(content)["milliseconds"]
                content = content[:-1] + f', "checksum": {dispatch._checksum(costs)}}}'
            content = content.encode()
        path.write_bytes(content)
        restart()
        assert dispatch.choose(PRODUCT, runner(3, 2, 4))[1] == ("byte_dot", "measured")
        assert json.loads(path.read_text())["milliseconds"][PRODUCT.kind()] == {"popcount": 3, "byte_dot": 2, "float": 4}

    @pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
    def test_what_is_no_file_is_not_read(self, runner, restart, make):
        path = Path(dispatch.table().path)
        path.parent.mkdir()
        make(path)
        restart()
        assert dispatch.choose(PRODUCT, runner(3, 2, 4))[1] == ("byte_dot", "measured")
        assert path.is_dir() or path.is_file()  # replaced whole, where that is possible

    def test_a_flipped_bit_does_not_choose_for_ever(self, runner, restart):
        dispatch.choose(PRODUCT, runner(3, 2, 4))
        path = Path(dispatch.table().path)
        text = path.read_text()
        assert text.count('"byte_dot": 2.') == 1
        path.write_text(text.replace('"byte_dot": 2.', '"byte_dot": 6.'))
        restart()
        assert dispatch.choose(PRODUCT, runner(3, 2, 4))[1] == ("byte_dot", "measured")

    @pytest.mark.parametrize("home", ["none", "a path from ~ on"])
    def test_a_user_without_a_home_measures_at_every_start(self, runner, restart, tmp_path, monkeypatch, home):
        def cache_dir(name):
            if home == "none":
                raise RuntimeError("could not determine the home directory")
            return "~/.cache/bitnet"

        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("BITNET_CACHE")
        monkeypatch.setattr(dispatch, "user_cache_dir", cache_dir)
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        for _ in range(2):
            assert dispatch.choose(PRODUCT, runner(3, 2, 4))[1] == ("byte_dot", "measured")
            assert not dispatch.table().kept and not list(tmp_path.iterdir())
            restart()

    def test_a_folder_that_cannot_be_written_is_no_error(self, runner, restart, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("BITNET_CACHE", str(tmp_path / "file" / "cache"))
        run = runner(3, 2, 4)
        assert dispatch.choose(PRODUCT, run)[1] == ("byte_dot", "measured")
        assert not dispatch.table().kept
        assert dispatch.choose(PRODUCT, run)[1] == ("byte_dot", "known")
        restart()
        assert dispatch.choose(PRODUCT, run)[1] == ("byte_dot", "measured")

    def test_a_full_disk_leaves_the_old_file(self, runner, own_cache, monkeypatch):
        dispatch.choose(PRODUCT, runner(3, 2, 4))
        (path,) = own_cache.iterdir()
        before = path.read_bytes()

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(json, "dump", full)
        dispatch.choose(PRODUCT._replace(batch=1), runner(3, 2, 4))
        assert not dispatch.table().kept and path.read_bytes() == before and list(own_cache.iterdir()) == [path]

    @pytest.mark.parametrize("part", ["processor", "target", "features", "numba", "numpy", "kernels"])
    def test_another_machine_has_another_file(self, runner, restart, monkeypatch, part):
        dispatch.choose(PRODUCT, runner(3, 2, 4))
        path, machine = dispatch.table().path, dispatch.machine()
        monkeypatch.setattr(dispatch, "machine", lambda: machine | {part: "another"})
        restart()
        assert dispatch.table().path != path
        assert dispatch.choose(PRODUCT, runner(1, 2, 4))[1] == ("popcount", "measured")
        Path(dispatch.table().path).write_bytes(Path(path).read_bytes())  # not even under its name
        restart()
        assert dispatch.choose(PRODUCT, runner(3, 2, 1))[1] == ("float", "measured")

    def test_processes_do_not_spoil_each_others_writes(self, own_cache):
        script = ("import sys\n"
                  "from bitnet.execution import dispatch\n"
                  "for i in range(60):\n"
                  "    dispatch.table().add(f'{sys.argv[1]} {i} ' + 999 * 'x', {'float': 1})\n")
        writers = [subprocess.Popen([sys.executable, "-c", script, name], env=os.environ) for name in "abc"]
        path = Path(dispatch.table().path)
        while any(writer.poll() is None for writer in writers):
            if path.exists():
                json.loads(path.read_text())  # whole at any time
        assert [writer.returncode for writer in writers] == [0, 0, 0]
        assert list(own_cache.iterdir()) == [path]
        # who wrote last has kept all of its own and, mostly, what others wrote before
        kinds = json.loads(path.read_text())["milliseconds"]
        assert any(sum(kind[0] == name for kind in kinds) == 60 for name in "abc")


class TestExecution:
    operands = (Codes(np.ones((2, 5, 5, 3), np.uint8), 2, "unsigned", 1 / 3),
                Codes(np.ones((2, 2, 3, 4), np.uint8), 1, "bipolar"))

    def forward(self):
        with execution.log() as records:
            execution.forward(*self.operands, Conv(3, 4, (2, 2)))
        return records

    @pytest.mark.parametrize("quickest", execution.FAMILIES)
    def test_one_record_a_product_while_measuring_and_after(self, runner, monkeypatch, quickest):
        run, original = runner(**(dict.fromkeys(execution.FAMILIES, 1.9) | {quickest: 1.0})), execution.products.forward

        def forward(family, *args):
            run(family)
            return original(family, *args)

        monkeypatch.setattr(execution.products, "forward", forward)
        (record,) = self.forward()
        assert (record.family, record.how) == (quickest, "measured") and len(run.calls) == 12
        (record,) = self.forward()
        assert (record.family, record.how) == (quickest, "known") and len(run.calls) == 13

    def test_a_forced_family_measures_nothing(self):
        with use_kernels("float"):
            (record,) = self.forward()
        assert (record.family, record.how) == ("float", "") and dispatch.table().costs == {}

    def test_every_product_of_codes_is_measured_once_but_that_of_single_pixels(self):
        random.seed(0)
        model, rng = models.svhn("D", (1, 2, 4)), np.random.default_rng(0)
        images, labels = rng.random((4, 40, 40, 3), np.float32), rng.integers(0, 10, 4)
        for how in ("measured", "known"):
            with execution.log() as records:
                F.softmax_cross_entropy(model(images), labels).backward()
            found = {(record.layer, record.role): record.how for record in records if record.family != "float32"}
            assert found.pop(("conv6", "weight_grad")) == ""
            assert len(found) == 17 and set(found.values()) == {how}
        # conv2's products are those of conv1 where the channels are the same, and so on: fewer kinds than products
        assert 0 < len(dispatch.table().costs) <= 17

    @pytest.mark.parametrize("seed", range(3))
    def test_gradients_are_bit_identical_whatever_is_picked(self, monkeypatch, seed):
        rng = np.random.default_rng(seed)
        images, labels = rng.random((4, 40, 40, 3), np.float32), rng.integers(0, 10, 4)

        def gradients():
            random.seed(0)
            model = models.svhn("D", (1, 2, 4))
            with execution.log() as records:
                F.softmax_cross_entropy(model(images), labels).backward()
            return [parameter.grad for parameter in model.parameters()], {record.family for record in records}

        measured, _ = gradients()
        monkeypatch.setattr(dispatch.CostTable, "quickest", lambda table, kind: str(rng.choice(execution.FAMILIES)))
        mixed, families = gradients()
        assert families == {*execution.FAMILIES, "float32"}
        for one, other in zip(measured, mixed, strict=True):
            np.testing.assert_array_equal(one, other)


class TestReport:
    def last_line(self, family="auto"):
        images = np.random.default_rng(0).random((2, 40, 40, 3), np.float32)
        with use_kernels(family):
            return report.layer_table(models.svhn("D"), images, np.array([1, 2])).splitlines()[-1]

    def test_it_says_where_the_choice_came_from(self, monkeypatch, tmp_path):
        path = dispatch.table().path
        assert self.last_line() == f"kernels: the quickest of each product, 17 of 17 measured now; times are in {path}"
        assert self.last_line() == f"kernels: the quickest of each product, as measured before; times are in {path}"
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("BITNET_CACHE", str(tmp_path / "file" / "cache"))
        path = dispatch.table().path
        assert self.last_line() == ("kernels: the quickest of each product, 17 of 17 measured now; "
                                    f"{path} cannot be written, so the next start measures again")

    def test_a_forced_family_needs_no_explanation(self):
        assert not self.last_line("popcount").startswith("kernels:")
