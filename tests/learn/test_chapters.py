"""Every chapter runs as a script, shows what it promises, and has exercises that can be solved."""

import contextlib
import inspect
import io
import os
import re
import runpy
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from .conftest import LEARN

CHAPTERS = sorted(LEARN.glob("[0-9][0-9]_*.py"))
COURSE = ("common", "network", "pieces", "check")  # modules that each chapter is to import anew


class Chapter:
    """A chapter that has been run: names, printed text, folder of pictures."""

    def __init__(self, path, folder):
        self.path, self.folder, self.source = path, folder, path.read_text(encoding="utf-8")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(self.source, path, "exec"), names := {"__name__": "__main__", "__file__": str(path)})
        self.names, self.printed = names, printed.getvalue()
        self.checks = {name.removeprefix("check_"): names[name] for name in names if name.startswith("check_")}


@pytest.fixture(scope="module", params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request, environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch, plt.rc_context():
        for name in os.environ:
            if name.startswith("BITNET_LEARN"):
                patch.delenv(name)
        patch.setenv("BITNET_LEARN_QUICK", "1")
        patch.setenv("BITNET_LEARN_PICTURES", str(folder))
        patch.chdir(folder)
        patch.syspath_prepend(LEARN)
        for name in COURSE:
            patch.delitem(sys.modules, name, raising=False)
        plt.switch_backend("Agg")
        try:
            yield Chapter(request.param, folder)
        finally:
            plt.close("all")
            for name in COURSE:
                sys.modules.pop(name, None)


def test_it_begins_and_ends_like_the_others(chapter):
    number = int(chapter.path.name[:2])
    assert re.match(rf"# %% \[markdown\]\n# # {number}\. \w.*\n#\n# \w", chapter.source)
    assert "\n# Further: " in chapter.source.split("# %% [markdown]")[-1]


def test_exercises_stand_where_their_idea_is(chapter):
    """There is no list of exercises at the end."""
    at = [chapter.source.index(f"\ndef {name}(") / len(chapter.source) for name in chapter.checks]
    assert min(at) < 0.7 and max(at) - min(at) > 0.02
    assert "\n# ## Exercises" not in chapter.source


def test_pictures_are_drawn(chapter):
    named = set(re.findall(r'\bshow\(\w+, "([\w-]+)"\)', chapter.source))
    files = {path.stem: path for path in chapter.folder.glob("*.png")}
    assert named == set(files) and len(files) >= 2
    for name, path in files.items():
        assert name.startswith(chapter.path.name[:2] + "-")
        pixels = np.asarray(Image.open(path).convert("L"), float)
        assert pixels.shape[1] > 500 and pixels.std() > 5, f"{name} is blank"


def test_widgets_exist(chapter):
    script = (LEARN / "page" / "widgets.js").read_text(encoding="utf-8")
    for name in re.findall(r'data-widget="(\w+)"', chapter.source):
        assert re.search(rf"^  {name}\(place\)", script, re.MULTILINE), f"there is no widget {name}"


def test_exercises_wait_for_their_reader(chapter):
    assert 2 <= len(chapter.checks) <= 4
    for name, check in chapter.checks.items():
        waits = f"{name}: your turn" in chapter.printed
        assert waits or f"{name}: not yet. " in chapter.printed  # a bug to be found
        with pytest.raises(chapter.names["YourTurn"] if waits else AssertionError):
            check(chapter.names[name])


def test_solutions_are_right(chapter):
    solutions = runpy.run_path(str(LEARN / "solutions" / chapter.path.name))
    for name, check in chapter.checks.items():
        assert inspect.signature(solutions[name]) == inspect.signature(chapter.names[name])
        check(solutions[name])


def test_wrong_answers_are_not(chapter):
    for check in chapter.checks.values():
        with pytest.raises((AssertionError, TypeError, ValueError)):
            check(lambda *args, **options: None)


def test_runs_from_the_root_of_the_repository(environment, tmp_path):
    environment = environment | {"BITNET_LEARN_PICTURES": str(tmp_path)}
    done = subprocess.run([sys.executable, "examples/learn/01_bit_width.py"], cwd=LEARN.parents[1], env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "digits: 60 of generated digits" in done.stdout and f"picture: {tmp_path}" in done.stdout


def test_wrong_answers_are_told_and_the_chapter_goes_on(chapter, capsys):
    for name, check in chapter.checks.items():
        def wrong(*args, **options):
            return 0

        wrong.__name__ = name
        chapter.names["exercise"](wrong, check)
        assert capsys.readouterr().out.startswith(f"{name}: not yet. ")


def test_an_answer_is_compared_in_words(chapter, capsys):
    if chapter.path.name == "01_bit_width.py":
        def bits_for(error):
            return 7

        chapter.names["exercise"](bits_for, chapter.checks["bits_for"])
        assert capsys.readouterr().out == "bits_for: not yet. bits_for(0.5): expected 1, got 7\n"


def test_solutions_are_of_chapters():
    assert {path.name for path in (LEARN / "solutions").glob("*.py")} == {path.name for path in CHAPTERS} | {"mine.py"}


def test_the_readme_lists_all_chapters():
    readme = (LEARN / "README.md").read_text(encoding="utf-8")
    titles = {path.name: re.search(r"^# # (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)[1] for path in CHAPTERS}
    assert {name: title for title, name in re.findall(r"\[(\d+\. .*?)\]\((.*?\.py)\)", readme)} == titles


def test_genuine_digits(environment):
    data = os.environ.get("BITNET_TEST_DATA")
    if not data:
        pytest.skip("BITNET_TEST_DATA is not set")
    code = "from common import digits\nimages, labels = digits('test', 50)\nprint(images.dtype, images.shape, labels.dtype)"
    environment = environment | {"BITNET_LEARN_DATA": os.path.join(data, "svhn-subset")}
    done = subprocess.run([sys.executable, "-c", code], cwd=LEARN, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == ["float32 (50, 40, 40, 3) int64"], done.stderr
    assert done.stdout.startswith("digits: 50 of SVHN test")
