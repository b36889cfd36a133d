"""Scripts where streams, a main thread, letters of a terminal, memory or patience are missing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitnet
from bitnet import models

ROOT = Path(__file__).parents[2]
PREDICT = [sys.executable, str(ROOT / "examples" / "predict.py")]
posix = pytest.mark.skipif(os.name == "nt", reason="of POSIX systems")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a network and a picture."""
    folder = tmp_path_factory.mktemp("environment")
    bitnet.save(folder / "net.npz", bitnet.freeze(models.svhn("D", seed=1).eval()))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(folder / "a.png")
    return folder


def called(folder, *command, **options):
    """(exit code, stdout, stderr) of a command in that folder."""
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=100, **options)
    return done.returncode, done.stdout, done.stderr


def in_shell(folder, text):
    return called(folder, "bash", "-c", text.replace("predict", " ".join(PREDICT)))


@posix
@pytest.mark.parametrize("command, code, out", [
    ("predict net.npz a.png >&-", 0, b""),
    ("predict net.npz a.png >&- 2>&-", 0, b""),
    ("predict net.npz missing.png >&-", 2, b""),
    ("set -o pipefail; predict net.npz a.png a.png a.png | true", 141, b""),
])
def test_closed_streams(folder, command, code, out):
    found, printed, errors = in_shell(folder, command)
    assert (found, printed) == (code, out) and b"Traceback" not in errors and b"Exception ignored" not in errors


@pytest.mark.parametrize("encoding, line", [("ascii", rb"\xe9.png"), ("utf-8", "é.png".encode())])
def test_names_that_a_terminal_cannot_show(folder, encoding, line):
    (folder / "é.png").write_bytes((folder / "a.png").read_bytes())
    code, out, err = called(folder, *PREDICT, "net.npz", "é.png", "ü.png", env=os.environ | {"PYTHONIOENCODING": encoding})
    assert code == 2 and out.startswith(line + b"  ") and err.count(b"\n") == 1


def test_without_streams_and_outside_the_main_thread(folder, predict, monkeypatch, capsys):
    results = []
    thread = threading.Thread(target=lambda: results.append(predict.main([str(folder / "net.npz"), str(folder / "a.png")])))
    thread.start()
    thread.join(100)
    assert results == [0] and capsys.readouterr().out.count("a.png") == 1
    for name in ("stdout", "stderr"):  # pythonw
        monkeypatch.setattr(sys, name, None)
    assert predict.main([str(folder / "net.npz"), str(folder / "missing.png")]) == 2


def test_a_script_as_a_module():
    for name in ("train_mnist", "predict"):
        code, out, err = called(ROOT, sys.executable, "-m", f"examples.{name}", "--help")
        assert code == 0 and out.startswith(f"usage: {name}.py".encode()) and err == b""


@posix
def test_a_ctrl_c_while_libraries_are_imported_leaves_no_traceback(folder):
    ended = []
    for delay in (0.15, 0.3, 0.45):
        process = subprocess.Popen([*PREDICT, "net.npz", "a.png"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        ended.append((process.returncode, err))
    # on a machine that is slow, Python itself is not there yet at first; on one that is quick, all is done
    assert all(code in (-signal.SIGINT, 130, 0) and b"Traceback" not in err for code, err in ended[1:]), ended


@posix
def test_memory_that_is_not_enough_is_one_sentence(folder, predict, monkeypatch, capsys):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(bitnet, "load", full)
    code = predict.main([str(folder / "net.npz"), str(folder / "a.png")])
    err = capsys.readouterr().err
    assert code == 1 and err == "predict.py: there is not enough memory: an array did not fit\n"


def test_without_a_compiler_there_is_one_sentence(folder):
    code, out, err = called(folder, *PREDICT, "net.npz", "a.png", env=os.environ | {"NUMBA_DISABLE_JIT": "1"})
    assert code == 2 and out == b"" and err.count(b"\n") == 1
    assert err.startswith(b"predict.py: bitnet's kernels are compiled by Numba") and b"unset NUMBA_DISABLE_JIT" in err


@pytest.mark.parametrize("home", ["/dev/null", None])
def test_a_user_without_a_home_reads_nothing_of_other_programs_folders(folder, home):
    environment = {name: value for name, value in os.environ.items() if name not in ("BITNET_CACHE", "MPLCONFIGDIR", "HOME")}
    code, out, err = called(folder, *PREDICT, "net.npz", "a.png", env=environment | ({"HOME": home} if home else {}))
    assert code == 0 and out.startswith(b"a.png  ") and err == b""


def test_names_of_pictures_that_a_terminal_would_obey(folder, predict, capsys):
    path = folder / "\x1b[31m\n.png"
    path.write_bytes((folder / "a.png").read_bytes())
    assert predict.main([str(folder / "net.npz"), str(path), str(folder / "\x1b[2J.png")]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == err.count("\n") == 1 and out[:-1].isprintable() and err[:-1].isprintable()
