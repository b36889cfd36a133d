"""Train DoReFa-Net on SVHN in the bits of your choice.

    python examples/train_svhn.py --bits 1,2,4 --model A
    python examples/train_svhn.py --resume --out runs/svhn-a-1-2-4

Writes OUT/checkpoint.h5, OUT/metrics.jsonl (a line an epoch), OUT/curves.png, OUT/confusion.png and OUT/mistakes.png; and,
without --method and with 1 to 8 bits for weights and activations, OUT/frozen.npz: packed, for inference.
Ctrl-C saves and stops; --resume then gives the same bits as if nothing had happened.
"""

import argparse
import math
import os
import shlex
import sys
import time
from pathlib import Path

import bitnet
from bitnet import execution, frozen, methods, models, profile, report
from bitnet.checkpoint import CheckpointError, load_checkpoint
from bitnet.datasets import Augmentation, DataError, load_digits
from bitnet.inside import Inside
from bitnet.kernels.machine import compile, threads
from bitnet.optimizers import Adam, StepDecay
from bitnet.training import NonFiniteError, StopRequest, Trainer, evaluate, refuse_contradictions

# What a run keeps for life; on a resume these come from its checkpoint.
DEFAULTS = {
    "method": None, "model": "A", "bits": [1, 2, 4], "data": None, "extra": False, "batch_size": 32,
    "lr": 1e-3, "lr_decay": 0.3, "lr_decay_epochs": 6, "seed": 0,
}  # fmt: skip
EPOCHS = 15


class UsageError(ValueError):
    """Options that cannot be followed."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; --help shows all options\n")


def bits(text):
    try:
        return list(models.parse_bits(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected three numbers W,A,G, each from 1 to 8 or 32 for float, such as 1,2,4; found {text!r}"
        ) from None


def number(kind, least, strictly=False):
    """A parser of ints or floats with a lower bound."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < least or (strictly and value == least):
            name = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {name} {'>' if strictly else '>='} {least}, found {text!r}")
        return value

    return parse


