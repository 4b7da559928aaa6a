"""The house's rules that a machine can check: which way imports run, and what must stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "latentbank"  # whose rooms are links in a checkout, folders in an sdist
FORBIDDEN = {
    "models": {"bank", "ingest", "query", "demo", "cli", "qdrant_client", "qdrant_edge"},
    "bank": {"models", "ingest", "query", "demo", "cli", "torch", "transformers"},
    "ingest": {"query", "cli", "qdrant_client", "qdrant_edge"},
    "query": {"ingest", "cli", "qdrant_client", "qdrant_edge"},
}


def _imports(path: Path) -> set[str]:
    """Return what a file imports: other packages, and the rooms of latentbank without its name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("latentbank.").split(".")[0] for name in found}


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_imports_run_one_way(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        assert not _imports(path) & FORBIDDEN[room], path


def test_only_the_stores_name_qdrant() -> None:
    for path in sorted((PACKAGE / "bank").glob("*.py")) + sorted(
        (PACKAGE / "bank" / "transfer").glob("*.py")
    ):
        assert not _imports(path) & {"qdrant_client", "qdrant_edge", "grpc"}, path


def test_the_version_is_the_same_everywhere() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_importing_the_bank_is_light() -> None:
    heavy = {"torch", "transformers", "numpy", "qdrant_client"}
    code = f"import latentbank.bank, sys; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
