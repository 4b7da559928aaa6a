"""Memory: how often Python looks for dead cycles."""

from __future__ import annotations

import subprocess
import sys

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
