"""Rules of the code's structure that a test can check."""

from __future__ import annotations

import ast
import os
import sys
import tomllib
from pathlib import Path

import pytest

from tests import children
from tests.house import ROOT, Module, circles, imports, modules

ALL = modules()
SHARED = {
    "errors", "extensions", "files", "found_models", "hub", "hub_cards", "identity", "layers", "locks", "memory",
    "places", "progress", "text", "values", "version",
}  # fmt: skip
# The folders that each folder may import, besides itself and the shared modules. The face imports the names of its
# table when they are used.
MAY_IMPORT = {
    "bank": set(),
    "models": set(),
    "ingest": {"bank", "models"},
    "query": {"bank", "models"},
    "demo": {"bank", "models", "ingest", "query"},
    "cli": {"bank", "models", "ingest", "query", "demo"},
    "__main__": {"cli"},
    "": set(),
    **{name: set() for name in SHARED},
}
QDRANT = {"qdrant_client", "qdrant_edge", "grpc"}


def _rooms(*names: str) -> list[Module]:
    found = [module for module in ALL.values() if module.room in names]
    assert found
    return found


def test_all_rooms_are_found() -> None:
    assert {module.room for module in ALL.values()} == MAY_IMPORT.keys()
    assert len(ALL) > 150


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_run_one_way(room: str) -> None:
    allowed = MAY_IMPORT[room] | SHARED | {room}
    for module in _rooms(room):
        found = {ALL[name].room for name in imports(ALL, module, for_types=True)} - {""}
        assert found <= allowed, module.name


def test_nothing_imports_the_face() -> None:
    for module in ALL.values():
        names = module.imported(for_types=True)
        taken = {name for name in names if name.startswith("latentbank.") and name.count(".") == 1}
        assert taken <= ALL.keys(), module.name


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({name: imports(ALL, module, for_types=False) for name, module in ALL.items()}) == []


def test_only_the_stores_name_qdrant() -> None:
    for module in ALL.values():
        named = {name.split(".")[0] for name in module.imported(for_types=True)} & QDRANT
        assert not named or module.name.startswith("latentbank.bank.store."), module.name


def test_only_the_stores_decide_by_the_url() -> None:
    for module in ALL.values():
        if not module.name.startswith("latentbank.bank.store."):
            assert not list(_decides_by_url(module.nodes)), module.name


def _decides_by_url(nodes: list[ast.AST]) -> list[int]:
    """Return the lines of conditions that depend on the `url` of settings."""
    conditions = [
        node.test for node in nodes if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert)
    ]
    conditions += [value for node in nodes if isinstance(node, ast.BoolOp) for value in node.values]
    conditions += [node.operand for node in nodes if isinstance(node, ast.UnaryOp)]
    return [
        part.lineno
        for condition in conditions
        for part in ast.walk(condition)
        if isinstance(part, ast.Attribute) and part.attr == "url" and "settings" in ast.unparse(part.value)
    ]


def test_lenses_are_not_told_apart_by_their_class() -> None:
    for module in ALL.values():
        for node in module.nodes:
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                assert "LatentLens" not in ast.unparse(node.args[1]), f"{module.name}:{node.lineno}"


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_circles_are_found() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e"}}
    assert circles(arrows) == [["a", "b", "c"], ["e"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_suite_fails_if_a_folder_is_imported_from_the_root(tmp_path: Path, workers: int) -> None:
    (tmp_path / "second_copy.py").write_text(
        "def pytest_runtest_setup():\n    import bank\n", encoding="utf-8"
    )
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "second_copy",
        "-n",
        str(workers),
        "tests/test_files.py",
    ]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = children.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "imported without latentbank: bank" in done.stdout
    assert " passed" in done.stdout
