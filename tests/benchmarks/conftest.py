"""The scripts' folder, from which they import each other."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session", autouse=True)
def scripts():
    """Modules of benchmarks/ can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield FOLDER
        for name, module in list(sys.modules.items()):
            if getattr(module, "__file__", None) and Path(module.__file__).parent == FOLDER:
                del sys.modules[name]
