"""Pictures that stay in their files: read, decoded and cut to size whenever they are asked for, by processes of their own.

A set as large as ImageNet fits neither into memory nor, a second time, onto a disk. Decoding one of its pictures takes some ten
milliseconds, in which training could do something else: so other processes decode, a few pictures at a time.
"""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache

import numpy as np

from .crops import centre_crop
from .dataset import DataError
from .images import open_rgb

CHUNK = 8  # pictures that a process takes at a time


class Pictures:
    """uint8 images (N, size, size, 3) in the place of an array: ``images[5]``, ``images[2:7]`` and ``take`` decode files.

    Parameters
    ----------
    paths : list of str or Path
    size : of an image, in pixels
    workers : processes that decode; None: one for each processor; 0: none, whoever asks decodes. They change no bit
    """

    on_demand, dtype, ndim = True, np.dtype(np.uint8), 4

    def __init__(self, paths, size, workers=None):
        self.paths, self.workers = [str(path) for path in paths], _processors() if workers is None else workers
        self.shape = len(self.paths), size, size, 3
        self.size = int(np.prod(self.shape, dtype=object))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, part):
        if isinstance(part, slice):
            return self.take(range(*part.indices(len(self))))
        return _decode([self.paths[part]], self.shape[1], None, None)[0]

    def take(self, indices, axis=0):
        """The middle of each of some pictures, see ``crops.centre_crop``: uint8 (B, size, size, 3)."""
        return self.decoded(indices, None, None)

    def decoded(self, indices, augment, seeds):
        """Some pictures, augmented; where there is no augmentation, their middle."""
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        parts = [slice(start, start + CHUNK) for start in range(0, len(indices), CHUNK)]
        jobs = [([self.paths[index] for index in indices[part]], self.shape[1], augment, None if seeds is None else seeds[part])
                for part in parts]
        if not self.workers or len(parts) == 1:
            results = [_decode(*job) for job in jobs]
        else:
            try:
                results = list(_pool(self.workers).map(_decode, *zip(*jobs, strict=True)))
            except BrokenProcessPool:
                _pool.cache_clear()
                raise DataError(f"expected {self.workers} processes that decode pictures, found that they ended; a script of "
                                'one\'s own needs if __name__ == "__main__", or 0 workers') from None
        for part, result in zip(parts, results, strict=True):
            out[part] = result
        return out


def _processors():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _pool(workers):
    """Started anew, not forked: a fork would copy locks that threads of this process hold."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)


def _begin():
    """A Ctrl-C is for the training, which then ends its workers; where it was killed, they end by themselves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(0)), daemon=True).start()


def _decode(paths, size, augment, seeds):
    if augment is None:
        return np.stack([centre_crop(open_rgb(path), size) for path in paths])
    return np.stack([augment.of(open_rgb(path), size, seed) for path, seed in zip(paths, seeds, strict=True)])
