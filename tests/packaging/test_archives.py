"""Contents of the sdist and the wheel."""

from __future__ import annotations

import os
import re
import sys
import zipfile
from pathlib import Path

import pytest

import latentbank
from tests import children
from tests.packaging.environments import environment

ROOMS = ("bank", "demo", "ingest", "models", "query")


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _files(folder: Path) -> set[str]:
    """Return the files of a folder, links followed, as the wheel names them."""
    found = {
        (Path(top) / name).relative_to(folder.parent).as_posix()
        for top, _, names in os.walk(folder, followlinks=True)
        if Path(top).name != "__pycache__"  # other tests write there
        for name in names
    }
    assert found
    return found


def test_the_wheel_has_one_top_level_name(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"latentbank"}
    assert len(tops) == 2


def test_the_wheel_holds_all_of_the_package(names: set[str]) -> None:
    package = _files(Path(latentbank.__file__).parent)
    assert {name for name in names if name.startswith("latentbank/")} == package
    needed = {
        "latentbank/py.typed",
        "latentbank/__init__.pyi",
        "latentbank/query/web/page/index.html",
        "latentbank/demo/data/demo-projector.safetensors",
        *(f"latentbank/{room}/__init__.py" for room in ROOMS),
    }
    assert needed <= names


def test_nothing_in_the_wheel_is_a_link(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        kinds = {entry.external_attr >> 28 for entry in archive.infolist()}
    assert kinds <= {0, 0o10}  # regular files; a link would be 0o12


def test_the_sdist_holds_all_that_its_tests_read(unpacked: Path) -> None:
    assert not list(unpacked.rglob("*.pyc"))
    for room in ROOMS:
        assert (unpacked / "latentbank" / room / "__init__.py").is_file()
    # All tests are collected; those that read files of the project (the code, deploy/, docs/, tables) are run.
    reading = (
        "test_the_version or test_estimate_scale or test_alerts or test_commands or test_compose "
        "or test_kubernetes or test_qdrant_config"
    )
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
    words = ["-m", "pytest", "-q", *plugins, "-k", reading, "tests"]
    done = children.run([sys.executable, *words], cwd=unpacked, env=environment())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 100
