"""Searches of one layer in processor time: scans beside conversion, products and top-k alone, and the engine's own.

    python -m benchmarks.scans --states DIR --work DIR --contexts 100000

Processor time of one core can be compared on a machine that does other things as well, which wall time cannot. The
queries are the visual tokens of one scene of the demo at nine visual layers; the bank is that of reading.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Row, machine, show
from benchmarks.indexes import BANK
from benchmarks.limits import best
from benchmarks.products import product_limit
from benchmarks.scenes import filled_bank, scenes_parser
from benchmarks.truth import TIE
from latentbank.bank.opening import open_bank
from latentbank.bank.scan import FLOAT32, Precision, Scan
from latentbank.bank.search import prepared
from latentbank.text import layer_numbers

_REPEATS = 3


def main() -> None:
    """Measure and print the table."""
    arguments = scenes_parser("benchmarks.scans", __doc__, images=1).parse_args()
    layers = layer_numbers(arguments.layers)
    torch.set_num_threads(1)
    with filled_bank(arguments, layers) as work, open_bank(BANK, data_dir=Path(work) / "banks") as bank:
        states, visual_layers = _visual_tokens()
        rows = list(_rows(bank, np.concatenate(list(states)), layers, visual_layers))
    sizes = {"contexts": arguments.contexts, "queries": sum(map(len, states)), "layers": arguments.layers}
    show("Searches of a layer, seconds of one core", sizes, rows, machine(), ("limit", "latentbank"))


def _visual_tokens() -> tuple[list[Any], list[int]]:
    """Return the hidden states of a scene's visual tokens at each visual layer, and the layers."""
    from latentbank.demo.scenes import EVALUATION, load_things, make_scene
    from latentbank.demo.vlm import load_demo
    from latentbank.query.evaluation.evaluate import evaluation_layers
    from latentbank.query.evaluation.patches import grid_of

    model = load_demo(deepest_layer=lambda total: max(evaluation_layers(total)))
    layers = evaluation_layers(model.num_layers)
    scene = make_scene(load_things(), EVALUATION[1], grid_of(model))
    (tokens,) = model.visual_tokens([scene.image], layers)
    return [tokens.states[layer].numpy() for layer in layers], layers


def _rows(bank: Any, states: Any, layers: list[int], visual_layers: list[int]) -> Any:
    """Yield the times of the first bank layer, and the recall in all of them."""
    queries, store, layer = prepared(bank.manifest, states, "queries", None), bank.store, layers[0]
    count, hidden = bank.count(layer), bank.hidden_size
    for precision in (FLOAT32, Precision("bfloat16")):
        dtype = getattr(torch, precision.dtype)
        limit = product_limit(count, hidden, len(queries), dtype, timer=time.process_time)
        taken = _seconds(lambda precision=precision: store.scan(layer, queries, 5, None, Scan(precision)))
        yield Row(f"scan, {precision}", f"{limit:.2f} s", f"{taken:.2f} s", taken / limit, most=1.2)
    for ef in (bank.settings.ef, bank.settings.ef_visual):
        taken = _seconds(lambda ef=ef: store.search(layer, queries, 5, None, False, False, ef))
        compared = store.work(layer, ef, hidden).compared * len(queries)
        yield Row(f"graph, ef {ef}", "", f"{taken:.2f} s", taken / compared * 1e6, " µs a comparison")
    some = queries[:20]
    taken = _seconds(lambda: store.search(layer, some, 5, None, True, False))
    yield Row("the engine's exact search", "", "", taken / count / len(some) * 1e9, " ns a comparison")
    each = len(queries) // len(visual_layers)
    found = {
        way: [bank.search(states, one, 5, search=way, visual_layer=0) for one in layers]
        for way in ("exact", "auto", "graph")
    }
    for way in ("auto", "graph"):
        for number, visual_layer in enumerate(visual_layers):
            shares = [
                np.mean([neighbor.cosine >= right[-1].cosine - TIE for neighbor in near])
                for exact, other in zip(found["exact"], found[way], strict=True)
                for right, near in list(zip(exact, other, strict=True))[number * each : (number + 1) * each]
            ]
            what = f"{way}: recall@5 of visual layer {visual_layer}"
            yield Row(what, "", "", float(np.mean(shares)), "", least=0.99 if way == "auto" else None)


def _seconds(call: Callable[[], object]) -> float:
    """Return the processor seconds of the fastest of some calls."""
    return best(call, _REPEATS, time.process_time)


if __name__ == "__main__":
    main()
