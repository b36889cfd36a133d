"""Peak memory of training steps: a process of its own for ``train_step.py``.

    python benchmarks/memory.py auto|float|torch|torch_fake_quant MODEL W,A,G BATCH THREADS

Prints MiB at the peak of three steps above what the process held before its first batch. A small batch on another copy of
the network has compiled and warmed everything before.
"""

import ctypes
import gc
import resource
import sys

import common
import train_step

from bitnet import models
from bitnet.kernels.machine import threads


def _status(field):
    """A figure of this process in KiB, as Linux tells it; None elsewhere."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return None


def _peak():
    """Largest resident memory so far, KiB."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def _start():
    """Give free memory back, forget the peak; resident memory in KiB."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except (AttributeError, OSError):
        return _peak()  # what warming up took hides as much
    return _status("VmRSS")


def stepper(impl, name, bits, batch):
    """A function that does one step on two batches by turns."""
    data = train_step.batches(2, batch)
    if not impl.startswith("torch"):
        return train_step.trainer(models.svhn(name, bits), impl, data)
    import torch_peer

    return torch_peer.trainer(models.svhn(name, bits), data)


def main(impl, name, bits, batch, count):
    """Print the peak."""
    bits, batch, count = common.parse_bits(bits), int(batch), int(count)
    threads.set_threads(count)
    if impl.startswith("torch"):
        import torch_peer

        torch_peer.set_threads(count)
    warm = stepper(impl, name, bits, 2)
    for _ in range(2):
        warm()
    del warm
    step = stepper(impl, name, bits, batch)
    before = _start()
    for _ in range(3):
        step()
    print((_peak() - before) / 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
