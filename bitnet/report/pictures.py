"""The pictures of a run.

matplotlib is imported when the first picture is drawn: it takes longer to load than a small network to train a few steps.
"""

import functools
import io
import logging

import numpy as np

from bitnet.storage.atomic import write_atomically

logging.getLogger("matplotlib").addHandler(logging.NullHandler())  # it may want a folder that a user does not have
TRAIN, TEST, INK, FAINT = "#8a93a6", "#1f5fbf", "#22262e", "#d9dce3"


def own_style(draw):
    """Decorate what draws: whatever a user's matplotlibrc says, a LaTeX that is not there for instance, holds elsewhere."""
    @functools.wraps(draw)
    def drawing(*args, **options):
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams["text.parse_math"] = False  # names may hold dollars
            return draw(*args, **options)

    return drawing


@own_style
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


@own_style
def draw_confusion(path, confusion, title, classes=None):
    """Labels against predictions; colour is the share of the label's row, numbers are counts, or shares of very many."""
    figure, (axes,) = new_figure(title, 6.4, 6.2)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # square root: a few per cent of confusion should be seen beside a diagonal near 100 %
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)
    few = len(confusion) <= 40  # of more classes numbers and names could not be read
    for label, prediction in np.ndindex(confusion.shape):
        if few and confusion[label, prediction]:
            color = "white" if share[label, prediction] > 0.3 else INK
            count = str(confusion[label, prediction]) if confusion.max() < 1e5 else f"{share[label, prediction]:.1%}"
            axes.text(prediction, label, count, ha="center", va="center", color=color, fontsize=8)
    names = [str(name) for name in classes or range(len(confusion))]
    if few:
        turned = {"rotation": 45, "ha": "right"} if max(map(len, names)) > 4 else {}
        axes.set_xticks(range(len(confusion)), names, **turned)
        axes.set_yticks(range(len(confusion)), [f"{name}  ({_percent(share[c, c])})" for c, name in enumerate(names)])
    axes.set_xlabel("prediction")
    axes.set_ylabel("label (share that is right)")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    write_figure(figure, path)


def _percent(share):
    """A share in per cent, with a digit more where it would be rounded to all."""
    return f"{share:.0%}" if share == 1 or share < 0.995 else f"{share:.1%}" if share < 0.9995 else "99.9%"


@own_style
def draw_mistakes(path, dataset, evaluation, title, rows=3, columns=8):
    """The wrong predictions that the network was most sure of."""
    confidence = evaluation.probabilities.max(axis=1)
    wrong = np.flatnonzero(evaluation.predictions != dataset.targets)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][: rows * columns]
    figure, (axes,) = new_figure(title, 1.25 * columns, 1.65 * rows + 0.4)
    for place, index in enumerate(wrong):
        y, x = divmod(place, columns)
        # one pair of axes for all pictures, each 1 x 1 in it: a grid of axes takes four times as long to draw
        axes.imshow(dataset.images[index], cmap="gray", vmin=0, vmax=255, extent=(1.1 * x, 1.1 * x + 1, 1.45 * y + 1, 1.45 * y))
        label, prediction = dataset.classes[dataset.targets[index]], dataset.classes[evaluation.predictions[index]]
        text = f"{label} taken for {prediction}\n{confidence[index]:.1%} sure"
        axes.text(1.1 * x + 0.5, 1.45 * y - 0.05, text, ha="center", va="bottom", fontsize=8, color=INK)
    if not len(wrong):
        axes.text(0.55 * columns, 0.7 * rows, "no mistakes", ha="center")
    axes.set(xlim=(0, 1.1 * columns - 0.1), ylim=(1.45 * rows - 0.45, -0.4), aspect="equal")
    axes.axis("off")
    write_figure(figure, path)


def palette(classes):
    """A colour for each class and black for what is none: uint8 (classes + 1, 3), the same ones for any number of classes."""
    from matplotlib import colormaps

    colours = [color for name in ("tab20", "tab20b", "tab20c") for color in colormaps[name].colors]
    return (255 * np.array([*(colours[i % len(colours)] for i in range(classes)), (0, 0, 0)])).round().astype(np.uint8)


@own_style
def draw_segmentation(path, dataset, places, predictions, title):
    """Pictures of a dataset beside their labels and what was predicted: a row for each.

    Parameters
    ----------
    dataset : Dataset with label maps; places : which of its images
    predictions : integer array (len(places), H, W)
    """
    from matplotlib.patches import Patch

    colours, classes = palette(len(dataset.classes)), len(dataset.classes)
    height, width = dataset.shape[:2]
    figure, (axes,) = new_figure(title, 9, 9 * 1.05 * len(places) * height / (3.06 * width) + 1.2)
    for row, (place, predicted) in enumerate(zip(places, predictions, strict=True)):
        image, labels = np.asarray(dataset.images[place]), np.minimum(dataset.targets[place], classes)
        for column, (what, shown) in enumerate((("picture", image), ("labels, black: void", colours[labels]),
                                                ("prediction", colours[predicted]))):
            left, top = 1.03 * width * column, 1.05 * height * row
            axes.imshow(shown, extent=(left, left + width, top + height, top), cmap="gray", vmin=0, vmax=255,
                        interpolation="nearest")
            if row == 0:
                axes.text(left + width / 2, -0.02 * height, what, ha="center", va="bottom", fontsize=9, color=INK)
    axes.set(xlim=(0, 3.06 * width), ylim=(1.05 * height * len(places), -0.15 * height), aspect="equal")
    axes.axis("off")
    handles = [Patch(color=colours[i] / 255, label=name) for i, name in enumerate(dataset.classes)]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
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
