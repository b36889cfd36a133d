"""Methods side by side: each trained for as many epochs as fit into a time, its error, size and speed as a row.

    rows = saved_rows(path, {"data": data, "minutes": minutes})           what a results.json holds already
    row = train_entry(Entry("twn"), out, minutes, train, test, notes, stop)
"""

import json
import time
import zlib

import numpy as np

from bitnet import execution, methods, models, random, report
from bitnet.bits import parse_bits
from bitnet.datasets import Augmentation, CropAugmentation, load_digits, load_folder, load_mnist
from bitnet.layers import Weighted
from bitnet.methods.dorefa import IMAGENET, IMAGENET_ERRORS, TABLE_1
from bitnet.module import preserved
from bitnet.optimizers import Adam, ExponentialDecay
from bitnet.storage import load_checkpoint, plain, write_atomically
from bitnet.storage.checkpoint import validated_run
from bitnet.tensor import no_grad
from bitnet.training.evaluation import evaluate
from bitnet.training.run import UsageError
from bitnet.training.trainer import Trainer

MEASURED = 3.0  # seconds of training that tell how many epochs fit
MARGIN = 0.95   # of the time, so that an epoch that is a little slower still fits
NUMBERS = ("error", "parameters", "packed", "epochs", "minutes", "train_images_per_second", "infer_images_per_second",
           "bit_share_training", "bit_share_inference")  # of a row


DEFAULT = ("float", "dorefa", "binaryconnect", "bnn", "xnor", "twn", "ttq", "qnn", "gxnor")


class Entry:
    """A method, or DoReFa-Net in certain bits on a model of SVHN, to be compared; ``repeat`` counts further seeds of it."""

    def __init__(self, method, bits=None, model=None, seed=0, repeat=0):
        self.method, self.model = method, model
        kind = methods.get(method)
        self.bits = kind(bits).bits if bits is not None else kind.own_bits
        own = self.bits == kind.own_bits and model is None
        self.kind = "-".join([method, *([model] if model else []), *([] if own else map(str, self.bits))])
        self.name = f"{self.kind}-seed-{seed + repeat}" if repeat else self.kind
        self.data = "svhn" if model else "mnist"
        self.seed, self.batch_size = seed + repeat, 32 if model else kind.recipe.batch_size

    def meet(self, data):
        """Hear of the data before ``options`` is asked for."""

    def options(self):
        """The network, and what its Trainer needs beside it."""
        if not self.model:
            network = methods.build(self.method, bits=self.bits, seed=self.seed)
            return network, methods.training_of(network)
        network = models.svhn(self.model, self.bits, seed=self.seed)
        return network, {"optimizer": Adam(network.parameters(), lr=1e-3, eps=1e-5), "augment": Augmentation(),
                       "schedule": ExponentialDecay(1e-3, 1e-5)}

    def row(self):
        """What its row holds before it is trained."""
        return {"name": self.name, "method": self.method, "bits": list(self.bits), "model": self.model, "seed": self.seed,
                "published": self.published()}

    def published(self):
        """(error in per cent, setting), or None."""
        if not self.model:
            return methods.get(self.method).published.get("mnist")
        row = TABLE_1.get(tuple(self.bits))
        return row and (100 * (1 - row["ABCD".index(self.model)]), f"model {self.model}, all of SVHN, about")


class PictureEntry(Entry):
    """A method on one of ImageNet's networks, with the recipe of DoReFa-Net's AlexNet in smaller batches.

    Parameters
    ----------
    method, bits, seed, repeat : see ``Entry``
    model : "alexnet" or "resnet18", whose size and classes are those of the data it meets
    """

    batch = 64  # of 256 there would be few steps in minutes

    def __init__(self, method, bits, model, seed=0, repeat=0):
        super().__init__(method, bits, model, seed, repeat)
        self.batch_size = self.batch

    def meet(self, data):
        self.shape, self.classes = data.shape, data.classes

    def options(self):
        network = methods.get(self.method)(self.bits).apply(
            models.build(self.model, classes=len(self.classes), size=self.shape[0], seed=self.seed))
        return network, {"optimizer": IMAGENET.optimizer(network.parameters(), IMAGENET.lr), "augment": CropAugmentation(),
                         "schedule": IMAGENET.schedule(IMAGENET.lr), "loss": IMAGENET.loss}

    def published(self):
        known = methods.get(self.method).published.get(self.model)
        error = IMAGENET_ERRORS[self.model].get(tuple(self.bits))
        return known or (error and (error, "ImageNet, tensorpack"))


