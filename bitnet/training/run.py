"""What training scripts share: their options, the folder of a run, the drive from start to end, errors as sentences.

    given = parser.parse_args()
    run = open_run(given, DEFAULTS, folder, epochs)        the run's folder and settings, new or to be continued
    drive(trainer, run, title)                             train to the end or to a signal, report; the exit code
    guarded(train, given, "train.py")                      what a user can understand is one line on stderr
"""

import argparse
import contextlib
import math
import os
import shlex
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bitnet import deploy, execution, report
from bitnet.bits import parse_bits
from bitnet.datasets import DataError
from bitnet.datasets.files import left_by_systems
from bitnet.kernels.machine import compile, threads
from bitnet.optimizers import StepDecay
from bitnet.report import profile
from bitnet.report.inside import Inside
from bitnet.storage import Checkpoint, CheckpointError, load_checkpoint, plain
from bitnet.storage.checkpoint import validated_run
from bitnet.training.evaluation import evaluate
from bitnet.training.finite import NonFiniteError
from bitnet.training.stop import StopRequest
from bitnet.training.trainer import refuse_contradictions


class UsageError(ValueError):
    """Options that cannot be followed."""


class Parser(argparse.ArgumentParser):
    """A parser whose help is a script's own text, and whose errors are one line."""

    def __init__(self, script, text):
        super().__init__(prog=Path(script).name, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)

    def parse_args(self, *args, **options):
        given = super().parse_args(*args, **options)
        given.parser = self
        return given

    def takes(self, option, value):
        """Is it a value that an option can be given, as JSON keeps it?"""
        action = next(action for action in self._actions if action.dest == option)
        if action.nargs == 0:
            return isinstance(value, bool)
        try:
            parsed = self._get_value(action, ",".join(map(str, value)) if isinstance(value, list) else str(value))
            self._check_value(action, parsed)
        except argparse.ArgumentError:
            return False
        return parsed == value

    def error(self, message):
        self.exit(2, f"{self.prog}: {plain(message, 2000)}; --help shows all options\n")


