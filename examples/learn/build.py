"""The course as a web site: runs every chapter and writes pages that need no network.

    python examples/learn/build.py [--out site] [--chapters 3 5] [--quick]

    chapter.py --jupytext--> notebook --run--> notebook with outputs --nbconvert, formulas to MathML--> page

Cells that draw are folded, and pictures with several panels are drawn a second time for narrow screens, panels stacked
(``common.show`` does that).

Pages go to a temporary folder first, which takes the place of the last site when all of them are done. With ``--chapters``
the other pages of that site stay as they are.
"""

import argparse
import ast
import html
import os
import re
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = HERE / "page"  # template, style sheet and script of the pages
PICTURES = [HERE.parents[1] / "docs" / f"pipeline-{shade}.svg" for shade in ("light", "dark")]  # of the first page
MARK = '<meta name="generator" content="bitnet, examples/learn/build.py">'
READ, STUDY = 200, 12  # words and lines of code that one reads in a minute: our guess
NEEDED = ("jupytext", "nbconvert", "ipykernel", "latex2mathml")

# code is kept as it is: fences, indented blocks, spans; then formulas
MARKDOWN = re.compile(
    r"(?P<code>^(?P<fence>```|~~~)[\s\S]*?^(?P=fence)|(?<=\n\n)(?: {4}.*(?:\n|\Z))+"
    r"|(?<!`)(?P<ticks>`+)(?!`)[\s\S]+?(?<!`)(?P=ticks)(?!`))"
    r"|\$\$(?P<block>[\s\S]+?)\$\$|(?<![\\$\w])\$(?P<inline>(?![\s$])(?:[^$\n]|\n(?!\s*\n))+?(?<![\s\\]))\$(?![\d$])",
    re.MULTILINE,
)
SETUP = '%matplotlib inline\n%config InlineBackend.figure_formats = ["retina"]'  # a cell before the first, not shown


class BuildError(Exception):
    """What went wrong, in words for whoever typed the command."""


class UsageError(BuildError):
    """The command cannot be carried out as given."""


def chapters():
    """{number: path} of all chapters."""
    return {int(path.name[:2]): path for path in sorted(HERE.glob("[0-9][0-9]_*.py"))}


def read(path):
    """A chapter as a notebook that has not been run."""
    import jupytext

    return jupytext.read(path, fmt="py:percent")


def opening(path):
    """(title, paragraphs below it) of a chapter, from its first cell."""
    first = read(path).cells[0].source
    title, _, rest = first.partition("\n")
    return title.lstrip("# ").strip(), rest.split("\n#")[0].strip()


def counted(path):
    """(words, lines of code) of a chapter: what there is to read."""
    words = lines = 0
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            words += len(re.findall(r"[^\W\d_]{2,}", re.sub(r"<[^>]*>|\$[^$]*\$|`[^`]*`", " ", cell.source)))
        else:
            lines += sum(bool(line.strip()) for line in cell.source.splitlines())
    return words, lines


def run(path):
    """A chapter as a notebook with its outputs."""
    import nbformat
    from nbclient.exceptions import CellExecutionError, CellTimeoutError
    from nbconvert.preprocessors import ExecutePreprocessor

    notebook = read(path)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SETUP))
    runner = ExecutePreprocessor(timeout=900, kernel_name="python3", extra_arguments=["--log-level=ERROR"])
    try:
        runner.preprocess(notebook, {"metadata": {"path": str(HERE)}})
    except CellExecutionError as error:
        failed = next(cell for cell in notebook.cells if any(out.output_type == "error" for out in cell.get("outputs", ())))
        raise BuildError(f"{place(notebook, failed)}: {error.ename}: {error.evalue}".rstrip(": ")) from None
    except (CellTimeoutError, RuntimeError) as error:  # RuntimeError: no kernel, or one that died
        raise BuildError(str(error).strip().splitlines()[0]) from None
    del notebook.cells[0]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs):
    """Outputs of a cell without progress and warnings (stderr), and with what was printed in one piece."""
    kept = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def place(notebook, cell):
    """Where a code cell stands, in words: its number among the code cells and its first line."""
    number = [other for other in notebook.cells if other.cell_type == "code"].index(cell)  # the first is ours
    lines = [line for line in cell.source.splitlines() if line.strip()]
    return f"code cell {number}, which begins {lines[0]!r}"


