"""The reference documentation as a web site that needs no network: API pages from docstrings, pages in Markdown, the course.

    python docs/build.py OUT [--quick] [--no-course]

    modules --pdoc--> OUT/api        docs/*.md, README.md, ... --markdown-it--> OUT        examples/learn --> OUT/course

Warnings are errors, and so is a link that leads nowhere. Everything goes to a temporary folder first, which takes the place of
OUT when all of it is done.
"""

import argparse
import html
import importlib
import importlib.util
import os
import pkgutil
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MARK = '<meta name="generator" content="bitnet, docs/build.py">'
NEEDED = ("onnx", "pdoc", "markdown_it", "mdit_py_plugins", "pygments")
PACKAGES = ("bitnet", "bitnet.kernels", "bitnet.datasets")
AROUND = ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG", "SECURITY")  # documents at the top of the repository
FIRST = ("index", "your-own", "speed", "reproducibility", "formats", "glossary")  # pages in the order of their links


class BuildError(Exception):
    """What went wrong, in words for whoever typed the command."""


# API pages


@cache
def modules():
    """Names of all modules that have a page: those that can be imported by anybody, and whose names have no underscore."""
    found = []
    for name in PACKAGES:
        package = importlib.import_module(name)
        found += [name, *(module.name for module in pkgutil.walk_packages(package.__path__, f"{name}."))]
    return sorted({name for name in found if not any(part.startswith("_") for part in name.split("."))})


