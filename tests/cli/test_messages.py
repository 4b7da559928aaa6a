"""The Python arguments that errors name, for which the command line shows options."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import typer

from latentbank.cli import app

ROOT = Path(__file__).parents[2]


def options(command: Any) -> set[str]:
    """Return the parameters of a command and of the commands below it."""
    below = getattr(command, "commands", {}).values()
    return {parameter.name for parameter in command.params}.union(*map(options, below))


def test_every_argument_that_an_error_names_is_an_option_of_a_command() -> None:
    """A name that no command has would be left out of the message without a trace."""
    files = [path for room in ("bank", "ingest", "models", "query") for path in (ROOT / room).rglob("*.py")]
    named = {
        keyword.value.value
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "argument" and isinstance(keyword.value, ast.Constant) and keyword.value.value
    }
    assert named
    assert named <= options(typer.main.get_command(app))
