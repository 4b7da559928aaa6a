"""Docs and command line agree: what the docs name exists, and every command and option is documented."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import (
    COMMAND,
    DOCS,
    PAGES,
    ROOT,
    accept,
    command_lines,
    commands,
    inline_code,
    options,
    prose,
    where,
    words,
)

COMMANDS = commands()
GROUPS = {name.split()[0] for name in COMMANDS}
OPTIONS = {option for command in COMMANDS.values() for option in options(command)} | options(COMMAND)
LINES = sorted({(where(path), line) for path in PAGES for line in command_lines(path)})
# Programs other than the command line whose options the docs name, and the options of other people's programs.
SCRIPTS = [
    *ROOT.glob("benchmarks/*.py"),
    *ROOT.glob("examples/*.py"),
    *(ROOT / "latentbank" / "demo").rglob("*.py"),
    *ROOT.glob("deploy/backup/*.py"),
]
FOREIGN = {"--no-deps", "--profile", "--strict", "--help", "--bootstrap", "--uri"}


def _script_options() -> set[str]:
    return {
        option
        for path in SCRIPTS
        for option in re.findall(r"\"(--[a-z][a-z-]*)\"", path.read_text(encoding="utf-8"))
    }


def _check_names(code: str) -> None:
    """Check that the command that `code` begins with exists, and has the options that follow."""
    given = code.split()
    name: list[str] = []
    for word in given:
        if word.startswith("-") or not any(
            f"{known} ".startswith(" ".join([*name, word]) + " ") for known in COMMANDS
        ):
            break
        name.append(word)
    assert name, f"there is no command {code!r}"
    known = COMMANDS.get(" ".join(name))
    if known is None:
        assert len(name) == len(given), f"there is no command {code!r}"
        return
    named = {
        word.split("=")[0].strip("[],.")
        for word in given[len(name) :]
        if word.startswith("-") and word != "-"
    }
    assert named <= options(known) | {"--help"}, (
        f"{' '.join(name)} has no {', '.join(sorted(named - options(known)))}"
    )


def test_there_are_lines() -> None:
    assert {"README.md", "docs/team.md", "deploy/README.md"} <= {name for name, _ in LINES}


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{a}: {b[:60]}" for a, b in LINES])
def test_a_line_of_the_docs_is_accepted(page: str, line: str) -> None:
    if line.startswith("[--url URL]"):  # the synopsis of all commands
        assert options(COMMAND) == set(re.findall(r"--[a-z-]+", line))
        return
    accept(words(line))


@pytest.mark.parametrize("path", PAGES, ids=where)
def test_commands_in_sentences_exist(path: object) -> None:
    count = 0
    for code in inline_code(path):  # type: ignore[arg-type]
        first, *rest = code.split()
        if first == "latentbank" and rest:
            code, (first, *rest) = code.removeprefix("latentbank "), rest
            if first.startswith("-"):
                assert first in options(COMMAND), code
                continue
        elif first not in GROUPS or not rest or first == "import":  # which is a statement of Python's, too
            continue
        _check_names(code)
        count += 1
    assert count or path.name not in ("commands.md", "team.md", "json.md")  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", PAGES, ids=where)
def test_options_in_sentences_exist(path: object) -> None:
    known = OPTIONS | _script_options() | FOREIGN
    for code in inline_code(path):  # type: ignore[arg-type]
        if code.startswith("--"):
            named = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", code))
            assert named <= known, f"{where(path)}: {code}"  # type: ignore[arg-type]


def _sections() -> dict[str, str]:
    """Return the sections of docs/commands.md by their headings."""
    parts = re.split(r"^#{2,3} (.+)$", prose(DOCS / "commands.md"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _documented(section: str) -> set[str]:
    """Return the options in the first column of a section's table."""
    return {
        option
        for cell in re.findall(r"^\| ((?:`-[^|]+)+)\|", section, re.MULTILINE)
        for option in re.findall(r"`(--?[\w-]+)`", cell)
    }


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_is_documented(name: str) -> None:
    sections = _sections()
    groups = {
        title.lower().replace(" ", "-"): text
        for title, text in sections.items()
        if title.endswith(" options")
    }
    section = sections[f"`latentbank {name}`"]
    if other := re.search(r"is another name of \[(`latentbank [\w -]+`)\]", section):
        section = sections[other[1]]
    documented = _documented(section)
    for group in re.findall(r"\(#([\w-]+-options)\)", section):
        assert not documented & _documented(groups[group]), f"{name}: documented twice"
        documented |= _documented(groups[group])
    assert documented == options(COMMANDS[name])


def test_no_command_is_documented_that_does_not_exist() -> None:
    named = {
        title.strip("`").removeprefix("latentbank ")
        for title in _sections()
        if title.startswith("`latentbank ")
    }
    assert named == set(COMMANDS)
    assert _documented(_sections()["All commands"]) == options(COMMAND)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ingest runn", "No such command"),
        ("ingest run --shards 0/2", "No such option"),
        ("view --port x", "integer"),
        ("bank export", "Missing"),
    ],
)
def test_a_wrong_line_is_refused(given: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        accept(given.split())


@pytest.mark.parametrize("code", ["ingest runn", "ingest run --shards 0/2", "look at"])
def test_a_wrong_name_in_a_sentence_is_found(code: str) -> None:
    with pytest.raises(AssertionError):
        _check_names(code)
