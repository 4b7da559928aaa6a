"""Search, side by side: the reference library's exact scan against an embedded bank of the same contexts.

    python -m benchmarks.search --states DIR --contexts 150000 --layers 4,8,12,16 --json search.json

Both sides hold the same hidden states of real sentences and answer the same queries, each in a process of
its own with a warm page cache. The states are encoded once and kept in DIR (see states.py). Queries are
hidden states of tokens in sentences that no context comes from, spread over the layers; to every second one
noise is added, a Gaussian vector of 0.5 to 1.5 times its length, because a visual token is farther from
every text token than a text token is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    MIB,
    PeakMemory,
    Row,
    answer_child,
    folder_bytes,
    in_child,
    machine,
    memory,
    mib,
    model_file,
    parser_of,
    sentences_file,
    show,
    warm,
    write_json,
)
from benchmarks.states import CORPUS, States, make_states, open_states, subset
from benchmarks.truth import STORAGE, TIE, Floats, judge, unit

BANK = "benchmark"
_BATCH = 1024
_REPEATS = 3


def main() -> None:
    """Measure both sides and print the table."""
    arguments = _parser().parse_args()
    layers = [int(layer) for layer in arguments.layers.split(",")]
    states = search_states(arguments, layers, arguments.queries, make=arguments.states_only)
    if arguments.states_only:
        return
    count = arguments.contexts or states.about["contexts"]
    queries = make_queries(states, layers, arguments.queries)
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        built = _build(states, work, count, layers)
        np.save(work / "queries.npy", queries)
        given = {"work": work, "layers": layers, "top_k": arguments.top_k}
        settings = {name: getattr(arguments, name) for name in ("ef", "oversampling")}
        warm(work / "reference")
        theirs = in_child("benchmarks.search", "ask-reference", **given)
        warm(work / "banks")
        ours = in_child("benchmarks.search", "ask-latentbank", **given, settings=settings)
        judged = judge(states, count, layers, queries, arguments.top_k, theirs, ours)
        disk = {"reference": folder_bytes(work / "reference"), "latentbank": folder_bytes(work / "banks")}
    rows = _rows(arguments, count, layers, theirs, ours, judged, disk)
    sizes = {
        "contexts a layer": count,
        "layers": arguments.layers,
        "queries": arguments.queries,
        "top-k": arguments.top_k,
        "model": states.about["model"],
        "sentences": states.about["used_sentences"],
        "contexts per token": states.about["contexts_per_token"],
    }
    measured = {
        side: {key: value for key, value in found.items() if key not in ("neighbors", "exact")}
        for side, found in (("reference", theirs), ("latentbank", ours))
    }
    where = machine()
    show("Search", sizes, rows, where)
    write_json(
        arguments.json, sizes, rows, measured | {"judged": judged, "disk": disk, "built": built}, where
    )


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.search", __doc__)
    add = parser.add_argument
    add("--states", type=Path, required=True, help="folder that keeps the encoded contexts and queries")
    add("--states-only", action="store_true", help="encode what is missing in --states, then stop")
    add("--model", help="the LLM, when states have to be made: a directory or GGUF (the wheel's GGUF)")
    add("--contexts", type=int, help="contexts a layer (all those in --states)")
    add("--contexts-per-token", type=int, default=50, help="of the states, when they have to be made")
    add("--layers", default="4,8,12,16")
    add("--queries", type=int, default=576)
    add("--top-k", type=int, default=5)
    add("--ef", type=int, help="latentbank's setting instead of its default")
    add("--oversampling", type=float, help="latentbank's setting instead of its default")
    add("--work", type=Path, help="folder that keeps both indexes, reused if they fit (a temporary one)")
    add("--json", type=Path, help="file for the results")
    return parser


def search_states(
    arguments: argparse.Namespace, layers: Sequence[int], queries: int = 0, *, make: bool = False
) -> States:
    """Open the states that the arguments name, or make them: anew where `make` says so, or if there are none."""
    if (arguments.states / "states.json").exists() and not make:
        states = open_states(arguments.states)
        missing = set(layers) - set(states.layers)
        if missing or (arguments.contexts or 0) > states.about["contexts"]:
            raise SystemExit(f"{arguments.states} holds {states.about}; it cannot give what is asked for.")
        return states
    if not arguments.contexts:
        raise SystemExit("Say with --contexts how many contexts are to be encoded.")
    return make_states(
        arguments.states,
        arguments.model or str(model_file()),
        sentences_file(),
        arguments.contexts,
        layers,
        arguments.contexts_per_token,
        max(1000, queries),
    )


def make_queries(states: States, layers: Sequence[int], count: int) -> Floats:
    """Give `[count, hidden]` queries: held-out tokens of the layers in turn, every second one noisy."""
    held_out = {layer: states.held_out(layer) for layer in layers}
    available = len(held_out[layers[0]])
    if count > available:
        raise SystemExit(f"The states hold {available} held-out tokens; ask for at most so many queries.")
    queries = np.stack([held_out[layers[i // 2 % len(layers)]][i] for i in range(count)])
    random = np.random.default_rng(11)
    noise = unit(random.standard_normal(queries.shape))
    lengths = np.linalg.norm(queries, axis=1, keepdims=True) * random.uniform(0.5, 1.5, (count, 1))
    lengths[::2] = 0
    noisy: Floats = (queries + noise * lengths).astype(np.float32)
    return noisy


# -- building ----------------------------------------------------------------------------------


def _build(states: States, work: Path, count: int, layers: Sequence[int]) -> dict[str, Any]:
    """Make both indexes from the states, each in a process of its own, unless they are there."""
    wanted = {"states": states.about, "contexts": count, "layers": list(layers)}
    note = work / "built.json"
    if note.exists():
        found: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        if found["wanted"] != wanted:
            raise SystemExit(f"{work} holds indexes of other contexts; choose another folder or delete it.")
        return found
    given = {"states": states.directory.resolve(), "work": work, "count": count, "layers": layers}
    built = {
        "wanted": wanted,
        "reference": in_child("benchmarks.search", "build-reference", **given),
        "latentbank": in_child("benchmarks.search", "build-latentbank", **given),
    }
    note.write_text(json.dumps(built), encoding="utf-8")
    return built


def build_reference(states: str, work: str, count: int, layers: Sequence[int]) -> dict[str, Any]:
    """Save the reference's index, made as its `build_index` makes it from hidden states."""
    import torch
    from latentlens import ContextualIndex  # type: ignore[import-untyped]  # it has no types
    from torch.nn.functional import normalize

    source = open_states(Path(states))
    rows = subset(source, count)
    chosen = set(rows.tolist())
    captions: dict[str, str] = {}  # one string a sentence, as build_index shares them
    metadata = [
        {
            "token_str": payload["token"],
            "token_id": payload["token_id"],
            "caption": captions.setdefault(payload["caption"], payload["caption"]),
            "position": payload["position"],
        }
        for i, (_, payload) in enumerate(source.contexts())
        if i in chosen
    ]
    data = {
        layer: {
            "embeddings": normalize(torch.from_numpy(source.hidden(layer)[rows]), dim=-1),
            "metadata": metadata,
        }
        for layer in layers
    }
    began = time.monotonic()
    ContextualIndex(data).save(Path(work) / "reference")
    return {"save_seconds": time.monotonic() - began}


