"""The profile: made-up times end in the right cells, real ones add up, and training is the same with and without it."""

import itertools
import types

import numpy as np
import pytest

from bitnet import execution, models, optimizers, use_kernels
from bitnet import functional as F
from bitnet.execution import Record
from bitnet.kernels.machine import threads
from bitnet.layers import unfused
from bitnet.report import profile
from bitnet.report.profile import KINDS, Profile, ProfileSteps, kind_of, speed_up
from bitnet.storage import load_checkpoint

LIMITS = {"popcount_gmacs": 1000.0, "byte_gmacs": 200.0, "float_gmacs": 50.0}


class Clock:
    """Time that passes only when a test says so."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def kernel(self, file, name, seconds):
        """Run a made-up kernel of a file, which takes so long."""

        def work(start, stop):
            self.now += seconds

        work.__name__, work.__module__ = name, f"bitnet.kernels.{file}"
        threads.run(work, 1)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(threads, "time", clock)
    return clock


@pytest.fixture
def made_up(clock):
    """A profile of two steps: 0.002 s packing, 0.004 product, 0.001 epilogue, 0.003 elementwise, 0.010 Python."""
    with Profile(clock.perf_counter) as profile:
        for _ in range(2):
            clock.now += 0.001  # between steps
            with execution.layer("rest of the step"):
                with execution.layer("conv1"):
                    with execution.role("forward"):
                        clock.kernel("packing", "_pack_channels", 0.001)
                        clock.kernel("tiles", "spatial", 0.002)
                        execution._log.value.append(Record("conv1", "forward", "popcount", (2, 1), 500_000_000, (), ()))
                        clock.now += 0.001
                    clock.kernel("elementwise", "_adam", 0.0015)
                    with execution.role("input_grad"):
                        clock.kernel("block", "_sums", 0.0005)
                clock.now += 0.003
            profile.steps += 1
    return profile


@pytest.mark.parametrize("whole, part, expected", [(10, 0, 1), (10, 5, 2), (10, 9, 10), (3, 2, 3), (10, 10, np.inf),
                                                   (1, 1 + 1e-12, np.inf)])
def test_amdahls_law(whole, part, expected):
    assert speed_up(whole, part) == pytest.approx(expected)


def test_times_end_in_the_cell_of_layer_path_and_kind(made_up):
    expected = {("conv1", "forward", "packing"): 0.002, ("conv1", "forward", "product"): 0.004,
                ("conv1", "forward", "Python"): 0.002, ("conv1", "", "elementwise"): 0.003,
                ("conv1", "input_grad", "epilogue"): 0.001, ("rest of the step", "", "Python"): 0.006,
                ("", "", "Python"): 0.002}
    assert {cell: seconds for cell, seconds in made_up.seconds.items() if seconds > 1e-12} == pytest.approx(expected)


def test_totals(made_up):
    assert made_up.total() == pytest.approx(0.020)
    assert made_up.total("conv1") == pytest.approx(0.012)
    assert made_up.total("conv1", "forward") == pytest.approx(0.008)
    assert made_up.total(kind="Python") == pytest.approx(0.010)
    assert made_up.total("conv1", "") == pytest.approx(0.003)  # no role, not any role
    assert made_up.total("conv9") == 0


def test_the_share_of_the_limit(made_up):
    # 2 steps x 5e8 multiply-accumulates x 2 pairs of planes in 0.004 s: half of 1000 GMAC/s
    assert made_up.share_of_limit("conv1", "forward", LIMITS) == pytest.approx(0.5)
    assert made_up.share_of_limit("conv1", "input_grad", LIMITS) is None
    place, macs = ("conv1", "forward"), 1_000_000_000
    for family, note, expected in (("byte_dot", "", macs / 0.004 / 200e9), ("float", "", macs / 0.004 / 50e9),
                                   ("float32", "", macs / 0.004 / 50e9), ("popcount", "note", macs / 0.004 / 50e9)):
        made_up.products[place] = Record(*place, family, (2, 1), 0, (), (), note)
        assert made_up.share_of_limit(*place, LIMITS) == pytest.approx(expected)


def test_the_table(made_up):
    lines = [" ".join(line.split()) for line in made_up.table(LIMITS).splitlines()]
    assert lines[:8] == [
        "profile of 2 steps, milliseconds a step:",
        "layer part kernels packing product epilogue elementwise Python ms of step of limit",
        "conv1 forward popcount 1.00 2.00 . . 1.00 4.00 40.0% 50%",
        "conv1 input grad . . 0.50 . . 0.50 5.0%",
        "conv1 elementwise . . . 1.50 . 1.50 15.0%",
        "rest of the step . . . . 3.00 3.00 30.0%",
        "between steps . . . . 1.00 1.00 10.0%",
        "all 1.00 2.00 0.50 1.50 5.00 10.00 100.0%",
    ]
    assert lines[-3:] == [
        "If all products took no time, a step would be 1.25x faster; if everything else did, 5.00x; "
        "if products ran at the machine's limit, 1.11x.",
        "Without the time of one of the others: packing 1.11x, epilogue 1.05x, elementwise 1.18x, Python 2.00x.",
        "Most time: rest of the step, Python: 3.00 ms (30%); conv1 forward, product: 2.00 ms (20%); "
        "conv1 elementwise, elementwise: 1.50 ms (15%).",
    ]


def test_a_profile_of_nothing_says_so():
    profile = Profile()
    assert "no step" in profile.table(LIMITS)
    with profile:
        pass
    assert "no step" in profile.table(LIMITS)


def test_what_happens_outside_the_blocks_is_not_counted(clock):
    profile = Profile(clock.perf_counter)
    for _ in range(2):
        with profile, execution.layer("conv1"):
            clock.kernel("dense", "tiles", 1.0)
        with execution.layer("conv2"):
            clock.kernel("dense", "tiles", 10.0)
            clock.now += 10
    assert profile.total() == profile.total("conv1", "", "product") == 2


def step(model, images, labels, optimizer=None):
    F.softmax_cross_entropy(model(images), labels).backward()
    (optimizer or optimizers.Adam(model.parameters())).step()


def kernels(family, bits, fused):
    """The functions that a training step runs on the pool of threads."""
    rng, found = np.random.default_rng(0), {}
    images, labels = rng.random((2, 40, 40, 3), np.float32), np.array([1, 2])

    def observer(function, seconds):
        assert seconds >= 0
        found[function.__module__, function.__name__] = function

    with use_kernels(family), threads.observe(observer):
        if fused:
            step(models.svhn("D", bits), images, labels)
        else:
            with unfused():
                step(models.svhn("D", bits), images, labels)
    return found


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family, bits", [*itertools.product(execution.FAMILIES, [(1, 2, 4)]), ("auto", (8, 8, 8)),
                                          ("auto", (32, 32, 32))])
def test_every_kernel_of_a_training_step_has_a_kind(family, bits, fused):
    found = kernels(family, bits, fused)
    kinds = {name: kind_of(function) for (_, name), function in found.items()}
    assert len(kinds) > 5 and set(kinds.values()) <= set(KINDS), kinds
    assert {"product", "elementwise"} <= set(kinds.values())
    if family in ("popcount", "byte_dot"):
        assert "packing" in kinds.values()
    assert ("epilogue" in kinds.values()) == (fused and 32 not in bits)  # unfused, batch norm and the like stand alone
    for name, kind in kinds.items():
        assert (kind == "packing") == any(word in name for word in ("pack", "pad", "stream")), name


def test_a_strange_function_has_no_kind():
    assert kind_of(step) is None


@pytest.mark.parametrize("count", [1, 2])
def test_real_steps_add_up(count, monkeypatch):
    monkeypatch.setattr(threads, "_threads", count)
    rng, model = np.random.default_rng(0), models.svhn("D", (1, 2, 4))
    optimizer = optimizers.Adam(model.parameters())
    images, labels = rng.random((8, 40, 40, 3), np.float32), rng.integers(0, 10, 8)
    step(model, images, labels, optimizer)
    profile = Profile()
    with profile:
        started = profile._clock()
        for _ in range(3):
            step(model, images, labels, optimizer)
            profile.steps += 1
        passed = profile._clock() - started
    assert profile.total() == pytest.approx(passed, rel=0.05)
    assert min(profile.seconds.values()) > -1e-6
    for place in profile.products:
        assert profile.total(*place, "product") > 0, place
        assert profile.share_of_limit(*place, LIMITS) > 0
        assert profile.macs[place] == 3 * profile.products[place].macs
    # backward runs in the layer whose forward it belongs to
    assert {layer for layer, _, _ in profile.seconds} >= {*models.INNER_LAYERS, "conv0", "loss", "optimizer"}
    assert profile.total("conv1", "", "epilogue") > 0 and profile.total("optimizer", "", "elementwise") > 0


def arrays(path):
    checkpoint = load_checkpoint(path)
    return {name: np.asarray(value).tobytes() for name, value in (checkpoint.model | checkpoint.optimizer).items()}


@pytest.fixture
def limits(monkeypatch):
    monkeypatch.setattr(profile, "peak", types.SimpleNamespace(
        measure=lambda quick: LIMITS, describe=lambda limits, count: "the limits"))


@pytest.mark.parametrize("options, steps", [({"steps": 2, "warm": 1}, 2),
                                            ({"steps": 7, "warm": 4}, 7),     # across an epoch of 6 steps
                                            ({"steps": 100, "warm": 2}, 10),  # more than there are
                                            ({"steps": 4, "warm": 6}, 4), ({"steps": 5, "warm": 0}, 5)])
def test_training_is_the_same_and_told_once(make, tmp_path, capsys, limits, options, steps):
    make(checkpoint=tmp_path / "without.h5").run()
    capsys.readouterr()
    told = []
    watcher = ProfileSteps(before=lambda: told.append(capsys.readouterr().out), **options)
    make(checkpoint=tmp_path / "with.h5", callbacks=[watcher]).run()
    assert arrays(tmp_path / "with.h5") == arrays(tmp_path / "without.h5")
    out = capsys.readouterr().out
    assert told == [""] and out.startswith(f"profile of {steps} steps, ") and out.endswith("the limits\n")
    assert threads._observer.get() is None and execution._watcher.value is None and execution._log.value is None
    assert watcher.profile.macs["conv1", "forward"] == steps * watcher.profile.products["conv1", "forward"].macs


def test_a_training_of_few_steps_has_no_profile(make, capsys, limits):
    make(epochs=1, callbacks=[ProfileSteps(warm=6)]).run()
    assert "no step was seen" in capsys.readouterr().out


def test_it_can_be_stopped_halfway(make, limits, capsys):
    watcher = ProfileSteps(warm=1)
    trainer = make(callbacks=[watcher])
    assert not trainer.run(stop=lambda: trainer.step == 4)
    watcher.close()
    watcher.close()
    assert watcher.profile.steps == 3 and threads._observer.get() is None and capsys.readouterr().out == ""
