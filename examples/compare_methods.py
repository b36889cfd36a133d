"""Train several methods side by side, each for the same time, and compare them.

    python examples/compare_methods.py --methods dorefa bnn twn xnor --minutes 5
    python examples/compare_methods.py --methods dorefa:1,1,4 dorefa:1,2,4 twn:2,2,4
    python examples/compare_methods.py --table-1 --models C D --data data/svhn        DoReFa-Net's Table 1

A method is a name of bitnet.methods, with or without bits. Each trains for as many epochs as fit into --minutes at the speed
that it shows in its first seconds; the number is then kept, so that the same command goes on after a Ctrl-C, and the result
does not depend on when that was. Writes OUT/results.txt, OUT/results.json, OUT/error.png, and a folder with checkpoint and
metrics for every method.
"""

import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.transforms import Bbox

from bitnet import execution, methods, models, random, report
from bitnet.datasets import Augmentation, load_digits, load_mnist
from bitnet.kernels.machine import compile, threads
from bitnet.layers import Weighted
from bitnet.module import preserved
from bitnet.optimizers import Adam, ExponentialDecay
from bitnet.storage import load_checkpoint, write_atomically
from bitnet.tensor import no_grad
from bitnet.training import StopRequest, Trainer, evaluate
from bitnet.training.run import Parser, UsageError, folder, guarded, number, place_of

DEFAULT = ("float", "dorefa", "binaryconnect", "bnn", "xnor", "twn", "ttq", "qnn", "gxnor")
# Accuracies of DoReFa-Net on SVHN by (W, A, G), models A to D: the paper's Table 1, from memory and not looked up.
TABLE_1 = {
    (1, 1, 2): (0.934, 0.924, 0.910, 0.803), (1, 1, 4): (0.968, 0.961, 0.916, 0.846), (1, 1, 8): (0.970, 0.962, 0.902, 0.828),
    (1, 1, 32): (0.971, 0.963, 0.921, 0.841), (1, 2, 2): (0.909, 0.930, 0.900, 0.808), (1, 2, 3): (0.968, 0.964, 0.934, 0.878),
    (1, 2, 4): (0.975, 0.969, 0.939, 0.878), (2, 1, 2): (0.927, 0.928, 0.909, 0.846), (2, 1, 4): (0.969, 0.957, 0.904, 0.827),
    (1, 2, 8): (0.975, 0.971, 0.946, 0.866), (1, 2, 32): (0.976, 0.970, 0.950, 0.865), (1, 3, 3): (0.968, 0.964, 0.946, 0.887),
    (1, 3, 4): (0.974, 0.974, 0.959, 0.897), (1, 3, 6): (0.977, 0.974, 0.949, 0.916), (1, 4, 2): (0.815, 0.898, 0.911, 0.868),
    (1, 4, 4): (0.975, 0.974, 0.962, 0.915), (1, 4, 8): (0.977, 0.975, 0.955, 0.895), (2, 2, 2): (0.900, 0.919, 0.856, 0.842),
    (32, 32, 32): (0.975, 0.975, 0.972, 0.950),
}  # fmt: skip

MEASURED = 3.0  # seconds of training that tell how many epochs fit
MARGIN = 0.95   # of the time, so that an epoch that is a little slower still fits


def parse(argv):
    parser = Parser(__file__, __doc__)
    add, count = parser.add_argument, number(int, 1)
    add("--methods", nargs="+", metavar="NAME[:W,A,G]", help=f"of {', '.join(methods.names())} ({' '.join(DEFAULT)})")
    add("--table-1", action="store_true", help="instead: DoReFa-Net on SVHN in the bits of the paper's Table 1")
    add("--bits", nargs="+", metavar="W,A,G", help="with --table-1: only these bits")
    add("--models", nargs="+", choices=list(models.SVHN_WIDTHS), metavar="A|B|C|D", help="with --table-1: only these (all)")
    add("--minutes", type=number(float, 0, strictly=True), default=10.0, help="of training, for each (10)")
    add("--data", metavar="DIR|synthetic", help="folder with MNIST (SVHN with --table-1), or the generated digits")
    add("--download", action="store_true", help="fetch the data first where they are missing; nothing else uses a network")
    add("--seed", type=number(int, 0), default=0, metavar="S", help="of everything random (0)")
    add("--threads", type=count, metavar="T", help="(all processors)")
    add("--kernels", choices=["auto", *execution.FAMILIES], default="auto", help="changes speed only (auto)")
    add("--out", type=folder, default=Path("runs", "compare"), metavar="DIR", help="(runs/compare)")
    return parser.parse_args(argv)


