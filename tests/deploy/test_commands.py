"""Every command line that deploy/, README.md and docs/ show is one that the real command line accepts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from latentbank.cli import app
from tests.deploy.places import DEPLOY, ROOT, documents, manifests

COMMAND: Any = typer.main.get_command(app)


def accept(words: list[str]) -> None:
    """Parse a command line as `latentbank` does, without running it; raises what click raises."""
    command, context, rest = COMMAND, None, words
    while True:
        made = command.make_context("latentbank", list(rest), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        _, command, rest = command.resolve_command(made, [*made._protected_args, *made.args])
        context = made


def _shown(path: Path) -> Iterator[str]:
    """The command lines in a document's blocks."""
    for block in re.findall(
        r"^```\w*\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"(?:\$ )?(?:\w+=\S+ )*(?:\S*/)?latentbank (.+)", line.strip()):
                yield found[1]


def _words(line: str) -> list[str]:
    line = re.sub(r"\s#\s.*", "", line)
    # What may be left out stands in brackets: it must be accepted, too.
    line = re.sub(r"[\[\]]|\.\.\.", "", line)
    return shlex.split(re.split(r"\s[>|]|\s2>", line)[0])


LINES = sorted(
    {
        (str(path.relative_to(ROOT)), line)
        for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *DEPLOY.rglob("*.md")]
        for line in _shown(path)
    }
)


def test_there_are_lines() -> None:
    assert {"README.md", "docs/team.md", "deploy/README.md"} <= {where for where, _ in LINES}


@pytest.mark.parametrize(("where", "line"), LINES, ids=[f"{a}: {b[:60]}" for a, b in LINES])
def test_a_line_of_the_documents_is_accepted(where: str, line: str) -> None:
    accept(_words(line))


def test_what_containers_run_is_accepted() -> None:
    found = []
    for name in ("compose.yaml", "compose.cluster.yaml"):
        for service in documents(DEPLOY / name)[0]["services"].values():
            if "latentbank" in service.get("image", ""):
                found.append(service["command"])
    for manifest in manifests():
        spec = manifest["spec"].get("template", {}).get("spec", {})
        found += [one["args"] for one in spec.get("containers", []) if "command" not in one]
    assert len(found) == 4
    for words in found:
        accept([word.replace("$(JOB_COMPLETION_INDEX)", "7") for word in words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ingest runn", "No such command"),
        ("ingest run --shards 0/2", "No such option"),
        ("view --port x", "integer"),
        ("bank export", "Missing"),
    ],
)
def test_a_wrong_line_is_not(words: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        accept(words.split())
