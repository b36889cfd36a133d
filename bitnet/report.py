"""What a run tells its user: the table of layers, the progress of an epoch, metrics.jsonl, and the pictures.

matplotlib is imported when the first picture is drawn: it takes longer to load than a small model to train a few steps.
"""

import io
import json
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bitnet import dispatch, execution, functional
from bitnet.checkpoint import write_atomically
from bitnet.layers import preserved
from bitnet.training import Callback

PATHS = ("forward", "input_grad", "weight_grad")
TRAIN, TEST, INK, FAINT = "#8a93a6", "#1f5fbf", "#22262e", "#d9dce3"


def layer_table(model, images, labels):
    """Run one real training step, without its update, and say what every layer executed.

    The model, its batch norm statistics and all random numbers are as before afterwards. Kernels that this machine has
    not compiled yet are compiled on the way.

    Parameters
    ----------
    model : Module
    images : float32 array, shape (B, H, W, 3)
    labels : int64 array, shape (B,)
    Returns
    -------
    table : str
    """
    with preserved(model), execution.log() as records:
        functional.softmax_cross_entropy(model.train()(images), labels).backward()
    return format_layers(model, records, len(images))


def format_layers(model, records, batch_size):
    """The table of :func:`layer_table` from the records of one step."""
    layers = {}
    for record in records:
        layers.setdefault(record.layer, {})[record.path] = record
    parameters = {name: parameter.data for name, parameter in model.named_parameters().items()}
    head = ["layer", "output", "W,A,G", "parameters", "float", "packed", "MMAC", "forward", "input grad", "weight grad"]
    rows, totals, notes = [], np.zeros(4), []
    for name, products in layers.items():
        forward, own = products["forward"], {}
        for key in [key for key in parameters if key.rpartition(".")[0] == name]:
            own[key] = parameters.pop(key)
        bits = _bits(products)
        sums = [
            sum(array.size for array in own.values()),
            sum(array.nbytes for array in own.values()),
            sum(packed_size(array, bits[0] if key.endswith("weight") else 32) for key, array in own.items()),
            forward.macs / batch_size,
        ]
        totals += sums
        families = []
        for path in PATHS:
            product = products.get(path)
            families.append("-" if product is None else product.family + " *" * bool(product.note))
            if product is not None and product.note:
                notes.append(f"* {name}, {path.replace('_', ' ')}: {product.note}")
        # a linear layer (its weight has two axes) runs as a convolution of one pixel
        linear = any(array.ndim == 2 for array in own.values())
        shape = "x".join(map(str, forward.output_shape[-1:] if linear else forward.output_shape[1:]))
        rows.append([name, shape, ",".join(map(str, bits)), *_sizes(*sums[:3]), f"{sums[3] / 1e6:.2f}", *families])
    rest = [sum(array.size for array in parameters.values()), *[sum(array.nbytes for array in parameters.values())] * 2]
    if parameters:
        rows.append(["batch norm", "", "", *_sizes(*rest), "", "", "", ""])
    totals += [*rest, 0]
    rows.append(["all", "", "", *_sizes(*totals[:3]), f"{totals[3] / 1e6:.2f}", "", "", ""])
    notes.append("MMAC: millions of multiply-accumulates an image; packed: weights in W bits; -: not needed")
    notes += _source_of_choice(records)
    return "\n".join([columns([head, *rows], left=(0, 1, 2, 7, 8, 9)), *notes])


def _source_of_choice(records):
    """A line about where an automatic choice of kernels came from; none where nothing was chosen."""
    chosen = [record.how for record in records if record.how]
    if not chosen:
        return []
    measured, table = chosen.count("measured"), dispatch.table()
    when = f"{measured} of {len(chosen)} measured now" if measured else "as measured before"
    where = f"times are in {table.path}" if table.kept else f"{table.path} cannot be written, so the next start measures again"
    return [f"kernels: the quickest of each product, {when}; {where}"]


def _bits(products):
    """(W, A, G) of a layer, from the operands of its products: input and weight, gradient and input."""
    a_bits, w_bits = products["forward"].bits
    g_bits = products["weight_grad"].bits[0] if "weight_grad" in products else 32
    return w_bits, a_bits, g_bits


