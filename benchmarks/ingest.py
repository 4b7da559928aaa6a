"""Ingestion, side by side: the reference library's `build_index` against latentbank's whole job.

    python -m benchmarks.ingest --sentences 3000 --layers 4,8,12,16 --json ingest.json

Both sides get the same sentences and the same LLM, already in memory, each in a process of its own. latentbank's time
covers its whole job: creating the bank, planning, the LLM, writing, indexing, the ledger. In it, threads that wait
sleep, as in commands, unless OMP_WAIT_POLICY says otherwise. The bare forward pass is transformers' own decoder, cut
after the deepest layer, on the rows into which the plan's prefixes are packed. Nothing is collected, rotated or
written. It is timed before and after the job. The encoder alone collects the hidden states of the planned contexts and
writes nothing. `--dtype` is that of all but the reference, which knows float32 alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Memory,
    PeakMemory,
    Row,
    answer_child,
    forget_peak,
    in_child,
    machine,
    memory,
    model_file,
    parser_of,
    processor_seconds,
    read_lines,
    sentences_file,
    show,
    write_json,
)
from benchmarks.ingest_tables import comparison, memory_rows
from latentbank.text import layer_numbers

BANK = "benchmark"
CORPUS = "concepts"
_MODULE = "benchmarks.ingest"


def main() -> None:
    """Measure both sides for every size and print a table for each."""
    arguments = _parser().parse_args()
    layers = layer_numbers(arguments.layers)
    common: dict[str, Any] = {"model": _model(arguments.model), "layers": layers, "dtype": arguments.dtype}
    where = machine()
    tables: list[Row] = []
    measured: dict[str, Any] = {}
    sizes = {"layers": arguments.layers, "model": Path(common["model"]).name, "dtype": arguments.dtype}
    for sentences in arguments.sentences:
        found = _measure(sentences, arguments.reference_sentences, common, arguments.forward_tokens)
        rows = comparison(found, len(layers), max(layers))
        show(
            f"Ingestion of {sentences:,} sentences",
            sizes | {"contexts": found["latentbank"]["contexts"], "prefixes": found["latentbank"]["tokens"]},
            rows,
            where,
        )
        tables += rows
        measured[f"{sentences} sentences"] = found
    if arguments.memory_sentences:
        runs = {
            n: measured.get(f"{n} sentences", {}).get("latentbank")
            or in_child(_MODULE, "latentbank", sentences=n, **common)
            for n in arguments.memory_sentences
        }
        rows = memory_rows(runs)
        show("Peak memory of latentbank's whole job, from the loaded LLM on", sizes, rows, where)
        tables += rows
        measured["memory"] = {f"{n} sentences": run for n, run in runs.items()}
    write_json(
        arguments.json,
        sizes | {"sentences": arguments.sentences, "reference_sentences": arguments.reference_sentences},
        tables,
        measured,
        where,
    )


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(_MODULE, __doc__)
    add = parser.add_argument
    add(
        "--sentences",
        type=_numbers,
        default=[3000],
        help="use the first so many sentences of the wheel; several: 3000,30000",
    )
    add("--layers", default="4,8,12,16")
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add("--model", help="the LLM: a directory or a GGUF (the wheel's GGUF)")
    add(
        "--reference-sentences",
        type=int,
        help="run the reference on the first so many sentences only, as all may take hours; 0: not at all",
    )
    add("--forward-tokens", type=int, default=60_000, help="prefixes of the bare forward pass, at most")
    add("--memory-sentences", type=_numbers, help="compare latentbank's peak memory: 3000,30000")
    add("--json", type=Path, help="file for the results")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _model(name: str | None) -> str:
    """Return the LLM's name; a path is made absolute, as child processes have another working directory."""
    if name is None:
        return str(model_file())
    return str(Path(name).resolve()) if Path(name).exists() else name