def mathml(latex, display):
    """A formula as MathML. Names in upright letters are one word each, which browsers set better than single letters."""
    from latex2mathml.converter import convert

    try:
        markup = convert(" ".join(latex.split()), display=display)
    except Exception:  # of many kinds
        markup = "\\"
    if "\\" in markup:  # an unknown command is passed on as it is
        raise BuildError(f"expected a formula that latex2mathml reads, found {latex!r}")
    # no space where TeX sets none: around | and /, after the minus of a negative number
    markup = re.sub(r"<mo[^>]*>(&#x0007C;|&#x0002F;|/)</mo>", r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', markup)
    minus = "<mo>&#x02212;</mo>"
    markup = re.sub(rf"(<mo[^>]*>&#x000(?:2C|3D);</mo>){minus}", r'\1<mo form="prefix">&#x02212;</mo>', markup)
    markup = markup.replace("<mo>&#x0002C;</mo>", '<mo rspace="0.2em">&#x0002C;</mo>')
    if display == "block":  # browsers enlarge a sum only where a font for mathematics is installed: the style sheet does it
        markup = markup.replace("<mo>&#x02211;</mo>", '<mo class="sum" largeop="false" movablelimits="false">&#x02211;</mo>')
    letter = r'<mi mathvariant="normal">([^<])</mi>'
    return re.sub(rf"(?:{letter}){{2,}}", lambda word: f"<mi>{''.join(re.findall(letter, word[0]))}</mi>", markup)


def set_formulas_aside(text, formulas):
    """Markdown with a mark in the place of each formula, which Markdown does not touch; formulas gets their MathML."""

    def replace(match):
        if match["code"] is not None:
            return match[0]
        block = match["block"] is not None
        formulas.append(mathml(match["block"] if block else match["inline"], "block" if block else "inline"))
        return f"\ue000{len(formulas) - 1}\ue001"

    return MARKDOWN.sub(replace, text)


def put_formulas_back(page, formulas):
    """The page with formulas for the marks; marks in attributes (the id of a heading) go away."""
    mark = "(?:%EE%80%80|\ue000)\\d+(?:%EE%80%81|\ue001)"
    page = re.sub(r'(?:id|href)="[^"]*"', lambda attribute: re.sub(mark, "", attribute[0]), page)
    page = re.sub("<p>\ue000(\\d+)\ue001</p>", r'<div class="formula">' "\ue000\\1\ue001</div>", page)
    page = re.sub("\\(?\ue000\\d+\ue001[.,;:!?)]+", r'<span class="together">\g<0></span>', page)
    return re.sub("\ue000(\\d+)\ue001", lambda match: formulas[int(match[1])], page)


def to_html(notebook):
    """The body of a page: text, code, outputs."""
    from nbconvert import HTMLExporter

    formulas = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = set_formulas_aside(cell.source, formulas)
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    body = re.sub(r"<table>[\s\S]*?</table>", r'<div class="scroll">\g<0></div>', body)
    return put_formulas_back(folded(body), formulas)


def folded(body):
    """The page with cells that draw folded away: what they show is below them."""

    def fold(match):
        code = html.unescape(re.sub(r"<[^>]*>", "", match[0]))
        drawn = len(re.findall(r"^ *(?:figure|axis|axes|left|right)\b.*|^show\(.*", code, re.MULTILINE))
        if not code.count("show(") or drawn < 0.6 * sum(bool(line.strip()) for line in code.splitlines()):
            return match[0]
        return f"<details><summary>The code of the picture</summary>{match[0]}</details>"

    return re.sub(r'<div class="[^"]*highlight[^"]*">\s*<pre>[\s\S]*?</pre>\s*</div>', fold, body)


def text_to_html(text):
    """Markdown of a few paragraphs."""
    import nbformat

    return to_html(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]))