class Entry:
    """A method, or DoReFa-Net in certain bits on a model of SVHN, to be compared."""

    def __init__(self, method, bits=None, model=None, seed=0):
        self.method, self.model = method, model
        kind = methods.get(method)
        self.bits = kind(bits).bits if bits is not None else kind.own_bits
        own = self.bits == kind.own_bits and model is None
        self.name = "-".join([method, *([model] if model else []), *([] if own else map(str, self.bits))])
        self.data = "svhn" if model else "mnist"
        self.seed, self.batch_size = seed, 32 if model else kind.recipe.batch_size

    def options(self):
        """The network, and what its Trainer needs beside it."""
        if not self.model:
            model = methods.build(self.method, bits=self.bits, seed=self.seed)
            return model, methods.training_of(model)
        model = models.svhn(self.model, self.bits, seed=self.seed)
        return model, {"optimizer": Adam(model.parameters(), lr=1e-3, eps=1e-5), "augment": Augmentation(),
                       "schedule": ExponentialDecay(1e-3, 1e-5)}

    def published(self):
        """(error in per cent, setting), or None."""
        if not self.model:
            return methods.get(self.method).published.get("mnist")
        row = TABLE_1.get(tuple(self.bits))
        return row and (100 * (1 - row["ABCD".index(self.model)]), f"model {self.model}, all of SVHN, about")


def entries(given):
    """What the command line asks for."""
    if given.table_1:
        if given.methods:
            raise UsageError("expected --methods or --table-1, found both")
        asked = given.bits or TABLE_1
        return [Entry("dorefa" if tuple(models.parse_bits(bits)) != (32, 32, 32) else "float", bits, model, given.seed)
                for bits in asked for model in given.models or models.SVHN_WIDTHS]
    if given.bits or given.models:
        raise UsageError("expected --bits and --models with --table-1 only; with --methods write NAME:W,A,G")
    found = [Entry(*text.split(":", 1), seed=given.seed) for text in given.methods or DEFAULT]
    names = [entry.name for entry in found]
    if len(set(names)) < len(names):
        raise UsageError(f"expected different methods, found {' '.join(names)}")
    return found


def epochs_that_fit(entry, digits, test, minutes):
    """So many epochs fit into the time, evaluations included: measured on a network that is thrown away."""
    with random.preserved():
        model, options = entry.options()
        trainer = Trainer(model, digits, test, epochs=1, batch_size=entry.batch_size, seed=entry.seed, **options)
        steps = iter(trainer.loader.epoch(0))
        trainer.train_step(next(steps))  # compiles what is not compiled yet
        started, done = time.perf_counter(), 0
        for batch in steps:
            trainer.train_step(batch)
            done += 1
            if time.perf_counter() - started > MEASURED:
                break
        step = (time.perf_counter() - started) / max(1, done)
        evaluation = len(test) / inference_speed(model, test)
    return max(1, int(MARGIN * 60 * minutes / (step * trainer.loader.steps_per_epoch + evaluation)))


def inference_speed(model, test, least=1.0):
    """Images a second in batches of 256, unfrozen."""
    part = test[:512]
    evaluate(model, part)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < least:
        evaluate(model, part)
        done += len(part)
    return done / (time.perf_counter() - started)


def products_of(trainer):
    """Records of the products of a training step, and of a forward pass in evaluation."""
    model, batch = trainer.model, next(iter(trainer.loader.epoch(0)))
    with preserved(model), execution.log() as training:
        trainer.task.loss(model.train()(batch.images), batch, trainer).backward()
    with execution.log() as evaluation, no_grad():
        model.eval()(batch.images)
    return training, evaluation