def _measure(
    sentences: int, reference_sentences: int | None, common: dict[str, Any], forward_tokens: int
) -> dict[str, Any]:
    fewer = sentences if reference_sentences is None else min(sentences, reference_sentences)
    forward = {"sentences": sentences, "limit": forward_tokens, **common}
    return {
        "reference": in_child(_MODULE, "reference", sentences=fewer, **common) if fewer else None,
        "forward_before": in_child(_MODULE, "forward", **forward),
        "encoder": in_child(_MODULE, "encoder", **forward),
        "latentbank": in_child(_MODULE, "latentbank", sentences=sentences, **common),
        "forward_after": in_child(_MODULE, "forward", **forward),
    }


# -- what runs in a process of its own ---------------------------------------------------------


def run_reference(sentences: int, model: str, layers: Sequence[int], dtype: str) -> dict[str, Any]:
    """Time `build_index`, the model preloaded, in float32 whatever `dtype` is."""
    del dtype
    import latentlens  # type: ignore[import-untyped]  # it has no types
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, options = _where(model)
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    network: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)
    network.eval()
    lines = read_lines(sentences_file(), sentences)
    loaded = _loaded()
    with PeakMemory() as sampled:
        began = time.monotonic()
        index = latentlens.build_index(model, lines, layers=list(layers), model=network, tokenizer=tokenizer)
        seconds = time.monotonic() - began
    return {
        "sentences": len(lines),
        "contexts": len(index) // len(layers),
        "seconds": seconds,
        **_memory(loaded, sampled),
    }


