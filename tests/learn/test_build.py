"""build.py: pages with formulas, code and pictures that need no network, and what it says when something is wrong."""

import re
import shutil
from html.parser import HTMLParser

import pytest

from .conftest import LEARN

pytest.importorskip("latex2mathml")
pytest.importorskip("nbconvert")
pytest.importorskip("jupytext")

FIRST = '''# %% [markdown]
# # 1. One
#
# What is $n_k$? A price of $5, or $6. `a $code$ span`
#
# $$\\sum_l 2^l u_l = -1, \\; |w|/2$$

# %%
print("one", end=" ")
print("<two>")

# %% [markdown]
# ## With $x$ in its heading
#
#     indented $code$
#
# ```
# fenced $code$
# ```
'''
SOLUTION = '"""S."""\n\nimport math\n\n\n@staticmethod\ndef one():\n    return math.pi\n'
SECOND = '# %% [markdown]\n# # 2. Two\n#\n# Text.\n\n# %%\nx = 1\n\n# %%\n\nlate = 1 / (x - 1)\n'


@pytest.fixture
def folder(build, tmp_path, monkeypatch):
    """A course of two short chapters, the second of which fails."""
    here = tmp_path / "learn"
    shutil.copytree(LEARN / "page", here / "page")
    (here / "solutions").mkdir()
    (here / "01_one.py").write_text(FIRST)
    (here / "solutions" / "01_one.py").write_text(SOLUTION)
    (here / "02_two.py").write_text(SECOND)
    monkeypatch.setattr(build, "HERE", here)
    monkeypatch.setattr(build, "PARTS", here / "page")
    return here