def code_to_html(code):
    """Python, highlighted."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return highlight(code, PythonLexer(), HtmlFormatter())


def solutions(path):
    """The solutions of a chapter: what they import, then every function, folded."""
    source = path.read_text(encoding="utf-8")
    lines, blocks, rest = source.splitlines(), [], []
    for node in ast.parse(source).body:
        start = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
        code = "\n".join(lines[start - 1:node.end_lineno])
        if isinstance(node, ast.FunctionDef):
            blocks.append(f"<details><summary><code>{node.name}</code></summary>{code_to_html(code)}</details>")
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            rest.append(code)
    return (code_to_html("\n".join(rest)) if rest else "") + "".join(blocks)


def page(title, body, links=""):
    """A whole page."""
    text = (PARTS / "page.html").read_text(encoding="utf-8")
    for name, value in (("MARK", MARK), ("TITLE", html.escape(re.sub(r"[`$]", "", title))), ("LINKS", links), ("BODY", body)):
        text = text.replace(f"<!-- {name} -->" if name != "TITLE" else "TITLE", value)
    return text


def links(number, titles):
    """Links of a chapter: the one before, the contents, its solutions, the one after."""
    before, after = [other for other in titles if other < number][-1:], [other for other in titles if other > number][:1]
    parts = [f'<a rel="prev" href="{file_name(other)}">← {html.escape(titles[other])}</a>' for other in before]
    home = '<a href="index.html">Contents</a> <a href="glossary.html">Glossary</a>'
    parts += [f'<span>{home} <a href="solutions.html#chapter-{number}">Solutions</a></span>']
    parts += [f'<a rel="next" href="{file_name(other)}">{html.escape(titles[other])} →</a>' for other in after]
    return "<nav>" + "".join(parts) + "</nav>"


def file_name(number):
    """File name of a chapter's page."""
    return f"{chapters()[number].stem}.html"


def write(folder, bodies):
    """Pages of these chapters ({number: body}), and those that every site has; ``folder`` may hold older pages."""
    paths = chapters()
    openings = {number: opening(path) for number, path in paths.items()}
    there = {number for number in paths if number in bodies or (folder / file_name(number)).exists()}
    titles = {number: openings[number][0] for number in sorted(there)}
    for number, body in bodies.items():
        (folder / file_name(number)).write_text(page(titles[number], body, links(number, titles)), encoding="utf-8")

    items, rows = [], []
    for number, (title, text) in openings.items():
        head = html.escape(title)
        if number in there:
            head = f'<a href="{file_name(number)}">{head}</a>'
            built = (folder / file_name(number)).read_text(encoding="utf-8")
            seconds = int(re.search(r"<!-- ran in (\d+) s -->|$", built)[1] or 0)
        rows.append((head, *counted(paths[number]), seconds if number in there else 0))
        first = text.split("\n\n")[0]
        items.append(f"<h2>{head}</h2>{text_to_html(first)}" + ("" if number in there else "<p>Not built yet.</p>"))
    start = text_to_html((PARTS / "index.md").read_text(encoding="utf-8"))
    home = '<nav><a href="index.html">Contents</a></nav>'
    (folder / "index.html").write_text(page("DoReFa-Net, bit by bit", start + lengths(rows) + "".join(items)), encoding="utf-8")
    words = text_to_html((PARTS / "glossary.md").read_text(encoding="utf-8"))
    (folder / "glossary.html").write_text(page("Glossary", words, home), encoding="utf-8")

    found = [(number, HERE / "solutions" / paths[number].name) for number in paths]
    found.append((0, HERE / "solutions" / "mine.py"))
    openings[0] = ("mine.py, the whole file", "")
    answers = "".join(f'<h2 id="chapter-{number}">{html.escape(openings[number][0])}</h2>{solutions(path)}'
                      for number, path in found if path.exists())
    start = "<h1>Solutions</h1><p>Try first: each exercise takes about five minutes. A click on a name opens its solution.</p>"
    (folder / "solutions.html").write_text(page("Solutions", start + answers, home), encoding="utf-8")
    for path in (PARTS / "widgets.js", *PICTURES):
        shutil.copyfile(path, folder / path.name)
    (folder / "course.css").write_text((PARTS / "course.css").read_text(encoding="utf-8") + colors(), encoding="utf-8")


