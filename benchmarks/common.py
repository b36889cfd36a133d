"""What the three benchmarks share: options, timing, the table and the JSON file.

A ``Contender`` is one implementation of one piece of work. Contenders of the same work take turns, a few calls each, so
that whatever else slows the machine meanwhile slows them all; each turn begins with a call that is not counted. What is
reported is the median of the counted calls.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numba
import numpy as np
from threadpoolctl import threadpool_limits

from bitnet import execution, models
from bitnet.execution import dispatch
from bitnet.kernels.machine import peak as limits
from bitnet.kernels.machine import threads

BUSY = 0.1  # processors that other programs keep busy, from which on a run is called disturbed
PICTURES = (".png", ".svg", ".pdf")
TURN = 0.01     # seconds of counted calls a turn, at most CALLS of them
CALLS = 5
LONG = 0.1      # seconds of a call that needs no second one to warm up
PEER_PAUSE = 0.03  # threads of some peers go on spinning for a while after their work


class UsageError(ValueError):
    """Options that cannot be followed."""


class Parser(argparse.ArgumentParser):
    """Reports a bad option in one sentence."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; --help shows all options\n")


def parse_bits(text):
    """(W, A, G) from "1,2,4"."""
    try:
        return models.parse_bits(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected three numbers W,A,G, each from 1 to 8 or 32 for float, such as 1,2,4; found {text!r}") from None


def _count(text):
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, found {text!r}")
    return count


def options(name, description, argv, bits=False, batches=(), methods=()):
    """The command line of one benchmark, checked; the number of threads is set for our kernels and for BLAS.

    ``batches``: the default of --batch, where there is one; ``methods``: what --methods may name
    """
    parser = Parser(prog=name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them there (beside the JSON file)")
    parser.add_argument("--threads", type=_count, metavar="T", default=threads.get_threads(),
                        help="of every implementation (all processors)")
    parser.add_argument("--quick", action="store_true", help="a few cases in less than a minute, no torch.compile")
    if bits:
        parser.add_argument("--bits", type=parse_bits, metavar="W,A,G", default=(1, 2, 4),
                            help="bits of weights, activations, gradients; 32: float (1,2,4)")
    if batches:
        parser.add_argument("--batch", type=_count, nargs="+", metavar="B", default=batches,
                            help=f"numbers of images ({' '.join(map(str, batches))})")
    if methods:
        parser.add_argument("--methods", nargs="+", choices=methods, metavar="M", default=(),
                            help="these methods' networks for MNIST instead: " + ", ".join(methods))
    given = parser.parse_args(argv)
    if given.picture is None and given.json:
        given.picture = given.json.with_suffix(".png")
    for path in filter(None, (given.json, given.picture)):
        if not path.absolute().parent.is_dir() or path.is_dir():
            parser.error(f"{path}: expected a file in a folder that exists")
    if given.picture and given.picture.suffix not in PICTURES:
        parser.error(f"{given.picture}: expected a picture named {', '.join(PICTURES)}")
    if given.json == given.picture and given.json:
        parser.error(f"{given.json}: expected another name for the picture")
    threads.set_threads(given.threads)
    threadpool_limits(given.threads)
    return given


def installed(package):
    """Is a peer there?"""
    return importlib.util.find_spec(package) is not None


@dataclass
class Contender:
    """One implementation of one piece of work.

    case, path, bits, impl : see the JSON file; bits is "W,A,G", "-" where a number does not matter
    variants : name -> function that does the work once; the quickest is kept. A function that returns a number has a
        clock of its own, in seconds
    amount, unit : what one call does, in multiply-accumulates ("gmacs") or images ("images_per_second")
    macs : multiply-accumulates of one call
    binary_macs : one-bit multiply-accumulates that popcount executes in one call
    bytes : operands and result of the products, as they come and go; 0 where that is not known
    same : another contender that does just this: its times are this one's
    note : which variant it is, and what else there is to know
    peer : not of this project
    """

    case: str
    path: str
    bits: str
    impl: str
    variants: dict
    amount: float
    unit: str
    macs: float
    binary_macs: float = 0
    bytes: float = 0
    note: str = ""
    peer: bool = False
    same: "Contender | None" = None
    extra: dict = field(default_factory=dict)
    seconds: list = field(default_factory=list)

    def settle(self):
        """Warm all variants up and keep the quickest; False where none of them works."""
        best = {}
        for name, function in self.variants.items():
            try:
                function()
                best[name] = _timed(function)
                if best[name] < LONG:
                    best[name] = min([best[name], *(_timed(function) for _ in range(3 if len(self.variants) > 1 else 0))])
            except Exception as error:  # a peer may lack what another version of it has
                print(f"{self.case}, {self.path}, {self.impl} {name}: {_first_line(error)}", file=sys.stderr)
                if not self.peer:
                    raise
        if not best:
            return False
        chosen = min(best, key=best.get)
        self.call, self.expected = self.variants[chosen], best[chosen]
        self.inner = int(min(CALLS, max(1, TURN // self.expected)))
        if chosen and len(self.variants) > 1:
            chosen = f"{chosen} (best of {len(best)})"
        self.note = "; ".join(filter(None, (chosen, self.note)))
        self.variants = None  # frees the others
        return True

    def turn(self):
        """One turn: a call to wake everything up, then counted ones."""
        if self.expected < LONG:
            self.call()
        self.seconds += [_timed(self.call) for _ in range(self.inner)]
        if self.peer:
            time.sleep(PEER_PAUSE)

    def row(self, peak):
        """The row of the JSON file."""
        calls = (self.same or self).seconds
        seconds = statistics.median(calls)
        rate = self.amount / seconds
        row = {"case": self.case, "path": self.path, "bits": self.bits, "impl": self.impl, "ms": round(seconds * 1e3, 5),
               self.unit: round(rate / 1e9 if self.unit == "gmacs" else rate, 3), "share_of_peak": None}
        if self.binary_macs:
            row["share_of_peak"] = round(self.binary_macs / seconds / 1e9 / peak["popcount_gmacs"], 4)
        low, high = np.percentile(calls, (25, 75))
        row |= {"ms_quartiles": [round(low * 1e3, 5), round(high * 1e3, 5)], "calls": len(calls), "note": self.note}
        if self.bytes:
            executed = self.binary_macs or self.macs
            row |= {"executed_gmacs": round(executed / seconds / 1e9, 3), "macs_per_byte": round(executed / self.bytes, 3)}
        return row | self.extra


def _timed(function):
    started = time.perf_counter()
    own = function()
    spent = time.perf_counter() - started
    return own if isinstance(own, float) else spent


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def measure(contenders, peak, turns):
    """Rows of contenders for the same work, which take ``turns`` turns each."""
    contenders = [contender for contender in contenders if contender.same or contender.settle()]
    for _ in range(turns):
        for contender in contenders:
            if not contender.same:
                contender.turn()
    return [contender.row(peak) for contender in contenders]


def bits_text(w, a, g):
    """ "W,A,G" with "-" for None."""
    return ",".join("-" if value is None else str(value) for value in (w, a, g))


def executed(records):
    """Of execution.log's records: one-bit multiply-accumulates by popcount, and bytes of operands and results."""
    binary = moved = 0
    for record in records:
        popcount = record.family == "popcount" and not record.note
        binary += record.macs * record.bits[0] * record.bits[1] if popcount else 0
        images, results = np.prod(record.input_shape), np.prod(record.output_shape)
        weights = record.macs // (results // record.output_shape[-1])
        sizes = {"forward": (images, weights, results), "input_grad": (results, weights, images),
                 "weight_grad": (results, images, weights)}[record.role]
        width = [1 if bits <= 8 else 4 for bits in record.bits] + [4]
        moved += sum(size * bytes_ for size, bytes_ in zip(sizes, width, strict=True))
    return int(binary), int(moved)


def machine(given):
    """Processor, threads and versions."""
    versions = {}
    for package in ("numba", "numpy", "torch", "openvino"):
        if installed(package):
            versions[package] = importlib.metadata.version(package)
    return {"processor": dispatch.processor(), "cores": os.cpu_count(), "threads": given.threads, "system": platform.platform(),
            "target": numba.config.CPU_NAME or "host", "families": list(execution.FAMILIES),
            "python": platform.python_version(), **versions}


def begin(given):
    """Tell what is measured on; (facts for the JSON file, limits of the machine), with all peers on the threads asked for."""
    about = machine(given)
    print_machine(about, given)
    if installed("torch"):
        import torch_peer

        torch_peer.set_threads(given.threads)
    about["begun"] = _processor_time()
    peak = limits.measure(given.quick)
    print(limits.describe(peak, given.threads), LEGEND, "", sep="\n")
    return about, peak


def print_machine(about, given):
    """What was measured on."""
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", "numba", "numpy", "torch", "openvino") if name in about)
    count = given.threads
    print(f"{about['processor']}, {count} of {about['cores']} processors ({count} thread{'s' * (count > 1)} for each "
          f"implementation); {versions}")
    missing = [name for name, package in (("PyTorch", "torch"), ("OpenVINO", "openvino")) if not installed(package)]
    if missing:
        print(f"not installed, so not compared with: {', '.join(missing)}")


def reference(rows):
    """The row that others are compared with: PyTorch float32, else our own float path."""
    for impl, bits in (("torch", None), ("float", "32,32,32")):
        for row in rows:
            if row["impl"] == impl and bits in (None, row["bits"]):
                return row
    return None


def _processor_time():
    """(now, seconds that all programs have spent on processors, and this one with its children); None where nobody tells."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, *more = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    everybody = (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), everybody, sum(os.times()[:4])


def others_busy(begun):
    """How many processors other programs kept busy since then; None where that is not known."""
    now = _processor_time()
    if begun is None or now is None:
        return None
    wall, everybody, own = (after - before for after, before in zip(now, begun, strict=True))
    return max(0.0, (everybody - own) / wall)


DISTURBED = ("DISTURBED: other programs kept {:.1f} processors busy meanwhile. Who waits by spinning suffers most from that; "
             "neither\ntimes nor speed-ups of such a run tell which implementation is the faster one.")


class Table:
    """Prints rows as they come, those of one case and path together, quickest first."""

    head = ("case", "path", "bits", "impl", "ms", "rate", "share", "speed-up", "")
    layout = "{:<20} {:<11} {:<8} {:<16} {:>9} {:>14} {:>7} {:>9}  {}"

    def __init__(self):
        print(self.layout.format(*self.head).rstrip())
        print("-" * 112)

    def add(self, rows):
        base = reference(rows)
        for row in sorted(rows, key=lambda row: row["ms"]):
            rate = f"{row['gmacs']:.1f} GMAC/s" if "gmacs" in row else f"{row['images_per_second']:.0f} images/s"
            share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}"
            speed = "" if base is None else f"{base['ms'] / row['ms']:.2f}x"
            print(self.layout.format(row["case"], row["path"], row["bits"], row["impl"], f"{row['ms']:.3f}", rate, share, speed,
                                     row["note"]).rstrip())
        print(flush=True)


LEGEND = ("rate: nominal multiply-accumulates. share: of the popcount limit above, a multiply-accumulate counted once for each "
          "pair of bit planes.\nspeed-up: over PyTorch float32 where it is installed, else over our own float path "
          "(32,32,32). float in other bits: matrix products on integer levels.")


def finish(given, result, draw):
    """Write the JSON file and the picture."""
    about = result["machine"]
    others = others_busy(about.pop("begun", None))
    about |= {"others_busy": others and round(others, 3), "disturbed": others is not None and others > BUSY}
    if about["disturbed"]:
        print(DISTURBED.format(others))
    try:
        if given.json:
            given.json.write_text(json.dumps(result, indent=1) + "\n")
            print(f"wrote {given.json}")
        if given.picture:
            draw(given.picture, result)
            print(f"wrote {given.picture}")
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from None


def run(name, main, argv=None):
    """Exit status of a benchmark: 2 and one sentence where it cannot do what it is asked to."""
    try:
        main(argv)
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0
