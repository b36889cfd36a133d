"""The course: its folder, its chapters at small sizes, and a site built of some of them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

LEARN = Path(__file__).parents[2] / "examples" / "learn"


@pytest.fixture(scope="session")
def environment():
    """Environment variables for small sizes and drawn digits."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BITNET_LEARN")}
    return kept | {"BITNET_LEARN_QUICK": "1", "MPLBACKEND": "Agg"}


@pytest.fixture
def build():
    """build.py as a module; what a test changes in it is gone after the test."""
    spec = importlib.util.spec_from_file_location("learn_build", LEARN / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def site(environment, tmp_path_factory):
    """(folder, what build.py printed): the site of chapters 1 and 2."""
    for name in ("jupytext", "nbconvert", "ipykernel", "latex2mathml"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("course") / "site"
    done = subprocess.run([sys.executable, LEARN / "build.py", "--quick", "--chapters", "1", "2", "--out", folder],
                          env=environment, cwd=folder.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout
