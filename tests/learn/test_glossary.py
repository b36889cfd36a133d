"""Words are explained where they are first used: the chapters' texts against the glossary."""

import re
from pathlib import Path

import pytest

LEARN = Path(__file__).parents[2] / "examples" / "learn"
GLOSSARY = (LEARN / "page" / "glossary.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^- \*\*(.+?)\*\*: .+\((\d+)\)$", GLOSSARY, re.MULTILINE)
TEXTS = {int(path.name[:2]): path.read_text(encoding="utf-8") for path in sorted(LEARN.glob("[0-9][0-9]_*.py"))}
# everyday words, which earlier chapters use in their everyday sense
EVERYDAY = {"window", "threshold", "phase", "shortcut", "accumulate", "sum", "word", "clip", "level", "scale", "tap"}


def text_of(chapter):
    """What a chapter says: its markdown cells, without code, formulas and links."""
    cells = re.findall(r"^# %% \[markdown\]\n((?:#.*\n)*)", TEXTS[chapter], re.MULTILINE)
    text = re.sub(r"```[\s\S]*?```|`[^`]*`|\$[^$]*\$|<[^>]*>", " ", re.sub(r"^# ?", "", "".join(cells), flags=re.MULTILINE))
    return " ".join(text.split())


def words_of(terms):
    """The terms of an entry."""
    return re.split(r", (?![^(]*\))", terms)


def uses(term, text):
    """Places where a term stands in a text, in the singular or the plural."""
    case = 0 if term.isupper() or len(term) < 4 else re.IGNORECASE
    return [match.start() for match in re.finditer(rf"(?<![\w-]){re.escape(term)}(?:s|es)?(?![\w-])", text, case)]


def first_uses():
    """{term: (chapter of the glossary, chapter of its first use, the words around that)}."""
    found = {}
    for terms, chapter in ENTRIES:
        for term in words_of(terms):
            for number in TEXTS:
                text = text_of(number)
                if at := uses(term, text):
                    found[term] = int(chapter), number, text[max(0, at[0] - 60):at[0] + 60]
                    break
    return found


def test_entries_are_sorted_and_name_chapters():
    words = [terms.lower().strip("(") for terms, _ in ENTRIES]
    assert words[:-1] == sorted(words[:-1]) and len(words) > 45
    assert {int(chapter) for _, chapter in ENTRIES} <= set(TEXTS)


@pytest.mark.parametrize("term", sorted({term for terms, _ in ENTRIES for term in words_of(terms)} - EVERYDAY))
def test_no_word_is_used_before_it_is_explained(term):
    found = first_uses()
    assert term in found, f"no chapter uses {term!r}"
    explained, first, around = found[term]
    points = re.search(r"chapter \d+", around)  # "Amdahl's law, in chapter 10"
    assert first >= explained or points, f"{term!r} is explained in chapter {explained}, chapter {first} says: ... {around} ..."


if __name__ == "__main__":  # python tests/learn/test_glossary.py: the list
    for term, (explained, first, around) in sorted(first_uses().items(), key=lambda item: item[1][1]):
        print(f"{first:3} {explained:3} {'' if first == explained else '<' if first < explained else '>':1} {term:28} {around}")