# what tensorpack's README compares on ImageNet, and the staircase of a fork of it
IMAGENET_ROWS = {
    "alexnet": (("dorefa", (32, 32, 32)), ("ttq", (2, 32, 32)), ("dorefa", (1, 32, 32)), ("staircase", (1, 32, 32)),
                ("dorefa", (1, 1, 32)), ("dorefa", (8, 8, 8)), ("dorefa", (1, 2, 32)), ("dorefa", (1, 2, 6)),
                ("dorefa", (1, 2, 4))),
    "resnet18": (("dorefa", (32, 32, 32)), ("dorefa", (1, 4, 32))),
}  # fmt: skip


def imagenet_entries(model, bits=None, seed=0, seeds=1):
    """The rows of one of ImageNet's networks, only those of certain (W, A, G) where ``bits`` lists them."""
    chosen = [PictureEntry(name, own, model, seed, i) for name, own in IMAGENET_ROWS[model] if not bits or own in bits
              for i in range(seeds)]
    if not chosen:
        known = ", ".join(",".join(map(str, own)) for _, own in IMAGENET_ROWS[model])
        raise UsageError(f"expected bits of {model}'s rows, {known}, found others")
    return chosen


def entries(given):
    """What a command line of compare_methods.py asks for: a list of Entry."""
    if sum(map(bool, (given.methods, given.table_1, given.imagenet))) > 1:
        raise UsageError("expected one of --methods, --table-1 and --imagenet, found several")
    if given.imagenet:
        return imagenet_entries(given.imagenet, [parse_bits(bits) for bits in given.bits or ()], given.seed,
                                given.seeds)
    if given.table_1:
        asked = given.bits or TABLE_1
        return [Entry("dorefa" if tuple(parse_bits(bits)) != (32, 32, 32) else "float", bits, model, given.seed, i)
                for bits in asked for model in given.models or models.SVHN_WIDTHS for i in range(given.seeds)]
    if given.bits or given.models:
        raise UsageError("expected --bits and --models with --table-1 only; with --methods write NAME:W,A,G")
    found = [Entry(*text.split(":", 1), seed=given.seed, repeat=i) for text in given.methods or DEFAULT
             for i in range(given.seeds)]
    names = [entry.name for entry in found]
    if len(set(names)) < len(names):
        raise UsageError(f"expected different methods, found {' '.join(names)}")
    return found


def read(given):
    """Training set, test set and messages that a command line of compare_methods.py asks for."""
    if not given.imagenet:
        return (load_digits if given.table_1 else load_mnist)(given.data, download=given.download)
    if not given.data or given.download:
        raise UsageError("expected --data with a folder of pictures for --imagenet, and no --download")
    return load_folder(given.data, given.size, on_demand=True)


def epochs_that_fit(entry, digits, test, minutes):
    """So many epochs fit into the time, evaluations included: measured on a network that is thrown away."""
    with random.preserved():
        network, options = entry.options()
        trainer = Trainer(network, digits, test, epochs=1, batch_size=entry.batch_size, seed=entry.seed, **options)
        steps = iter(trainer.loader.epoch(0))
        trainer.train_step(next(steps))  # compiles what is not compiled yet
        started, done = time.perf_counter(), 0
        for batch in steps:
            trainer.train_step(batch)
            done += 1
            if time.perf_counter() - started > MEASURED:
                break
        step = (time.perf_counter() - started) / max(1, done)
        evaluation = len(test) / inference_speed(network, test)
    return max(1, int(MARGIN * 60 * minutes / (step * trainer.loader.steps_per_epoch + evaluation)))


def inference_speed(network, test, least=1.0):
    """Images a second in batches of 256, unfrozen."""
    part = test[:512]
    evaluate(network, part)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < least:
        evaluate(network, part)
        done += len(part)
    return done / (time.perf_counter() - started)


def speeds(networks, images, rounds=5):
    """Images a second of several networks, which take turns on the same images: medians of ``rounds``, after one to warm up."""
    seconds = [[] for _ in networks]
    with no_grad():
        for turn in range(rounds + 1):
            for network, spent in zip(networks, seconds, strict=True):
                started = time.perf_counter()
                network(images)
                if turn:
                    spent.append(time.perf_counter() - started)
    return [len(images) / float(np.median(spent)) for spent in seconds]


def products_of(trainer):
    """Records of the products of a training step, and of a forward pass in evaluation."""
    network, batch = trainer.model, next(iter(trainer.loader.epoch(0)))
    with preserved(network), execution.log() as training:
        trainer.task.loss(network.train()(batch.images), batch, trainer).backward()
    with execution.log() as evaluation, no_grad():
        network.eval()(batch.images)
    return training, evaluation


def bit_share(records):
    """Share of the multiply-accumulates that ran on integer kernels."""
    return sum(r.macs for r in records if r.family != "float32" and not r.note) / sum(r.macs for r in records)


def packed_size(network, records):
    """Bytes of all parameters with the weights of quantized layers in their own bits."""
    widths = report.weight_bits(network)
    bits = {record.layer: 32 if record.bits[1] == 32 else widths.get(record.layer, record.bits[1]) for record in records}
    own = {id(module.weight): bits.get(module.name, 32) for module in network.modules() if isinstance(module, Weighted)}
    return sum(report.packed_size(parameter.data, own.get(id(parameter), 32)) for parameter in network.parameters())


