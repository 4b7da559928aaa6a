"""A disk that another program fills between the check for room and the write ends the process with a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and mounts of Linux")

# A page of a mapped file that was cut has no place on the disk, as on one that is full.
CUT = """
import mmap, os, shutil, sys, threading
from pathlib import Path
from latentbank.bank.store.embedded.full_disk import watch
folder = Path(sys.argv[1])
watch(folder)
free = int(sys.argv[2])
shutil.disk_usage = lambda path: shutil._ntuple_diskusage(1 << 40, 0, free)
file = open(folder / "file", "w+b")
file.truncate(1 << 16)
pages = mmap.mmap(file.fileno(), 1 << 16)
file.truncate(0)
pages[5000] = 1
"""

# The room is gone after the store has looked for it, in each of its steps.
FILLED = """
import shutil, sys
from pathlib import Path
from latentbank.bank.store.embedded.engine import KINDS
from latentbank.bank.store.embedded.layers import Layers
import qdrant_edge as edge
folder = Path(sys.argv[1])
layers = Layers("bank", folder, there=True, writable=True)
layers.create(1, 64, "int8", 100)
with layers.use(1, write=True) as shard:
    for field in ("corpus", "word"):
        shard.update(edge.UpdateOperation.create_field_index(field, KINDS["keyword"]))
    shard.flush()
if sys.argv[2] == "load":
    layers.close_shards()
else:
    layers.shard(1, write=True)
layers.has_room = lambda needed: True
with open(folder / "other", "wb", buffering=0) as other:
    try:
        while other.write(bytes(1 << 20)):
            pass
    except OSError:
        pass
shard = layers.shard(1, write=True)
for start in range(0, 100_000, 64):
    points = [edge.Point(i, [1.0] * 64, {"caption": "x" * 500}) for i in range(start, start + 64)]
    shard.update(edge.UpdateOperation.upsert_points(points))
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def test_a_page_without_room_on_a_full_disk(tmp_path: Path) -> None:
    ended = run(CUT, tmp_path, 1 << 20)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.strip() == (
        f"latentbank: The disk of {tmp_path} is full (1 MiB free); make room and run the command again, it continues "
        "where it stopped."
    )


def test_a_page_that_is_missing_for_another_reason(tmp_path: Path) -> None:
    ended = run(CUT, tmp_path, 1 << 30)
    assert (ended.returncode, ended.stderr) == (-signal.SIGBUS, "")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 150 MiB in memory, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("step", ["load", "write"])
def test_another_program_fills_the_disk(step: str, small_disk: Path) -> None:
    ended = run(FILLED, small_disk, step)
    assert ended.returncode == 2, ended
    assert ended.stderr.strip() == (
        f"latentbank: The disk of {small_disk} is full (0 MiB free); make room and run the command again, it continues "
        "where it stopped."
    )
