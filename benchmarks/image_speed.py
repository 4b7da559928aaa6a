"""How fast a large bank of images is searched: by the vectors of words, through its index, exactly, and as it chooses.

    python -m benchmarks.image_speed fill --data-dir .demo/scores/banks --work .bench/images
    python -m benchmarks.image_speed speed --data-dir .demo/scores/banks --work .bench/images

`fill` stores `--images` images of 49 tokens at one layer: the tokens of the demo's scenes, which
`benchmarks.image_search tokens` has encoded, and copies of them with noise. `speed` times searches there for the
vectors of the 250 things, one at a time and 200 at once, and compares what they find with an exact search; beside
them, what the index takes without payloads, and whole questions as `images where` asks them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine, parser_of
from benchmarks.image_search import LAYER, bank_settings, default_layer, encode, store_tokens
from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.opening import open_images
from latentbank.bank.opening import open_bank
from latentbank.bank.planning import WAYS
from latentbank.bank.rotation import unit
from latentbank.query.images.contexts import term_of_bank
from latentbank.query.images.search import How, ImageSearch
from latentbank.query.images.space import Floats, words_of

_ASKED, _TOP = 200, 20
_ALONE, _AGAIN = 60, 5  # queries that are asked alone, and how often all are asked at once
_QUESTIONS = 8


def main() -> None:
    """Measure, print and write JSON."""
    parser = parser_of("benchmarks.image_speed", __doc__)
    add = parser.add_argument
    add("part", choices=["fill", "speed"])
    add("--work", type=Path, required=True, help="folder of benchmarks.image_search")
    add("--data-dir", type=Path, help="folder of the banks of contexts")
    add("--bank", default="descriptive", help="a bank of plain cosine")
    add("--layers", default=str(LAYER), help="visual layers that are encoded if they are not yet")
    add("--llm", type=Path, help="folder that keeps the LLM")
    add("--images", type=int, default=10_000)
    add("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    results = {"fill": fill, "speed": speed}[given.part](given)
    if given.json is not None:
        given.json.write_text(
            json.dumps({"machine": machine(), **results}, indent=1) + "\n", encoding="utf-8"
        )


def fill(given: argparse.Namespace) -> dict[str, Any]:
    """Store the bank of images whose speed is measured, and the words' vectors beside it."""
    names = encode(given).names
    with open_bank(given.bank, data_dir=given.data_dir, url="") as source:
        chosen = default_layer(source)
        words = words_of(source, chosen)
        terms = [term_of_bank(source, name, [chosen]) for name in names]
        queries = unit(np.stack([term.vectors[chosen] for term in terms if term is not None]) - words.mean)
        np.save(given.work / "queries.npy", queries)
        seconds = store_tokens(given.work, "speed", source.manifest, given.images)
    print(f"stored and indexed {given.images:,} images in {seconds:.0f} s")
    return {"fill_seconds": seconds}


def speed(given: argparse.Namespace) -> dict[str, Any]:
    """Time searches, and compare them with the exact ones."""
    queries = np.load(given.work / "queries.npy")[:_ASKED]
    results: dict[str, Any] = {}
    with open_images("speed", bank_settings(given.work)) as images:
        exact = [{patch.id for patch in row} for row in images.nearest(queries, LAYER, _TOP, search="exact")]
        for way in WAYS:
            results[way] = _timed(
                lambda rows, way=way: images.nearest(rows, LAYER, _TOP, search=way), queries, exact
            )
            print(way, images.searched[LAYER], results[way], flush=True)
        ef = images.settings.ef_visual
        bare = _timed(
            lambda rows: images.store.search(LAYER, rows, _TOP, payloads=False, ef=ef), queries, exact
        )
        results["index, no payloads, one batch"] = bare
        print("index, no payloads, one batch", bare, flush=True)
        results["patches"] = images.count(LAYER)
        if given.data_dir is not None:
            results["where_s"] = _asked_whole(given, images)
            print("images where, seconds", results["where_s"])
    return results


def _timed(ask: Callable[[Floats], Sequence[Sequence[Any]]], queries: Floats, exact: list[set[str]]) -> Any:
    """Return milliseconds of one query, seconds of all of them, and how many of the nearest were found."""
    ask(queries)  # what is measured once is measured here
    single, found = [], []
    for query in queries[:_ALONE]:
        start = time.perf_counter()
        found += ask(query[None])
        single.append(1000 * (time.perf_counter() - start))
    together = []
    for _ in range(_AGAIN):
        start = time.perf_counter()
        all_found = ask(queries)
        together.append(time.perf_counter() - start)
    return {
        "one_ms": statistics.median(single),
        "one_worst_ms": max(single),
        "recall_one": _recall(found, exact),
        "together_s": statistics.median(together),
        "together_all_s": together,
        "recall_together": _recall(all_found, exact),
    }


def _asked_whole(given: argparse.Namespace, images: ImageBank) -> list[float]:
    """Return the seconds of questions as `images where` asks them; the first measures the mean and makes the words."""
    seconds = []
    with open_bank(given.bank, data_dir=given.data_dir, url="") as bank:
        search = ImageSearch(images, bank)
        for name in encode(given).names[:_QUESTIONS]:
            start = time.perf_counter()
            search.where(name, How(limit=20, layers=LAYER, pictures=False))
            seconds.append(time.perf_counter() - start)
    return seconds


def _recall(found: Any, exact: Any) -> float:
    shares = [
        len({patch.id for patch in row} & true) / len(true) for row, true in zip(found, exact, strict=False)
    ]
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
