"""Batches of images, prepared by a thread while training runs: uint8 as they are or mirrored, or augmented as floats.

Order and augmentation of an epoch depend on (seed, epoch) only: both are drawn at its start, for every position of the
epoch, so any later step can be entered directly and gives the same bits.

    epoch(e):  order      permutation of 0..N-1        position -> index of the image
               shift      U(-30, 30) a position        brightness
               gain       U(0.5, 1.5) a position       contrast
               flip       true or false, a position    mirrored
"""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import numpy as np

from bitnet.kernels.machine.compile import kernel

from .dataset import DataError


@dataclass(frozen=True)
class Augmentation:
    """Random brightness and contrast, as in tensorpack's DoReFa-Net example for SVHN; in float32, in this order.

        image = clip(image + U(-brightness, brightness), 0, 255)
        image = clip((image - mean) * U(*contrast) + mean, 0, 255)      mean: a channel's mean over the image
    """

    brightness: float = 30.0
    contrast: tuple[float, float] = (0.5, 1.5)

    def draw(self, random, count):
        """Brightness and contrast of ``count`` images: float32 (2, count)."""
        amount, (low, high) = self.brightness, self.contrast
        return np.stack([random.uniform(-amount, amount, count), random.uniform(low, high, count)]).astype(np.float32)

    def images(self, images, indices, draws):
        """Some of the images, changed: float32 (B, H, W, C), pixel / 256."""
        out = np.empty((len(indices), *images.shape[1:]), np.float32)
        _augment(images, indices, *draws, out)
        return out

    def targets(self, targets, draws):
        """Their targets: as they are."""
        return targets


@dataclass(frozen=True)
class Flip:
    """Every second image, by chance, as in a mirror, and its label map with it; pixels stay uint8."""

    def draw(self, random, count):
        """Which of ``count`` images are mirrored: bool (1, count)."""
        return random.random((1, count)) < 0.5

    def images(self, images, indices, draws):
        """Some of the images: uint8 (B, H, W, C)."""
        return _mirrored(images.take(indices, axis=0), draws[0])

    def targets(self, targets, draws):
        """Their targets: those of pixels mirrored, those of images as they are."""
        return targets if targets.ndim == 1 else _mirrored(targets, draws[0])


def _mirrored(arrays, which):
    arrays[which] = arrays[which, :, ::-1]
    return arrays


@dataclass
class Batch:
    """Some images of a dataset.

    images : uint8 (B, H, W, C) as they are, or augmented: float32, pixel / 256
    targets : int64 (B,), or (B, H, W) of label maps;  ``labels`` is another name
    indices : int64 (B,) into the dataset
    """

    images: np.ndarray
    targets: np.ndarray
    indices: np.ndarray

    @property
    def labels(self):
        return self.targets


@kernel  # nogil: training's own kernels run meanwhile
def _augment(images, indices, shift, gain, out):
    """out[b] = images[indices[b]] with the formula of Augmentation, / 256. shift, gain: float32 (B,)."""
    low, high, unit = np.float32(0), np.float32(255), np.float32(1 / 256)
    _, height, width, channels = images.shape
    totals = np.empty(channels, np.float32)
    for b in range(len(indices)):
        # (H, W, C) -> (H, W*C): the loops that write run along memory, with W as the stride of the channels' sums
        source, target = images[indices[b]].reshape(height, -1), out[b].reshape(height, -1)
        total = np.zeros(width * channels, np.float32)
        for y in range(height):
            for i in range(width * channels):
                value = min(max(np.float32(source[y, i]) + shift[b], low), high)
                target[y, i] = value
                total[i] += value
        totals[:] = 0
        for i in range(width * channels):
            totals[i % channels] += total[i]
        for i in range(width * channels):
            total[i] = totals[i % channels] / np.float32(height * width)  # from here on the mean
        for y in range(height):
            for i in range(width * channels):
                value = (target[y, i] - total[i]) * gain[b] + total[i]
                target[y, i] = min(max(value, low), high) * unit


