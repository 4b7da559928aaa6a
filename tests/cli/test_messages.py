"""The library's messages name Python arguments; only the command line names options and commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from latentbank.cli import app

ROOT = Path(__file__).parents[2]
ROOMS = ("bank", "ingest", "models", "query")
COMMAND_LINE = re.compile(
    r"(?<![\w-])--[a-z]|`?latentbank (ingest|bank|query|view|train|evaluate|experiment)\b"
)


def trees(room: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("room", ROOMS)
def test_no_text_of_the_library_names_an_option_or_a_command(room: str) -> None:
    found = [
        (str(path), node.lineno, node.value)
        for path, tree in trees(room)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and COMMAND_LINE.search(node.value)
    ]
    assert found == []


def test_every_argument_that_an_error_names_is_an_option_of_a_command() -> None:
    """A name that no command has would be left out of the message without a trace."""

    def options(command: object) -> set[str]:
        below = getattr(command, "commands", {}).values()
        return {parameter.name for parameter in command.params}.union(*map(options, below))  # type: ignore[attr-defined]

    named = {
        keyword.value.value
        for room in ROOMS
        for _, tree in trees(room)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "argument" and isinstance(keyword.value, ast.Constant) and keyword.value.value
    }
    assert named
    assert named <= options(typer.main.get_command(app))
