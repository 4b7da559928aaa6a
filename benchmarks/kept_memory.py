"""Forward passes with freed memory returned to the system, as glibc does by itself, and kept, as jobs and commands do.

    python -m benchmarks.kept_memory --data-dir .demo/banks --json kept.json

The demo's VLM reads scenes, eight at once, down to layer 16 of its LLM. Each side runs in processes of its own, in
turn. Page faults are those of the process: each clears and maps 4 KiB.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Row, answer_child, in_child, machine, parser_of, show, write_json

_MODULE = "benchmarks.kept_memory"
_LAYER, _BATCH = 16, 8


def main() -> None:
    """Measure both sides, and print the table."""
    parser = parser_of(_MODULE, __doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder of banks that keeps the demo's LLM")
    add("--images", type=int, default=64)
    add("--rounds", type=int, default=3)
    add("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"returned": [], "kept": []}
    for _ in range(given.rounds):
        for side, runs in found.items():
            folder = str(given.data_dir.resolve())
            runs.append(in_child(_MODULE, "run", data_dir=folder, kept=side == "kept", images=given.images))
    speed, faults = (
        {side: statistics.median(run[name] for run in runs) for side, runs in found.items()}
        for name in ("images a second", "faults")
    )
    ratio = speed["kept"] / speed["returned"]
    rows = [
        Row("images a second", f"{speed['returned']:.1f}", f"{speed['kept']:.1f}", ratio),
        Row("page faults an image", f"{faults['returned']:.0f}", f"{faults['kept']:.0f}", None),
    ]
    where = machine()
    sizes = {"images": given.images, "rounds": given.rounds}
    show("Freed memory", sizes, rows, where, ("returned", "kept"))
    write_json(given.json, sizes, rows, found, where)


def run(data_dir: str, images: int, *, kept: bool) -> dict[str, float]:
    """Return how fast forward passes are, and their page faults."""
    from latentbank.demo.scenes import VALIDATION, load_things, make_scene
    from latentbank.demo.vlm import load_demo
    from latentbank.memory import keep_memory

    if kept:
        keep_memory()
    model = load_demo(Path(data_dir) / ".models" / "demo", deepest_layer=_LAYER)
    things = load_things()
    scenes = [make_scene(things, seed).image for seed in VALIDATION[:images]]

    def see() -> None:
        for at in range(0, images, _BATCH):
            model.visual_tokens(scenes[at : at + _BATCH], [0, _LAYER])

    see()  # warms up
    before, started = _faults(), time.perf_counter()
    see()
    seconds = time.perf_counter() - started
    return {"images a second": images / seconds, "faults": (_faults() - before) / images}


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


_TASKS = {"run": run}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