def bits(text):
    """A parser of W,A,G."""
    try:
        return list(parse_bits(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected three numbers W,A,G, each from 1 to 8 or 32 for float, such as 1,2,4; found {text!r}"
        ) from None


def folder(text):
    """A parser of paths, with a home folder as ~."""
    return Path(text).expanduser()


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


def add_training_options(add, lr, decay, every, batch_size, epochs):
    """Options of the training itself; the arguments tell the defaults."""
    add("--epochs", type=number(int, 1), metavar="N", help=f"of the whole run; may be raised on a resume ({epochs})")
    add("--batch-size", type=number(int, 1), metavar="B", help=f"({batch_size})")
    add("--lr", type=number(float, 0, strictly=True), help=f"learning rate at the start ({lr})")
    add("--lr-decay", type=number(float, 0, strictly=True), metavar="FACTOR", help=f"multiplies it ({decay})")
    add("--lr-decay-epochs", type=number(int, 1), metavar="N", help=f"every so many epochs ({every})")


def step_decay(lr, settings, epochs):
    """The schedule that --lr-decay and --lr-decay-epochs ask for, from ``lr`` on; None where they do not."""
    if not settings["lr_decay"]:
        return None
    return StepDecay(lr, settings["lr_decay"], settings["lr_decay_epochs"] / epochs)


def add_run_options(add, where):
    """What every training script takes."""
    add("--seed", type=number(int, 0), metavar="S", help="of everything random (0)")
    add("--threads", type=number(int, 1), metavar="T", help="changes speed only (all processors)")
    add("--kernels", choices=["auto", *execution.FAMILIES], default="auto", help="changes speed only (auto)")
    add("--out", type=folder, metavar="DIR", help=f"must be new or empty, except to resume ({where})")
    add("--save-every", type=number(int, 0), default=200, metavar="STEPS", help="0: only after each epoch (200)")
    add("--inside", action="store_true", help="look inside each epoch: sign flips, saturation, codes, gradients; inside.png")
    add("--tensorboard", action="store_true", help="also write metrics as events, below --out (needs tensorboardX)")
    add("--profile", action="store_true", help=f"tell where the time of {profile.STEPS} steps of this training goes, after its "
        f"first {profile.WARM}; changes no bit of it")
    add("--resume", action="store_true", help="continue the run in --out, bit for bit, with its own options")


@dataclass
class Run:
    """A run to be started or continued.

    out : Path of its folder; settings : dict; epochs : int; checkpoint : Checkpoint, or None where it starts
    """

    out: Path
    settings: dict
    epochs: int
    checkpoint: Checkpoint | None

    @property
    def path(self):
        return self.out / "checkpoint.h5"


def open_run(given, defaults, name, epochs):
    """The folder and the settings of a run, and its checkpoint where it continues.

    Parameters
    ----------
    given : what a parser with ``add_run_options`` returned
    defaults : {option: value} of what a run keeps for life; on a resume these come from its checkpoint
    name : settings -> name of the folder below runs/ where --out does not say it
    epochs : of a run, where the options do not say it
    """
    if given.threads:
        threads.set_threads(given.threads)
    asked = {option: getattr(given, option) for option in defaults if getattr(given, option) is not None}
    settings = defaults | asked
    out = given.out or Path("runs", name(settings))
    if not given.resume:
        # a kill during the very first save leaves no run behind, only this
        leftover = {"checkpoint.h5.tmp", LOCK}
        if out.exists() and (not out.is_dir() or any(
                path.name not in leftover and not left_by_systems(path.name) for path in out.iterdir())):
            raise UsageError(f"{out}: expected a new or empty folder, found {'files' if out.is_dir() else 'a file'}; "
                             "--resume continues a run, another --out starts one beside it")
        return Run(out, settings, given.epochs or epochs, None)
    path = out / "checkpoint.h5"
    if not path.is_file():
        raise UsageError(f"{out}: expected a run to resume, found no checkpoint.h5 in it; --out names its folder")
    checkpoint = load_checkpoint(path)
    more = validated_run(path, checkpoint.more)
    saved = more["config"]
    lacking = sorted(defaults.keys() - {"data"} - saved.keys())
    if lacking:
        raise UsageError(f"{path}: expected a run of this script, found one without {', '.join(lacking)}")
    # where the data lies may change, which data it is may not: the Trainer compares fingerprints
    refuse_contradictions(path, saved, {option: value for option, value in asked.items() if option != "data"})
    settings = defaults | {option: saved[option] for option in defaults if option in saved}
    settings["data"] = asked.get("data", more["notes"].get("data"))
    for option, value in settings.items():
        if not (given.parser.takes(option, value) or value is defaults[option] is None):
            raise CheckpointError(f"{path}: expected the settings of a run of this script, found {option} {plain(value)!r}")
    total = given.epochs or more["epochs"]
    if total < more["epoch"]:
        raise UsageError(f"{path}: expected --epochs {more['epoch']} or more, the number trained already, "
                         f"found --epochs {total}")
    if total > more["epochs"]:
        print(f"{out}: {total} epochs instead of {more['epochs']}: the learning rate follows the longer run from here on, "
              "and may be higher than it was", flush=True)
    return Run(out, settings, total, checkpoint)


def place_of(data, dataset):
    """What a checkpoint should remember of --data."""
    if dataset.generated:
        return "synthetic"  # so that a resume does not turn to data that were fetched meanwhile
    return os.path.abspath(os.path.expanduser(data)) if data else data


def trainer_options(given, run, where, title):
    """Options of the ``Trainer`` that follow from the command line."""
    progress = report.Progress()
    board = []
    if given.tensorboard:
        try:
            board = [report.Board(run.out / "tensorboard")]
        except ValueError as error:
            raise UsageError(error) from None
    watching = [progress, *[Inside(run.out, title)] * given.inside, report.Files(run.out, title), *board,
                *[profile.ProfileSteps(before=progress.close)] * given.profile]
    return {"epochs": run.epochs, "checkpoint": run.path, "save_every": given.save_every, "config": run.settings,
            "notes": {"data": where, "threads": threads.get_threads(), "kernels": given.kernels}, "callbacks": watching}


LOCK = ".lock"


@contextlib.contextmanager
def locked(out):
    """Nobody else trains into this folder meanwhile; UsageError where somebody does. The lock dies with the process."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: no such locks
        yield
        return
    with open(out / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{out}: expected a folder of this run alone, found another run training into it") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(out / LOCK)


def drive(trainer, run, name, title, script):
    """Train to the end or to a signal, and report; the exit code."""
    with locked(run.out):
        return _drive(trainer, run, name, title, script)


def _drive(trainer, run, name, title, script):
    out = run.out
    if run.checkpoint:
        trainer.resume(run.checkpoint)

    batch = next(trainer.loader.epoch(0))
    started = time.perf_counter()
    with compile.announce(sys.stdout) as compiled:
        table = report.layer_table(trainer.model, batch.images, batch.targets,
                                   lambda logits, targets: trainer.task.loss(logits, batch, trainer))
    print(f"{name}, batches of {trainer.loader.batch_size}:\n{table}")
    spent = f"first step: {time.perf_counter() - started:.1f} s"
    print(f"{spent}, {compiled.seconds:.1f} s of them compiling" if compiled.kernels else spent, flush=True)

    if run.checkpoint:
        report.write_metrics(out / "metrics.jsonl", trainer.history)  # a kill may have come before its last line
        if trainer.epoch == trainer.epochs:
            print(f"{out}: finished already after {trainer.epochs} epochs; a higher --epochs goes on")
        else:
            print(f"{out}: continuing with {trainer.where} of {trainer.epochs}")
    else:
        trainer.save()  # finds out now, not after an epoch, whether there is room

    with StopRequest() as stop:
        finished = trainer.run(stop)
    if not finished:
        print(f"stopped and saved before {trainer.where}; go on with:\n    {resume_command(out, script)}", flush=True)
        return 128 + stop.signal
    conclude(trainer, out, title)
    return 0


def conclude(trainer, out, title):
    """The closing report; a finished run that is resumed only replaces what is missing or older than its checkpoint."""
    pictures = ("curves.png", *trainer.task.pictures)
    saved = (out / "checkpoint.h5").stat().st_mtime

    def there(name):
        return (out / name).is_file() and (out / name).stat().st_mtime >= saved

    network = None
    try:
        network = deploy.freeze(trainer.model)
    except ValueError as error:
        reason = error
    done = trainer.evaluation is None
    if done and all(map(there, (*pictures, *["frozen.npz"] * (network is not None)))):
        return
    if network is not None:
        network.save(out / "frozen.npz")
    result = trainer.evaluation or evaluate(trainer.model, trainer.test, task=trainer.task)
    print(f"test accuracy {result.accuracy:.2%}{report.measures_text(result.measures)} on {trainer.test.name}, "
          f"{len(trainer.test):,} images")
    print(result.details(trainer.test.classes))
    report.draw_curves(out / pictures[0], trainer.history, title)
    trainer.task.draw(out, result, network or trainer.model.eval(), trainer.test, title)
    print(f"wrote {', '.join(['metrics.jsonl', 'checkpoint.h5', *pictures])} in {out}")
    if network is None:
        print(f"no frozen.npz: {reason}")
    else:
        print(deploy.size_report(network, out / "frozen.npz"))
    sys.stdout.flush()


def resume_command(out, script):
    """The command line that continues a run."""
    return f"python {shlex.quote(os.path.relpath(script))} --resume --out {shlex.quote(str(out))}"


def guarded(train, given, name):
    """``train(given)`` on the kernels asked for; errors that a user can understand are one line on stderr."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # pythonw, >&-
            setattr(sys, stream, open(os.devnull, "w"))
        elif hasattr(getattr(sys, stream), "reconfigure") and threading.current_thread() is threading.main_thread():
            with contextlib.suppress(OSError, ValueError):
                getattr(sys, stream).reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as scripts leave it while they are imported
    try:
        compile.check_compiler()
        with execution.use_kernels(given.kernels):
            code = train(given)
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # | head
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UsageError, CheckpointError, DataError, compile.NoCompilerError) as error:
        message, code = error, 2
    except OSError as error:
        message, code = f"{error.filename or 'input or output'}: {error.strerror or error}", 2
    except MemoryError as error:
        message, code = f"there is not enough memory: {str(error) or 'an array did not fit'}", 1
    except NonFiniteError as error:
        message, code = f"{error}; the last good checkpoint is kept, a lower --lr may help", 1
    except ValueError as error:
        if "more than one value a channel" not in str(error):
            raise
        message, code = error, 2
    except KeyboardInterrupt:
        message, code = "interrupted outside training; what was saved before is kept", 130
    print(f"{name}: {plain(message, 3000)}", file=sys.stderr)
    return code