def run_latentbank(sentences: int, model: str, layers: Sequence[int], dtype: str) -> dict[str, Any]:
    """Time the whole job, the model preloaded, into a bank in a temporary folder."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as commands do; torch, which reads it, comes later
    from latentbank.ingest.banks import create_bank
    from latentbank.ingest.corpus import open_corpus
    from latentbank.ingest.job import store_plan
    from latentbank.ingest.planning import plan_for
    from latentbank.models.language.model import load_language_model
    from latentbank.progress import shown

    language = load_language_model(model, device="cpu", dtype=dtype, deepest_layer=max(layers))
    loaded = _loaded()
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as sampled:
        began = time.monotonic()
        with create_bank(BANK, language, layers, data_dir=Path(folder, "banks")) as bank:
            corpus = open_corpus(CORPUS, sentences_file(), limit=sentences)
            plan = plan_for(bank, corpus, language, Path(folder, "plan"))
            planned = time.monotonic()
            with shown("ingesting", "contexts") as progress:
                report = store_plan(bank, plan, language, progress)
            seconds = time.monotonic() - began
            disk = sum(info.bytes_on_disk or 0 for info in bank.info().layers.values())
    return {
        "sentences": plan.sentences,
        "contexts": report.contexts,
        "tokens": report.computed_tokens,
        "seconds": seconds,
        "plan_seconds": planned - began,
        "encode_seconds": report.encode_seconds,
        "index_seconds": report.index_seconds,
        "packing": language.packing,
        "disk": disk,
        **_memory(loaded, sampled),
    }


def run_encoder(sentences: int, limit: int, model: str, layers: Sequence[int], dtype: str) -> dict[str, Any]:
    """Time the encoder alone, on the first planned prefixes, about `limit` of them."""
    from latentbank.ingest.corpus import open_corpus
    from latentbank.ingest.encode import encode
    from latentbank.ingest.planning import make_plan
    from latentbank.memory import keep_memory
    from latentbank.models.language.model import load_language_model

    keep_memory()  # as the job does
    language = load_language_model(model, device="cpu", dtype=dtype, deepest_layer=max(layers))
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(open_corpus(CORPUS, sentences_file(), limit=sentences), language, Path(folder))
        list(encode(language, CORPUS, islice(plan.read(), 8), layers))  # to warm up
        encoded = encode(language, CORPUS, plan.read(), layers)
        tokens, began, used = 0, time.monotonic(), processor_seconds()
        while tokens < limit and (batch := next(encoded, None)) is not None:
            tokens += batch.computed
    seconds = time.monotonic() - began
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "tokens_per_processor_second": tokens / (processor_seconds() - used),
    }


def run_forward(sentences: int, limit: int, model: str, layers: Sequence[int], dtype: str) -> dict[str, Any]:
    """Time transformers' decoder on the planned prefixes, packed as the job packs them, and on plain rows.

    The packed rows are those of the plan, or of evenly spread batches of it with about `limit` tokens. The plain rows
    hold as many tokens, unpadded, with causal attention, and are of the same length.
    """
    import numpy as np
    import torch
    from transformers import AutoModel

    from benchmarks.packed import Batch, batch_of
    from latentbank.ingest.corpus import open_corpus
    from latentbank.ingest.encode import BATCH, ROW, fill_rows
    from latentbank.ingest.planning import make_plan
    from latentbank.memory import keep_memory
    from latentbank.models.language.model import load_language_model

    keep_memory()  # as the job does
    language = load_language_model(model, device="cpu", dtype="float32", deepest_layer=0)
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(open_corpus(CORPUS, sentences_file(), limit=sentences), language, Path(folder))
        rows = list(fill_rows(plan.read(), ROW))
    del language
    size = BATCH["cpu"] // ROW
    starts = range(0, len(rows), size)
    number = min(len(starts), max(1, round(len(starts) * limit / plan.prefixes)))
    chosen = np.linspace(0, len(starts) - 1, number).astype(int)
    batches = [batch_of(rows[starts[i] : starts[i] + size], "cpu") for i in chosen]
    tokens = sum(batch.tokens for batch in batches)
    stream = torch.cat([batch.ids.flatten() for batch in batches])
    plain = stream[: tokens // ROW * ROW].reshape(-1, ROW)

    source, options = _where(model)
    decoder: Any = AutoModel.from_pretrained(source, dtype=getattr(torch, dtype), **options)
    decoder.eval()
    decoder.layers = decoder.layers[: max(layers)]
    decoder.config.num_hidden_layers = max(layers)

    def packed(batch: Batch) -> None:
        sees = batch.visible[:, None]
        decoder(input_ids=batch.ids, position_ids=batch.positions, attention_mask=sees, use_cache=False)

    with torch.inference_mode():
        for _ in range(2):  # to warm up
            packed(batches[0])
            decoder(input_ids=plain[:size], use_cache=False)
        began, used = time.monotonic(), processor_seconds()
        for batch in batches:
            packed(batch)
        packed_done, packed_used = time.monotonic(), processor_seconds() - used
        for at in range(0, len(plain), size):
            decoder(input_ids=plain[at : at + size], use_cache=False)
        plain_done = time.monotonic()
    return {
        "tokens": tokens,
        "packed_tokens_per_second": tokens / (packed_done - began),
        "packed_tokens_per_processor_second": tokens / packed_used,
        "plain_tokens_per_second": plain.numel() / (plain_done - packed_done),
    }


def _where(model: str) -> tuple[str, dict[str, str]]:
    """Return what transformers needs to find a model: a GGUF is named as a file in a folder."""
    path = Path(model)
    return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (model, {})


def _loaded() -> Memory:
    """Return memory after loading the model, and reset the peak, so that it is the job's from here on."""
    import gc

    gc.collect()
    forget_peak()
    return memory()


def _memory(loaded: Memory, sampled: PeakMemory) -> dict[str, int]:
    return {
        "loaded_resident": loaded.resident,
        "loaded_anonymous": loaded.anonymous,
        "peak_resident": max(memory().peak, sampled.resident),
        "peak_anonymous": sampled.anonymous,
    }


_TASKS = {
    "reference": run_reference,
    "latentbank": run_latentbank,
    "encoder": run_encoder,
    "forward": run_forward,
}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
