"""Puts a layer's new contexts away, indexes them and merges segments, in a process of its own where there are many.

The engine holds Python's lock until it is ready, seconds for 20,000 contexts: in this process no thread could search
or encode meanwhile. Files that the engine replaces stay readable for whoever has them mapped, so that a shard which is
open here goes on answering with what it held, until it is loaded again.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import qdrant_edge as edge

import latentbank
from latentbank.bank.store.embedded.engine import engine_failed, layer_config, read_ahead

# A layer with fewer contexts is optimized here: that takes less time than a process needs to start.
_APART_FROM = 4096
# How far the process stands back behind others, in steps of `nice`.
_NICENESS = 10
_PR_SET_PDEATHSIG = 1
# Where `latentbank` is imported from; not resolved, as its folders are links in a checkout.
_HERE = str(Path(latentbank.__file__).parent.parent)


@dataclass(frozen=True)
class Optimization:
    """What a layer is to be like; the fields are `layer_config`'s."""

    hidden_size: int
    quantization: str
    ef_construct: int
    graph: int
    largest: int
    segments: int


def optimize(path: Path, wanted: Optimization, contexts: int, lock: int, *, read: bool) -> edge.EdgeShard:
    """Make a layer's segments what is wanted; nobody else may write to it meanwhile, whoever has it open may read.

    Args:
        path: the layer's folder; everything in it has been flushed.
        wanted: see `Optimization`.
        contexts: how many it holds.
        lock: descriptor of the bank's lock, which a process that outlives this one still holds.
        read: somebody searches, and comes first: until the end only processor time that nobody else wants is used,
            which on a machine that is busy with other things is little.

    Returns:
        The layer's shard as it is now; one that was open before must be closed.

    Raises:
        OSError: it did not work; the message says why.
        Exception: the engine's, which has no other.
    """
    # A program without Python's own executable (frozen, embedded) cannot start it; elsewhere no lock can be handed on.
    alone = not sys.executable or getattr(sys, "frozen", False) or os.name != "posix"
    if contexts < _APART_FROM or alone:
        return _optimize(path, wanted)
    task = json.dumps([str(path), os.getpid(), *astuple(wanted)])
    # What this process can import, the other one can.
    paths = [_HERE, *(one for one in sys.path if isinstance(one, str) and one)]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, task],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        pass_fds=[lock],
        process_group=0,  # Ctrl-C in the terminal is for us, who decide what becomes of the process
    ) as child:
        try:
            _stand_back(child.pid, read=read)
            said, complaint = child.communicate()
        except BaseException:
            child.kill()
            child.wait()
            raise
    if child.returncode == -signal.SIGBUS:
        raise OSError("No space left for a page of a mapped file")
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise OSError(f"the process that indexes layers was ended by {name}, perhaps for want of memory")
    if child.returncode:
        lines = (said or complaint).strip().splitlines() or [f"it ended with {child.returncode}"]
        raise OSError(lines[-1])
    read_ahead(path)
    return edge.EdgeShard.load(str(path), None)


def _stand_back(pid: int, *, read: bool) -> None:
    with suppress(OSError):  # it may have ended already
        if read and hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)


def _optimize(path: Path, wanted: Optimization) -> edge.EdgeShard:
    # The engine takes other settings only while it loads a shard.
    shard = edge.EdgeShard.load(str(path), layer_config(*astuple(wanted)))
    try:
        shard.optimize()
        shard.flush()
    except BaseException:
        shard.close()
        raise
    return shard


def _end_with(parent: int) -> None:
    """Be killed when the process that wants this is: its bank's lock shall be free at once (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)


def main() -> None:
    """Do what the one argument says; an error is the last line of the output."""
    path, parent, *wanted = json.loads(sys.argv[1])
    _end_with(parent)
    try:
        _optimize(Path(path), Optimization(*wanted)).close()
    except BaseException as error:
        if not engine_failed(error) and not isinstance(error, OSError):
            raise
        print(" ".join(str(error).split()) or type(error).__name__)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