class Page(HTMLParser):
    """What a page loads, where it links to, its ids, and its text outside of code."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.ids, self.text, self.open, self.formulas = [], [], [], "", [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.open += [tag] if tag in ("pre", "code", "script", "style") else []
        self.formulas += tag == "math"
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "a":
            self.links.append(attributes["href"])
        else:
            self.loads += [attributes[name] for name in ("src", "href", "srcset", "data") if attributes.get(name)]

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        if not self.open:
            self.text += data


def test_progress_and_files(site):
    folder, printed = site
    first, second, last = printed.splitlines()
    assert re.fullmatch(r"01_bit_width\.py +[\d.]+ s", first) and re.fullmatch(r"02_straight_through\.py +[\d.]+ s", second)
    assert re.fullmatch(rf"2 chapters in \d+ s; open {re.escape(str(folder / 'index.html'))}", last)
    assert {path.name for path in folder.iterdir()} == {
        "index.html", "solutions.html", "glossary.html", "01_bit_width.html", "02_straight_through.html", "course.css",
        "widgets.js", "pipeline-light.svg", "pipeline-dark.svg"}
    assert [path.name for path in folder.parent.iterdir()] == ["site"]  # no temporary folder is left


def test_nothing_is_loaded_from_elsewhere(site):
    folder, _ = site
    for path in folder.glob("*.html"):
        page = Page(path)
        for target in page.loads:
            assert target.startswith("data:") or (folder / target).is_file(), f"{path.name} loads {target}"
    for name in ("course.css", "widgets.js"):
        assert not re.search(r"url\(|@import|fetch\(|import\(", (folder / name).read_text(encoding="utf-8"))


def test_links_lead_somewhere(site):
    folder, _ = site
    pages = {path.name: Page(path) for path in folder.glob("*.html")}
    for name, page in pages.items():
        for target in page.links:
            if not target.startswith("https://"):
                file, _, anchor = target.partition("#")
                assert not anchor or anchor in pages[file or name].ids, f"{name} links to {target}"
                assert (file or name) in pages, f"{name} links to {target}"
    assert {"index.html", "solutions.html#chapter-1", "02_straight_through.html",
            "https://arxiv.org/abs/1606.06160"} <= set(pages["01_bit_width.html"].links)
    assert "01_bit_width.html" in pages["02_straight_through.html"].links
    assert {"01_bit_width.html", "02_straight_through.html", "glossary.html"} <= set(pages["index.html"].links)


def test_pages_hold_text_code_and_pictures(site):
    folder, _ = site
    text = (folder / "01_bit_width.html").read_text(encoding="utf-8")
    page = Page(folder / "01_bit_width.html")
    assert page.formulas > 20 and "$" not in page.text and not re.search("[\ue000\ue001]", text)
    assert text.count('src="data:image/png') == 6 and 'alt="k bits make a staircase' in text
    assert text.count('(stacked)"') == 3  # each picture, once more for narrow screens
    assert "mine.activation_codes: your turn" in text and "Hint for <code>weight_codes</code>" in text
    assert '<span class="kn">import</span>' in text and 'data-widget="staircase"' in text
    assert "bits_for: your turn" in text and "output_stderr" not in text and "picture:" not in text


def test_the_index_counts_what_there_is_to_read(site):
    text = (site[0] / "index.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr><td>(.*?)</td><td>([\d,]+)</td><td>([\d,]+)</td><td>([\d,]+)</td></tr>", text)
    counts = [[int(number.replace(",", "")) for number in row[1:]] for row in rows]
    assert len(rows) == 13 and rows[-1][0] == "all" and counts[-1] == [sum(column) for column in zip(*counts[:-1], strict=True)]
    assert all(words > 400 and lines > 50 for words, lines, _ in counts)
    assert counts[0][2] > 0 and counts[1][2] > 0  # of those that have been built
    hours = float(re.search(r"that is ([\d.]+) hours", text)[1])
    assert 2 < hours < 6  # an afternoon


def test_code_that_draws_is_folded(build):
    drawing = '<div class="highlight hl-ipython3"><pre>figure, axis = subplots()\naxis.plot(x)\nshow(figure, "a")\n</pre></div>'
    other = '<div class="highlight hl-ipython3"><pre>x = 1\ny = 2\nz = 3\n</pre></div>'
    assert build.folded(drawing + other) == f"<details><summary>The code of the picture</summary>{drawing}</details>{other}"


def test_formulas_become_mathml_and_code_stays(build, folder, tmp_path):
    assert build.main(["--out", str(tmp_path / "site"), "--chapters", "1"]) == 0
    text = (tmp_path / "site" / "01_one.html").read_text(encoding="utf-8")
    page = Page(tmp_path / "site" / "01_one.html")
    assert page.formulas == 3 and "A price of $5, or $6." in page.text
    assert text.count("$code$") == 3
    assert '<div class="formula"><math' in text and '<mo form="prefix">&#x02212;</mo>' in text
    assert '<pre>one &lt;two&gt;\n</pre>' in text  # one piece
    assert not any("%" in name or "\ue000" in name for name in page.ids)
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert '<a href="01_one.html">1. One</a>' in index and "2. Two</h2>" in index and "Not built yet." in index
    solutions = (tmp_path / "site" / "solutions.html").read_text(encoding="utf-8")
    assert solutions.count("<details>") == 1 and "<code>one</code>" in solutions and 'class="nd">@staticmethod' in solutions


def test_a_chapter_that_fails_leaves_the_last_site(build, folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "site"
    with monkeypatch.context() as patch:
        patch.setattr(build, "run", build.read)
        assert build.main(["--out", str(out), "--chapters", "1"]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert build.main(["--out", str(out), "--chapters", "2"]) == 1
    printed, error = capsys.readouterr()
    assert error == ("build.py: 02_two.py: code cell 2, which begins 'late = 1 / (x - 1)': "
                     "ZeroDivisionError: division by zero\n")
    assert printed.splitlines()[-1].endswith("failed")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learn", "site"]


def test_other_chapters_stay(build, folder, tmp_path, monkeypatch):
    out = tmp_path / "site"
    monkeypatch.setattr(build, "run", build.read)
    assert build.main(["--out", str(out), "--chapters", "1"]) == 0
    first = (out / "01_one.html").read_bytes()
    assert build.main(["--out", str(out), "--chapters", "2"]) == 0
    assert (out / "01_one.html").read_bytes() == first
    assert {"01_one.html", "02_two.html"} <= set(Page(out / "index.html").links)


@pytest.mark.parametrize("formula", [r"\unknown x", r"\left( x"])
def test_a_formula_that_cannot_be_read(build, folder, tmp_path, monkeypatch, capsys, formula):
    monkeypatch.setattr(build, "run", build.read)
    (folder / "01_one.py").write_text(FIRST.replace("n_k", formula))
    assert build.main(["--out", str(tmp_path / "site"), "--chapters", "1"]) == 1
    assert capsys.readouterr().err == f"build.py: 01_one.py: expected a formula that latex2mathml reads, found {formula!r}\n"
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("arguments, words", [
    (["--chapters", "13"], "expected numbers among 1, 2, 3"),
    (["--out", "file"], "expected a folder, found a file"),
    (["--out", "full"], "expected an empty folder or a site built earlier, found other files"),
    (["--out", "no/such/site"], "expected an existing folder around it"),
])
def test_usage_errors_are_one_sentence(build, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "index.html").write_text("somebody's")
    monkeypatch.setattr(build, "run", None)
    assert build.main(arguments) == 2
    printed, error = capsys.readouterr()
    assert printed == "" and error.startswith("build.py: ") and error.count("\n") == 1 and words in error
    assert (tmp_path / "full" / "index.html").read_text() == "somebody's"


def test_a_missing_extra_is_named(build, monkeypatch, capsys):
    found = build.find_spec
    monkeypatch.setattr(build, "find_spec", lambda name: None if name == "nbconvert" else found(name))
    assert build.main([]) == 2
    assert capsys.readouterr().err == ('build.py: expected nbconvert, which is not installed: '
                                       'python -m pip install -e ".[learn]"\n')
