"""Trained networks that come with the package, frozen: a few hundred kilobytes each, used without a download.

    bitnet.load("svhn")          wherever no file of that name is in the way; the command line and predict.py take names, too
    names(), about("svhn")       what there is; its recipe, data, seed, figure and licence

networks.json has a record of each, with the command that trained it.
"""

import json
from functools import cache
from pathlib import Path

from bitnet.deploy import load_frozen

FOLDER = Path(__file__).parent


@cache
def _records():
    return json.loads((FOLDER / "networks.json").read_text(encoding="utf-8"))


def names():
    """All networks that come along."""
    return list(_records())


def about(name):
    """What a network is.

    Returns
    -------
    record : dict   # network, method, bits (W,A,G), data, test, accuracy (share of the test images), command, seed, licence

    Raises
    ------
    ValueError : no such network.
    """
    if name not in _records():
        raise ValueError(f"the network must be one of {', '.join(names())}, got {name!r}")
    return dict(_records()[name])


def load(name):
    """The frozen network of that name; ValueError where there is none."""
    about(name)
    return load_frozen(FOLDER / f"{name}.npz")
