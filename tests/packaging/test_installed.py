"""The wheel in use, in folders whose modules have the names of latentbank's rooms, or of its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.packaging.environments import ROOT, Environment
from tests.tiny import TEXTS, save_tiny

# A user's own modules; each prints a line when it is imported.
_THEIRS = (
    "models/__init__.py",
    "models/mine.py",
    "query/__init__.py",
    "bank/__init__.py",
    "bank/bank.py",
    "ingest.py",
    "demo.py",
    "tests/__init__.py",
    "tests/tiny.py",
    "errors.py",
    "files.py",
    "text.py",
    "cli.py",
)
_IMPORTS_THEIRS = """
import models.mine, query, bank.bank, ingest, demo, tests.tiny, errors, files, text, cli
for module in (models.mine, query, bank, bank.bank, ingest, demo, tests.tiny, errors, files, text, cli):
    assert module.WHOSE == "the user's", module
"""
_READS = """
import json, sys
import latentbank as lb

def read(folder):
    assert lb.__file__.startswith(sys.prefix), lb.__file__
    model = lb.load_language_model(f"{folder}/model", device="cpu")
    with lb.create_bank("made", model, layers=[1], data_dir=f"{folder}/data") as bank:
        assert lb.fill(bank, f"{folder}/captions.txt", model).complete
    with lb.open_bank("mine", data_dir=f"{folder}/data") as bank:
        reading = lb.read_text(bank, model, "A dog runs over the red ball.", layers=[1])
    assert reading.to_dict()
"""
# Prints which process indexes a layer, and lets even a small layer be indexed in a process of its own.
_SHOWS_INDEXING = """
import sys
from latentbank.bank.store.embedded import optimizing, other_process
from latentbank.cli import main

def report(event, arguments):
    if event == "subprocess.Popen" and optimizing.__name__ in arguments[1]:
        print("indexes:", other_process._HERE, file=sys.stderr)

sys.addaudithook(report)
optimizing._OTHER_PROCESS_FROM = 1
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: their modules, a tiny model, and a corpus."""
    made = tmp_path_factory.mktemp("user")
    for name in _THEIRS:
        path = made / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("WHOSE = \"the user's\"\nprint('imported:', __name__)\n", encoding="utf-8")
    save_tiny(made / "model")
    (made / "captions.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def filled(installed: Environment, folder: Path) -> Path:
    """The folder with a bank, filled by a command run as a module there, so that the folder's modules come first."""
    (folder / "shows_indexing.py").write_text(_SHOWS_INDEXING, encoding="utf-8")
    words = ["--data-dir", folder / "data", "ingest", "run", "captions.txt", "--model", folder / "model"]
    done = installed.run(
        "python", "-m", "shows_indexing", *words, "--layers", "1,2", "--bank", "mine", "--json", cwd=folder
    )
    assert json.loads(done.stdout)["bank"] == "mine"  # nothing was imported from the folder
    assert f"indexes: {installed.packages}" in done.stderr.splitlines()
    return folder


def test_the_command_uses_none_of_the_folders_modules(installed: Environment, filled: Path) -> None:
    for program in (["latentbank"], ["python", "-m", "latentbank"]):
        words = ["--data-dir", filled / "data", "bank", "info", "mine", "--json"]
        done = installed.run(*program, *words, cwd=filled)
        assert json.loads(done.stdout)["layers"] == [1, 2]


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_their_modules_and_ours_live_side_by_side(installed: Environment, filled: Path, first: str) -> None:
    used = "read('.')\n"
    body = _IMPORTS_THEIRS + _READS + used if first == "theirs" else _READS + used + _IMPORTS_THEIRS
    (filled / f"{first}_first.py").write_text(body, encoding="utf-8")
    out = installed.run("python", f"{first}_first.py", cwd=filled).stdout
    assert out.count("imported: ") == len(_THEIRS)


def test_the_command_runs_from_a_checkout_that_is_not_installed(bare: Environment, tmp_path: Path) -> None:
    missing = "import importlib.util; assert importlib.util.find_spec('latentbank') is None"
    bare.run("python", "-c", missing, cwd=tmp_path)
    assert "Usage:" in bare.run("python", "-m", "latentbank", "--help", cwd=ROOT).stdout
