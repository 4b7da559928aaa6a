"""Corpus formats from installed packages: found by their entry points, without a change to ours."""

from __future__ import annotations

import gzip
import importlib
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from latentbank.errors import CorpusError
from latentbank.ingest.corpus import Counts, open_corpus, read_sentences

Install = Callable[[str], None]

SUBTITLES = """
from latentbank.ingest.sources.base import Format
from latentbank.ingest.sources.lines import open_lines

def read(path, column):
    with open_lines(path) as lines:
        for number, line in lines:
            if number % 3 == 2:
                yield line if column is None else f"{column}: {line}"

FORMAT = Format((".sub", ".txt"), read, compressed=True)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package of one module, `subtitles`, with an entry point to its `FORMAT`."""
    site = tmp_path / "site"

    def given(code: str) -> None:
        about = site / "subtitles-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: subtitles\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[latentbank.sources]\nsubtitles = subtitles:FORMAT\n")
        (site / "subtitles.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, "subtitles", raising=False)
        importlib.invalidate_caches()

    return given


def read(*files: Path, **options: str) -> list[str]:
    return list(read_sentences(open_corpus("c", files, **options), Counts()))


def test_a_format_of_an_installed_package(install: Install, tmp_path: Path) -> None:
    file, packed = tmp_path / "film.SUB", tmp_path / "film.sub.gz"
    file.write_text("1\nHello.\n\n2\nGood bye.\n\n")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(
        CorpusError, match=r"film\.SUB: unknown format; give \.txt, .*\.json \(.*\) or \.parquet, \.arrow\."
    ):
        open_corpus("c", file)
    install(SUBTITLES)
    assert read(file, packed) == ["Hello.", "Good bye."] * 2
    assert read(file, column="x") == ["x: Hello.", "x: Good bye."]
    with pytest.raises(CorpusError, match=r"\.json, \.sub \(each also \.gz or \.zst\)"):
        open_corpus("c", __file__)


def test_suffixes_of_our_own_keep_their_meaning(install: Install, tmp_path: Path) -> None:
    install(SUBTITLES)
    (tmp_path / "f.txt").write_text("one\ntwo\n")
    assert read(tmp_path / "f.txt") == ["one", "two"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", r"cannot be loaded \(No module named 'no_such_module'\)"),
        ("FORMAT = open", "is not a Format"),
    ],
)
def test_a_broken_package_is_named_and_harms_no_other_format(
    code: str, message: str, install: Install, tmp_path: Path
) -> None:
    install(code)
    (tmp_path / "f.txt").write_text("one\n")
    assert read(tmp_path / "f.txt") == ["one"]
    (tmp_path / "f.sub").write_text("one\n")
    with pytest.raises(CorpusError, match=rf"'subtitles' \(subtitles:FORMAT\) {message}"):
        open_corpus("c", tmp_path / "f.sub")
