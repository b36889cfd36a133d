"""Switches of a block belong to a thread: what one thread does inside disturbs no other one."""

import threading

import numpy as np
import pytest

from bitnet import Tensor, execution, models, no_grad, optimizers, random, use_kernels
from bitnet import functional as F
from bitnet.settings import Setting
from bitnet.tensor import is_recording


def in_threads(*functions):
    """Results of functions, each in a thread of its own."""
    results, errors = [None] * len(functions), []

    def run(i):
        try:
            results[i] = functions[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if errors:
        raise errors[0]
    return results


def test_a_setting_holds_inside_the_block_and_comes_back_after_an_error():
    setting = Setting("test", 1)
    with pytest.raises(KeyError), setting.set_to(2) as value:
        assert setting.value == value == 2
        raise KeyError
    assert setting.value == 1
    setting.value = 3
    assert setting.get() == 3 and in_threads(setting.get) == [1]


def test_overlapping_blocks_of_threads_leave_recording_on():
    barrier = threading.Barrier(4)

    def evaluate():
        with no_grad():
            barrier.wait()  # all are inside, and leave in any order
            assert not is_recording()
        return is_recording()

    assert in_threads(*[evaluate] * 4) == [True] * 4
    assert is_recording()
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]


def test_a_thread_that_evaluates_switches_nothing_off_elsewhere():
    inside, done = threading.Event(), threading.Event()

    def other():
        with no_grad(), use_kernels("float"), execution.layer("elsewhere"):
            inside.set()
            done.wait(20)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(20)
    try:
        assert is_recording() and execution.current_layer() == ""
        with execution.log() as records:
            models.svhn("D")(np.zeros((2, 40, 40, 3), np.uint8))
        assert {record.layer for record in records} >= {"conv1", "fc"}
    finally:
        done.set()
        thread.join()


def training(seed):
    """Losses of a few steps."""
    random.seed(seed)
    net = models.svhn("D", (1, 2, 4), seed=seed)
    optimizer, losses = optimizers.Adam(net.parameters(), 1e-3), []
    rng = np.random.default_rng(seed)
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.softmax_cross_entropy(net(rng.integers(0, 256, (8, 40, 40, 3)).astype(np.uint8)), np.arange(8) % 10)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.data))
    return losses


def test_two_trainings_in_two_threads_are_what_each_is_alone():
    alone = [training(1), training(2)]
    assert in_threads(lambda: training(1), lambda: training(2)) == alone
