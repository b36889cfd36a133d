"""Compiling on several processes: the kernels of a rehearsal, and what a rehearsal leaves as it was."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bitnet import execution, functional, models, random
from bitnet.kernels.machine import ahead, threads
from bitnet.kernels.machine.arrays import address_of
from bitnet.kernels.pointwise import finite

STEP = """
import json, os, sys
import numpy as np
from numba.core import event
from bitnet import execution, functional, models
from bitnet.kernels.machine import compile, threads

threads.set_threads(2)
net = models.svhn("D", (1, 2, 4), seed=3)
images, targets = np.random.default_rng(0).random((4, 40, 40, 3), np.float32), np.arange(4)

def step(net):
    loss = functional.softmax_cross_entropy(net(images), targets)
    loss.backward()
    return loss

if sys.argv[1] == "killed":
    from bitnet.kernels.machine import ahead
    started = ahead._Helper.__init__
    def killed(self, queue):
        started(self, queue)
        self.process.kill()
    ahead._Helper.__init__ = killed
with execution.use_kernels("byte_dot"):
    if sys.argv[1] != "alone":
        execution.rehearse(net, step)
    kept = len(os.listdir(compile.cache_folder()))
    with event.install_listener("numba:compile", event.RecordingListener()) as after:
        loss = float(step(net).data)
gradient = net.parameters()[0].grad
print(json.dumps([loss, gradient.astype(np.float64).sum(), kept, len(after.buffer) // 2]))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Loss, gradient, kernels kept before the step and compiled in it: without a rehearsal, with one, with helpers killed."""
    results = {}
    for kind in ("alone", "helped", "killed"):
        folder = tmp_path_factory.mktemp(kind)
        run = [sys.executable, "-c", STEP, kind]
        env = {**ahead.os.environ, "NUMBA_CACHE_DIR": str(folder), "BITNET_CACHE": str(folder)}
        done = subprocess.run(run, capture_output=True, text=True, env=env, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        results[kind] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize("kind", ["helped", "killed"])
def test_a_rehearsed_step_is_the_step(runs, kind):
    assert runs[kind][:2] == runs["alone"][:2]


def test_what_a_step_needs_is_compiled_before_it(runs):
    """All but a few that Python functions call inside a kernel's place."""
    _, _, kept, after = runs["helped"]
    assert kept > 15 and after < runs["alone"][3] / 4


def test_a_rehearsal_changes_nothing():
    net, images = models.svhn("D", (1, 2, 4), seed=3), np.random.default_rng(0).random((2, 40, 40, 3), np.float32)
    before, draws = {name: value.copy() for name, value in net.state_dict().items()}, random.get_state()

    def step(net):
        functional.softmax_cross_entropy(net.train()(images), np.arange(2)).backward()

    with execution.log() as records:
        execution.rehearse(net, step)
    assert random.get_state() == draws and not records
    assert all(np.array_equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_kernels_do_not_run_in_a_rehearsal():
    values, largest = np.full(9, np.nan, np.float32), np.zeros(1, np.int32)
    args = np.array([0, 0]), np.array([address_of(values)]), np.array([9]), largest
    with threads.noted_in(ahead._Notes()):
        assert threads.is_rehearsal()
        threads.run(finite._largest_exponent, 1, *args)
        threads.run(lambda start, stop: largest.fill(1), 1)
    assert not threads.is_rehearsal() and largest[0] == 0
    with threads.noted_in(ahead._Notes()):
        assert all(finite.all_finite(values[:size]) for size in range(1, 10))  # of what nobody looked at
    threads.run(finite._largest_exponent, 1, *args)
    assert largest[0] == finite.EXPONENT


def test_an_error_in_a_rehearsal_is_left_for_the_step():
    def step(net):
        raise ValueError("no such thing")

    execution.rehearse(models.svhn("D", (1, 2, 4)), step)
