"""The documents: their code runs, their commands are those of CI, and what they name exists."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bitnet
from bitnet import models, report
from bitnet.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """The fenced blocks of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0])
def test_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITNET_CACHE", str(tmp_path / "cache"))
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_the_table_of_layers_is_what_a_run_prints():
    model = models.svhn("A", bits=(1, 2, 4))
    with bitnet.use_kernels("popcount"):
        table = report.layer_table(model, np.zeros((2, 40, 40, 3), np.float32), np.array([0, 1]))
    assert blocks("text") == [table + "\n"]


def test_there_is_python_to_run():
    assert len(blocks("python")) == 4


def test_commands_are_those_of_ci():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = dict(re.findall(r"^(\w+)_COMMAND='(.*)'$", ci, re.MULTILINE))
    main, test = blocks("sh")[:2]
    assert main.strip() == commands["MAIN"] and test.strip() == commands["TEST"]
    assert commands["LINT"] in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_scripts_have_the_options_that_the_readme_uses():
    helps = {}
    for line in "\n".join(blocks("sh")).splitlines():
        words = shlex.split(line, comments=True)
        scripts = [word for word in words if word.endswith(".py")]
        if not scripts:
            continue
        (script,) = scripts
        if script not in helps:
            helps[script] = subprocess.run([sys.executable, ROOT / script, "--help"], check=True, capture_output=True,
                                           text=True).stdout
        for word in words[words.index(script):]:
            assert not word.startswith("--") or re.search(rf"{word}\b", helps[script]), f"{script} has no {word}"
    assert len(helps) == 13
    named = set(re.findall(r"`(--[a-z-]+)", README))
    assert named and all(re.search(rf"{option}\b", "".join(helps.values())) for option in named)


def test_commands_are_those_of_the_command_line():
    lines = re.findall(r"^python -m bitnet (.*)", README, re.MULTILINE)
    for words in (shlex.split(line, comments=True) for line in lines):
        options = {name for names, _ in COMMANDS[words[0]][2] for name in names}
        assert {word for word in words if word.startswith("--")} <= options, words
    assert {line.split()[0] for line in lines} == COMMANDS.keys()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_documents_name_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = set(re.findall(r"\]\(([^)#:]+)\)", text)) | set(re.findall(r'(?:src|srcset)="([^"]+)"', text))
    # `kernels/popcount.py`, `python benchmarks/conv.py --quick`, but not `tests/{a,b}/`
    folders = "kernels|bitnet|datasets|examples|benchmarks|tests|docs"
    targets |= set(re.findall(rf"`(?:python )?((?:{folders})/[\w./]*\w/?)[^{{}}`\n]*`", text))
    missing = sorted(target for target in targets if not (ROOT / target).exists())
    assert not missing, f"{name} names {', '.join(missing)}"


def test_pictures_can_be_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setenv("BITNET_CACHE", str(tmp_path / "cache"))
    runpy.run_path(str(ROOT / "docs" / "pictures.py"))["main"](tmp_path / "docs")
    drawn = {path.name for path in (tmp_path / "docs").iterdir()}
    assert drawn == {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".svg", ".png")}