def parse(argv):
    parser = Parser(prog="train_svhn.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count = parser.add_argument, number(int, 1)
    add("--bits", type=bits, metavar="W,A,G", help="bits of weights, activations, gradients; 32: float (1,2,4)")
    add("--method", choices=methods.names(), metavar="NAME",
        help=f"train by another method, with its own optimizer and learning rates: {', '.join(methods.names())}")
    add("--model", choices=["A", "B", "C", "D"], help="A is the paper's; B, C, D have 1/2, 1/4, 1/8 of its width (A)")
    add("--data", metavar="DIR|synthetic", help="folder with SVHN, or the generated digits (data/svhn if it is there)")
    add("--extra", action="store_true", default=None, help="train on SVHN's 531,131 extra digits, too")
    add("--download", action="store_true", help="fetch SVHN first where it is missing; nothing else uses a network")
    add("--epochs", type=count, metavar="N", help=f"of the whole run; may be raised on a resume ({EPOCHS})")
    add("--batch-size", type=count, metavar="B", help="(32)")
    add("--lr", type=number(float, 0, strictly=True), help="learning rate at the start (0.001, or the method's)")
    add("--lr-decay", type=number(float, 0, strictly=True), metavar="FACTOR", help="multiplies it (0.3)")
    add("--lr-decay-epochs", type=count, metavar="N", help="every so many epochs (6)")
    add_run_options(add, "runs/svhn-MODEL-W-A-G")
    return parser.parse_args(argv)


def add_run_options(add, folder):
    """What every training script takes."""
    add("--seed", type=number(int, 0), metavar="S", help="of everything random (0)")
    add("--threads", type=number(int, 1), metavar="T", help="changes speed only (all processors)")
    add("--kernels", choices=["auto", *execution.FAMILIES], default="auto", help="changes speed only (auto)")
    add("--out", type=Path, metavar="DIR", help=f"must be new or empty, except to resume ({folder})")
    add("--save-every", type=number(int, 0), default=200, metavar="STEPS", help="0: only after each epoch (200)")
    add("--inside", action="store_true", help="look inside each epoch: sign flips, saturation, codes, gradients; inside.png")
    add("--profile", action="store_true", help=f"tell where the time of {profile.STEPS} steps of this training goes, after its "
        f"first {profile.WARM}; changes no bit of it")
    add("--resume", action="store_true", help="continue the run in --out, bit for bit, with its own options")


def callbacks(given, out, title):
    """Who watches a training."""
    progress = report.Progress()
    return [progress, *[Inside(out, title)] * given.inside, report.Files(out, title),
            *[profile.ProfileSteps(before=progress.close)] * given.profile]  # fmt: skip


def open_run(given, defaults, folder, epochs):
    """The run's folder, its settings, and its checkpoint where it continues; folder(settings): where --out does not say it."""
    asked = {name: getattr(given, name) for name in defaults if getattr(given, name) is not None}
    settings = defaults | asked
    out = given.out or Path("runs", folder(settings))
    path = out / "checkpoint.h5"
    if not given.resume:
        # a kill during the very first save leaves no run behind, only this
        leftover = {"checkpoint.h5.tmp"}
        if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - leftover):
            raise UsageError(f"{out}: expected a new or empty folder, found {'files' if out.is_dir() else 'a file'}; "
                             "--resume continues a run, another --out starts one beside it")  # fmt: skip
        return out, settings, given.epochs or epochs, None
    if not path.is_file():
        raise UsageError(f"{out}: expected a run to resume, found no checkpoint.h5 in it; --out names its folder")
    checkpoint = load_checkpoint(path)
    if "history" not in checkpoint.more:
        raise UsageError(f"{path}: expected the checkpoint of a run, found a saved model without its training")
    saved = checkpoint.more["config"]
    # where the data lies may change, which data it is may not: the Trainer compares fingerprints
    refuse_contradictions(path, saved, {name: value for name, value in asked.items() if name != "data"})
    settings = defaults | {name: saved[name] for name in defaults if name in saved}
    settings["data"] = asked.get("data", checkpoint.more["notes"]["data"])
    epochs = given.epochs or checkpoint.more["epochs"]
    if epochs < checkpoint.more["epoch"]:
        raise UsageError(f"{path}: expected --epochs {checkpoint.more['epoch']} or more, the number trained already, "
                         f"found --epochs {epochs}")  # fmt: skip
    return out, settings, epochs, checkpoint


def own_bits(method):
    """(W, A, G) of a method as a list; DoReFa-Net's defaults where there is none."""
    return list(methods.get(method).bits) if method else DEFAULTS["bits"]


def place_of(data, digits):
    """What a checkpoint should remember of --data."""
    if digits.generated:
        return "synthetic"  # so that a resume does not turn to data that were fetched meanwhile
    return os.path.abspath(data) if data else data


def train(given):
    out, settings, epochs, checkpoint = open_run(
        given, DEFAULTS | {"bits": own_bits(given.method)},
        lambda s: "-".join(["svhn", *[s["method"]] * bool(s["method"]), s["model"].lower(), *map(str, s["bits"])]), EPOCHS,
    )  # fmt: skip
    if given.threads:
        threads.set_threads(given.threads)
    name = f"model {settings['model']} in ({','.join(map(str, settings['bits']))}) bits"
    if settings["method"]:
        if given.lr_decay or given.lr_decay_epochs:
            raise UsageError("expected --lr-decay or --method, which has a schedule of its own, found both")
        try:
            model = methods.build(settings["method"], "svhn", settings["bits"], model=settings["model"], seed=settings["seed"])
        except ValueError as error:
            raise UsageError(error) from None
        options = methods.training_of(model, given.lr or (checkpoint and settings["lr"]))
        settings["lr"] = options["optimizer"].lr
        name = f"model {settings['model']}, {methods.describe(settings['method'], settings['bits'])}"
    else:
        model = models.svhn(settings["model"], settings["bits"], seed=settings["seed"])
        options = {"optimizer": Adam(model.parameters(), lr=settings["lr"], eps=1e-5),
                   "schedule": StepDecay(settings["lr"], settings["lr_decay"], settings["lr_decay_epochs"])}  # fmt: skip
    digits, test, messages = load_digits(settings["data"], extra=settings["extra"], download=given.download)
    print(*messages, sep="\n")
    where = place_of(settings.pop("data"), digits)

    title = f"{name}, trained on {'generated digits, not SVHN' if digits.generated else digits.name}"
    trainer = Trainer(
        model, digits, test, epochs=epochs, batch_size=settings["batch_size"], seed=settings["seed"], **options,
        augment=Augmentation(), checkpoint=out / "checkpoint.h5", save_every=given.save_every, config=settings,
        notes={"data": where, "threads": threads.get_threads(), "kernels": given.kernels},
        callbacks=callbacks(given, out, title),
    )  # fmt: skip
    return drive(trainer, checkpoint, out, name, title, __file__)


