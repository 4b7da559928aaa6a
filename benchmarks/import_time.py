"""How long `import latentbank` takes beyond the interpreter's own start: the best of seven runs of each.

python -m benchmarks.import_time
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import machine, place

RUNS = 7
ROOT = Path(__file__).parent.parent
_COUNT = "import sys; print(len(sys.modules))"


def seconds(code: str) -> float:
    """Return the shortest of seven runs of a Python program."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        times.append(time.perf_counter() - started)
    return min(times)


def modules(code: str) -> int:
    """Return how many modules a Python program has loaded at its end."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {_COUNT}"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    empty, package = seconds("pass"), seconds("import latentbank")
    figures = {
        "interpreter_s": round(empty, 4),
        "with_latentbank_s": round(package, 4),
        "beyond_s": round(package - empty, 4),
        "modules_beyond": modules("import latentbank") - modules("pass"),
    }
    where = machine()
    print(
        f"import latentbank: {figures['beyond_s']:.3f} s and {figures['modules_beyond']} modules beyond the "
        f"interpreter's own {empty:.3f} s, best of {RUNS}; {place(where)}, {where['date'][:10]}"
    )
    if arguments.json:
        text = json.dumps({"figures": figures, "machine": where}, indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