def build_latentbank(
    states: str, work: str, count: int, layers: Sequence[int], quantization: str = "int8"
) -> dict[str, Any]:
    """Fill a bank with the states and index it."""
    from latentbank.bank.manifest import CorpusEntry
    from latentbank.bank.opening import create_bank

    source = open_states(Path(states))
    about = source.about
    rows = subset(source, count)
    chosen = set(rows.tolist())
    contexts = [pair for i, pair in enumerate(source.contexts()) if i in chosen]
    began = time.monotonic()
    with create_bank(
        BANK,
        data_dir=Path(work) / "banks",
        model=about["model"],
        fingerprint=about["fingerprint"],
        layers=layers,
        num_layers=max(layers),
        hidden_size=source.hidden(layers[0]).shape[1],
        quantization=quantization,
    ) as bank:
        for layer in layers:
            bank.store.defer_index(layer, count)
            hidden = source.hidden(layer)
            for at in range(0, count, _BATCH):
                part = contexts[at : at + _BATCH]
                bank.add(
                    layer,
                    [id_ for id_, _ in part],
                    hidden[rows[at : at + _BATCH]],
                    [payload for _, payload in part],  # type: ignore[misc]  # JSON, which has no TypedDicts
                )
                bank.commit()
        loaded = time.monotonic()
        for layer in layers:
            bank.store.index(layer)
        bank.record(CorpusEntry(CORPUS, "", about["used_sentences"], 0, count, {}, complete=True))
        indexed = time.monotonic()
    return {"load_seconds": loaded - began, "index_seconds": indexed - loaded}


# -- asking ------------------------------------------------------------------------------------


def ask_reference(work: str, layers: Sequence[int], top_k: int) -> dict[str, Any]:
    """Open the reference's index and search it."""
    began = time.monotonic()
    import torch
    from latentlens import ContextualIndex

    queries = torch.from_numpy(np.load(Path(work) / "queries.npy"))
    imported = time.monotonic()
    return _asked(
        imported - began,
        lambda: ContextualIndex.from_directory(Path(work) / "reference", layers=layers),
        lambda index, some: index.search(queries[:some], top_k=top_k, layers=layers),
        len(queries),
        lambda n: (n.contextual_layer, n.caption, n.position, n.similarity),
    )


