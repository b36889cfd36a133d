"""What the chapters share: sizes, digits, pictures and exercises. Nothing of DoReFa-Net is hidden here.

    BITNET_LEARN_QUICK=1        small sizes, for a first look and for tests
    BITNET_LEARN_DATA=DIR       folder with SVHN (data/svhn if it is there, else digits that a program draws)
    BITNET_LEARN_PICTURES=DIR   where scripts put their pictures (learn-pictures)
"""

import ast
import linecache
import os
import textwrap
import traceback
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from bitnet.datasets import load_generated, load_svhn

HERE = Path(__file__).resolve().parent
QUICK = bool(os.environ.get("BITNET_LEARN_QUICK"))
INK, FAINT = "#1f2328", "#c9d1d9"
BLUE, AMBER, GREY, RED = "#1f5fbf", "#b26a00", "#59636e", "#c0392b"  # bits, quantizers, float, what goes wrong

plt.rcParams.update({
    "figure.figsize": (8, 3.4), "figure.dpi": 110, "savefig.bbox": "tight", "figure.constrained_layout.use": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.titlelocation": "left",
    "axes.titlesize": 11, "axes.prop_cycle": plt.cycler(color=[BLUE, AMBER, GREY, RED]), "grid.color": FAINT,
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "font.size": 9.5,
})  # fmt: skip


def size(full, quick):
    """``quick`` where BITNET_LEARN_QUICK is set, ``full`` otherwise."""
    return quick if QUICK else full


def read(split="train", count=None):
    """House numbers, the first ``count`` of "train" or "test", as a ``bitnet.datasets.Dataset``; prints which they are.

    Genuine ones (SVHN) where they are at hand, drawn ones otherwise.
    """
    folder = os.environ.get("BITNET_LEARN_DATA") or HERE.parents[1] / "data" / "svhn"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a subset of SVHN says so in its name
        if os.environ.get("BITNET_LEARN_DATA") or (folder / f"{split}_32x32.mat").is_file():
            found = load_svhn(folder, split)
        else:
            found = load_generated(split, count)
    found = found[:count]
    print(f"digits: {len(found):,} of {found.name}")
    return found


def digits(split="train", count=None):
    """``read`` as a network of bitnet takes it.

    Returns
    -------
    images : float32 array, shape (N, 40, 40, 3)   # pixel / 256, so in [0, 1)
    labels : int64 array, shape (N,)               # 0..9
    """
    found = read(split, count)
    return np.float32(found.images) / 256, found.labels.astype(np.int64)


def show(figure, name):
    """Save a picture as NAME.png; a notebook shows it below its cell instead."""
    if "inline" in plt.get_backend():
        from IPython.display import display

        titles = [figure.get_suptitle(), *(axis.get_title(loc="left") for axis in figure.axes)]
        alt = "; ".join(title for title in titles if title)
        display(figure, metadata={"image/png": {"alt": alt}})
        if stack(figure):  # the style sheet shows one of both
            display(figure, metadata={"image/png": {"alt": f"{alt} (stacked)"}})
        plt.close(figure)
        return
    folder = Path(os.environ.get("BITNET_LEARN_PICTURES", "learn-pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png")
    plt.close(figure)
    print(f"picture: {folder / name}.png")


def stack(figure):
    """Make a figure narrow, for phones: panels that stand side by side one below the other. False where it cannot be done."""
    axes = figure.axes
    grids = {axis.get_subplotspec().get_gridspec() for axis in axes if axis.get_subplotspec()}
    if len(grids) != 1 or grids.pop().get_geometry() != (1, len(axes)):
        return False
    width, height = figure.get_size_inches()
    rows, columns = (2, 2) if len(axes) == 4 else (len(axes), 1)
    grid = figure.add_gridspec(rows, columns)
    for i, axis in enumerate(axes):
        axis.set_subplotspec(grid[i])
        axis.set_title("\n".join(textwrap.wrap(axis.get_title(loc="left"), 46 // columns)), loc="left")
    if figure.get_suptitle():
        figure.suptitle("\n".join(textwrap.wrap(figure.get_suptitle(), 46)), x=0.01, ha="left", fontsize=11)
    figure.set_size_inches(0.55 * width, 0.95 * rows * height)
    return True


class YourTurn(NotImplementedError):
    """An exercise that waits for its reader."""


def exercise(answer, check):
    """Tell whether an answer to an exercise holds, and if not, what was expected and what came; then go on.

    ``check(answer)`` is a row of asserts, which compare.
    """
    try:
        check(answer)
    except YourTurn:
        print(f"{answer.__name__}: your turn")
    except AssertionError as error:
        print(f"{answer.__name__}: not yet. {_compared(error)}")
    except Exception as error:  # of any kind: it is the reader's
        print(f"{answer.__name__}: not yet. {type(error).__name__}: {error}")
    else:
        print(f"{answer.__name__}: right")


def _compared(error):
    """The assert that failed, in words: its source, and the values of what it compares."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    source = textwrap.dedent(linecache.getline(frame.f_code.co_filename, line)).strip()
    try:
        tested = ast.parse(source).body[0].test
        sides = tested.args[:2] if isinstance(tested, ast.Call) else [tested.left, tested.comparators[-1]]
        got, expected = (eval(ast.unparse(side), frame.f_globals, frame.f_locals) for side in sides)
    except Exception:  # an assert that does not compare two values, or lies over several lines
        return f"This does not hold: {source.removeprefix('assert ')}"
    return f"{ast.unparse(sides[0])}: expected {_short(expected)}, got {_short(got)}"


def _short(value):
    text = " ".join(repr(value).split())
    return text if len(text) <= 70 else text[:67] + "..."