def drive(trainer, checkpoint, out, name, title, script):
    """Train to the end or to a signal, and report; the exit code."""
    if checkpoint:
        trainer.resume(checkpoint)

    batch = next(trainer.loader.epoch(0))
    started = time.perf_counter()
    with compile.announce(sys.stdout) as compiled:
        table = report.layer_table(trainer.model, batch.images, batch.labels)
    print(f"{name}, batches of {trainer.loader.batch_size}:\n{table}")
    spent = f"first step: {time.perf_counter() - started:.1f} s"
    print(f"{spent}, {compiled.seconds:.1f} s of them compiling" if compiled.kernels else spent, flush=True)

    if checkpoint:
        report.write_metrics(out / "metrics.jsonl", trainer.history)  # a kill may have come before its last line
        if trainer.epoch == trainer.epochs:
            print(f"{out}: finished already after {trainer.epochs} epochs; a higher --epochs goes on")
        else:
            print(f"{out}: continuing with {trainer.where} of {trainer.epochs}")
    else:
        out.mkdir(parents=True, exist_ok=True)
        trainer.save()  # finds out now, not after an epoch, whether there is room

    with StopRequest() as stop:
        finished = trainer.run(stop)
    if not finished:
        print(f"stopped and saved before {trainer.where}; go on with:\n    {resume_command(out, script)}", flush=True)
        return 128 + stop.signal
    conclude(trainer, out, title)
    return 0


def conclude(trainer, out, title):
    """The closing report; a finished run that is resumed only replaces pictures that are missing or old."""
    names = ("curves.png", "confusion.png", "mistakes.png")
    saved = (out / "checkpoint.h5").stat().st_mtime
    if trainer.evaluation is None and all(
        (out / name).is_file() and (out / name).stat().st_mtime >= saved for name in names
    ):
        return
    result = trainer.evaluation or evaluate(trainer.model, trainer.test)
    print(f"test accuracy {result.accuracy:.2%} on {trainer.test.name}, {len(trainer.test):,} images")
    print("labels against predictions:", report.confusion_table(result.confusion), sep="\n")
    report.draw_curves(out / names[0], trainer.history, title)
    report.draw_confusion(out / names[1], result.confusion, f"{title}\ntest accuracy {result.accuracy:.2%}")
    report.draw_mistakes(out / names[2], trainer.test, result, f"Most confident mistakes on the test set\n{title}")
    print(f"wrote {', '.join(['metrics.jsonl', 'checkpoint.h5', *names])} in {out}")
    if isinstance(trainer.model, models.SVHN) and 32 not in trainer.model.config["bits"][:2]:
        network = frozen.freeze(trainer.model)
        network.save(out / "frozen.npz")
        print(frozen.size_report(network, out / "frozen.npz"))
    sys.stdout.flush()


def resume_command(out, script):
    return f"python {shlex.quote(os.path.relpath(script))} --resume --out {shlex.quote(str(out))}"


def main(argv=None):
    given = parse(argv)
    return guarded(train, given, "train_svhn.py")


def guarded(train, given, name):
    """``train(given)`` on the kernels asked for; errors that a user can understand are one line on stderr."""
    try:
        with bitnet.use_kernels(given.kernels):
            return train(given)
    except (UsageError, CheckpointError, DataError) as error:
        message, code = error, 2
    except OSError as error:
        message, code = f"{error.filename or 'input or output'}: {error.strerror or error}", 2
    except NonFiniteError as error:
        message, code = f"{error}; the last good checkpoint is kept, a lower --lr may help", 1
    except KeyboardInterrupt:
        message, code = "interrupted outside training; what was saved before is kept", 130
    print(f"{name}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
