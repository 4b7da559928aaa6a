"""The runner of stages: each writes its result whole, and is skipped as long as what it is made from is unchanged.

A stage has a folder of its own. `stage.json` in it says for which inputs it was begun, and whether it is done. A run
that was killed, run again, skips what is done and lets the stage that was begun go on from what its folder holds.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentbank.errors import LatentBankError
from latentbank.files import make_folder, write_whole
from latentbank.locks import alone_in
from latentbank.progress import Progress, Silent, duration
from latentbank.query.reproduction.measured import Measured, read_table, write_table
from latentbank.version import __version__

_STATE, _ROWS = "stage.json", "rows.parquet"


@dataclass(frozen=True)
class Stage:
    """One step of a reproduction.

    Attributes:
        name: such as "readings/demo"; also the path of its folder.
        inputs: JSON-ready; if it changes, the stage runs again.
        run: does the work. It is given the stage's folder, which it may keep files in, and a progress to report to, and
            returns what it measured.
        after: names of stages that it is made from; if one of them runs again with other inputs, so does this one.
        version: to be raised when the stage's code changes what it measures.
    """

    name: str
    inputs: Mapping[str, Any]
    run: Callable[[Path, Progress], Iterable[Measured]]
    after: tuple[str, ...] = ()
    version: int = 1


@dataclass(frozen=True)
class Done:
    """A stage that is done.

    Attributes:
        name: the stage's.
        rows: what it measured.
        seconds: how long it took when it ran.
        skipped: whether it was done before.
    """

    name: str
    rows: tuple[Measured, ...]
    seconds: float
    skipped: bool


def run_stages(
    stages: Sequence[Stage],
    folder: Path,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Done]:
    """Run stages in their order and return what they measured, with what stages that were done before measured.

    Args:
        stages: a stage comes after those that it is made from.
        folder: holds a folder for each stage.
        progress: receives each stage's progress.
        say: called with a line of text at each stage.

    Raises:
        LatentBankError: the folder cannot be written, another process runs stages in it, or a stage fails.
    """
    progress = progress or Silent()
    digests: dict[str, str] = {}
    done: list[Done] = []
    with alone_in(folder, f"works in {folder}"):
        for number, stage in enumerate(stages, start=1):
            digest = digests[stage.name] = digest_of(stage, [digests[name] for name in stage.after])
            at, head = folder / stage.name, f"{number} of {len(stages)}, {stage.name}"
            if (found := _done_before(at, digest, stage.name)) is not None:
                say(f"{head}: done before, in {duration(found.seconds)}")
                done.append(found)
                continue
            say(f"{head} ...")
            done.append(_run(stage, at, digest, progress))
            say(f"{head}: done in {duration(done[-1].seconds)}")
    return done


def digest_of(stage: Stage, before: Sequence[str]) -> str:
    """Return the digest of what a stage is made from; `before` are the digests of the stages it comes after."""
    made_from = [__version__, stage.name, stage.version, stage.inputs, list(before)]
    return hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=16).hexdigest()


def _run(stage: Stage, at: Path, digest: str, progress: Progress) -> Done:
    begun = _state(at)
    try:
        if begun.get("digest") != digest and at.exists():
            shutil.rmtree(at)
        make_folder(at)
    except OSError as error:
        raise LatentBankError(f"{at} cannot be written ({error.strerror or error}).") from None
    spent = float(begun.get("seconds", 0.0)) if begun.get("digest") == digest else 0.0
    _write_state(at, digest, spent, done=False)
    started = time.monotonic()
    try:
        progress.stage(stage.name, "parts")
        rows = tuple(stage.run(at, progress))
    finally:  # the time before a stop counts, too
        seconds = spent + time.monotonic() - started
        _write_state(at, digest, seconds, done=False)
    write_table(at / _ROWS, rows, {"stage": stage.name})
    _write_state(at, digest, seconds, done=True)
    return Done(stage.name, rows, seconds, skipped=False)


def _done_before(at: Path, digest: str, name: str) -> Done | None:
    state = _state(at)
    if state.get("digest") != digest or not state.get("done") or not (at / _ROWS).is_file():
        return None
    rows, _ = read_table(at / _ROWS)
    return Done(name, tuple(rows), float(state.get("seconds", 0.0)), skipped=True)


def _state(at: Path) -> dict[str, Any]:
    """Return what a stage's folder says about itself; empty if it says nothing that can be read."""
    try:
        state = json.loads((at / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(at: Path, digest: str, seconds: float, *, done: bool) -> None:
    state = {"digest": digest, "done": done, "seconds": round(seconds, 1)}
    write_whole(at / _STATE, (json.dumps(state) + "\n").encode())
