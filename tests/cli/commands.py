"""The command line as tests call it: in this process, in a data folder of the test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from latentbank import progress
from latentbank.cli import main
from tests import real_server

Run = Callable[..., tuple[int, str, str]]


def caller(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], data_dir: Path, columns: int
) -> Run:
    """Return a function that runs a command and returns exit code, standard output and standard error."""
    monkeypatch.setenv("LATENTBANK_DATA_DIR", str(data_dir))
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in ("LATENTBANK_URL", "LATENTBANK_BANK", "LATENTBANK_API_KEY", "LATENTBANK_METRIC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in real_server.environment().items():
        monkeypatch.setenv(name, value)
    # What a command writes does not depend on how busy the machine is; tests/test_progress.py has the lines.
    monkeypatch.setattr(progress, "FIRST_LINE", float("inf"))

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["latentbank", *map(str, words)])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 0
        out, err = capfd.readouterr()
        return code, out, err

    return call
