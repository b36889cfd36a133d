"""Compiled kernels: kept on disk, never stale, right on machines that are not this one."""

import io
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet.kernels.machine import compile as compile_module
from bitnet.kernels.machine.compile import announce, cache_folder, kernel


def test_an_edit_of_any_source_is_another_folder(tmp_path, monkeypatch):
    copied = tmp_path / "kernels"
    shutil.copytree(Path(compile_module.__file__).parents[1], copied, ignore=shutil.ignore_patterns("__pycache__"))
    original = compile_module._source_hash()
    monkeypatch.setattr(compile_module, "__file__", str(copied / "machine" / "compile.py"))
    assert compile_module._source_hash() == original
    for path in sorted(copied.rglob("*.py")):
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        assert compile_module._source_hash() != original, path.name
        path.write_bytes(content)
    assert compile_module._source_hash() == original
    (copied / "products" / "popcount.py").rename(copied / "products" / "counting.py")
    assert compile_module._source_hash() != original


def test_the_folder_is_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert Path(cache_folder()) == tmp_path / compile_module._SOURCE_HASH
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert tmp_path not in Path(cache_folder()).parents
    assert Path(cache_folder()).name == compile_module._SOURCE_HASH


@pytest.fixture
def written_kernel(tmp_path, monkeypatch):
    """A function that makes a kernel anew, as a new process would, cached below tmp_path."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    source = tmp_path / "doubling.py"
    source.write_text("def double(x):\n    return 2 * x\n")

    def make():
        names = {}
        exec(compile(source.read_text(), str(source), "exec"), names)
        names["double"].__module__ = "doubling"
        return kernel(names["double"])

    return make


def test_a_kernel_is_compiled_once_and_kept(written_kernel, tmp_path):
    first = written_kernel()
    assert first(21) == 42 and sum(first.stats.cache_misses.values()) == 1
    assert list((tmp_path / "cache" / compile_module._SOURCE_HASH).rglob("*.nbc"))
    second = written_kernel()
    assert second(21) == 42 and sum(second.stats.cache_hits.values()) == 1 and not second.stats.cache_misses


def test_numbas_own_cache_folder_is_left_alone(written_kernel):
    import numba

    before = numba.config.CACHE_DIR
    written_kernel()
    assert numba.config.CACHE_DIR == before


def test_compilation_is_announced_the_first_time_only(written_kernel, tmp_path):
    stream = io.StringIO()
    with announce(stream) as first:
        written_kernel()(1)
    assert first.kernels == 1 and first.seconds > 0
    begin, end = stream.getvalue().splitlines()
    assert begin.startswith("compiling kernels")
    assert end.startswith("compiled 1 kernels in ") and str(tmp_path / "cache") in end
    stream = io.StringIO()
    with announce(stream) as second:
        written_kernel()(1)
    assert second.kernels == 0 and stream.getvalue() == ""


def test_kernels_release_the_gil(written_kernel):
    assert written_kernel().targetoptions["nogil"] is True


SCRIPT = """
import sys
import numpy as np
from bitnet.kernels import products
from bitnet.kernels.products import byte_dot, popcount, reference, tiles
from bitnet.kernels.products.geometry import Conv
from strategies import layer_of

for seed, encoding in enumerate(("unsigned", "bipolar", "unsigned", "ternary")):
    conv = Conv(65, 18, (3, 2), (1 + seed % 2, 1), ((1, 0), (0, 1)))
    conv, size, x, w, g, scale = layer_of(conv, (5, 6), (1 + seed, 3 - seed % 3, 4), encoding, seed=seed)
    scale = scale.astype(np.float32)
    dy = reference.input_grad(g.levels(), w.levels(), conv, size).astype(np.float32) * scale[:, None, None, None]
    scaled = sum(part.astype(np.float32) * one for part, one in zip(reference.weight_grad(g.levels(), x.levels(), conv), scale))
    for family in ("popcount", "byte_dot"):  # floats are a BLAS library's business
        y = products.forward(family, x, w, conv)
        dx = products.input_grad(family, g, w, conv, size, scale)
        dw = products.weight_grad(family, g, x, conv, scale)
        assert (y == reference.forward(x.levels(), w.levels(), conv)).all(), (family, "forward")
        assert (dx == dy).all(), (family, "input_grad")
        assert (dw == scaled).all(), (family, "weight_grad")

for kernel in (tiles._spatial, popcount._weight_grad, byte_dot._weight_grad):
    for assembly in kernel.inspect_asm().values():
        for foreign in sys.argv[1:]:
            assert foreign not in assembly, f"{foreign} in code for another machine"
"""

TARGETS = {  # environment, and what its machine code must not hold
    "generic": ({"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, ["%ymm", "%zmm", "popcnt", "vpdpbusd", "vfmadd"]),
    # the name alone would keep this machine's features
    "haswell": ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+bmi2,+fma,+popcnt,+sse4.2"},
                ["%zmm", "vpopcnt", "vpdpbusd"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_compiled_for_lesser_machines_are_exact(target, tmp_path):
    if target == "haswell" and platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("no such processor here")
    variables, foreign = TARGETS[target]
    environment = os.environ | variables | {"NUMBA_CACHE_DIR": str(tmp_path)}
    strategies = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([strategies, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", SCRIPT, *foreign], env=environment, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
