"""Train several methods side by side, each for the same time, and compare them.

    python examples/compare_methods.py --methods dorefa bnn twn xnor --minutes 5
    python examples/compare_methods.py --methods dorefa:1,1,4 dorefa:1,2,4 twn:2,2,4
    python examples/compare_methods.py --table-1 --models C D --data data/svhn        DoReFa-Net's Table 1
    python examples/compare_methods.py --imagenet alexnet --data ~/imagenet           tensorpack's table for ImageNet

A method is a name of bitnet.methods, with or without bits. Each trains for as many epochs as fit into --minutes at the speed
of its first seconds; the number is kept: the same command goes on after a Ctrl-C, and the result does not depend on when that
was. Writes OUT/results.txt, OUT/results.json, OUT/error.png, and a folder with checkpoint and metrics for every method.
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while the rest is imported leaves no traceback


import shlex
import sys
from pathlib import Path

from bitnet import execution, methods, models
from bitnet.kernels.machine import compile, threads
from bitnet.report.comparison import compared, draw_compared
from bitnet.storage import write_atomically
from bitnet.training import StopRequest
from bitnet.training.compare import (
    DEFAULT,
    IMAGENET_ROWS,
    entries,
    read,
    saved_rows,
    together,
    train_entry,
    write_rows,
)
from bitnet.training.run import Parser, UsageError, folder, guarded, locked, number, place_of


def parse(argv):
    parser = Parser(__file__, __doc__)
    add, count = parser.add_argument, number(int, 1)
    add("--methods", nargs="+", metavar="NAME[:W,A,G]", help=f"of {', '.join(methods.names())} ({' '.join(DEFAULT)})")
    add("--table-1", action="store_true", help="instead: DoReFa-Net on SVHN in the bits of the paper's Table 1")
    add("--imagenet", choices=list(IMAGENET_ROWS), help="instead: tensorpack's rows on a folder of pictures, --data")
    add("--size", type=number(int, 30), default=224, metavar="S", help="with --imagenet: side of the images (224)")
    add("--bits", nargs="+", metavar="W,A,G", help="with --table-1 or --imagenet: only these bits")
    add("--models", nargs="+", choices=list(models.SVHN_WIDTHS), metavar="A|B|C|D", help="with --table-1: only these (all)")
    add("--minutes", type=number(float, 0, strictly=True), default=10.0, help="of training, for each (10)")
    add("--data", metavar="DIR|synthetic", help="folder with MNIST (SVHN with --table-1), or the generated digits")
    add("--download", action="store_true", help="fetch the data first where they are missing; nothing else uses a network")
    add("--seed", type=number(int, 0), default=0, metavar="S", help="of everything random (0)")
    add("--seeds", type=count, default=1, metavar="N", help="train each from N seeds on; mean and standard error (1)")
    add("--threads", type=count, metavar="T", help="(all processors)")
    add("--kernels", choices=["auto", *execution.FAMILIES], default="auto", help="changes speed only (auto)")
    add("--out", type=folder, default=Path("runs", "compare"), metavar="DIR", help="(runs/compare)")
    return parser.parse_args(argv)


def compare(given):
    try:
        chosen = entries(given)
    except ValueError as error:  # of the command line, or of a method's bits
        raise UsageError(error) from None
    if given.threads:
        threads.set_threads(given.threads)
    digits, test, messages = read(given)
    print(*messages, sep="\n")
    data = f"{digits.name}, {len(digits):,} images; {test.name}, {len(test):,}"
    notes = {"data": place_of(given.data, digits), "threads": threads.get_threads(), "kernels": given.kernels}
    results, budget, stopped = given.out / "results.json", {"data": data, "minutes": given.minutes}, False
    with locked(given.out), StopRequest() as stop, compile.announce(sys.stdout):
        done = {row["name"]: row for row in saved_rows(results, budget)}
        write_rows(results, budget, done)
        for entry in chosen:
            if entry.name in done and done[entry.name].get("seed") == entry.seed:
                continue
            row = train_entry(entry, given.out, given.minutes, digits, test, notes, stop)
            if row is None:
                stopped = True
                break
            done[entry.name] = row
            write_rows(results, budget, done)
        rows = together(chosen, done)
        if rows:
            text = compared(rows, data)
            print(text)
            write_atomically(given.out / "results.txt", f"{text}\n".encode())
            minutes = f"{given.minutes:g} minute{'s' * (given.minutes != 1)}"
            draw_compared(given.out / "error.png", rows, f"Error after {minutes} each, trained on {data}")
            print(f"wrote results.txt, results.json and error.png in {given.out}", flush=True)
    if stopped:
        print(f"stopped and saved; go on with the same command:\n    python {shlex.join(sys.argv)}", flush=True)
        return 128 + stop.signal
    return 0


def main(argv=None):
    return guarded(compare, parse(argv), "compare_methods.py")


if __name__ == "__main__":
    sys.exit(main())
