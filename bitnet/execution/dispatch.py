"""Which kernel family computes a product quickest: measured once on a machine, known from then on.

All families return the same integers, so any of them may answer. The first product of a kind is computed by all of them, under
a clock, on the operands at hand; whatever is picked, no bit of a training depends on it.

    product -> kind known? -> its quickest family
                     no    -> popcount, byte_dot, float in turn; their times go into the table

A kind is everything that a time depends on: role, convolution, image size, bits and encodings, number of threads, and the
batch, rounded up to a power of two, so that a last, smaller batch is mostly of the kind of those before it.

The table is a file of JSON in the user's cache folder. Its name carries a hash of the machine, of the versions of Numba and
NumPy and of the kernels' sources: where one of them is another, so is the file, and a stale time never answers. It is replaced
whole; where two processes write at once, the measurements of one may be lost, to be made again. A file that cannot be read or
written is no error.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
import tempfile
import time
import zlib
from functools import cache, lru_cache
from typing import NamedTuple

import numba
import numpy as np
from numba.core.registry import cpu_target
from platformdirs import user_cache_dir

from bitnet.kernels import products
from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import cache_folder as compiled_kernels
from bitnet.kernels.products.geometry import Conv

CALLS = 3    # timed calls of a family, of which the best counts; one before them compiles and warms up
SLOWER = 2   # a family whose call takes so many times the best of the others is measured no further
LARGEST = 1 << 26  # bytes of a table
FLOAT = 2    # float is tried only where the others need more than 1 / FLOAT of the time of a bare float matrix product

clock = time.perf_counter
_tables = {}


class Product(NamedTuple):
    """A product, as far as its time depends on it.

    role : "forward", "input_grad" or "weight_grad"
    conv : Conv; size : (H, W) of its input; batch : number of samples
    lhs, rhs : (bits, encoding) of the operands
    """

    role: str
    conv: Conv
    size: tuple
    batch: int
    lhs: tuple
    rhs: tuple

    @property
    def macs(self):
        """Multiply-accumulates."""
        return self.conv.macs(self.batch, *self.size)

    def kind(self):
        """What is looked up in the table, in words."""
        return _kind(self, threads.get_threads())


@lru_cache(maxsize=4096)
def _kind(product, thread_count):
    role, conv, size, batch, lhs, rhs = product
    (top, bottom), (left, right) = conv.padding
    return (f"{role} {conv.in_channels}>{conv.out_channels} {'x'.join(map(str, conv.kernel_size))} stride {conv.stride[0]},"
            f"{conv.stride[1]} padding {top},{bottom},{left},{right} groups {conv.groups} of "
            f"{1 << (batch - 1).bit_length()}x{size[0]}x{size[1]}, {lhs[0]} {lhs[1]} x {rhs[0]} {rhs[1]}, "
            f"threads {thread_count}")


class Choice(NamedTuple):
    """The family that computes a product, and how it came to that: "measured" now, or "known" from the table."""

    family: str
    how: str


def choose(product, run, forget=lambda: None):
    """Compute a product by the quickest family, and find out which one that is where it is not known yet.

    Parameters
    ----------
    product : Product
    run : callable   # run(family) computes it, with the same result for every family and call
    forget : callable   # called before every measured call: drops what an earlier one prepared and kept, such as packed weights

    Returns
    -------
    result : what ``run`` returned
    choice : Choice
    """
    if product.batch == 0:  # nothing to compute, so nothing to measure
        return run("popcount"), Choice("popcount", "known")
    known, kind = table(), product.kind()
    family = known.quickest(kind)
    if family is not None:
        return run(family), Choice(family, "known")
    if threads.is_rehearsal():  # nothing runs, so nothing can be measured, but each of these will be
        return [run(family) for family in products.FAMILIES if family != "float"][-1], Choice("popcount", "known")
    times, result = measure(product, run, forget)
    known.add(kind, times)
    return result, Choice(known.quickest(kind), "measured")


def measure(product, run, forget=lambda: None):
    """Milliseconds of the families that are worth trying, as a dict, and the product.

    Families take turns, so that what disturbs the machine for a moment disturbs no family alone.
    """
    times, result = {}, None
    for rivals in ([family for family in products.FAMILIES if family != "float"], ["float"]):
        best = min(times.values(), default=math.inf)
        if rivals == ["float"] and best < product.macs / (float_rate() * threads.get_threads() * FLOAT):
            continue
        for family in rivals:
            result = run(family)
        for _ in range(CALLS):
            for family in rivals:
                forget()
                started = clock()
                result = run(family)
                times[family] = min(times.get(family, math.inf), 1e3 * (clock() - started))
            best = min(times.values())
            rivals = [family for family in rivals if times[family] <= SLOWER * best]
    return {family: float(f"{spent:.3g}") for family, spent in times.items()}, result


@cache
def float_rate():
    """Multiply-accumulates a millisecond of a float32 matrix product on one thread: more than the float family can do."""
    a, b = np.ones((512, 512), np.float32), np.ones((512, 512), np.float32)
    best = math.inf
    with threads.serial_blas():
        for _ in range(5):
            started = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - started)
    return 512 ** 3 / (1e3 * best)


class CostTable:
    """Milliseconds of each family by kind of product, in memory and in a file.

    Attributes
    ----------
    path : str
    costs : dict of str: dict of str: float   # kind -> family -> milliseconds
    kept : bool                               # False once the file could not be written
    """

    def __init__(self, path):
        self.path, self.costs, self.kept = path, _read(path), True

    def quickest(self, kind):
        """The quickest family, or None where the kind is not known."""
        times = self.costs.get(kind)
        return min(times, key=times.get) if times else None

    def add(self, kind, times):
        """Take in a measurement, and what other processes have written meanwhile."""
        self.costs = _read(self.path) | self.costs | {kind: times}
        self.kept = _write(self.path, {"machine": machine(), "milliseconds": self.costs, "checksum": _checksum(self.costs)})


def table():
    """The table of this machine, below BITNET_CACHE where that is set, else in the user's cache folder."""
    folder = os.environ.get("BITNET_CACHE")
    if folder not in _tables:
        try:
            root = os.path.expanduser(folder or user_cache_dir("bitnet"))
        except RuntimeError:  # a user without a home; older versions of platformdirs return a path from "~" on
            root = "~"
        root = os.devnull if root.startswith("~") else root  # where nothing can be written
        key = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:16]
        _tables[folder] = CostTable(os.path.join(root, f"kernel-times-{key}.json"))
    return _tables[folder]


