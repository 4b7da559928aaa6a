"""The Python arguments and functions that errors name, for which the command line shows options and commands."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import typer

import latentbank
import latentbank.bank.upgrade
from latentbank.cli import app
from latentbank.cli.grouping import COMMANDS
from latentbank.cli.train import PairOptions
from latentbank.models.training import jacobian, tuned
from latentbank.query.lenses.jacobian import JacobianLens
from latentbank.query.lenses.tuned import TunedLens
from tests.docs.pages import commands

ROOT = Path(__file__).parents[2]


def options(command: Any) -> set[str]:
    """Return the parameters of a command and of the commands below it."""
    below = getattr(command, "commands", {}).values()
    return {parameter.name for parameter in command.params}.union(*map(options, below))


def texts(keyword: str) -> set[str]:
    """Return the texts that the library's calls give for a keyword, in tuples too."""
    files = [path for room in ("bank", "ingest", "models", "query") for path in (ROOT / room).rglob("*.py")]
    return {
        part.value
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for given in node.keywords
        if given.arg == keyword
        for part in ast.walk(given.value)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


def test_every_argument_that_an_error_names_is_an_option_of_a_command() -> None:
    """A name that no command has would be left out of the message without a trace."""
    named, known = texts("argument"), options(typer.main.get_command(app))
    source = ast.parse((ROOT / "latentbank" / "cli" / "train.py").read_text(encoding="utf-8"))
    otherwise = [
        given
        for node in ast.walk(source)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "named_otherwise"
        for given in node.keywords
    ]
    renamed = {
        str(given.arg): given.value.value for given in otherwise if isinstance(given.value, ast.Constant)
    }
    assert named
    assert renamed
    # The option for captions depends on the target.
    assert {str(given.arg) for given in otherwise} - set(renamed) == {"caption"}
    assert {PairOptions(target=target).caption_option() for target in ("caption", "where")} <= known
    assert {renamed.get(name, name) for name in named - {"caption"}} <= known


def test_every_function_that_an_error_names_has_a_command() -> None:
    assert texts("functions") | {TunedLens.trained_by, JacobianLens.trained_by} == set(COMMANDS)
    assert {command.partition(" --")[0] for command in COMMANDS.values()} <= set(commands())
    places = (latentbank, latentbank.Bank, latentbank.bank.upgrade, tuned, jacobian)
    assert all(any(hasattr(place, name) for place in places) for name in COMMANDS)