def ask_latentbank(work: str, layers: Sequence[int], top_k: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Open the bank and search it."""
    began = time.monotonic()
    import latentbank.bank.opening
    import latentbank.bank.store.embedded.store  # which opening would import: the reference has its torch by now

    queries = np.load(Path(work) / "queries.npy")
    imported = time.monotonic()
    return _asked(
        imported - began,
        lambda: latentbank.bank.opening.open_bank(BANK, data_dir=Path(work) / "banks", **settings),
        lambda opened, some: opened.search(queries[:some], layers, top_k),
        len(queries),
        lambda n: (n.bank_layer, n.caption, n.position, n.cosine),
        exact=lambda opened: opened.search(queries, layers, top_k, exact=True),
    )


def _asked(
    import_seconds: float,
    open_index: Callable[[], Any],
    search: Callable[[Any, int], list[list[Any]]],
    count: int,
    plain: Callable[[Any], tuple[Any, ...]],
    exact: Callable[[Any], list[list[Any]]] | None = None,
) -> dict[str, Any]:
    """Time opening, the first query and all queries; measure memory."""
    before = memory()
    began = time.monotonic()
    index = open_index()
    opened = time.monotonic()
    search(index, 1)
    first = time.monotonic()
    answers = search(index, count)
    seconds = []
    for _ in range(_REPEATS):
        start = time.monotonic()
        search(index, count)
        seconds.append(time.monotonic() - start)
    after = memory()
    with PeakMemory() as watched:
        search(index, count)
    result = {
        "import_seconds": import_seconds,
        "open_seconds": opened - began,
        "first_query_seconds": first - opened,
        "search_seconds": seconds,
        "imports": vars(before),
        "after": vars(after),
        "peak_anonymous": watched.anonymous,
        "neighbors": [[plain(one) for one in row] for row in answers],
    }
    if exact is not None:
        start = time.monotonic()
        found = exact(index)
        result["exact_seconds"] = time.monotonic() - start
        result["exact"] = [[plain(one) for one in row] for row in found]
    return result


# -- the table ---------------------------------------------------------------------------------


def _rows(
    arguments: argparse.Namespace,
    count: int,
    layers: Sequence[int],
    theirs: dict[str, Any],
    ours: dict[str, Any],
    judged: dict[str, Any],
    disk: dict[str, int],
) -> list[Row]:
    seconds = {"r": min(theirs["search_seconds"]), "l": min(ours["search_seconds"])}
    opening = {
        side: found["open_seconds"] + found["first_query_seconds"]
        for side, found in (("r", theirs), ("l", ours))
    }
    starting = {side: opening[side] + found["import_seconds"] for side, found in (("r", theirs), ("l", ours))}
    grown = {
        side: max(found["after"]["anonymous"] - found["imports"]["anonymous"], 0)
        for side, found in (("r", theirs), ("l", ours))
    }
    peak = {
        side: max(found["peak_anonymous"] - found["imports"]["anonymous"], 0)
        for side, found in (("r", theirs), ("l", ours))
    }
    resident = {side: found["after"]["resident"] for side, found in (("r", theirs), ("l", ours))}
    k, n = arguments.top_k, arguments.queries
    size = f"{n} queries × {len(layers)} layers × {count:,} contexts"
    faster = {(4, 150_000): 4.0, (1, 600_000): 15.0}.get((len(layers), count))
    rate = {side: n / value for side, value in seconds.items()}
    r, mine = judged["reference"], judged["latentbank"]
    same = (judged["exact_same"] + judged["exact_ties"]) / n
    return [
        Row(
            f"search, {size} (queries/s)",
            f"{rate['r']:.1f}",
            f"{rate['l']:.1f}",
            rate["l"] / rate["r"],
            least=faster,
        ),
        Row(
            f"recall@{k} (ties within {TIE:g} count)",
            f"{r['recall']:.4f}",
            f"{mine['recall']:.4f}",
            mine["recall"],
            "",
            least=0.99,
        ),
        Row("top-1", f"{r['top_1']:.4f}", f"{mine['top_1']:.4f}", mine["top_1"], ""),
        Row(
            "open and first query, warm page cache",
            f"{opening['r']:.2f} s",
            f"{opening['l']:.2f} s",
            opening["r"] / opening["l"],
            least=3.0,
        ),
        Row(
            "… with imports",
            f"{starting['r']:.2f} s",
            f"{starting['l']:.2f} s",
            starting["r"] / starting["l"],
        ),
        Row(
            "anonymous memory beyond imports, after the queries",
            mib(grown["r"]),
            mib(grown["l"]),
            grown["l"] / max(grown["r"], MIB),
            most=0.5,
        ),
        Row("… its peak during a search", mib(peak["r"]), mib(peak["l"]), peak["l"] / max(peak["r"], MIB)),
        Row(
            "resident memory after the queries, imports and mapped files too",
            mib(resident["r"]),
            mib(resident["l"]),
            resident["l"] / resident["r"],
        ),
        Row(
            f"exact=True: queries with the reference's contexts ({judged['exact_ties']} after ties)",
            f"{n}",
            f"{judged['exact_same'] + judged['exact_ties']}",
            same,
            "",
            least=1.0,
        ),
        Row("… greatest difference of cosines", "", "", judged["cosine_apart"], "", most=STORAGE),
        Row(
            "disk",
            mib(disk["reference"]),
            mib(disk["latentbank"]),
            disk["latentbank"] / disk["reference"],
        ),
    ]


_TASKS = {
    "build-reference": build_reference,
    "build-latentbank": build_latentbank,
    "ask-reference": ask_reference,
    "ask-latentbank": ask_latentbank,
}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