@cache
def machine():
    """What times are valid for: processor, Numba's target, versions and the kernels' sources."""
    target, name, features = cpu_target.target_context.codegen().magic_tuple()
    return {"processor": processor(), "target": f"{target} {name}", "features": features, "numba": numba.__version__,
            "numpy": np.__version__, "kernels": os.path.basename(compiled_kernels())}  # a hash of their sources


def processor():
    """The processor's name as the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _read(path):
    """The costs in a file; what is missing, damaged or of another machine is as if it had not been measured."""
    if not os.path.isfile(path) or os.path.getsize(path) > LARGEST:  # a pipe would wait for ever, a device never end
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        costs, ours = content["milliseconds"], content["machine"] == machine()
        return costs if ours and content["checksum"] == _checksum(costs) and all(map(_is_sound, costs.values())) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _checksum(costs):
    return zlib.crc32(json.dumps(costs, sort_keys=True).encode())


def _is_sound(times):
    return isinstance(times, dict) and times and times.keys() <= products.FAMILIES.keys() and all(
        type(time_) in (int, float) and time_ >= 0 for time_ in times.values())


def _write(path, content):
    """Replace a file whole; False where that is not possible."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # a name of its own for each writer: two on one file would spoil it
        handle, temporary = tempfile.mkstemp(suffix=".tmp", prefix="kernel-times-", dir=os.path.dirname(path))
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=0)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError:
        return False
    return True
