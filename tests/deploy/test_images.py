"""What can be tested of the images without Docker: linters, copied files, requirements, and the real entry point."""

from __future__ import annotations

import fnmatch
import os
import re
import tomllib
from pathlib import Path

import pytest

from tests.deploy.places import DEPLOY, ROOT, run, tool

FILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def _copied(text: str) -> list[str]:
    """Return what a Dockerfile copies from the repository, not from another stage."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
    return [word for line in lines for word in line.split()[:-1]]


@each
def test_hadolint_finds_nothing(path: Path) -> None:
    done = run(tool("hadolint"), path)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN cd /tmp && pip install torch\n", encoding="utf-8")
    assert "DL3006" in run(tool("hadolint"), bad).stdout


def test_shell_scripts_are_sound() -> None:
    scripts = [*DEPLOY.rglob("*.sh"), ROOT / ".ci" / "run"]
    assert len(scripts) > 1
    done = run(tool("shellcheck"), *scripts)
    assert (done.returncode, done.stdout) == (0, "")


@each
def test_everything_that_is_copied_exists_and_is_sent_to_the_builder(path: Path) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = _copied(path.read_text(encoding="utf-8"))
    assert len(copied) > 5
    for word in copied:
        assert list(ROOT.glob(word)), word
        assert any(fnmatch.fnmatch(word, entry) or word.startswith(f"{entry}/") for entry in kept), word


@each
def test_the_whole_project_is_copied_and_nothing_else(path: Path) -> None:
    copied = {found.name for word in _copied(path.read_text(encoding="utf-8")) for found in ROOT.glob(word)}
    (package,) = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    linked = {path.resolve().name for path in (ROOT / package).iterdir() if path.is_symlink()}
    assert linked == {"bank", "ingest", "models", "query", "demo"}
    assert copied >= {package} | linked
    assert copied >= {"constraints.txt", "pyproject.toml", *PROJECT["project"]["license-files"]}
    assert not copied & {"tests", "benchmarks", ".env", ".git", "secrets"}


@each
def test_several_stages_and_no_root(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(stages) == 2
    assert all(re.search(r":\d", stage) for stage in stages)
    last = text.rsplit("\nFROM ", 1)[1]
    (user,) = re.findall(r"^USER (\d+)$", last, re.MULTILINE)
    assert int(user) > 0
    assert "pip install" not in last
    # What changes most is copied last, so that layers before it are kept.
    order = [
        text.index(word)
        for word in ("COPY constraints.txt", "COPY pyproject.toml", "COPY README.md", "COPY bank")
    ]
    assert order == sorted(order)
    assert text.count("--constraint constraints.txt") + text.count('?==" constraints.txt') == 2


@each
def test_the_requirements_are_those_of_the_project(path: Path) -> None:
    (extras,) = re.findall(r"requirements\.py pyproject\.toml ([\w ]+) >", path.read_text(encoding="utf-8"))
    done = run(
        tool("python"), DEPLOY / "docker" / "requirements.py", ROOT / "pyproject.toml", *extras.split()
    )
    project = PROJECT["project"]
    expected = project["dependencies"] + [
        entry for extra in extras.split() for entry in project["optional-dependencies"][extra]
    ]
    assert done.stdout.splitlines() == expected


def test_only_the_query_image_takes_torch_for_cpus() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in FILES}
    assert texts.keys() == {"ingest", "query"}
    assert "https://download.pytorch.org/whl/cpu" in texts["query"]
    assert "--index-url" not in texts["ingest"]


def test_the_page_in_the_query_image_can_read_images() -> None:
    text = next(path for path in FILES if path.stem.startswith("query")).read_text(encoding="utf-8")
    assert {"web", "vision"} <= set(re.findall(r"pyproject\.toml ([\w ]+) >", text)[0].split())
    # Their wheels of the same version for CUDA would not fit torch's for CPUs.
    (pattern,) = re.findall(r'grep -E "(\S+)" constraints', text)
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = {line.split("==")[0] for line in pinned if re.match(pattern, line)}
    needed = {re.split(r"[=<>]", entry)[0] for entry in PROJECT["project"]["optional-dependencies"]["vision"]}
    assert found == {"torch"} | {name for name in needed if name.startswith("torch")}


def _entrypoint(directory: Path, *words: str, **environment: str) -> tuple[int, str, str]:
    """Run the images' entry point with a `latentbank` that prints its arguments."""
    fake = directory / "latentbank"
    fake.write_text('#!/bin/sh\necho "$LATENTBANK_TOKEN" "$@" $$\n', encoding="utf-8")
    fake.chmod(0o755)
    path = f"{directory}{os.pathsep}/usr/bin{os.pathsep}/bin"
    done = run(DEPLOY / "docker" / "entrypoint.sh", *words, env={"PATH": path, **environment})
    return done.returncode, done.stdout, done.stderr


def test_the_entry_point_passes_words_on_and_reads_the_token_from_its_file(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("a token of length\n", encoding="utf-8")
    code, out, _ = _entrypoint(tmp_path, "view", "--host", "0.0.0.0", LATENTBANK_TOKEN_FILE=str(secret))
    assert code == 0
    assert out.startswith("a token of length view --host 0.0.0.0 ")
    assert _entrypoint(tmp_path, "a b", LATENTBANK_TOKEN="own")[1].startswith("own a b ")


def test_the_entry_point_stops_without_the_file_it_was_told_of(tmp_path: Path) -> None:
    code, out, err = _entrypoint(tmp_path, "view", LATENTBANK_TOKEN_FILE=str(tmp_path / "none"))
    assert code != 0
    assert out == ""
    assert "none" in err
