"""Indexing of a layer: new contexts are quantized and segments merged, in another process for large layers.

The engine holds Python's lock until it is finished, seconds for 20,000 contexts: in this process no thread could search
or encode meanwhile. Files that the engine replaces stay readable for processes that have them mapped, so a shard that
is open here answers with its old content until it is loaded again.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import qdrant_edge as edge

from latentbank.bank.store.embedded.engine import (
    add_payload_indexes,
    engine_failed,
    layer_config,
    read_ahead,
)
from latentbank.bank.store.embedded.full_disk import unwatched
from latentbank.bank.store.embedded.other_process import can_start, require_success, start

if TYPE_CHECKING:
    from latentbank.bank.store.embedded.lock import BankLock

# A layer with fewer contexts is indexed in this process: that takes less time than another one needs to start.
_OTHER_PROCESS_FROM = 4096
# How far the process is ranked behind others, in steps of `nice`.
_NICENESS = 10
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Optimization:
    """Settings of a layer that is being indexed; the fields are the arguments of `layer_config`."""

    hidden_size: int
    quantization: str
    ef_construct: int
    graph: int
    largest: int
    segments: int
    scan: int


@dataclass(frozen=True)
class Task:
    """A layer to index.

    Attributes:
        path: the layer's folder; everything in it has been flushed.
        target: see `Optimization`.
        contexts: how many it holds.
    """

    path: Path
    target: Optimization
    contexts: int


def in_other_processes(contexts: int, lock: BankLock | None) -> bool:
    """Return whether a layer of so many contexts is indexed in another process."""
    return contexts >= _OTHER_PROCESS_FROM and lock is not None and can_start()


def optimize(tasks: Sequence[Task], lock: BankLock | None, *, read: bool) -> list[edge.EdgeShard]:
    """Index layers; those that other processes index, all at once.

    Nothing else may write to the layers meanwhile; shards that are open on them may read.

    Args:
        tasks: the layers.
        lock: the bank's lock, which the other processes hold too, even if they outlive this one.
        read: the bank is being searched, and searches have priority: the other processes then use idle processor time
            only, which on a busy machine is little.

    Returns:
        The layers' new shards; those that were open before must be closed.

    Raises:
        OSError: it failed; the message says why.
        Exception: the engine's, which has no other class.
    """
    if lock is None or not all(in_other_processes(task.contexts, lock) for task in tasks):
        return [optimize_here(task.path, task.target) for task in tasks]
    _optimize_in_other_processes(tasks, lock, read=read)
    for task in tasks:
        read_ahead(task.path)
    return [edge.EdgeShard.load(str(task.path), None) for task in tasks]


def _optimize_in_other_processes(tasks: Sequence[Task], lock: BankLock, *, read: bool) -> None:
    """Index each layer in another process, which inherits the descriptor of `lock`, and wait for all of them."""
    children = []
    with ExitStack() as started:
        try:
            for task in tasks:
                descriptor = started.enter_context(lock.lend())
                told = [str(task.path), os.getpid(), descriptor, *astuple(task.target)]
                children.append(started.enter_context(start(__name__, told, [descriptor])))
                _lower_priority(children[-1].pid, read=read)
            answers = [child.communicate() for child in children]
        except BaseException:
            for child in children:
                child.kill()
            for child in children:
                child.wait()
            raise
    for child, (output, complaint) in zip(children, answers, strict=True):
        require_success(child, "indexes", output, complaint)


def _lower_priority(pid: int, *, read: bool) -> None:
    with suppress(OSError):  # it may have ended already
        if read and hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)


def optimize_here(path: Path, target: Optimization) -> edge.EdgeShard:
    """Index a layer in this process, and return its new shard; one that was open before must be closed."""
    # The engine accepts other settings only while it loads a shard.
    shard = edge.EdgeShard.load(str(path), layer_config(*astuple(target)))
    try:
        bank = path.parent.name
        with unwatched():
            # What is merged gets its payload indexes anew, so they are first made after it. A layer that gets a graph
            # has them before: contexts of one word are then stored side by side, which needs their index.
            if target.graph:
                add_payload_indexes(shard, bank)
            shard.optimize()
            add_payload_indexes(shard, bank)
        shard.flush()
    except BaseException:
        shard.close()
        raise
    return shard


def _end_with(parent: int) -> None:
    """Have the system kill this process when `parent` ends, so that the bank's lock is free soon (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)


def main() -> None:
    """Index the layer that the one argument names; an error is the last line of the output."""
    from latentbank.bank.store.embedded.lock import record_indexer  # not for those that only write to layers

    path, parent, lock, *target = json.loads(sys.argv[1])
    _end_with(parent)
    record_indexer(lock)
    try:
        optimize_here(Path(path), Optimization(*target)).close()
    except BaseException as error:
        if not engine_failed(error) and not isinstance(error, OSError):
            raise
        print(" ".join(str(error).split()) or type(error).__name__)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
