"""The numbers that kernels are tuned with stand in one place each: an edit there is all that it takes."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet import kernels

SOURCES = Path(kernels.__file__).parent
LARGEST = 7  # of the numbers that may stand in a kernel: those of eight named registers
ALLOWED = {("pointwise/block.py", 0x7FFFFFFF),  # all of an int32 but the sign
           *(("machine/peak.py", number) for number in range(8, 14))}  # of fourteen numbers in named registers


def compiled_functions(path):
    """Functions decorated as kernels or as parts of kernels, but no intrinsics: these generate code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and {"kernel", "inlined"} & {ast.unparse(one) for one in node.decorator_list}:
            yield node


@pytest.mark.parametrize("path", sorted(path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.py")))
def test_numbers_in_kernels_have_names(path):
    if path == "machine/noise.py":
        pytest.skip("the numbers of a hash are the hash")
    found = {(path, node.value, function.name) for function in compiled_functions(SOURCES / path) for node in ast.walk(function)
             if isinstance(node, ast.Constant) and type(node.value) is int and node.value > LARGEST}
    assert not {one for one in found if one[:2] not in ALLOWED}


def test_such_functions_are_found():
    assert {one.name for one in compiled_functions(SOURCES / "products" / "tiles.py")} >= {"_spatial", "register_tile"}


OTHERS = {  # constant: another number that is as right
    "pointwise/walk.py": {"TILE": 1 << 12, "ROWS": 64, "SEGMENT": 256},
    "pointwise/block.py": {"AHEAD": 256},
    "products/tiles.py": {"RESULTS": 72, "PANELS": 3},
    "products/direct.py": {"PIXELS": 90, "RUN": 40, "PARTS": 3},
    "products/dense.py": {"TILE_BYTES": 1 << 12},
    "products/matrix.py": {"BLOCK": 24, "PART": 50},
    "products/packing.py": {"SHORT": 10},
    "products/byte_dot.py": {"SHORT": 10},
}


@pytest.mark.slow
def test_an_edit_of_a_constant_changes_no_result(tmp_path):
    package = tmp_path / "bitnet"
    shutil.copytree(SOURCES, package / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").touch()
    for name, numbers in OTHERS.items():
        text = (package / "kernels" / name).read_text()
        for constant, number in numbers.items():
            text, count = re.subn(rf"^{constant} = [^#\n]+?(?=\s*(#|$))", f"{constant} = {number}", text, flags=re.MULTILINE)
            assert count == 1, (name, constant)
        (package / "kernels" / name).write_text(text)
    here = Path(__file__).parent
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    chosen = "random_layers or edge or same_bits or dense or direct or pointwise"
    done = subprocess.run([sys.executable, "-P", "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", "not slow", "-k", chosen,
                           here / "products", here / "pointwise"],
                          env=environment, cwd=here.parents[1], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.count(".") > 300  # one a test