def packed_size(array, bits):
    """Bytes of an array whose numbers take ``bits`` bits each."""
    return array.nbytes if bits >= 32 else -(-array.size * bits // 8)


def _sizes(count, float_bytes, packed_bytes):
    return f"{int(count):,}", size_text(float_bytes), size_text(packed_bytes)


def size_text(count):
    """A number of bytes as people read it."""
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{int(count)} B"


def columns(rows, left):
    """Rows of texts as lines with aligned columns, those numbered in ``left`` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def confusion_table(confusion):
    """Counts as text: a row for each label, a column for each prediction, and the share of the row that is right."""
    classes = range(len(confusion))
    right = confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)
    rows = [["label", *map(str, classes), "right"]]
    rows += [[str(c), *[str(n) if n else "." for n in confusion[c]], f"{right[c]:.1%}"] for c in classes]
    return columns(rows, left=())


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
        print(
            f"epoch {record['epoch']}/{trainer.epochs}: loss {record['train_loss']:.4f}, accuracy "
            f"{record['train_accuracy']:.2%} in training, {record['test_accuracy']:.2%} on the test set, "
            f"{record['images_per_second']:.0f} images/s, {duration(record['seconds'])}{left}", flush=True
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


def duration(seconds):
    """Seconds as people say them."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def draw_curves(path, history, title):
    """Loss and accuracy over the epochs, in training and on the test set."""
    figure, (loss, accuracy) = new_figure(title, 10, 4, columns=2)
    epochs = [record["epoch"] for record in history]
    for axes, name, scale, form in ((loss, "loss", 1, "{:.3f}"), (accuracy, "accuracy", 100, "{:.1f} %")):
        for part, color, width in (("train", TRAIN, 1.5), ("test", TEST, 2.2)):
            values = [scale * record[f"{part}_{name}"] for record in history]
            label = f"{'training' if part == 'train' else 'test set'}, {form.format(values[-1])}" if values else part
            axes.plot(epochs, values, color=color, linewidth=width, marker="o", markersize=3.5, label=label)
        axes.set_title(name if scale == 1 else "accuracy, %", loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color=FAINT, linewidth=0.7)
        axes.legend(frameon=False)
    loss.set_ylim(0, 1.08 * loss.dataLim.y1 if history else 1)
    write_figure(figure, path)


def draw_confusion(path, confusion, title):
    """Labels against predictions; colour is the share of the label's row, numbers are counts."""
    figure, (axes,) = new_figure(title, 6.4, 6.2)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # square root: a few per cent of confusion should be seen beside a diagonal near 100 %
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)
    for label, prediction in np.ndindex(confusion.shape):
        if confusion[label, prediction]:
            color = "white" if share[label, prediction] > 0.3 else INK
            count = str(confusion[label, prediction])
            axes.text(prediction, label, count, ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(confusion)))
    axes.set_yticks(range(len(confusion)), [f"{c}  ({share[c, c]:.0%})" for c in range(len(confusion))])
    axes.set_xlabel("prediction")
    axes.set_ylabel("label (share that is right)")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    write_figure(figure, path)


def draw_mistakes(path, digits, evaluation, title, rows=3, columns=8):
    """The wrong predictions that the model was most sure of."""
    confidence = evaluation.probabilities.max(axis=1)
    wrong = np.flatnonzero(evaluation.predictions != digits.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][: rows * columns]
    figure, (axes,) = new_figure(title, 1.25 * columns, 1.65 * rows + 0.4)
    for place, index in enumerate(wrong):
        y, x = divmod(place, columns)
        # one pair of axes for all pictures, each 1 x 1 in it: a grid of axes takes four times as long to draw
        axes.imshow(digits.images[index], cmap="gray", vmin=0, vmax=255, extent=(1.1 * x, 1.1 * x + 1, 1.45 * y + 1, 1.45 * y))
        label, prediction = digits.labels[index], evaluation.predictions[index]
        text = f"{label} taken for {prediction}\n{confidence[index]:.1%} sure"
        axes.text(1.1 * x + 0.5, 1.45 * y - 0.05, text, ha="center", va="bottom", fontsize=8, color=INK)
    if not len(wrong):
        axes.text(0.55 * columns, 0.7 * rows, "no mistakes", ha="center")
    axes.set(xlim=(0, 1.1 * columns - 0.1), ylim=(1.45 * rows - 0.45, -0.4), aspect="equal")
    axes.axis("off")
    write_figure(figure, path)


def new_figure(title, width, height, columns=1, rows=1):
    """An empty figure of ``width`` x ``height`` inches, and its axes as a flat array."""
    # without pyplot: no global state, no window, and nothing to close
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    figure.suptitle(title, fontsize=11, color=INK)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def write_figure(figure, path):
    """Write a figure as PNG, whole or not at all."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    write_atomically(path, image.getbuffer())
