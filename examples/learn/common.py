"""What the chapters share: sizes, digits, pictures and exercises. Nothing of DoReFa-Net is hidden here.

    BITNET_LEARN_QUICK=1        small sizes, for a first look and for tests
    BITNET_LEARN_DATA=DIR       folder with SVHN (data/svhn if it is there, else digits that a program draws)
    BITNET_LEARN_PICTURES=DIR   where scripts put their pictures (learn-pictures)
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt

from bitnet.datasets import load_digits

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


def digits(split="train", count=None):
    """Genuine house numbers where they are at hand, drawn ones otherwise: images (N, 40, 40, 3) in [0, 1), labels."""
    raise NotImplementedError


def show(figure, name):
    """Save a picture as NAME.png; in a notebook it appears below its cell, too."""
    folder = Path(os.environ.get("BITNET_LEARN_PICTURES", "learn-pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png")
    print(f"picture: {folder / name}.png")


class YourTurn(NotImplementedError):
    """An exercise that waits for its reader."""


def exercise(answer, check):
    """Tell whether an answer to an exercise holds: ``check(answer)`` is a row of asserts."""
    try:
        check(answer)
    except YourTurn:
        print(f"{answer.__name__}: your turn")
    else:
        print(f"{answer.__name__}: right")