def bit_share(records):
    """Share of the multiply-accumulates that ran on integer kernels."""
    return sum(r.macs for r in records if r.family != "float32" and not r.note) / sum(r.macs for r in records)


def packed_size(model, records):
    """Bytes of all parameters with the weights of quantized layers in their own bits."""
    bits = {record.layer: record.bits[1] for record in records}
    own = {id(module.weight): bits.get(module.name, 32) for module in model.modules() if isinstance(module, Weighted)}
    return sum(report.packed_size(parameter.data, own.get(id(parameter), 32)) for parameter in model.parameters())


def run(entry, given, digits, test, where, stop):
    """Train one entry to its end, from where it was left; its row of the table, or None where ``stop`` became true."""
    folder = given.out / entry.name
    path = folder / "checkpoint.h5"
    checkpoint = load_checkpoint(path) if path.is_file() else None
    epochs = checkpoint.more["epochs"] if checkpoint else epochs_that_fit(entry, digits, test, given.minutes)
    model, options = entry.options()
    config = {"method": entry.method, "bits": list(entry.bits), "model": entry.model}
    trainer = Trainer(
        model, digits, test, epochs=epochs, batch_size=entry.batch_size, seed=entry.seed, **options, checkpoint=path,
        save_every=500, config=config, notes={"data": where, "threads": threads.get_threads(), "kernels": given.kernels},
        callbacks=[report.Progress(), report.Files(folder, entry.name)],
    )  # fmt: skip
    if checkpoint:
        trainer.resume(checkpoint)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        trainer.save()
    print(f"{entry.name}: {epochs} epochs" + (f", continuing with {trainer.where}" if checkpoint else ""), flush=True)
    if not trainer.run(stop):
        return None
    report.write_metrics(folder / "metrics.jsonl", trainer.history)
    training, evaluation = products_of(trainer)
    return {
        "name": entry.name, "method": entry.method, "bits": list(entry.bits), "model": entry.model, "seed": entry.seed,
        "error": 100 * (1 - trainer.history[-1]["test_accuracy"]), "published": entry.published(),
        "parameters": sum(parameter.data.size for parameter in model.parameters()), "packed": packed_size(model, evaluation),
        "epochs": epochs, "minutes": trainer.seconds / 60,
        "train_images_per_second": float(np.median([record["images_per_second"] for record in trainer.history])),
        "infer_images_per_second": inference_speed(model, test), "bit_share_training": bit_share(training),
        "bit_share_inference": bit_share(evaluation),
    }  # fmt: skip


def table(rows, data):
    """The rows as text."""
    head = ["method", "W,A,G", "error", "published", "packed", "training", "inference", "on bits", "(inference)", "epochs",
            "minutes", "setting of the published error"]  # fmt: skip
    cells = [head]
    for row in rows:
        published, setting = row["published"] or (None, "")
        cells.append([
            row["name"], ",".join(map(str, row["bits"])), f"{row['error']:.2f} %",
            "-" if published is None else f"{published:.2f} %",
            report.size_text(row["packed"]), f"{row['train_images_per_second']:.0f}/s",
            f"{row['infer_images_per_second']:.0f}/s",
            f"{row['bit_share_training']:.0%}", f"{row['bit_share_inference']:.0%}", str(row["epochs"]),
            f"{row['minutes']:.1f}", setting,
        ])  # fmt: skip
    return "\n".join([
        f"trained on {data}", report.columns(cells, left=(0, 1, 11)),
        "error: of the test set after the last epoch; training, inference: images a second; on bits: share of the "
        "multiply-accumulates of a training",
        "step (inference: of a forward pass) on integer kernels; packed: all parameters, quantized weights in W bits",
    ])  # fmt: skip


