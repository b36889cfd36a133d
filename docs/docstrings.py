"""Docstrings of this project as Markdown: numpydoc's sections, in lines that say more than a type.

    name : type, shape       # remark        a line of a list, its name in bold; further lines are indented
    Forward: ...                             formulas of a quantizer: as they are
    a      b                                 so is what has columns
        code                                 and what is indented by four

Everything else is text in which only ``code`` is marked up: stars and underscores are stars and underscores.
"""

import re

ITEM = re.compile(r"(?P<names>\*{0,2}[A-Za-z_][\w.]*(?:, \*{0,2}[A-Za-z_][\w.]*)*)(?P<rest> :.*|\s{2,}#.*|)$")


def plain(text):
    """Text that Markdown leaves alone, but for code between backticks."""
    parts = re.split(r"(``?[^`]+``?)", text)
    return "".join(part if i % 2 else re.sub(r"([*_\[\]\\])", r"\\\1", part.replace("&", "&amp;").replace("<", "&lt;"))
                   for i, part in enumerate(parts))


def listed(lines):
    """The lines of a section as a list."""
    made = []
    for line in lines:
        item = ITEM.match(line)
        if line.startswith(" ") and made:
            made[-1] += f" {plain(line.strip())}"
        elif item:
            rest = re.sub(r"\s+#", " #", item["rest"])
            made.append(f"- **{plain(item['names'])}**{plain(rest)}")
        elif line.strip():
            made.append(f"- {plain(line)}")
    return made


def to_markdown(docstring):
    """A docstring, its indentation taken away, as Markdown."""
    lines, made, section, place = docstring.splitlines(), [], None, 0
    while place < len(lines):
        line = lines[place]
        if place + 1 < len(lines) and line.strip() and re.fullmatch(r"-{3,}", lines[place + 1].strip()):
            section, place = line, place + 2
            made += ["", f"**{section}**", ""]
            continue
        end = place
        while end < len(lines) and lines[end].strip() and not re.fullmatch(r"-{3,}", "".join(lines[end + 1:end + 2]).strip()):
            end += 1
        block = lines[place:end]
        if not block:
            made.append("")
            place += 1
            continue
        if section and not block[0].startswith("    "):
            made += listed(block)
        elif any(re.match(r"(Forward|Backward)\b.*:|.*\S {2,}\S", one) for one in block if not one.startswith("    ")):
            made += ["", *(f"    {one}" for one in block), ""]
        else:
            for one in block:
                code = one.startswith("    ")
                if made and made[-1] and made[-1].startswith("    ") != code:
                    made.append("")
                made.append(one if code else plain(one))
        place = end
    return "\n".join(made)
