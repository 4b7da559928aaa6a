"""What the docs say about Python, settings, files and modules is true."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import latentbank
from latentbank.bank.settings import Settings
from tests.docs.pages import DOCS, PAGES, ROOT, blocks, prose, where

CODE = [(where(path), code) for path in PAGES for code in blocks(path, "python")]
API = sorted(
    {
        name
        for path in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)", path.read_text("utf-8"), re.M)
    }
)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1500


@pytest.mark.parametrize(("page", "code"), CODE, ids=[f"{page}: {code[:40]}" for page, code in CODE])
def test_python_names_what_exists(page: str, code: str) -> None:
    tree = ast.parse(code, filename=page)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lb":
            assert hasattr(latentbank, node.attr), f"latentbank has no {node.attr}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "latentbank":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def test_there_is_python() -> None:
    assert {"README.md", "docs/reading.md", "docs/extending.md"} <= {page for page, _ in CODE}


@pytest.mark.parametrize("name", API)
def test_the_api_reference_names_what_exists(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


def test_every_setting_is_documented() -> None:
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `LATENTBANK_(\w+)`", text, re.MULTILINE))
    assert documented == {name.upper() for name in Settings.model_fields} | {
        "TOKEN",
        "VLM",
    }  # the page's, options


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=where)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{where(path)} links to {target}"
        assert not anchor or anchor in _anchors(there), f"{where(path)} links to {target}"


def test_every_page_is_in_the_index_and_the_navigation() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in DOCS.rglob("*.md"):
        name = path.relative_to(DOCS).as_posix()
        assert f": {name}\n" in navigation, name
        if name != "index.md" and not (name.startswith("api/") and name != "api/index.md"):
            assert f"({name}" in index, name


def test_the_api_reference_has_every_name_of_the_face() -> None:
    text = (DOCS / "api" / "face.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^::: latentbank\.(\w+)$", text, re.M)) == set(latentbank.__all__) - {
        "__version__"
    }


def test_the_changelog_says_where_names_are() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| `(latentbank[\w.]+)` \|$", text, re.MULTILINE)
    assert len(rows) > 10
    for names, module in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert name not in latentbank.__all__
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"
    for cell in re.findall(r"^\| `[^|]*\| ([^|]*) \|$", text, re.MULTILINE):
        for name in re.findall(r"`(latentbank\.[\w.]+)", cell):
            module, _, attribute = name.rpartition(".")
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                assert hasattr(importlib.import_module(module), attribute), name


def test_every_type_with_exact_boxes_is_documented() -> None:
    from latentbank.models.vision.registry import _built_in

    text = (DOCS / "families.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|[^|]*\|((?: `[^`]+`)+) \|", text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)} - {"model_type"}
    assert named == {name for family in _built_in() for name in family.model_types}
