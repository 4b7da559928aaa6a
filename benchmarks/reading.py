"""Reading one image with the demo VLM: its time, and the share of the forward pass and the searches in it.

    python -m benchmarks.reading --states DIR --contexts 100000 --json reading.json

The bank holds hidden states of real sentences, made and kept in DIR as search.py makes them. The image is a held-out
scene of 224 x 224 pixels, read at nine visual layers against every bank layer in `--layers`. Each scene is read once,
after another scene has warmed up model, bank and page cache. There is nothing to compare with: the reference library
does not read VLMs of this kind.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Row, answer_child, in_child, machine, show, write_json
from benchmarks.indexes import BANK
from benchmarks.limits import measure_limits
from benchmarks.scenes import filled_bank, scenes_parser
from benchmarks.truth import TIE
from latentbank.text import layer_numbers

_MODULE = "benchmarks.reading"


def main() -> None:
    """Measure and print the table."""
    arguments = scenes_parser(_MODULE, __doc__, images=10).parse_args()
    layers = layer_numbers(arguments.layers)
    with filled_bank(arguments, layers) as work:
        found = in_child(_MODULE, "read", work=work, layers=layers, images=arguments.images)
    seconds = statistics.median(found["seconds"])
    vectors = arguments.contexts * len(layers)
    best = measure_limits()
    products = best.product_seconds(found["tokens"] * len(found["visual_layers"]), vectors, found["width"])
    rows = [
        Row(
            "one image, after loading",
            "",
            f"{seconds:.2f} s ({min(found['seconds']):.2f} to {max(found['seconds']):.2f})",
            seconds,
            " s",
            most=3.0,
        ),
        Row(
            "share of the forward pass and the searches",
            "",
            f"{statistics.median(found['forward']):.2f} s and {statistics.median(found['searches']):.2f} s",
            statistics.median(found["share"]),
            "",
            least=0.8,
            share=products / statistics.median(found["searches"]),
            limit="the speed of a product with all contexts (the searches)",
        ),
    ]
    rows += [
        Row(
            f"recall@5 of visual layer {layer}, ties within {TIE:g} count",
            "",
            f"{found['recall'][layer]:.4f}",
            found["recall"][layer],
            "",
        )
        for layer in found["recall"]
    ]
    sizes = {
        "contexts a layer": arguments.contexts,
        "bank layers": arguments.layers,
        "visual layers": ",".join(map(str, found["visual_layers"])),
        "visual tokens": found["tokens"],
        "images": arguments.images,
    }
    where = machine()
    show("Reading an image", sizes, rows, where)
    write_json(arguments.json, sizes, rows, found | {"limits": best.to_dict()}, where)


class _Stopwatch:
    """Measures the time during which at least one of the timed calls is running; they may overlap."""

    def __init__(self) -> None:
        self.seconds, self._under_way, self._since, self._guard = 0.0, 0, 0.0, threading.Lock()

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does what `call` does, and is timed."""

        def timed(*given: Any, **named: Any) -> Any:
            with self._guard:
                if not self._under_way:
                    self._since = time.perf_counter()
                self._under_way += 1
            try:
                return call(*given, **named)
            finally:
                with self._guard:
                    self._under_way -= 1
                    if not self._under_way:
                        self.seconds += time.perf_counter() - self._since

        return timed


def _recall(bank: Any, rows: Any, layers: Sequence[int]) -> float:
    """Return recall@5, averaged over bank layers: the share of neighbors at least as near as the fifth nearest."""
    shares = []
    for layer in layers:
        found = bank.search(rows, layer, 5, ef=bank.settings.ef_visual)
        for near, nearest in zip(found, bank.search(rows, layer, 5, exact=True), strict=True):
            shares.append(
                sum(neighbor.cosine >= nearest[-1].cosine - TIE for neighbor in near) / len(nearest)
            )
    return statistics.mean(shares)


def read(work: str, layers: Sequence[int], images: int) -> dict[str, Any]:
    """Read scenes in turn; return the seconds of each, and of its forward pass and its searches."""
    from latentbank.bank.opening import open_bank
    from latentbank.demo.scenes import EVALUATION, load_things, make_scene
    from latentbank.demo.vlm import load_demo
    from latentbank.query.evaluation.evaluate import evaluation_layers
    from latentbank.query.evaluation.patches import grid_of
    from latentbank.query.reading.visual import read_image

    things = load_things()
    result: dict[str, Any] = {"seconds": [], "forward": [], "searches": [], "share": []}
    model = load_demo(deepest_layer=lambda total: max(evaluation_layers(total)))
    visual_layers = evaluation_layers(model.num_layers)
    scenes = [make_scene(things, seed, grid_of(model)) for seed in EVALUATION[: images + 1]]
    with open_bank(BANK, data_dir=Path(work) / "banks") as bank:
        forward, searches = _Stopwatch(), _Stopwatch()
        # Both work as for every caller; they are only timed.
        model.visual_tokens = forward.timed(model.visual_tokens)  # type: ignore[method-assign]
        bank.store.search = searches.timed(bank.store.search)  # type: ignore[method-assign]
        for number, scene in enumerate(scenes):
            forward.seconds = searches.seconds = 0.0
            began = time.perf_counter()
            reading = read_image(bank, model, scene.image, visual_layers, bank_layers=layers)
            seconds = time.perf_counter() - began
            if number:  # the first warms up
                result["seconds"].append(seconds)
                result["forward"].append(forward.seconds)
                result["searches"].append(searches.seconds)
                result["share"].append((forward.seconds + searches.seconds) / seconds)
        images_tokens = model.visual_tokens([scene.image for scene in scenes[1:]], visual_layers)
        result["recall"] = {
            layer: _recall(
                bank, np.concatenate([tokens.states[layer].numpy() for tokens in images_tokens]), layers
            )
            for layer in visual_layers
        }
    result["width"] = model.language.hidden_size
    return result | {"visual_layers": visual_layers, "tokens": len(reading.tokens) // len(visual_layers)}


_TASKS = {"read": read}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
