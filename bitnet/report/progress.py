"""The progress of a training: a bar or lines, and metrics.jsonl."""

import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from bitnet.report.callback import Callback
from bitnet.report.pictures import draw_curves
from bitnet.storage.atomic import write_atomically


def write_metrics(path, history):
    """metrics.jsonl: a line an epoch, rewritten whole so that no reader ever meets half a line or an epoch twice."""
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in history).encode())


class Progress(Callback):
    """A bar for each epoch on a terminal, else a line a minute; and one line for each finished epoch.

    Parameters
    ----------
    bar : bool or None   # None: where both output streams are terminals
    """

    def __init__(self, bar=None):
        self.bar, self._bar = sys.stdout.isatty() and sys.stderr.isatty() if bar is None else bar, None
        self._started = self._spoke = time.perf_counter()
        self._images = 0  # of this session, which knows nothing of the speed of those before it

    def on_step(self, trainer):
        batch = trainer.loader.batch_size
        steps = trainer.loader.steps_per_epoch
        if self._images == 0:
            self._started = time.perf_counter() - trainer.step_seconds / max(trainer.step, 1)
        self._images += batch
        if self.bar:
            first = self._bar is None
            if first:
                self._bar = tqdm(
                    total=steps * batch, initial=(trainer.step - 1) * batch, unit=" images", leave=False,
                    dynamic_ncols=True, delay=1e-9, desc=f"epoch {trainer.epoch + 1}/{trainer.epochs}", file=sys.stderr,
                    bar_format="{desc} {percentage:3.0f}%|{bar}| {rate_fmt}{postfix}",
                )  # fmt: skip
            self._bar.set_postfix_str(f"{self._status(trainer)}, {self._left(trainer)}", refresh=first)
            self._bar.update(batch)
        elif time.perf_counter() - self._spoke > 60:
            print(f"epoch {trainer.epoch + 1}/{trainer.epochs}, step {trainer.step}/{steps}: {self._status(trainer)}, "
                  f"{trainer.seen / trainer.step_seconds:.0f} images/s, {self._left(trainer)}", flush=True)  # fmt: skip
            self._spoke = time.perf_counter()

    def on_epoch(self, trainer, record):
        self.close()
        left = f", {self._left(trainer)}" if trainer.epoch < trainer.epochs else ""
        waiting = f", {record['waiting']:.0%} of it waiting for data" if record.get("waiting", 0) >= 0.01 else ""
        print(
            f"epoch {record['epoch']}/{trainer.epochs}: loss {record['train_loss']:.4f}, accuracy "
            f"{record['train_accuracy']:.2%} in training, {record['test_accuracy']:.2%} on the test set"
            f"{measures_text(trainer.evaluation.measures)}, "
            f"{record['images_per_second']:.0f} images/s{waiting}, {duration(record['seconds'])}{left}", flush=True
        )  # fmt: skip
        self._spoke = time.perf_counter()

    def on_end(self, trainer):
        self.close()

    def close(self):
        """Remove the bar of an epoch that was not finished."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _status(self, trainer):
        return f"loss {trainer.loss_sum / trainer.seen:.3f}, accuracy {trainer.correct / trainer.seen:.1%}"

    def _left(self, trainer):
        steps = trainer.loader.steps_per_epoch
        images = ((trainer.epochs - trainer.epoch) * steps - trainer.step) * trainer.loader.batch_size
        return f"{duration((time.perf_counter() - self._started) * images / max(self._images, 1))} left"


class Files(Callback):
    """Keeps metrics.jsonl up to date after each epoch, and curves.png at most twice a minute.

    Parameters
    ----------
    folder : Path
    title : str   # above the curves
    """

    def __init__(self, folder, title):
        self.folder, self.title, self._drawn = Path(folder), title, time.perf_counter()

    def on_epoch(self, trainer, record):
        write_metrics(self.folder / "metrics.jsonl", trainer.history)
        if time.perf_counter() - self._drawn > 30:
            draw_curves(self.folder / "curves.png", trainer.history, self.title)
            self._drawn = time.perf_counter()


class Board(Callback):
    """Writes what metrics.jsonl holds as events of TensorBoard, by the package tensorboardX.

    A run that goes on takes back what an earlier start wrote of epochs that were not saved.

    Parameters
    ----------
    folder : Path of the events

    Raises
    ------
    ValueError : there is no package tensorboardX.
    """

    def __init__(self, folder):
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != "tensorboardX":
                raise
            raise ValueError("--tensorboard needs the package tensorboardX: expected it, found none; python -m pip install "
                             "'bitnet-dorefa[tensorboard]' brings it") from None
        self.open, self.folder, self._writer = SummaryWriter, Path(folder), None

    def on_epoch(self, trainer, record):
        if self._writer is None:
            self._writer = self.open(str(self.folder), purge_step=record["epoch"])
        for name, value in record.items():
            if name != "epoch" and isinstance(value, (int, float)):
                part, _, quantity = name.partition("_")
                tag = f"{quantity}/{part}" if part in ("train", "test") else name
                self._writer.add_scalar(tag, value, record["epoch"])
        self._writer.flush()

    def on_end(self, trainer):
        if self._writer is not None:
            self._writer.close()


def measures_text(measures):
    """``Evaluation.measures``, shares by name, as they go on after an accuracy in a sentence."""
    said = {"mean_iou": "mean IoU", "top5": "top-5"}
    return "".join(f", {said.get(name, name)} {share:.2%}" for name, share in measures.items())


def duration(seconds):
    """Seconds as people say them."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
