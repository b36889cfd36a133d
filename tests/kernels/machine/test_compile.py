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
    assert end.startswith("compiled kernels in ") and str(tmp_path / "cache") in end
    stream = io.StringIO()
    with announce(stream) as second:
        written_kernel()(1)
    assert second.kernels == 0 and stream.getvalue() == ""


def test_kernels_release_the_gil(written_kernel):
    assert written_kernel().targetoptions["nogil"] is True


CLIP = """
import sys
import numpy as np
from bitnet.kernels.machine.launch import launcher
from bitnet.kernels.pointwise import update
assert "not kept" not in open(sys.argv[1]).read()  # nothing is said at import
weight = np.array([-2, 0, 2], np.float32)
update.clip(weight, 0.5)
update.clip(weight.astype(np.float64), 0.5)
assert weight.tolist() == [-0.5, 0, 0.5]
print(sum(launcher(update._clip).stats.cache_hits.values()))
"""


@pytest.fixture
def run(tmp_path):
    """run(NAME=value, ...) clips two arrays in a new process with that environment (None: unset): (cache hits, stderr)."""

    def run(script=CLIP, **variables):
        environment = {name: value for name, value in (os.environ | variables).items() if value is not None}
        errors = tmp_path / "stderr"
        with errors.open("w") as file:
            done = subprocess.run([sys.executable, "-c", script, errors], env=environment, cwd=tmp_path, stdout=subprocess.PIPE,
                                  stderr=file, text=True, timeout=100)
        assert done.returncode == 0, errors.read_text()
        return int(done.stdout), errors.read_text()

    return run


def kept(tmp_path):
    return sorted((tmp_path / "cache" / compile_module._SOURCE_HASH).glob("update._clip*.nbc"))


def in_tree():
    return set(Path(compile_module.__file__).parents[1].rglob("*.nb[ci]"))


@pytest.mark.parametrize("variables", [
    {"NUMBA_CACHE_DIR": "/dev/null/cache"},
    {"NUMBA_CACHE_DIR": None, "HOME": "/dev/null", "XDG_CACHE_HOME": None},
    {"NUMBA_CACHE_DIR": None, "HOME": None, "XDG_CACHE_HOME": "/dev/null"},
])
def test_without_a_folder_kernels_are_compiled_each_time(variables, run):
    before = in_tree()
    for _ in range(2):
        hits, errors = run(**variables)
        assert hits == 0 and errors.count("not kept") == 1 and len(errors.splitlines()) == 1
    assert in_tree() == before  # nor beside the sources, where an edit of another file would go unnoticed


def test_a_user_without_a_home_or_a_name(tmp_path, monkeypatch):
    pwd = pytest.importorskip("pwd")

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert compile_module._fault(cache_folder()) == "this user has no home folder"
    assert not list(tmp_path.iterdir())  # no folder with the name "~"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have no owners here")
@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_a_folder_that_others_may_write_to_is_not_read(mode, run, tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert run(**cache)[0] == 0 and run(**cache)[0] == 2
    folder = tmp_path / "cache" / compile_module._SOURCE_HASH
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(mode)
    hits, errors = run(**cache)
    assert hits == 0 and errors.count("others may write to") == 1
    folder.chmod(0o700)
    assert run(**cache) == (2, "")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_somebody_else_is_not_read(run, tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    run(**cache)
    os.chown(tmp_path / "cache" / compile_module._SOURCE_HASH, 54321, -1)
    hits, errors = run(**cache)
    assert hits == 0 and "others may write to" in errors


@pytest.mark.parametrize("damage", ["empty", "cut short", "another bit", "another file", "pipe"])
def test_a_damaged_file_is_compiled_again(damage, run, tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    run(**cache)
    files = kept(tmp_path)
    assert len(files) == 2
    for path in files:
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[len(changed) // 2] ^= 1  # a single bit, amid machine code
        if damage == "pipe":  # would be waited for
            path.unlink()
            os.mkfifo(path)
            continue
        path.write_bytes({"empty": b"", "cut short": whole[:1000], "another bit": changed, "another file": b"x" * 5000}[damage])
    assert run(**cache) == (0, "")
    assert run(**cache) == (2, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files here")
def test_a_full_disk_stops_nothing(run, tmp_path):
    limited = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # bytes of a file, after which writing fails
""" + CLIP
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    hits, errors = run(limited, **cache)
    assert hits == 0 and errors.count("not kept") == 1
    assert not list((tmp_path / "cache" / compile_module._SOURCE_HASH).iterdir())  # nothing half written
    assert run(**cache) == (0, "") and run(**cache) == (2, "")


NO_COMPILER = """
import numpy as np
from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import NoCompilerError, kernel
from bitnet.kernels.pointwise import update
for call in (lambda: update.clip(np.zeros(3, np.float32), 0.5), kernel(lambda: None), lambda: threads.run(print, 1)):
    try:
        call()
    except NoCompilerError as error:
        assert "do not run as Python: unset NUMBA_DISABLE_JIT, which is 1 here" in str(error)
    else:
        raise AssertionError("it ran")
"""


def test_without_a_compiler_one_sentence_says_so():
    done = subprocess.run([sys.executable, "-c", NO_COMPILER], env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True,
                          text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_a_function_without_a_file_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for number in (1, 2):
        names = {}
        exec(f"def add(x):\n    return x + {number}\n", names)
        assert kernel(names["add"])(1) == 1 + number


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
