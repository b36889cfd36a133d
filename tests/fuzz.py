"""Damages files of every kind that bitnet reads, and looks at what its entry points make of them.

    python tests/fuzz.py --minutes 5 --seed 1 --keep /tmp/damaged
    python tests/fuzz.py --seed 1 --case 77                             that one again

A child process reads, its memory limited, so that a crash or a hang ends that child alone and is known by its case. Findings,
each kind once: exceptions that are not documented, tracebacks of scripts, crashes, hangs, memory over the limit, errors that
are not one printable line, and other arrays than were saved, out of a randomly damaged file that has a checksum.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import math
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import tqdm
from damage import TESTS, kept, make, prepared, script

import bitnet
from bitnet import datasets
from bitnet.datasets import DataError
from bitnet.execution import dispatch
from bitnet.storage import CheckpointError, load_checkpoint
from bitnet.training import compare

LIMIT = 3 << 30  # of address space: imports, kernels and stacks take 0.8 GB of it, so little that nothing finer is needed
SECONDS, CASES = 30, 300  # of a case; of a child, before another takes over: what it gathers is not charged to a case


class Finding(Exception):
    """What should not have happened, in a sentence."""


def check_text(text, what="an error"):
    if not text.strip() or not text.isprintable() or len(text) > 3000:
        raise Finding(f"{what} is not one printable line: {text[:3000]!a}")
    if any(sign in text for sign in ("Unable to allocate", "MemoryError", "not enough memory", "expected memory")):
        raise Finding(f"memory over the limit: {text}")


def quietly(function, *args, **options):
    with warnings.catch_warnings(record=True, action="always") as told:
        result = function(*args, **options)
    [check_text(str(one.message), "a warning") for one in told if one.category is UserWarning]
    return result


def scripted(name, *args):
    """Run a script's main: lines that can be printed, an exit code of 0, or of 2 and one line."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy: numbers that a file may well hold
        code = script(name).main([str(one) for one in args])
    [stream.flush() for stream in streams]
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    [check_text(line, "a line of the output") for line in out.splitlines() if line]
    if code:
        check_text(err.removesuffix("\n"), f"an error (exit code {code})")
    if code not in (0, 2) and "diverged" not in err:
        raise Finding(f"exit code {code}: {err}")


def same(found, expected):
    if found.keys() != expected.keys() or not all(map(np.array_equal, found.values(), (expected[name] for name in found))):
        raise Finding("silently wrong: what a damaged file gives is not what was saved")


def state(path):
    """All that a file of a network holds."""
    if path.suffix == ".npz":
        net = bitnet.load(path)
        return {"net": json.dumps(net.describe())} | {name: array for one in net.stages for name, array in one.arrays.items()}
    one = load_checkpoint(path)
    return {"net": json.dumps([one.description, one.more])} | one.model | {(key,): one.optimizer[key] for key in one.optimizer}


def used(path):
    """What one does with a network: look at it, give it images, freeze it."""
    net = bitnet.load(path)
    shape, lines = net.input_shape, repr(net).splitlines()
    if shape is not None and np.prod(shape, dtype=object) <= 1 << 18:
        images = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.uint8)
        for use in (lambda: net(images), lambda: lines.extend(net.summary().splitlines()), lambda: bitnet.freeze(net)):
            with bitnet.no_grad(), np.errstate(all="ignore"):
                try:
                    use()
                except ValueError as error:
                    lines.append(str(error))
    [check_text(line, "a line about a network") for line in lines]


def chosen(times, net):
    os.environ["BITNET_CACHE"] = str(times)
    dispatch._tables.clear()
    with bitnet.no_grad(), bitnet.use_kernels("auto"):
        return {"logits": bitnet.load(net)(np.full((2, 40, 40, 3), 99, np.uint8)).data}


