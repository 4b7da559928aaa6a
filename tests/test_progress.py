"""Progress on a pipe: plain lines with the work done, its total, the rate and the time left."""

from __future__ import annotations

import io
import subprocess
import sys
from types import SimpleNamespace

import pytest

import latentbank.progress
from latentbank.progress import duration, shown


def test_plain_lines_show_done_total_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 12.0, 20.0, 100.0, 101.0, 104.0])
    monkeypatch.setattr(latentbank.progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    out = io.StringIO()
    with shown("ingesting", "contexts", out) as progress:
        progress.update(1000, 3000)  # at 10 s; a resumed job starts above zero
        progress.update(1200, 3000)  # at 12 s: too soon for another line
        progress.update(2000, 3000)  # at 20 s
        progress.stage("indexing", "layers")  # at 100 s
        progress.update(0, 4)
        progress.update(2, 4)
    first, second, third = out.getvalue().splitlines()
    assert first.startswith("ingesting: 1,000 of 3,000 contexts")
    assert second == "ingesting: 2,000 of 3,000 contexts, 50/s, 20 s left"
    assert third == "indexing: 2 of 4 layers, 0.5/s, 4 s left"


def test_an_unknown_total_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(latentbank.progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    out = io.StringIO()
    with shown("planning", "sentences", out) as progress:
        progress.update(500)
    assert out.getvalue() == "planning: 500 sentences, 0/s\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations_as_text(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rich_is_not_loaded_where_no_bar_is_shown() -> None:
    code = (
        "import sys, latentbank.progress as p\n"
        "with p.shown('planning', 'sentences') as progress: progress.update(1)\n"
        "sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE).returncode == 0
