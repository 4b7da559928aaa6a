"""Work for a process of its own, which has to import it."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass

from latentbank.errors import LatentBankError
from latentbank.progress import Progress


@dataclass(frozen=True)
class Counted:
    """What was counted."""

    to: int
    what: str


def count(to: int, progress: Progress) -> Counted:
    print("noise on standard output")
    os.write(1, b"noise from C++\n")
    for done in range(1, to + 1):
        progress.update(done, to)
    return Counted(to, "é")


def names(_progress: Progress) -> list[str]:
    return ["10.0.0.7"]


def refuse(_progress: Progress) -> None:
    raise LatentBankError("Name a folder.", argument="plan")


def fail(_progress: Progress) -> None:
    raise ValueError("unheard of\nin two lines")


def abort(_progress: Progress) -> None:
    print("Failed to connect to GCS", file=sys.stderr, flush=True)
    os._exit(1)


def crash(_progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