def entries(sample, folder, sound, by_chance):
    """(name, what to call) of every entry point that reads a sample."""
    kind, cache, both = sample.rpartition("-")[2], folder / "cache", (folder, sound / sample)
    path = folder / ("checkpoint.h5" if sample == "run" else f"net.{kind}")
    if by_chance and kind in ("h5", "npz", "run"):
        yield "bitnet.load", lambda: same(state(path), state(sound / sample / path.name))
    if kind in ("h5", "npz", "onnx"):
        yield "bitnet.load and use", lambda: used(path)
        yield "predict.py", lambda: scripted("predict", path, sound / "pictures" / "a.png")
    elif sample == "run":
        yield "train_svhn.py --resume", lambda: scripted("train_svhn", "--resume", "--out", folder, "--epochs", 2,
                                                         "--kernels", "popcount")  # fmt: skip
    elif sample == "published":
        yield "load_tensorpack", lambda: bitnet.load_tensorpack(folder / "net.npz", "svhn", model="D")
    elif sample == "pictures":
        for one in sorted(folder.iterdir()):
            for kind, shape in (("photo", (40, 40, 3)), ("ink", (28, 28, 1)), ("fit", (30, 20, 3))):
                yield f"prepare_for {kind}", lambda *args: quietly(datasets.prepare_for, *args), one, kind, shape
    elif sample == "mnist":
        yield "load", lambda: quietly(datasets.load, "mnist", folder, cache_dir=cache)
        if by_chance:  # the labels are in a plain file, which has no checksum
            read = [lambda at=at: {"x": quietly(datasets.load_mnist, at, cache_dir=cache)[0].images} for at in both]
            yield "load_mnist", lambda: same(read[0](), read[1]())
    elif sample == "maps":
        yield "load", lambda: quietly(datasets.load, "segmentation", folder, size=(20, 30), cache_dir=cache)
    elif sample in ("svhn", "boxes"):
        yield "load", lambda: quietly(datasets.load, "svhn", folder, cache_dir=cache)
        yield "load_svhn", lambda: quietly(datasets.load_svhn, folder, "test", cache_dir=cache)
    elif sample == "cache":
        read = [lambda at=at: vars(quietly(datasets.load_svhn, sound / "svhn", "train", cache_dir=at)) for at in both]
        yield "load_svhn", lambda: same(read[0](), read[1]()) if by_chance else read[0]()
    elif sample == "results":
        yield "compare_methods.py", lambda: scripted("compare_methods", "--methods", "bnn", "binaryconnect", "--minutes", 0.001,
                                                     "--data", sound / "mnist", "--out", folder)  # fmt: skip
    elif sample == "kernels":
        yield "compiled kernels", lambda: same(kept(folder), {"y": 2 * np.arange(5)})
    elif sample == "times":
        yield "kernel times", lambda: same(*(chosen(one, sound / "svhn-h5" / "net.h5") for one in both))


