"""Memory: how often Python looks for dead cycles, and what is kept of what was freed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import gc
from latentbank.memory import collect_rarely

looks = []
gc.callbacks.append(lambda phase, _info: looks.append(phase))
kept = [[] for _ in range(20_000)]
before = len(looks)
collect_rarely()
kept += [[] for _ in range(20_000)]
print(before > 0, len(looks) == before)
for _ in range(100_000):
    cycle = []
    cycle.append(cycle)
print(len(looks) > before)
"""


def test_python_looks_for_dead_cycles_less_often_and_still_does() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]


# Blocks of 20 MB are taken, written to and freed again and again, as the blocks of a forward pass do.
_BLOCKS = """
import resource
from latentbank import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [bytearray(b"x") * (20 << 20) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
usual = faults()
with memory.memory_kept():
    faults()
    kept = faults()
again = faults()
memory.keep_memory()
with memory.memory_kept():
    faults()
for_good = faults()
print(usual, kept, again, for_good)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told to keep memory")
def test_freed_memory_is_kept_while_a_job_runs_or_for_good() -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKS], capture_output=True, text=True, check=True, env=own
    )
    usual, kept, again, for_good = map(int, done.stdout.split())
    assert kept < usual / 4
    assert again > 4 * kept
    assert for_good < usual / 4
