"""Your own file against bitnet: every piece of ``mine.py`` gets the same numbers, and must give the same numbers back.

    python examples/learn/check.py                      all pieces, in the order of the chapters
    python examples/learn/check.py pack count           some of them
    python examples/learn/check.py pack --hint          with a hint for each
    python examples/learn/check.py --file other.py      of another file (also: BITNET_LEARN_MINE=other.py)

A wrong piece is told where it differs first, with what was expected and what came, and which mistake it looks like: wrong
versions that are often written are at hand, and a piece that gives the numbers of one of them has probably made its mistake.
"""

import argparse
import html
import importlib.util
import os
import sys
from copy import deepcopy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from common import YourTurn
from pieces import PIECES

HERE = Path(__file__).resolve().parent
SOLUTION = HERE / "solutions" / "mine.py"


class CheckError(Exception):
    """What is wrong with a file or a name, in words for whoever typed it."""


def load(path=None):
    """A reader's file as a module: ``path``, BITNET_LEARN_MINE, or ``mine.py`` beside this file.

    Raises
    ------
    CheckError : there is no such file, or it stops while it is read.
    """
    path = Path(path or os.environ.get("BITNET_LEARN_MINE") or HERE / "mine.py")
    if not path.is_file():
        raise CheckError(f"expected your file at {path}, found none")
    spec = importlib.util.spec_from_file_location("mine", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a reader's file does
        raise CheckError(f"expected {path.name} to be importable, got {type(error).__name__}: {error}") from None
    return module


def difference(expected, got, tolerance, name=""):
    """None, or what differs first: shapes, types of containers, or a number and its place."""
    if isinstance(expected, dict):
        if not isinstance(got, dict) or set(got) != set(expected):
            return f"expected the names {', '.join(expected)}, got {', '.join(got) if isinstance(got, dict) else shown(got)}"
        found = (difference(expected[key], got[key], tolerance, f"{key}: ") for key in expected)
        return next((text for text in found if text), None)
    if isinstance(expected, tuple):
        if not isinstance(got, tuple) or len(got) != len(expected):
            return f"expected {len(expected)} results, got {len(got) if isinstance(got, tuple) else shown(got)}"
        found = (difference(*pair, tolerance, f"result {i + 1}: ") for i, pair in enumerate(zip(expected, got, strict=True)))
        return next((text for text in found if text), None)
    try:
        right, ours = np.asarray(expected), np.asarray(got, float)
    except (TypeError, ValueError):
        got = None
    if got is None:
        return f"{name}expected numbers, got {shown(got)}"
    if right.shape != ours.shape:
        return f"{name}expected the shape {right.shape}, got {ours.shape}"
    right = right.astype(float)
    slack = 0 if np.asarray(expected).dtype.kind in "iub" else tolerance * np.abs(right).max(initial=0) + 1e-12
    wrong = ~(np.abs(right - ours) <= slack)
    if not wrong.any():
        return None
    place = tuple(map(int, np.argwhere(wrong)[0])) if right.ndim else ()
    where = f" at {place if len(place) > 1 else place[0]}" if place else ""
    return f"{name}expected {right[place]:g}{where}, got {ours[place]:g}" + (
        f" ({wrong.sum()} of {wrong.size} differ)" if wrong.size > 1 else "")


def shown(value):
    """A value in few letters."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"


def problem(name, function):
    """None where a piece is right, else a sentence; raises YourTurn (or NotImplementedError) where it has not been written."""
    piece = PIECES[name]
    for words, args in piece.cases().items():
        expected = piece.read(piece.truth(*deepcopy(args)))
        try:
            got = piece.read(piece.call(function, *deepcopy(args)))
        except NotImplementedError:
            raise
        except Exception as error:  # of any kind: it is told, and the next piece goes on
            return f"{words}: {type(error).__name__}: {error}"
        differs = difference(expected, got, piece.tolerance)
        if differs:
            for mistake, wrong in piece.mistakes.items():
                with np.errstate(all="ignore"):
                    alike = piece.read(piece.call(wrong, *deepcopy(args)))
                if difference(expected, alike, piece.tolerance) and not difference(alike, got, piece.tolerance):
                    return f"{words}: {differs}. It looks as if {mistake}."
            return f"{words}: {differs}."
    return None


def check(*names, mine=None, hints=False):
    """Print for each piece whether it is right, and for a wrong one why; True where all are right."""
    mine, right = mine or load(), True
    for name in names:
        try:
            if not hasattr(mine, name):
                raise YourTurn
            wrong = problem(name, getattr(mine, name))
        except NotImplementedError:
            print(f"mine.{name}: your turn")
        else:
            print(f"mine.{name}: " + (f"not yet. {wrong}" if wrong else "right"))
            right = right and not wrong
            unfold(name, hints)
            continue
        right = False
        unfold(name, hints)
    return right


def unfold(name, hints):
    """A hint: folded on a page, printed where it was asked for."""
    if "inline" in plt.get_backend():
        from IPython.display import HTML, display

        display(HTML(f"<details><summary>Hint for <code>{name}</code></summary>{html.escape(PIECES[name].hint)}</details>"))
    elif hints:
        print(f"  hint: {PIECES[name].hint}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Check your own file, mine.py, against bitnet.")
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"some of {', '.join(PIECES)} (default: all)")
    parser.add_argument("--file", type=Path, help="your file (default: mine.py beside this script)")
    parser.add_argument("--hint", action="store_true", help="print a hint for each")
    options = parser.parse_args(arguments)
    try:
        unknown = [name for name in options.pieces if name not in PIECES]
        if unknown:
            raise CheckError(f"expected pieces among {', '.join(PIECES)}, found {unknown[0]}")
        return 0 if check(*(options.pieces or PIECES), mine=load(options.file), hints=options.hint) else 1
    except CheckError as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
