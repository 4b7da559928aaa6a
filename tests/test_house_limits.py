"""Limits of the code's size, and of what the library's messages say."""

from __future__ import annotations

import re

import pytest

from tests import slow
from tests.house import PACKAGE, ROOMS, ROOT, Module, functions, modules, prose

ALL = modules()
MAX_FUNCTION = 80
MAX_FILE = 400


def test_no_function_is_long() -> None:
    long = [
        f"{module.name}.{name}: {length}"
        for module in [*ALL.values(), *_beside()]
        for name, length in functions(module)
        if length > MAX_FUNCTION
    ]
    assert long == []


def test_no_file_is_long() -> None:
    code = [module.path for module in [*ALL.values(), *_beside()]]
    code += [path for ending in ("css", "html", "js") for path in (PACKAGE / "query").rglob(f"*.{ending}")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in code}
    assert {
        str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > MAX_FILE
    } == {}


def _beside() -> list[Module]:
    """Return the project's code that is not in the package."""
    files = [
        path for folder in ("benchmarks", "deploy", "examples") for path in (ROOT / folder).rglob("*.py")
    ]
    return [Module(str(path.relative_to(ROOT)), path) for path in files]


@pytest.mark.parametrize("room", sorted(set(ROOMS) - {"demo"}))
def test_the_library_does_not_speak_command_line(room: str) -> None:
    flag = re.compile(r"(?<![\w}-])--[a-z]")
    command = re.compile(r"`latentbank [a-z]")
    found = [
        f"{module.name}:{line}: {text}"
        for module in ALL.values()
        if module.room == room
        for line, text in prose(module)
        if flag.search(text) or command.search(text)
    ]
    assert found == []


def test_slow_tests_exist() -> None:
    assert [name for name in slow.FILES if not (ROOT / "tests" / name).exists()] == []
