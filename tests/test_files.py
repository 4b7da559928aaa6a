"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentbank.errors import LatentBankError
from latentbank.files import write_whole


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