def where(error):
    """The innermost line of ours that an exception came through."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if str(TESTS.parent) in one.filename]
    return f"{Path(frames[-1].filename).relative_to(TESTS.parent)}:{frames[-1].lineno}" if frames else "outside of bitnet"


def child(pipe, seed, cases, place):
    """Take up cases, those below 0 being sound samples; tell what is begun, and what was found: (what to call it, its kind)."""
    sound, folder = place / "sound", place / "damaged"
    errors = open(place / "errors", "w")
    os.dup2(errors.fileno(), 2)  # C libraries write there, too
    faulthandler.enable(errors)
    os.chdir(place)
    tqdm.tqdm.set_lock(threading.RLock())  # its own one is left over where this process is ended
    compare.MEASURED = 0.05
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    for case in cases:
        sample, by_chance = prepared(seed, case, sound, folder)
        for name, call, *args in entries(sample, folder, sound, by_chance):
            os.environ["BITNET_CACHE"] = str(place / "cache")
            pipe.send((case, sample, name, None))
            try:
                try:
                    call(*args)
                except (CheckpointError, DataError) as error:
                    check_text(str(error))
                    if case < 0:
                        raise Finding(f"a sound file is refused: {error}") from None
            except Finding as found:
                pipe.send((case, sample, name, (str(found), re.sub("[0-9]+|/[^ ]*", "", str(found))[:60])))
            except BaseException as error:
                text = f"{type(error).__name__}: {error!s:.300}, {where(error)}"
                pipe.send((case, sample, name, (ascii(text)[1:-1], f"{type(error).__name__} {where(error)}")))
    pipe.send(None)


class Hunt:
    """Children one after the other, and what comes of them."""

    def __init__(self, seed, place, keep):
        self.seed, self.place, self.keep, self.counts, self.found = seed, place, keep, Counter(), Counter()

    def tell(self, case, sample, name, text, kind):
        self.found[kind] += 1
        if self.found[kind] > 1:
            return
        print(f"case {case}, {sample}, {name}: {text}", flush=True)
        if case >= 0:
            print(f"    python tests/fuzz.py --seed {self.seed} --case {case}", flush=True)
            if self.keep:
                prepared(self.seed, case, self.place / "sound", self.keep / f"case-{case}")

    def run(self, cases, seconds=SECONDS, until=math.inf, again=False):
        """Give cases to a child; the number of the last one that it took up. What takes too long gets another try alone."""
        context = multiprocessing.get_context("spawn")  # a fork would have our threads, and our memory
        pipe, end = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(end, self.seed, cases, self.place), daemon=True)
        process.start()
        end.close()
        case, sample, name = None, "", ""
        while time.monotonic() < until:
            try:
                message = pipe.recv() if pipe.poll(seconds) else f"took more than {seconds} s"
            except EOFError:
                process.join()
                message = f"ended by {signal.Signals(-process.exitcode).name if process.exitcode < 0 else process.exitcode}"
            if message is None:
                break
            if isinstance(message, str):
                if process.is_alive():
                    os.kill(process.pid, signal.SIGABRT)  # makes it write where it is
                    process.join(5)
                    if case is not None and not again:  # new kernels were compiled, or the machine was busy
                        process.kill()
                        return self.run([case], seconds, again=True)
                told = (self.place / "errors").read_text(errors="replace")
                if case is None or "Traceback" in told:  # of this program
                    sys.exit(f"seed {self.seed}, after case {case}: {message}, {told[-5000:]}")
                lines = re.findall(f'File "{TESTS.parent}/([^"]*)", line ([0-9]+)', told.rpartition("Current thread")[2])
                place = "{}:{}".format(*lines[0]) if lines else f"outside of bitnet: {told[:300]!a}"
                self.tell(case, sample, name, f"{message} at {place}", f"{message} {place}")
                break
            if message[0] != case and not again:
                self.counts[message[1].partition("-")[2] or message[1]] += 1
            case, sample, name, found = message
            if found:
                self.tell(case, sample, name, *found)
        process.kill()
        process.join()
        return case


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="of cases, after the samples are made (1)")
    parser.add_argument("--seed", type=int, default=1, help="another one, other cases (1)")
    parser.add_argument("--case", type=int, help="this one alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the damaged files of findings there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        place = Path(place)
        (place / "sound").mkdir()
        os.environ["BITNET_CACHE"] = str(place / "cache")
        make(place / "sound")
        hunt, case, until = Hunt(given.seed, place, given.keep), given.case or 0, time.monotonic() + 60 * given.minutes
        if given.case is not None:
            hunt.run([case])
        else:
            hunt.run(range(-len(os.listdir(place / "sound")), 0), 600)  # compiles what is not compiled yet
            hunt.counts.clear()
            until = time.monotonic() + 60 * given.minutes
            while time.monotonic() < until:
                case = hunt.run(range(case, case + CASES), until=until) + 1
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(hunt.counts.items()))
    print(f"{hunt.counts.total():,} cases ({kinds}), {hunt.found.total()} findings of {len(hunt.found)} kinds")
    return 1 if hunt.found else 0


if __name__ == "__main__":
    sys.exit(main())