def train_entry(entry, out, minutes, digits, test, notes, stop):
    """Train one entry to its end, from where it was left in a folder of ``out``.

    Parameters
    ----------
    notes : dict   # what its checkpoint is to remember, see ``Trainer``
    stop : callable   # asked after every step

    Returns
    -------
    row : dict, or None where ``stop`` became true
    """
    entry.meet(digits)
    folder = out / entry.name
    path = folder / "checkpoint.h5"
    checkpoint = load_checkpoint(path) if path.is_file() else None
    if checkpoint and (found := validated_run(path, checkpoint.more)["notes"].get("minutes", minutes)) != minutes:
        raise UsageError(f"{path}: expected a training of {minutes:g} minutes, found one of {plain(found)}; --out names "
                         "another folder")
    epochs = validated_run(path, checkpoint.more)["epochs"] if checkpoint else epochs_that_fit(entry, digits, test, minutes)
    network, options = entry.options()
    config, notes = {"method": entry.method, "bits": list(entry.bits), "model": entry.model}, notes | {"minutes": minutes}
    trainer = Trainer(
        network, digits, test, epochs=epochs, batch_size=entry.batch_size, seed=entry.seed, **options, checkpoint=path,
        save_every=500, config=config, notes=notes, callbacks=[report.Progress(), report.Files(folder, entry.name)],
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
        **entry.row(), "error": 100 * (1 - trainer.history[-1]["test_accuracy"]),
        **({"top5_error": 100 * (1 - trainer.history[-1]["test_top5"])} if "test_top5" in trainer.history[-1] else {}),
        "parameters": sum(parameter.data.size for parameter in network.parameters()),
        "packed": packed_size(network, evaluation),
        "epochs": epochs, "minutes": trainer.seconds / 60,
        "train_images_per_second": float(np.median([record["images_per_second"] for record in trainer.history])),
        "infer_images_per_second": inference_speed(network, test), "bit_share_training": bit_share(training),
        "bit_share_inference": bit_share(evaluation),
    }  # fmt: skip


def together(entries, done):
    """One row for the seeds of each kind of entry: means, and the standard error of the test error.

    Parameters
    ----------
    entries : list of Entry; done : {name: row} of those that are finished

    Returns
    -------
    rows : list of dict, with "seeds", their number, and "deviation", the standard error of the mean, None of one seed
    """
    groups = {}
    for entry in entries:
        if entry.name in done:
            groups.setdefault(entry.kind, []).append(done[entry.name] | entry.row())
    rows = []
    for kind, group in groups.items():
        errors = [row["error"] for row in group]
        means = {name: float(np.mean([row[name] for row in group])) for name in (*NUMBERS, "top5_error") if name in group[0]}
        whole = {name: round(means[name]) for name in ("parameters", "packed", "epochs")}
        deviation = float(np.std(errors, ddof=1) / np.sqrt(len(errors))) if len(errors) > 1 else None
        rows.append(group[0] | means | whole | {"name": kind, "seeds": len(group), "deviation": deviation})
    return rows


def is_row(row):
    """Is it a row, as far as it is not known from its entry?"""
    return isinstance(row, dict) and isinstance(row.get("name"), str) and row.get("packed") != 0 and all(
        type(row.get(name)) in (int, float) and 0 <= row[name] < 1e15
        for name in (*NUMBERS, *["top5_error"] * ("top5_error" in row)))


def saved_rows(path, budget):
    """The rows of an earlier results.json, which must be of the same data and minutes.

    Where they are not as they were written a line says so: they are made again, of finished trainings' checkpoints.
    """
    if not path.is_file():
        return []
    try:
        saved = json.loads(path.read_text())
        found, rows = {name: saved[name] for name in budget}, saved["rows"]
        right = _checksum(found, rows)
        if saved.get("checksum", right) != right or not isinstance(rows, list) or not all(map(is_row, rows)):
            raise ValueError("other rows")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        print(f"{path}: expected results as they were written, found others; made again of the checkpoints")
        return []
    if found != budget:
        raise UsageError("{}: expected results of {minutes:g} minutes each on {data}, found ".format(path, **budget)
                         + f"{plain(found['minutes'])} minutes each on {plain(found['data'])}; --out names another folder")
    return rows


def write_rows(path, budget, done):
    """Write results.json: the data, the minutes and a row for each finished method."""
    rows = list(done.values())
    write_atomically(path, json.dumps(budget | {"rows": rows, "checksum": _checksum(budget, rows)}, indent=1).encode())


def _checksum(budget, rows):
    return zlib.crc32(json.dumps([budget, rows], sort_keys=True).encode())
