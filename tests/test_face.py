"""The face: what `import latentbank` offers, and what it costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import latentbank as lb
from latentbank.bank.settings import Settings, SettingsGiven

ROOT = Path(__file__).parent.parent
HEAVY = {
    "datasets",
    "numpy",
    "pandas",
    "PIL",
    "pydantic",
    "qdrant_client",
    "qdrant_edge",
    "rich",
    "torch",
    "transformers",
    "typer",
}


def _stub() -> dict[str, str]:
    """Return the names of `__init__.pyi` with the modules that it imports them from."""
    tree = ast.parse((ROOT / "latentbank" / "__init__.pyi").read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            (name,) = node.names
            assert name.asname == name.name  # what makes it a name of the face for a type checker
            found[name.name] = str(node.module)
    return found


def _submodules() -> list[str]:
    walked = pkgutil.walk_packages(lb.__path__, "latentbank.")
    return [module.name for module in walked if not module.name.endswith("__main__")]


def test_the_face_is_small_and_its_stub_agrees() -> None:
    assert len(lb.__all__) == len(set(lb.__all__)) <= 40
    assert _stub() == lb._MODULES
    assert set(lb.__all__) == {"__version__", *lb._MODULES} <= set(dir(lb))


def test_names_come_from_where_they_are_defined_even_after_every_module_is_imported() -> None:
    modules = [importlib.import_module(name) for name in _submodules()]
    assert len(modules) > 100
    assert not {name.split(".")[1] for name in _submodules()} & set(lb.__all__)
    for name, module in lb._MODULES.items():
        found = getattr(lb, name)
        assert callable(found)
        assert found.__module__ == module
        assert found.__name__ == name


@pytest.mark.parametrize("name", [name for name in lb.__all__ if inspect.isfunction(getattr(lb, name))])
def test_a_path_can_be_a_string_or_any_path(name: str) -> None:
    for parameter in inspect.signature(getattr(lb, name)).parameters.values():
        assert not re.search(r"\bPath\b", str(parameter.annotation)), parameter


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'latentbank' has no attribute 'nonsense'"):
        _ = lb.nonsense  # type: ignore[attr-defined]


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert lb.__version__ == project["version"]


def test_importing_latentbank_is_light() -> None:
    code = f"import sys, latentbank; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_settings_as_keywords_are_the_fields_of_settings() -> None:
    assert SettingsGiven.__annotations__.keys() == Settings.model_fields.keys()


@pytest.mark.slow
def test_threads_may_use_it_at_the_same_time() -> None:
    # transformers fails when two threads import it, unless one waits for the other.
    code = (
        "import threading, latentbank as lb\n"
        "names = ['load_language_model', 'train_projector', 'read_image', 'evaluate']\n"
        "threads = [threading.Thread(target=getattr, args=(lb, name)) for name in names]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