class Loader:
    """Batches of a dataset, epoch by epoch.

    Parameters
    ----------
    dataset : Dataset
    batch_size : int
    seed : int                              # >= 0; of the order and the augmentation
    augment : Augmentation, Flip, CropAugmentation or None   # None: pixels as they are, uint8
    shuffle : bool                          # False: in the order of the dataset
    drop_last : bool                        # True: an incomplete last batch is left out
    prefetch : int                          # batches prepared ahead; 0: none, and no thread
    workers : int                           # threads; they change no bit of any batch
    Raises
    ------
    DataError : the dataset has less than one batch.
    ValueError : an argument outside its range.
    """

    def __init__(self, dataset, batch_size, seed=0, augment=None, shuffle=True, drop_last=True, prefetch=2, workers=1):
        least = {"batch_size": (batch_size, 1), "seed": (seed, 0), "prefetch": (prefetch, 0), "workers": (workers, 1)}
        for name, (value, bound) in least.items():
            if value < bound:
                raise ValueError(f"expected {name} >= {bound}, found {value}")
        if len(dataset) < (batch_size if drop_last else 1):
            raise DataError(
                f"{dataset.name}: expected at least one batch of {batch_size} images, found {len(dataset)} images"
            )
        self.dataset, self.batch_size, self.seed, self.augment = dataset, batch_size, seed, augment
        self.shuffle, self.drop_last, self.prefetch, self.workers = shuffle, drop_last, prefetch, workers
        self._images = dataset.images
        if not dataset.on_demand:  # a plain read-only view: one compiled kernel serves arrays and memory maps
            self._images = np.ascontiguousarray(dataset.images).view(np.ndarray)
            self._images.flags.writeable = False

    @property
    def digits(self):
        return self.dataset

    @property
    def steps_per_epoch(self):
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def epoch(self, epoch, start_step=0):
        """Iterate over the batches of one epoch, from a step on.

        epoch(e, start_step=k) gives, bit for bit, what epoch(e) gives from its step k on. Closing the generator early
        (also by leaving a for loop and dropping it) ends its threads; an exception in a thread is raised here.

        Parameters
        ----------
        epoch : int        # >= 0
        start_step : int   # 0..steps_per_epoch
        Yields
        ------
        batch : Batch      # arrays of its own, free to be kept or changed
        """
        if epoch < 0 or not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(
                f"expected epoch >= 0 and start_step in 0..{self.steps_per_epoch}, found {epoch} and {start_step}"
            )
        return self._epoch(epoch, start_step)

    def _epoch(self, epoch, start_step):
        count = len(self.dataset)
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch))))
        order = random.permutation(count) if self.shuffle else np.arange(count)
        draws = None if self.augment is None else self.augment.draw(random, count)
        jobs = (partial(self._batch, order, draws, step) for step in range(start_step, self.steps_per_epoch))
        if not self.prefetch:
            yield from (job() for job in jobs)
            return
        pool, pending, process = ThreadPoolExecutor(self.workers, "bitnet-loader"), deque(), os.getpid()
        try:
            pending.extend((job, pool.submit(job)) for job in islice(jobs, max(self.prefetch, self.workers)))
            while pending and os.getpid() == process:
                batch = pending.popleft()[1].result()
                pending.extend((job, pool.submit(job)) for job in islice(jobs, 1))
                yield batch
            for job in chain((job for job, _ in pending), jobs):  # a forked process has the generator, but not its threads
                yield job()
        finally:
            if os.getpid() == process:
                pool.shutdown(cancel_futures=True)

    def _batch(self, order, draws, step):
        span = slice(step * self.batch_size, (step + 1) * self.batch_size)
        indices = order[span]
        targets = self.dataset.targets[indices].astype(np.int64)
        if draws is None:
            images = self._images.take(indices, axis=0)
        else:
            images = self.augment.images(self._images, indices, draws[:, span])
            targets = self.augment.targets(targets, draws[:, span])
        return Batch(images, targets, indices.astype(np.int64))