def write_api(folder):
    """A page for each module, with its source and a search over all of them."""
    from docstrings import to_markdown
    from pdoc import doc, render

    render.env.filters["to_markdown"] = to_markdown
    render.configure(docformat="markdown", template_directory=HERE / "theme", footer_text="bitnet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {name: doc.Module(importlib.import_module(name)) for name in modules()}
        for module in found.values():
            module.docstring = (module.obj.__doc__ or "").strip()  # has no indentation to be taken away
            # pdoc looks into a module's dictionary, where names that are imported when first asked for may not be yet
            vars(module.obj).update({name: getattr(module.obj, name) for name in getattr(module.obj, "__all__", ())})
        for name, module in found.items():
            path = folder / f"{name.replace('.', '/')}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            text = render.html_module(module, found)
            text = re.sub(r'<a href="[^"]*#_[^"]*">([\s\S]*?)</a>', r"\1", text)  # private base classes have no place there
            path.write_text(text, encoding="utf-8")
        (folder / "search.js").write_text(render.search_index(found), encoding="utf-8")


# Pages in Markdown


@cache
def pages():
    """{path of a page in the site: path of its Markdown}."""
    found = {f"{path.stem}.html": path for path in HERE.glob("*.md")}
    return found | {f"{name.lower()}.html": ROOT / f"{name}.md" for name in AROUND}


def renderer():
    """Markdown to HTML with highlighted code, and an id for each heading."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.anchors import anchors_plugin
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    def code(text, language, _):
        return highlight(text, get_lexer_by_name(language or "text"), HtmlFormatter(nowrap=True))

    return MarkdownIt("gfm-like", {"linkify": False, "highlight": code}).use(anchors_plugin, max_level=4)


def target(link, source):
    """Where a link of a Markdown file leads in the site; None where what it names has no page there."""
    parts = urlsplit(link)
    if parts.scheme or not parts.path:
        return link
    path = (source.parent / unquote(parts.path)).resolve()
    if not path.exists():
        raise BuildError(f"{source.relative_to(ROOT)}: expected a file or folder, found nothing at {link}")
    anchor = f"#{parts.fragment}" if parts.fragment else ""
    by_source = {markdown: page for page, markdown in pages().items()}
    if path in by_source:
        return by_source[path] + anchor
    inside = path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")
    name = inside.replace("/", ".")
    for candidate in (name, f"bitnet.{name}"):
        if candidate in modules():
            return f"api/{candidate.replace('.', '/')}.html{anchor}"
    if inside == "examples/learn" or inside == "examples/learn/README":
        return "course/index.html"
    if path.is_file() and path.suffix in (".svg", ".png"):
        return path.relative_to(HERE).as_posix()
    return None


def page_of(source, markdown, course):
    """The body of a page: links lead to pages of this site, or are plain text where there is none."""
    text = source.read_text(encoding="utf-8")
    body = markdown.render(text)

    def relink(match):
        if match[1] == "href":
            found = target(html.unescape(match[2]), source)
            gone = found is None or (found.startswith("course/") and not course)
            return f'{match[1]}="{"" if gone else html.escape(found)}"'
        return f'{match[1]}="{html.escape(target(html.unescape(match[2]), source))}"'

    body = re.sub(r'\b(href|src|srcset)="([^"]*)"', relink, body)
    body = re.sub(r'<a href="">([\s\S]*?)</a>', r"\1", body)
    return re.sub(r"<table>[\s\S]*?</table>", r'<div class="scroll">\g<0></div>', body)


def write_pages(folder, course):
    """All pages in Markdown, their pictures and the style sheet."""
    from pygments.formatters import HtmlFormatter

    frame, markdown = (HERE / "theme" / "page.html").read_text(encoding="utf-8"), renderer()
    titles = {name: re.search("^# (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)[1] for name, path in pages().items()}
    links = "".join(f'<a href="{name}.html">{html.escape(titles[f"{name}.html"])}</a>' for name in FIRST)
    links += '<a href="api/bitnet.html">API</a>' + '<a href="course/index.html">Course</a>' * course
    for name, path in pages().items():
        text = frame.replace("<!-- MARK -->", MARK).replace("TITLE", html.escape(titles[name])).replace("<!-- LINKS -->", links)
        (folder / name).write_text(text.replace("<!-- BODY -->", page_of(path, markdown, course)), encoding="utf-8")
    for path in (*HERE.glob("*.svg"), *HERE.glob("*.png")):
        shutil.copyfile(path, folder / path.name)
    light, dark = (HtmlFormatter(style=style).get_style_defs("pre") for style in ("friendly", "github-dark"))
    style = (HERE / "theme" / "page.css").read_text(encoding="utf-8")
    style += f"\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    (folder / "page.css").write_text(style, encoding="utf-8")


# The course


def write_course(folder, quick):
    """The course's own pages, built by its own program."""
    command = [sys.executable, ROOT / "examples" / "learn" / "build.py", "--out", folder, *["--quick"] * quick]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise BuildError(f"the course: {(done.stdout.strip().splitlines() or ['no word'])[-1]}")


# Links


def values(path, *names):
    """What these attributes of a page's tags say; quotes in text are escaped, so none of it is taken for a tag."""
    text = re.sub(r"(<script\b[^>]*>)[\s\S]*?</script>", r"\1", path.read_text(encoding="utf-8"))
    return {html.unescape(value) for value in re.findall(rf'\s(?:{"|".join(names)})="([^"]+)"', text)}


def broken(folder):
    """Links of all pages that lead nowhere, as ["page: link", ...]; those to other sites are not followed."""
    places = {path.relative_to(folder).as_posix(): values(path, "id", "name") for path in sorted(folder.rglob("*.html"))}
    wrong = []
    for name in places:
        for link in sorted(values(folder / name, "href", "src", "srcset")):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
            there = (folder / path).is_file() and not path.startswith("..")
            if not there or (parts.fragment and path in places and unquote(parts.fragment) not in places[path]):
                wrong.append(f"{name}: {link}")
    return wrong


# All of it


def check_output(out):
    """An earlier site, an empty folder or nothing may be replaced; anything else is somebody's."""
    if not out.parent.is_dir():
        raise BuildError(f"{out}: expected an existing folder around it, found none")
    if out.exists() and not out.is_dir():
        raise BuildError(f"{out}: expected a folder, found a file")
    index = out / "index.html"
    ours = index.is_file() and MARK in index.read_text(encoding="utf-8", errors="replace")
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise BuildError(f"{out}: expected an empty folder or documentation built earlier, found other files")


def build(out, quick=False, course=True):
    """Write the site into the folder ``out``, an absolute path."""
    check_output(out)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        new = Path(temporary) / "site"
        new.mkdir()
        write_pages(new, course)
        write_api(new / "api")
        if course:
            write_course(new / "course", quick)
        wrong = broken(new)
        if wrong:
            raise BuildError("expected links that lead somewhere, found " + "; ".join(wrong))
        new.chmod(0o755)
        if out.exists():
            out.rename(Path(temporary) / "old")
        new.rename(out)
    print(f"{len(list(out.rglob('*.html')))} pages in {time.perf_counter() - start:.0f} s; open {out / 'index.html'}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Write the documentation as web pages.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the pages")
    parser.add_argument("--quick", action="store_true", help="the course in small sizes: seconds instead of minutes")
    parser.add_argument("--no-course", action="store_true", help="without the course")
    options = parser.parse_args(arguments)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f'build.py: expected {", ".join(missing)}, which is not installed: python -m pip install -e ".[docs]"',
              file=sys.stderr)
        return 2
    try:
        build(Path(os.path.abspath(options.out)), options.quick, not options.no_course)
    except (BuildError, Warning, OSError) as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
