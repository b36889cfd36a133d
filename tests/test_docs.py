"""docs/: the code of its pages runs, what they name exists, and docs/build.py makes pages whose links lead somewhere."""

import re
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from bitnet import networks
from bitnet.methods.base import METHODS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def snippets():
    """(page, code) of each fenced block of Python."""
    fenced = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [pytest.param(page.name, code, id=f"{page.stem}-{i}") for page in PAGES
            for i, code in enumerate(fenced.findall(page.read_text(encoding="utf-8")))]


@pytest.mark.parametrize(("page", "code"), snippets())
def test_python_runs(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITNET_CACHE", str(tmp_path / "cache"))
    with patch.dict(networks.NETWORKS), patch.dict(METHODS):  # what a page enters there is gone after it
        exec(compile(code, page, "exec"), {"__name__": Path(page).stem.replace("-", "_")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_pages_name_exists(page):
    text = re.sub(r"^```[\s\S]*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_first_page_leads_to_all_others():
    first = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES if page.name != "index.md" and f"({page.name})" not in first]


@pytest.fixture(scope="module")
def build():
    """docs/build.py as a module."""
    pytest.importorskip("pdoc")
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import build
        yield build
    finally:
        sys.path.remove(str(ROOT / "docs"))
        sys.modules.pop("build", None)


@pytest.fixture(scope="module")
def site(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "site"
    assert build.main([str(folder), "--no-course"]) == 0
    return folder


def test_links_that_lead_nowhere_are_found(build, tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "a.html").write_text('<h1 id="top">a</h1> <a href="api/b.html#x">1</a> <a href="#top">2</a> <a href="#no">3</a>'
                                     '<a href="https://example.org/no#where">4</a> <img src="no.png">', encoding="utf-8")
    (tmp_path / "api" / "b.html").write_text('<a id="x" href="../a.html#top">1</a> <a href="../../out.html">2</a>',
                                             encoding="utf-8")
    assert build.broken(tmp_path) == ["a.html: #no", "a.html: no.png", "api/b.html: ../../out.html"]


def test_links_of_all_pages_are_checked(build, site):  # build.main has found none that is broken
    assert len(list(site.rglob("*.html"))) > 150 and "api/bitnet/layers.html" in build.values(site / "index.html", "href")


def test_all_public_names_have_a_place_and_private_ones_none(build, site):
    from bitnet import layers, quantizers

    for name in (*layers.__all__, *quantizers.__all__):
        kind = "layers" if name in layers.__all__ else "quantizers"
        assert f'id="{name}"' in (site / "api" / "bitnet" / f"{kind}.html").read_text(encoding="utf-8"), name
    assert {name.replace(".", "/") for name in build.modules()} == {
        path.relative_to(site / "api").with_suffix("").as_posix() for path in (site / "api").rglob("*.html")}
    ids = set().union(*(build.values(path, "id") for path in (site / "api").rglob("*.html")))
    assert not [one for one in ids if re.match(r"_[a-z]", one)]


def test_pages_want_nothing_from_elsewhere(site):
    loading = re.compile(r'<(?:script|img|link|source)[^>]*(?:src|srcset|href)="https?:')
    for path in site.rglob("*.html"):
        assert not loading.search(path.read_text(encoding="utf-8")), path.name


def test_docstrings_as_markdown(build):
    from docstrings import to_markdown

    text = ("Rounds to 2**bits - 1 levels, a_bits wide, ``x_y``.\n\nForward:  y = a * b\nBackward: dy\n\n    code(2 ** 3)\n"
            "\nParameters\n----------\n**more   # what else\nx, y : (N, C) or None   # None: none,\n    or so\n"
            "\nRaises\n------\nValueError : x < 0.")
    assert to_markdown(text).split("\n") == [
        r"Rounds to 2\*\*bits - 1 levels, a\_bits wide, ``x_y``.", "", "", "    Forward:  y = a * b", "    Backward: dy",
        "", "", "    code(2 ** 3)", "", "", "**Parameters**", "", r"- **\*\*more** # what else",
        "- **x, y** : (N, C) or None # None: none, or so", "", "", "**Raises**", "", "- **ValueError** : x &lt; 0."]


def test_what_goes_wrong_is_one_sentence(build, site, tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert build.main([str(tmp_path / "full")]) == 1
    assert build.main([str(tmp_path / "no" / "site")]) == 1
    monkeypatch.setattr(build, "broken", lambda folder: ["a.html: b.html"])
    monkeypatch.setattr(build, "write_api", lambda folder: None)
    before = (site / "index.html").stat().st_ino
    assert build.main([str(site), "--no-course"]) == 1
    assert (site / "index.html").stat().st_ino == before  # the last site stays
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    assert build.main([str(site)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and all(error.startswith("build.py: ") and "expected" in error for error in errors)
