"""Reading one image with the demo VLM through the graph, exactly and as planned: time, recall, and the machine's limit.

    python -m benchmarks.reading --states DIR --contexts 100000 --json reading.json

The bank holds hidden states of real sentences, made and kept in DIR as search.py makes them. The image is a held-out
scene of 224 x 224 pixels, read at nine visual layers against every bank layer in `--layers`. Each scene is read once in
each way, in turn, after another scene has warmed up model, bank and page cache. What no exact search can be faster than
is measured in the same process: conversion, products and top-k alone, of vectors in memory. There is nothing to compare
with: the reference library does not read VLMs of this kind.
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
from benchmarks.products import picture_limits
from benchmarks.scenes import filled_bank, scenes_parser
from benchmarks.truth import TIE
from latentbank.text import layer_numbers

_MODULE = "benchmarks.reading"
WAYS = ("graph", "exact", "auto")


def main() -> None:
    """Measure and print the table."""
    arguments = scenes_parser(_MODULE, __doc__, images=10).parse_args()
    layers = layer_numbers(arguments.layers)
    with filled_bank(arguments, layers) as work:
        found = in_child(
            _MODULE, "read", work=work, layers=layers, images=arguments.images, contexts=arguments.contexts
        )
    rows = [row for way in WAYS for row in _rows(way, found)]
    sizes = {
        "contexts a layer": arguments.contexts,
        "bank layers": arguments.layers,
        "visual layers": ",".join(map(str, found["visual_layers"])),
        "visual tokens": found["tokens"],
        "images": arguments.images,
    }
    where = machine()
    show("Reading an image", sizes, rows, where)
    write_json(arguments.json, sizes, rows, found, where)


def _rows(way: str, found: dict[str, Any]) -> list[Row]:
    """Return the rows of one way."""
    times = found["ways"][way]
    searches = min(times["searches"])
    dtype = "bfloat16" if "bfloat16" in times["taken"] else "float32"
    limit = found["limits"][dtype]
    recall = {int(layer): share for layer, share in found["recall"][way].items()}
    least = min(recall.values())
    return [
        Row(
            f"{way}: one image, of it forward pass and searches ({times['taken']})",
            "",
            f"{statistics.median(times['seconds']):.2f} s, {statistics.median(times['forward']):.2f} s, "
            f"{statistics.median(times['searches']):.2f} s",
            statistics.median(times["seconds"]),
            " s",
            most=3.0,
        ),
        Row(
            f"{way}: searches against conversion, products and top-k in {dtype}",
            f"{limit:.2f} s",
            f"{searches:.2f} s",
            searches / limit,
            most=None if way == "graph" else 1.2,
        ),
        Row(
            f"{way}: recall@5 by visual layer, the least counts (ties within {TIE:g} count)",
            "",
            ", ".join(f"{layer}: {share:.4f}" for layer, share in recall.items()),
            least,
            "",
            least={"graph": None, "exact": 1.0, "auto": 0.99}[way],
        ),
    ]


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


def _shares(found: Sequence[Sequence[Any]], exact: Sequence[Sequence[Any]]) -> float:
    """Return recall@5: the share of neighbors at least as near as the fifth nearest, on average."""
    return statistics.mean(
        sum(neighbor.cosine >= nearest[-1].cosine - TIE for neighbor in near) / len(nearest)
        for near, nearest in zip(found, exact, strict=True)
    )


def _recalls(bank: Any, rows: Any, layers: Sequence[int], visual_layer: int) -> dict[str, float]:
    """Return the recall of visual tokens of one layer in each way, averaged over bank layers.

    The truth is the engine's own exact search, in another way than the one that is judged.
    """
    shares: dict[str, list[float]] = {way: [] for way in WAYS}
    scan = bank.store.scan
    for layer in layers:
        bank.store.scan = lambda *_: None
        exact = bank.search(rows, layer, 5, search="exact")
        bank.store.scan = scan
        for way in WAYS:
            found = bank.search(rows, layer, 5, search=way, visual_layer=visual_layer)
            shares[way].append(_shares(found, exact))
    return {way: statistics.mean(of_way) for way, of_way in shares.items()}


def read(work: str, layers: Sequence[int], images: int, contexts: int) -> dict[str, Any]:
    """Read scenes in turn in each way; return the seconds of each, and of its forward pass and its searches."""
    from latentbank.bank.opening import open_bank
    from latentbank.demo.scenes import EVALUATION, load_things, make_scene
    from latentbank.demo.vlm import load_demo
    from latentbank.query.evaluation.evaluate import evaluation_layers
    from latentbank.query.evaluation.patches import grid_of
    from latentbank.query.reading.visual import read_image

    things = load_things()
    model = load_demo(deepest_layer=lambda total: max(evaluation_layers(total)))
    visual_layers = evaluation_layers(model.num_layers)
    scenes = [make_scene(things, seed, grid_of(model)) for seed in EVALUATION[: images + 1]]
    ways: dict[str, dict[str, Any]] = {way: {"seconds": [], "forward": [], "searches": []} for way in WAYS}
    with open_bank(BANK, data_dir=Path(work) / "banks") as bank:
        forward, searches = _Stopwatch(), _Stopwatch()
        # Both work as for every caller; they are only timed.
        model.visual_tokens = forward.timed(model.visual_tokens)  # type: ignore[method-assign]
        for name in ("search", "scan"):
            setattr(bank.store, name, searches.timed(getattr(bank.store, name)))
        for number, scene in enumerate(scenes):
            for way, times in ways.items():
                forward.seconds = searches.seconds = 0.0
                began = time.perf_counter()
                reading = read_image(bank, model, scene.image, visual_layers, bank_layers=layers, search=way)
                seconds = time.perf_counter() - began
                if number:  # the first warms up
                    times["seconds"].append(seconds)
                    times["forward"].append(forward.seconds)
                    times["searches"].append(searches.seconds)
                times["taken"] = ", ".join(sorted(set(bank.searched.values())))
        tokens = len(reading.tokens) // len(visual_layers)
        limits = picture_limits(
            contexts, model.language.hidden_size, tokens * len(visual_layers), len(layers)
        )
        some = model.visual_tokens([scene.image for scene in scenes[1:2]], visual_layers)
        recall: dict[str, dict[int, float]] = {way: {} for way in WAYS}
        for layer in visual_layers:
            rows = np.concatenate([image.states[layer].numpy() for image in some])
            for way, share in _recalls(bank, rows, layers, layer).items():
                recall[way][layer] = share
    return {
        "ways": ways,
        "recall": recall,
        "limits": limits,
        "visual_layers": visual_layers,
        "tokens": tokens,
    }


_TASKS = {"read": read}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
