"""Imports between the folders of models/ run one way: language, vision, composite, training."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import latentbank.models

FOLDERS = ("language", "vision", "composite", "training")
ROOT = Path(latentbank.models.__file__).parent


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_those_before_it(folder: str) -> None:
    later = {f"latentbank.models.{name}" for name in FOLDERS[FOLDERS.index(folder) + 1 :]}
    forbidden = tuple(later | {"latentbank.models.visual"})
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(forbidden), path