def draw(path, rows, title):
    """Error against bits and against size."""
    figure, panels = report.new_figure(title, 13, 5.5, columns=2)
    colors = {"": report.INK}
    quantities = (("bit products of a multiply-accumulate, W x A (1024: float)", lambda row: row["bits"][0] * row["bits"][1]),
                  ("parameters packed, kB", lambda row: row["packed"] / 1e3))
    for axes, (label, x) in zip(panels, quantities, strict=True):
        values = [x(row) for row in rows]
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 2, max(values) * 2)
        ticks = [base * 10**power for power in range(-3, 7) for base in (1, 2, 5)] if axes is panels[1] else sorted(set(values))
        axes.set_xticks([tick for tick in ticks if min(values) / 2 <= tick <= max(values) * 2], minor=False)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        for row in rows:
            axes.plot(x(row), row["error"], "o", color=colors.setdefault(row["method"], f"C{len(colors) % 10}"))
        axes.set_xlabel(label)
        axes.set_ylabel("test error, %")
        axes.set_ylim(0, 1.08 * max(row["error"] for row in rows) + 0.01)
        axes.grid(axis="y", color=report.FAINT, linewidth=0.7)
    figure.draw_without_rendering()  # from here on it is known where things lie
    for axes, (_, x) in zip(panels, quantities, strict=True):
        taken = [Bbox.from_bounds(*(axes.transData.transform((x(row), row["error"])) - 4), 8, 8) for row in rows]
        for row in rows:
            write_beside(axes, row["name"], (x(row), row["error"]), colors[row["method"]], taken)
    report.write_figure(figure, path)


def write_beside(axes, name, point, color, taken):
    """Write a name where there is room beside its point, and add its box to those that are ``taken``."""
    for shift in (0, 11, -11, 22, -22):
        for side in (1, -1):
            text = axes.annotate(name, point, (7 * side, shift), textcoords="offset points", fontsize=8, color=color,
                                 ha="left" if side == 1 else "right", va="center")
            box = text.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                return
            text.remove()
    axes.add_artist(text)  # no room anywhere


def saved_rows(path, budget):
    """The rows of an earlier results.json, which must be of the same data and minutes."""
    if not path.is_file():
        return []
    try:
        saved = json.loads(path.read_text())
        found, rows = {name: saved[name] for name in budget}, saved["rows"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: expected results of this script, found something else") from None
    if found != budget:
        raise UsageError("{}: expected results of {minutes:g} minutes each on {data}, found ".format(path, **budget)
                         + "{minutes:g} minutes each on {data}; --out names another folder".format(**found))
    return rows


def write_rows(path, budget, done):
    """Write results.json: the data, the minutes and a row for each finished method."""
    write_atomically(path, json.dumps(budget | {"rows": list(done.values())}, indent=1).encode())


def compare(given):
    try:
        chosen = entries(given)
    except ValueError as error:  # of the command line, or of a method's bits
        raise UsageError(error) from None
    if given.threads:
        threads.set_threads(given.threads)
    load = load_digits if given.table_1 else load_mnist
    digits, test, messages = load(given.data, download=given.download)
    print(*messages, sep="\n")
    where, data = place_of(given.data, digits), f"{digits.name}, {len(digits):,} images; {test.name}, {len(test):,}"
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.out / "results.json"
    budget = {"data": data, "minutes": given.minutes}
    done = {row["name"]: row for row in saved_rows(results, budget)}
    write_rows(results, budget, done)
    stopped = False
    with StopRequest() as stop, compile.announce(sys.stdout):
        for entry in chosen:
            if entry.name in done and done[entry.name]["seed"] == entry.seed:
                continue
            row = run(entry, given, digits, test, where, stop)
            if row is None:
                stopped = True
                break
            done[entry.name] = row
            write_rows(results, budget, done)
    rows = [done[entry.name] for entry in chosen if entry.name in done]
    if rows:
        text = table(rows, data)
        print(text)
        write_atomically(given.out / "results.txt", f"{text}\n".encode())
        minutes = f"{given.minutes:g} minute{'s' * (given.minutes != 1)}"
        draw(given.out / "error.png", rows, f"Error after {minutes} each, trained on {data}")
        print(f"wrote results.txt, results.json and error.png in {given.out}", flush=True)
    if stopped:
        print(f"stopped and saved; go on with the same command:\n    python {shlex.join(sys.argv)}", flush=True)
        return 128 + stop.signal
    return 0


def main(argv=None):
    return guarded(compare, parse(argv), "compare_methods.py")


if __name__ == "__main__":
    sys.exit(main())
