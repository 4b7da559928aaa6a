"""Progress of work that takes over two seconds: a bar on a terminal, plain lines elsewhere.

rich, which draws the bar, is imported only when a bar is shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

# Seconds of work before its first plain line.
FIRST_LINE = 2.0


class Progress(Protocol):
    """What a long-running function reports its work to."""

    def update(self, done: float, total: float | None = None) -> None:
        """Report that `done` of `total` units are finished; `total` is None if it is unknown."""

    def stage(self, what: str, unit: str) -> None:
        """Report that other work begins, counted from zero in its own unit."""

    def note(self, text: str) -> None:
        """Show a short text beside the count from now on, such as what was spent."""


@dataclass
class Silent:
    """Progress that is not shown: the default of every library function."""

    def update(self, done: float, total: float | None = None) -> None:
        """Do nothing."""

    def stage(self, what: str, unit: str) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


class _Lines:
    """Plain lines for logs and pipes: the first after two seconds, then at growing intervals of up to 30 seconds."""

    def __init__(self, what: str, unit: str, out: TextIO) -> None:
        self.out = out
        self.done, self.total = 0.0, None  # type: float, float | None
        self.stage(what, unit)

    def stage(self, what: str, unit: str) -> None:
        self.what, self.unit, self.every = what, unit, FIRST_LINE
        self.started = self.printed = time.monotonic()
        self.first: float | None = None
        self.noted = ""

    def note(self, text: str) -> None:
        self.noted = text

    def update(self, done: float, total: float | None = None) -> None:
        if self.first is None:
            self.first = done  # a resumed job starts above zero; the rate counts this run's work only
        self.done, self.total = done, total
        now = time.monotonic()
        if now - self.printed >= self.every:
            self.printed, self.every = now, min(self.every * 2, 30.0)
            print(self.line(now), file=self.out, flush=True)

    def line(self, now: float) -> str:
        rate = (self.done - (self.first or 0.0)) / max(now - self.started, 1e-9)
        text = f"{self.what}: {self.done:,.0f}"
        if self.total is not None:
            text += f" of {self.total:,.0f}"
        text += f" {self.unit}, {_rate(rate)}"
        if self.total is not None and rate > 0:
            text += f", {duration((self.total - self.done) / rate)} left"
        return text + (f", {self.noted}" if self.noted else "")


class _Bar:
    """A progress bar, drawn by rich."""

    def __init__(self, what: str, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[noted]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.bar.add_task(what, total=None, rate="", unit=unit, noted="")
        self.stage(what, unit)

    def stage(self, what: str, unit: str) -> None:
        self.bar.reset(self.task, total=None, description=what, rate="", unit=unit, noted="")
        self.started = time.monotonic()
        self.first: float | None = None

    def note(self, text: str) -> None:
        self.bar.update(self.task, noted=text)

    def update(self, done: float, total: float | None = None) -> None:
        if self.first is None:
            self.first = done
        rate = (done - self.first) / max(time.monotonic() - self.started, 1e-9)
        self.bar.update(
            self.task,
            completed=int(done),
            total=None if total is None else int(total),
            rate=_rate(rate),
        )


@contextmanager
def shown(what: str, unit: str, out: TextIO | None = None) -> Iterator[Progress]:
    """Show progress on standard error while the block runs: a bar on a terminal, plain lines elsewhere.

    Args:
        what: the work, such as "ingesting".
        unit: what is counted, such as "contexts".
        out: where plain lines go; standard error by default.
    """
    stream = sys.stderr if out is None else out
    if stream.isatty():
        bar = _Bar(what, unit)
        with bar.bar:
            yield bar
    else:
        yield _Lines(what, unit, stream)


def _rate(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 or rate == 0 else f"{rate:.2g}/s"


def duration(seconds: float) -> str:
    """Return a duration as text: "42 s", "3 min 5 s", "2 h 10 min"."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60} s"
    return f"{s // 3600} h {s % 3600 // 60} min"
