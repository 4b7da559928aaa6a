"""Processes that an embedded bank starts from here, to index its layers and to write to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import latentbank

# The folder that `latentbank` is imported from; unresolved, because its folders are links in a checkout.
_HERE = str(Path(latentbank.__file__).parent.parent)


def can_start() -> bool:
    """Return whether this process can start another that shares a bank's lock.

    A program without Python's own executable (frozen, embedded) cannot start it; elsewhere than on POSIX no lock can be
    passed on.
    """
    return bool(sys.executable) and not getattr(sys, "frozen", False) and os.name == "posix"


def start(module: str, task: Any, descriptors: Sequence[int]) -> subprocess.Popen[str]:
    """Start a module as a program, with a task as JSON for its one argument.

    Args:
        module: its name.
        task: JSON-ready data.
        descriptors: open files that the other process inherits, under the same numbers.
    """
    # What this process can import, the other one can.
    paths = [_HERE, *(entry for entry in sys.path if isinstance(entry, str) and entry)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, json.dumps(task)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        pass_fds=descriptors,
        process_group=0,  # only this process gets Ctrl-C from the terminal; it then ends the other one
    )


def require_success(child: subprocess.Popen[str], what: str, output: str, complaint: str) -> None:
    """Check how another process has ended.

    Args:
        child: the process; it has ended.
        what: what it does to layers, such as "indexes".
        output: its output; the last line says what failed.
        complaint: its error output.

    Raises:
        OSError: it failed; the message says why.
    """
    code = child.returncode
    if code == -signal.SIGBUS:
        raise OSError("No space left for a page of a mapped file")
    if code < 0:
        name = signal.Signals(-code).name
        raise OSError(f"the process that {what} layers was ended by {name}, perhaps for lack of memory")
    if code:
        lines = (output or complaint).strip().splitlines() or [f"it ended with {code}"]
        raise OSError(lines[-1])
