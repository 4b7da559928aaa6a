"""Files are written whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from latentbank.errors import LatentBankError
from latentbank.files import move, remove, write_whole
from tests.house import modules


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"
    write_whole(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LatentBankError, match=r"cannot be written .No space left on device"):
        write_whole(path, b"new and longer")
    assert path.read_bytes() == b"old"
    with pytest.raises(LatentBankError, match="cannot be written"):
        write_whole(path / "below", b"a file is no folder")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed, in order, by the names of files and folders."""
    found: list[str] = []
    sync, replace = os.fsync, os.replace

    def record_sync(descriptor: int) -> None:
        found.append(f"sync {Path(f'/proc/self/fd/{descriptor}').resolve().name}")
        sync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        found.append(f"move {Path(source).name} {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    return found


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="names of open files are from /proc"
)


@needs_proc
def test_content_then_name_then_folder_reach_the_disk(tmp_path: Path, calls: list[str]) -> None:
    write_whole(tmp_path / "a" / "b" / "file", b"new")
    made, (content, moved, folder) = calls[:2], calls[2:]
    assert made == [f"sync {tmp_path.name}", "sync a"]  # the folders that were missing
    unfinished = content.removeprefix("sync ")
    assert unfinished.startswith(".file.")
    assert (moved, folder) == (f"move {unfinished} file", "sync b")


@needs_proc
def test_moved_folders_and_removed_files_reach_the_disk(tmp_path: Path, calls: list[str]) -> None:
    (tmp_path / "L08.new" / "segments").mkdir(parents=True)
    (tmp_path / "L08.new" / "segments" / "data").touch()
    move(tmp_path / "L08.new", tmp_path / "L08")
    remove(tmp_path / "L08" / "segments" / "data")
    assert calls == [
        "sync segments",
        "sync L08.new",
        "move L08.new L08",
        f"sync {tmp_path.name}",
        "sync segments",
    ]


def test_every_rename_in_the_code_syncs_its_folder() -> None:
    """Files are renamed by `latentbank.files` alone."""
    pattern = re.compile(
        r"os\.(replace|rename)\(|shutil\.move\(|\b(path|old|fresh|file|unfinished)\.(replace|rename)\("
    )
    for module in modules().values():
        if module.path.name != "files.py":
            assert not pattern.search(module.path.read_text(encoding="utf-8")), module.name
