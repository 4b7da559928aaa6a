"""The time of a corrected reading over that of a plain one, in the same precision and run.

    python -m benchmarks.correction_time --data-dir .demo/banks --bank demo --json correction.json
    python -m benchmarks.correction_time --contexts 100000 --layers 8,12

The demo VLM is calibrated on a few scenes, unless it is already; with more of them that takes longer, but a reading
does not. Then scenes are read in turn, each plain and corrected one after the other. A reading is the forward pass and
the searches. Without --bank, contexts are made up (benchmarks/while_adding.py). Times are those of the clock; beside
them are those of the processor, which other programs on the machine change less.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Row, answer_child, in_child, machine, parser_of, show, write_json
from benchmarks.while_adding import made_up
from latentbank.text import layer_numbers

_MODULE = "benchmarks.correction_time"
_MADE_UP, _BATCH = "made-up", 1024
_MOST = 1.3


def main() -> None:
    """Measure and print the table."""
    parser = parser_of(_MODULE, __doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, help="folder of embedded banks; a temporary one by default")
    add("--bank", help="a bank of the demo's LLM; made up by default")
    add("--contexts", type=int, default=100_000, help="contexts a layer that are made up")
    add("--layers", default="8,12", help="bank layers")
    add(
        "--visual-layers", default="0,4,8,15", help="visual layers, by default those that are read by default"
    )
    add("--calibration", type=int, default=5, help="scenes that the VLM is calibrated on")
    add("--images", type=int, default=10, help="scenes that are read")
    add("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    layers = layer_numbers(arguments.layers)
    with tempfile.TemporaryDirectory() as temporary:
        found = in_child(
            _MODULE,
            "read",
            data_dir=(arguments.data_dir or Path(temporary)).resolve(),
            bank=arguments.bank,
            contexts=arguments.contexts,
            layers=layers,
            visual_layers=layer_numbers(arguments.visual_layers),
            calibration=arguments.calibration,
            images=arguments.images,
        )
    rows = []
    for what, times in found["times"].items():
        plain, corrected = (median(values) for values in (times["plain"], times["corrected"]))
        least = {side: min(values) for side, values in times.items()}
        most = _MOST if what in ("neighbors, clock", "distinct words, clock") else None
        rows.append(
            Row(
                what,
                f"{plain:.3f} s (least {least['plain']:.3f})",
                f"{corrected:.3f} s (least {least['corrected']:.3f})",
                median(b / a for a, b in zip(times["plain"], times["corrected"], strict=True)),
                most=most,
            )
        )
    sizes = {
        "contexts a layer": found["contexts"],
        "bank layers": arguments.layers,
        "visual layers": arguments.visual_layers,
        "visual tokens": found["tokens"],
        "images": arguments.images,
    }
    where = machine()
    show("Corrected readings", sizes, rows, where, ("plain", "corrected"))
    write_json(arguments.json, sizes, rows, found, where)


def fill(data_dir: Path, language: Any, layers: Sequence[int], count: int) -> None:
    """Fill a bank with made-up contexts and index it."""
    from latentbank.bank.manifest import CorpusEntry
    from latentbank.ingest.banks import create_bank

    with create_bank(_MADE_UP, language, layers, data_dir=data_dir, url="") as bank:
        for layer in layers:
            bank.store.defer_index(layer, count)
            for at in range(0, count, _BATCH):
                bank.add(layer, *made_up(at, min(_BATCH, count - at)))  # type: ignore[arg-type]
        bank.commit()
        for layer in layers:
            bank.store.index(layer)
        bank.record(CorpusEntry("concepts", "", count, count, count, {}, complete=True))


def read(
    data_dir: str,
    bank: str | None,
    contexts: int,
    layers: Sequence[int],
    visual_layers: Sequence[int],
    calibration: int,
    images: int,
) -> dict[str, Any]:
    """Return the seconds of plain and corrected readings of scenes."""
    from latentbank.bank.opening import list_banks, open_bank
    from latentbank.demo.scenes import EVALUATION, VALIDATION, load_things, make_scene
    from latentbank.demo.vlm import load_demo
    from latentbank.errors import QueryError
    from latentbank.progress import shown
    from latentbank.query.calibration.calibrate import calibrate
    from latentbank.query.calibration.calibration import load_calibration
    from latentbank.query.calibration.correction import Correction
    from latentbank.query.lenses.latent import LatentLens
    from latentbank.query.reading.visual import read_images

    folder, things = Path(data_dir), load_things()
    model = load_demo(folder / ".models" / "demo", deepest_layer=max(visual_layers))
    if bank is None and _MADE_UP not in list_banks(data_dir=folder, url=""):
        fill(folder, model.language, layers, contexts)
    with open_bank(bank or _MADE_UP, data_dir=folder, url="") as opened, shown("calibrating", "") as progress:
        try:
            load_calibration(opened, model)
        except QueryError:
            others = [make_scene(things, seed).image for seed in VALIDATION[:calibration]]
            calibrate(opened, model, others, visual_layers, bank_layers=layers, progress=progress)
        plain = LatentLens(opened, layers)
        corrected = plain.corrected(Correction(load_calibration(opened, model)))
        scenes = [make_scene(things, seed).image for seed in EVALUATION[: images + 1]]

        times: dict[str, dict[str, list[float]]] = {}
        for what, lenses in (
            ("neighbors", {"plain": plain, "corrected": corrected}),
            ("distinct words", {"plain": plain.distinct(), "corrected": corrected.distinct()}),
        ):
            for number, scene in enumerate(scenes):
                for side, lens in lenses.items():
                    clock, processor = time.perf_counter(), time.process_time()
                    list(read_images(model, [scene], [lens], visual_layers))
                    seconds = time.perf_counter() - clock, time.process_time() - processor
                    if number:  # the first warms up
                        for kind, value in zip(("clock", "processor"), seconds, strict=True):
                            times.setdefault(f"{what}, {kind}", {}).setdefault(side, []).append(value)
        tokens = len(model.visual_tokens([scenes[0]], [0])[0])
        return {"times": times, "contexts": opened.count(layers[0]), "tokens": tokens}


_TASKS = {"read": read}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
