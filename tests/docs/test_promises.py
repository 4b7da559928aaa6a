"""The table of promises: each section of both documents is in it, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.docs.pages import DOCS, ROOT

TEXT = (DOCS / "promises.md").read_text(encoding="utf-8")
# Sections that promise nothing: they list files, or say how the others are checked.
WITHOUT = {"How it is checked"}
SOURCES = {
    "One bank for a team": DOCS / "team.md",
    "Running latentbank for a team": ROOT / "deploy" / "README.md",
}
# The one day on which banks were seen on real servers; and what else may stand there.
SEEN = re.compile(r"2026-11-28(, .+)?|not yet|no part")


@cache
def _functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def _rows(text: str) -> list[tuple[str, str, str]]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [
        (promise.strip(), test.strip(), seen.strip())
        for promise, test, seen in rows
        if promise.strip() != "promise"
    ]


def _wrong(test: str, seen: str) -> list[str]:
    """Return what is wrong with a row."""
    found = []
    if not SEEN.fullmatch(seen):
        found.append(f"'{seen}' is neither a day nor 'not yet'")
    named = re.findall(r"`(tests/\S+\.py)`: ((?:`test_\w+`(?:, )?)+)", test)
    for path, names in named:
        there = _functions(path) if (ROOT / path).exists() else set()
        found += [f"{path} has no {name}" for name in re.findall(r"`(\w+)`", names) if name not in there]
    if not named and not test.startswith("no test"):
        found.append(f"'{test}' names no test")
    return found


def test_every_test_that_is_named_exists() -> None:
    rows = _rows(TEXT)
    assert len(rows) > 50
    assert {promise: wrong for promise, test, seen in rows if (wrong := _wrong(test, seen))} == {}


@pytest.mark.parametrize(
    ("test", "seen"),
    [
        ("`tests/deploy/test_alerts.py`: `test_that_is_not_there`", "not yet"),
        ("`tests/deploy/test_none.py`: `test_what`", "not yet"),
        ("surely", "not yet"),
        ("no test", "2026-11-29"),
    ],
)
def test_a_wrong_row_is_found(test: str, seen: str) -> None:
    assert _wrong(test, seen)


@pytest.mark.parametrize("title", SOURCES)
def test_every_section_is_in_the_table(title: str) -> None:
    part = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    (own,) = (text for text in part if text.startswith(title))
    listed = re.findall(r"^### (.+)$", own, re.MULTILINE)
    text = re.sub(
        r"^```.*?^```", "", SOURCES[title].read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    sections = re.findall(r"^###? (.+)$", text, re.MULTILINE)
    assert listed == [section for section in sections if section not in WITHOUT]
    for section in re.split(r"^### ", own, flags=re.MULTILINE)[1:]:
        assert _rows(section), section.splitlines()[0]
