"""Batches: exact, repeatable from any step, and no thread outlives its epoch."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from bitnet.datasets import Augmentation, DataError, Dataset, Digits, Loader
from bitnet.datasets import loader as loader_module


def digits(count=37, size=8, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, size, size, 3), np.uint8)
    return Digits(images, random.integers(0, 10, count).astype(np.uint8), "noise")


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("bitnet-loader")]


def equal(first, second):
    return all(np.array_equal(getattr(first, k), getattr(second, k)) for k in ("images", "labels", "indices"))


def test_pixels_stay_as_they_are():
    data = digits()
    seen = []
    for batch in Loader(data, 5, drop_last=False).epoch(0):
        assert batch.images.dtype == np.uint8 and batch.labels.dtype == batch.indices.dtype == np.int64
        assert np.array_equal(batch.images, data.images[batch.indices])
        assert np.array_equal(batch.labels, data.labels[batch.indices])
        seen += batch.indices.tolist()
    assert sorted(seen) == list(range(37)) and seen != sorted(seen)


def test_without_shuffling_the_order_is_that_of_the_digits():
    batches = list(Loader(digits(), 10, shuffle=False, drop_last=False).epoch(3))
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(37))
    assert [len(batch.labels) for batch in batches] == [10, 10, 10, 7]


def test_steps():
    assert Loader(digits(), 10).steps_per_epoch == len(list(Loader(digits(), 10).epoch(0))) == 3
    assert Loader(digits(), 10, drop_last=False).steps_per_epoch == 4
    assert Loader(digits(40), 10, drop_last=False).steps_per_epoch == 4
    assert Loader(digits(3), 10, drop_last=False).steps_per_epoch == 1


def test_augmentation_is_the_formula():
    data, augment = digits(), Augmentation()
    plain, gains = [], []
    for batch in Loader(data, 37, augment=augment).epoch(2):
        order = np.random.Generator(np.random.Philox(np.random.SeedSequence((0, 2))))
        assert np.array_equal(batch.indices, order.permutation(37))
        shifts, contrasts = order.uniform(-30, 30, 37), order.uniform(0.5, 1.5, 37)
        for image, index, shift, gain in zip(batch.images, batch.indices, shifts, contrasts, strict=True):
            expected = np.clip(data.images[index] + shift, 0, 255)
            mean = expected.mean((0, 1))
            expected = np.clip((expected - mean) * gain + mean, 0, 255) / 256
            np.testing.assert_allclose(image, expected, atol=2e-6)
            plain.append(shift), gains.append(gain)
        assert batch.images.min() >= 0 and batch.images.max() <= 255 / 256
    assert min(plain) < -20 and max(plain) > 20 and min(gains) < 0.7 and max(gains) > 1.3


def test_augmentation_that_changes_nothing():
    data = digits()
    (batch,) = Loader(data, 37, augment=Augmentation(0.0, (1.0, 1.0))).epoch(0)
    np.testing.assert_allclose(batch.images, data.images[batch.indices] / 256, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"augment": Augmentation()}, {"shuffle": False, "augment": Augmentation()}])
def test_an_epoch_entered_late_gives_the_same_bits(options):
    data = digits()
    full = list(Loader(data, 5, seed=3, **options).epoch(4))
    for start in range(8):
        late = list(Loader(data, 5, seed=3, **options).epoch(4, start_step=start))
        assert len(late) == 7 - start
        assert all(equal(a, b) for a, b in zip(full[start:], late, strict=True))


def test_seed_and_epoch_matter_threads_do_not():
    data, augment = digits(), Augmentation()

    def first(seed, epoch, **options):
        return next(iter(Loader(data, 8, seed, augment, **options).epoch(epoch)))

    assert not np.array_equal(first(0, 0).indices, first(0, 1).indices)
    assert not np.array_equal(first(0, 0).indices, first(1, 0).indices)
    reference = list(Loader(data, 3, 5, augment, prefetch=0).epoch(6))
    for options in ({}, {"workers": 3}, {"prefetch": 9}, {"prefetch": 1, "workers": 4}):
        batches = list(Loader(data, 3, 5, augment, **options).epoch(6))
        assert all(equal(a, b) for a, b in zip(reference, batches, strict=True))


def test_memory_maps_and_arrays_alike(tmp_path):
    data = digits()
    data.images.tofile(tmp_path / "raw")
    mapped = Digits(np.memmap(tmp_path / "raw", np.uint8, "r", shape=data.images.shape), data.labels, "mapped")
    pairs = zip(Loader(data, 5).epoch(0), Loader(mapped, 5).epoch(0), strict=True)
    assert all(equal(a, b) for a, b in pairs)
    assert np.shares_memory(Loader(mapped, 5)._images, mapped.images)  # not copied
    assert data.images.flags.writeable  # the caller's array stays as it was


def test_batches_are_ahead_of_training_but_not_by_more_than_asked(monkeypatch):
    made, original = [], Loader._batch
    monkeypatch.setattr(Loader, "_batch", lambda self, *a: made.append(a[-1]) or original(self, *a))
    iterator = Loader(digits(), 2, prefetch=3).epoch(0)
    assert not made and not threads()  # nothing runs before it is asked for
    next(iterator)
    pool_done = threading.Event()
    for _ in range(200):
        if len(made) == 4:
            break
        pool_done.wait(0.01)
    pool_done.wait(0.05)
    assert sorted(made) == [0, 1, 2, 3]
    iterator.close()


@pytest.mark.parametrize("how", ["close", "drop", "raise", "end"])
def test_no_thread_is_left(how):
    loader = Loader(digits(), 3, workers=2)
    iterator = loader.epoch(0)
    next(iterator)
    assert threads()
    if how == "close":
        iterator.close()
    elif how == "drop":
        del iterator
    elif how == "end":
        list(iterator)
    else:
        with pytest.raises(KeyboardInterrupt):
            iterator.throw(KeyboardInterrupt)
    assert not threads()
    assert len(list(loader.epoch(0))) == 12  # and the loader still works


def test_an_exception_in_the_thread_reaches_the_consumer(monkeypatch):
    original = Loader._batch

    def fail(self, order, draws, step):
        if step == 2:
            raise OSError("the disk is gone")
        return original(self, order, draws, step)

    monkeypatch.setattr(Loader, "_batch", fail)
    iterator, got = Loader(digits(), 3).epoch(0), []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in iterator:
            got.append(batch)
    assert len(got) == 2 and not threads()


def test_kernels_leave_the_interpreter_free():
    options = loader_module._augment.targetoptions
    assert options["nogil"] and not options.get("parallel")


def test_pictures_that_are_not_square_and_label_maps():
    random = np.random.default_rng(0)
    maps = Dataset(random.integers(0, 256, (7, 6, 10, 1), np.uint8), random.integers(0, 3, (7, 6, 10)), ("a", "b", "c"), "maps")
    (batch,) = Loader(maps, 7).epoch(0)
    assert np.array_equal(batch.images, maps.images[batch.indices]) and batch.labels is batch.targets
    assert batch.targets.dtype == np.int64 and np.array_equal(batch.targets, maps.targets[batch.indices])
    (batch,) = Loader(maps, 7, augment=Augmentation(0.0, (1.0, 1.0))).epoch(0)
    np.testing.assert_allclose(batch.images, maps.images[batch.indices] / 256, atol=1e-6)


def test_a_step_of_views():
    data = digits()[3::2]
    (batch,) = Loader(data, 17, augment=Augmentation(0.0, (1.0, 1.0))).epoch(0)
    np.testing.assert_allclose(batch.images, data.images[batch.indices] / 256, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_bit_for_bit(channels):
    # in float32, one operation after the other: rows are summed first, then columns, from the left
    pixels = np.random.default_rng(0).integers(0, 256, (16, 12, 7, channels), np.uint8)
    data = Dataset(pixels, np.zeros(16, int), ("a",), "noise")
    (batch,) = Loader(data, 16, augment=Augmentation(), shuffle=False).epoch(1)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((0, 1))))
    shift, gain = (random.uniform(*span, (16, 1, 1, 1)).astype(np.float32) for span in ((-30, 30), (0.5, 1.5)))
    images = np.clip(data.images + shift, np.float32(0), np.float32(255))
    mean = np.add.accumulate(np.add.accumulate(images, axis=1)[:, -1], axis=1)[:, -1] / np.float32(12 * 7)
    images = (images - mean[:, None, None]) * gain + mean[:, None, None]
    assert np.array_equal(batch.images, images.clip(0, 255) * np.float32(1 / 256))


def test_both_names_of_the_dataset():
    loader = Loader(digits(), 5)
    assert loader.digits is loader.dataset


AUGMENTED = """
import numpy as np
from bitnet.datasets import Augmentation, Digits, Loader
data = Digits(np.full((4, 3, 3, 3), 9, np.uint8), np.zeros(4, np.uint8), "nines")
(batch,) = Loader(data, 4, augment=Augmentation(0.0, (1.0, 1.0))).epoch(0)
assert (batch.images == np.float32(9 / 256)).all()
"""


def test_what_is_compiled_here_outlives_no_damage(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", AUGMENTED], env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == ""
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) == 1 and files[0].stat().st_size > 1000
        files[0].write_bytes(b"")  # a power cut


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_process_forked_in_the_midst_of_an_epoch_goes_on():
    expected = [batch.indices for batch in Loader(digits(), 5).epoch(0)]
    batches = Loader(digits(), 5).epoch(0)
    next(batches)
    if not (child := os.fork()):
        signal.alarm(20)  # it has no threads that prepare batches
        os._exit(not all(np.array_equal(one.indices, other) for one, other in zip(batches, expected[1:], strict=True)))
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(batches)) == len(expected) - 1


def test_errors():
    with pytest.raises(DataError, match="noise: expected at least one batch of 38 images, found 37 images"):
        Loader(digits(), 38)
    for option, value in (("batch_size", 0), ("seed", -1), ("prefetch", -1), ("workers", 0)):
        with pytest.raises(ValueError, match=f"expected {option} >= .*, found {value}"):
            Loader(digits(), **{"batch_size": 5, option: value})
    for epoch, start in ((-1, 0), (0, -1), (0, 8)):
        with pytest.raises(ValueError, match=r"start_step in 0..7"):
            Loader(digits(), 5).epoch(epoch, start)  # at the call, not at the first batch
