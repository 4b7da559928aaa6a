"""The documents under test, their contents, and the command line that they describe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from latentbank.cli import app

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"), *ROOT.glob("deploy/**/*.md")]
)
COMMAND: Any = typer.main.get_command(app)

_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def where(path: Path) -> str:
    """Return a document's path in the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str | None = None) -> Iterator[str]:
    """Yield a document's code blocks; only those of `language` if it is given."""
    for name, code in _BLOCK.findall(path.read_text(encoding="utf-8")):
        if language is None or name == language:
            yield code


def prose(path: Path) -> str:
    """Return a document without its code blocks."""
    return _BLOCK.sub("", path.read_text(encoding="utf-8"))


def inline_code(path: Path) -> Iterator[str]:
    """Yield the code inside a document's sentences and tables."""
    for code in re.findall(r"`([^`]+)`", prose(path)):
        yield " ".join(code.replace(r"\|", "|").split())


def command_lines(path: Path) -> Iterator[str]:
    """Yield what follows `latentbank` in the lines of a document's code blocks."""
    for block in blocks(path):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"(?:\$ )?(?:\w+=\S+ )*(?:\S*/)?latentbank (.+)", line.strip()):
                yield found[1]


def words(line: str) -> list[str]:
    """Return the words of a shell line, without comments, redirections and the brackets of optional parts."""
    line = re.sub(r"\s#\s.*", "", line)
    line = re.sub(r"[\[\]]|\.\.\.", "", line)
    return shlex.split(re.split(r"\s[>|]|\s2>", line)[0])


def accept(given: list[str]) -> None:
    """Parse a command line as `latentbank` does, without running it; raises what click raises."""
    command, context, rest = COMMAND, None, given
    while True:
        made = command.make_context("latentbank", list(rest), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        _, command, rest = command.resolve_command(made, [*made._protected_args, *made.args])
        context = made


def commands() -> dict[str, Any]:
    """Return all commands by their words, such as "ingest run"."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield " ".join(path), command
            return
        for name, child in command.commands.items():
            yield from walk(child, (*path, name))

    return dict(walk(COMMAND, ()))


def options(command: Any) -> set[str]:
    """Return the spellings of a command's options, without --help."""
    return {
        spelling
        for parameter in command.params
        if parameter.param_type_name == "option"
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    } - {"--help"}
