"""What the benchmarks of searches share: encoded contexts, queries, and the indexes of both sides."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import answer_child, in_child, model_file, sentences_file
from benchmarks.states import CORPUS, States, make_states, open_states, subset
from benchmarks.truth import Floats, unit

BANK = "benchmark"
_MODULE = "benchmarks.indexes"
_BATCH = 1024


def search_states(
    arguments: argparse.Namespace, layers: Sequence[int], queries: int = 0, *, make: bool = False
) -> States:
    """Return the states that the arguments name; they are made if there are none, or if `make` is set."""
    if (arguments.states / "states.json").exists() and not make:
        states = open_states(arguments.states)
        missing = set(layers) - set(states.layers)
        if missing or (arguments.contexts or 0) > states.about["contexts"]:
            raise SystemExit(
                f"{arguments.states} holds {states.about}, which does not cover the layers and contexts requested."
            )
        return states
    if not arguments.contexts:
        raise SystemExit("Give --contexts, the number of contexts to encode.")
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
    """Return queries `[count, hidden]`: held-out tokens of the layers in turn, with noise added to every second one."""
    held_out = {layer: states.held_out(layer) for layer in layers}
    available = len(held_out[layers[0]])
    if count > available:
        raise SystemExit(f"The states hold {available} held-out tokens; request at most so many queries.")
    queries = np.stack([held_out[layers[i // 2 % len(layers)]][i] for i in range(count)])
    random = np.random.default_rng(11)
    noise = unit(random.standard_normal(queries.shape))
    lengths = np.linalg.norm(queries, axis=1, keepdims=True) * random.uniform(0.5, 1.5, (count, 1))
    lengths[::2] = 0
    noisy: Floats = (queries + noise * lengths).astype(np.float32)
    return noisy


def build_indexes(states: States, work: Path, count: int, layers: Sequence[int]) -> dict[str, Any]:
    """Build both indexes from the states, each in a process of its own, unless `work` holds them; return timings."""
    settings = {"states": states.about, "contexts": count, "layers": list(layers)}
    note = work / "built.json"
    if note.exists():
        found: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        if found["wanted"] != settings:
            raise SystemExit(f"{work} holds indexes of other contexts; choose another folder or delete it.")
        return found
    given = {"states": states.directory.resolve(), "work": work, "count": count, "layers": layers}
    built = {
        "wanted": settings,
        "reference": in_child(_MODULE, "build-reference", **given),
        "latentbank": in_child(_MODULE, "build-latentbank", **given),
    }
    note.write_text(json.dumps(built), encoding="utf-8")
    return built


def build_reference(states: str, work: str, count: int, layers: Sequence[int]) -> dict[str, Any]:
    """Save the reference's index, made from the states as `build_index` makes it from its hidden states."""
    import torch
    from latentlens import ContextualIndex  # type: ignore[import-untyped]  # it has no types
    from torch.nn.functional import normalize

    source = open_states(Path(states))
    rows = subset(source, count)
    chosen = set(rows.tolist())
    captions: dict[str, str] = {}  # one string for each sentence, as in build_index
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


_TASKS = {"build-reference": build_reference, "build-latentbank": build_latentbank}

if __name__ == "__main__":
    answer_child(_TASKS, sys.argv[1:])
