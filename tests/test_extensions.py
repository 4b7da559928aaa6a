"""Entry points: those of installed packages, and latentbank's own in a checkout that is not installed."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import latentbank
from latentbank import extensions

GROUP = "latentbank.families"
DEMO = ("demo", "latentbank.demo.family:FAMILY")


def test_each_entry_point_is_there_once() -> None:
    found = [(entry.name, entry.value) for entry in extensions.entry_points_of(GROUP)]
    assert found.count(DEMO) == 1


def test_a_checkout_that_is_not_installed_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = EntryPoint("a", "theirs:FAMILY", GROUP)
    monkeypatch.setattr(extensions, "entry_points", lambda group: [theirs])
    found = extensions.entry_points_of(GROUP)
    assert [(entry.name, entry.value) for entry in found] == [("a", "theirs:FAMILY"), DEMO]
    assert found[1].load().name == "demo"
    assert extensions.entry_points_of("latentbank.nothing") == [theirs]


@pytest.mark.parametrize("text", [None, "[project", "[project]\nname = 'mine'\n"])
def test_a_wheel_beside_another_project_reads_metadata_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(latentbank, "__file__", str(tmp_path / "latentbank" / "__init__.py"))
    monkeypatch.setattr(extensions, "entry_points", lambda group: [])
    assert extensions.entry_points_of(GROUP) == []