def lengths(rows):
    """A table of what there is to read and to run: rows of (title, words, lines of code, seconds), and their sum."""
    total = ("all", *(sum(row[i] for row in rows) for i in (1, 2, 3)))
    cells = "".join(f"<tr><td>{title}</td><td>{words:,}</td><td>{lines:,}</td><td>{seconds:,}</td></tr>"
                    for title, words, lines, seconds in [*rows, total])
    hours = (total[1] / READ + total[2] / STUDY) / 60
    return ('<div class="scroll"><table><tr><th>chapter</th><th>words</th><th>lines of code</th><th>seconds to run</th></tr>'
            f"{cells}</table></div><p>At {READ} words and {STUDY} lines of code a minute that is {hours:.1f} hours of reading; "
            "the exercises and your own file come on top.</p>")


def colors():
    """The style sheet of highlighted code, for light and for dark screens."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("friendly", "github-dark"))
    return f"\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def check_output(out):
    """An earlier site, an empty folder or nothing may be replaced; anything else is somebody's."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: expected a folder, found a file")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: expected an existing folder around it, found none")
    if out.is_dir() and any(out.iterdir()):
        index = out / "index.html"
        if not index.is_file() or MARK not in index.read_text(encoding="utf-8", errors="replace"):
            raise UsageError(f"--out {out}: expected an empty folder or a site built earlier, found other files")


def swap(new, out):
    """Put a finished folder into the place of an older one."""
    old = None
    if out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent)) / "old"
        out.rename(old)
    new.rename(out)
    if old:
        shutil.rmtree(old.parent)


def build(out, numbers):
    """Run the chapters ``numbers`` and write the site into the folder ``out``."""
    check_output(out)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        new = Path(temporary) / "site"
        if out.exists():
            shutil.copytree(out, new)
        new.mkdir(exist_ok=True)
        bodies = {}
        for number in numbers:
            path, begin = chapters()[number], time.perf_counter()
            print(f"{path.name:24}", end="", flush=True)
            try:
                bodies[number] = to_html(run(path))
                bodies[number] += f"<!-- ran in {time.perf_counter() - begin:.0f} s -->"
            except BuildError as error:
                print("failed", flush=True)
                raise BuildError(f"{path.name}: {error}") from None
            print(f"{time.perf_counter() - begin:5.1f} s", flush=True)
        write(new, bodies)
        swap(new, out)
    print(f"{len(bodies)} chapter{'s' * (len(bodies) != 1)} in {time.perf_counter() - start:.0f} s; open {out / 'index.html'}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Run the chapters of the course and write them as web pages.")
    parser.add_argument("--out", type=Path, default=Path("site"), help="folder of the pages (default: site)")
    parser.add_argument("--chapters", type=int, nargs="+", metavar="N", help="these alone; other pages stay as they are")
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds instead of minutes")
    options = parser.parse_args(arguments)
    try:
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise UsageError(f'expected {", ".join(missing)}, which is not installed: python -m pip install -e ".[learn]"')
        known = chapters()
        unknown = [number for number in options.chapters or () if number not in known]
        if unknown:
            raise UsageError(f"--chapters: expected numbers among {', '.join(map(str, known))}, found {unknown[0]}")
        if options.quick:
            os.environ["BITNET_LEARN_QUICK"] = "1"
        if os.environ.get("BITNET_LEARN_DATA"):  # chapters run in another folder
            os.environ["BITNET_LEARN_DATA"] = os.path.abspath(os.environ["BITNET_LEARN_DATA"])
        build(options.out.resolve(), sorted(set(options.chapters or known)))
    except BuildError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
