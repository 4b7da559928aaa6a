"""The measurements of benchmarks/accelerator.py: each yields one named result at a time, so none is lost."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accelerator_models import CORPUS, Size, plan_of, random_model, sentences
from benchmarks.limits import best, copy_speed, gemm_speed
from benchmarks.packed import Batch, batch_of
from latentbank.ingest.encode import BATCH, ROW, encode, fill_rows
from latentbank.ingest.plan import PlannedSentence
from latentbank.models.language import packing
from latentbank.models.language.model import LanguageModel

Result = tuple[str, dict[str, Any]]
_TOP_K = 5


@dataclass(frozen=True)
class Setup:
    """What is measured, and on what.

    Attributes:
        device: "cuda" or "cpu".
        small: the small LLM's shape.
        large: the large one's.
        sentences: sentences of the whole job with the small LLM.
        large_sentences: the same with the large one.
        exact_sentences: sentences that are run packed and alone.
        tokens: tokens whose attention is timed.
        batches: tokens of a forward pass, from the smallest.
        scans: contexts and width of each exact scan.
        seconds: how long one speed is measured.
    """

    device: str
    small: Size
    large: Size
    sentences: int
    large_sentences: int
    exact_sentences: int
    tokens: int
    batches: Sequence[int]
    scans: Sequence[tuple[int, int]]
    seconds: float

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def clear(self) -> None:
        """Give freed memory back to the device, and forget the peak."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Return the peak of the device's memory in bytes since `clear`; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else 0


def limits(setup: Setup) -> Iterator[Result]:
    """Measure what the device does at best: products of matrices, copies within it and between it and the CPU."""
    side = 8192 if setup.device == "cuda" else 256
    for dtype in (torch.float32, torch.bfloat16):
        yield f"products, {_short(dtype)}", {"flops": gemm_speed(dtype, side, setup.device)}
    yield "copies in the CPU's memory", {"bytes_per_second": copy_speed(1)}
    if setup.device != "cuda":
        return
    size = 1 << 30
    here, there = torch.empty(size, dtype=torch.uint8, device="cuda"), torch.empty(size, dtype=torch.uint8)
    pinned = there.pin_memory()
    ways = {
        "copies in the device's memory": (torch.empty_like(here), here),
        "copies to the CPU, pinned": (pinned, here),
        "copies to the CPU, ordinary": (there, here),
        "copies to the device, pinned": (here, pinned),
    }
    for name, (target, source) in ways.items():
        yield name, {"bytes_per_second": size / _timed(setup, lambda t=target, s=source: t.copy_(s))}


def _timed(setup: Setup, run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some calls, each until the device is done."""

    def waited() -> None:
        run()
        setup.wait()

    waited()
    return best(waited)


# -- exactness -----------------------------------------------------------------------------------


def exactness(setup: Setup) -> Iterator[Result]:
    """Compare hidden states packed with alone, and cut with whole: the largest 1 - cosine."""
    lines = sentences(setup.exact_sentences)
    for dtype, attention in itertools.product((torch.float32, torch.bfloat16), ("sdpa", "eager")):
        for size in (setup.small, setup.small.windowed(8)):
            model = random_model(size, setup.device, dtype, attention=attention)
            depth = size.blocks // 2
            name = f"{size.name}, {_short(dtype)}, {attention}"
            with tempfile.TemporaryDirectory() as folder:
                planned = list(plan_of(model, lines, Path(folder)).read())
            yield f"packed against alone: {name}", _packed_and_alone(model, planned, depth)
            cut = random_model(size, setup.device, dtype, blocks=depth, attention=attention)
            cut.decoder.load_state_dict(model.decoder.state_dict(), strict=False)
            yield f"cut against whole: {name}", _cut_and_whole(model, cut, planned, depth)
            del model, cut
            setup.clear()


def _packed_and_alone(model: LanguageModel, planned: list[PlannedSentence], depth: int) -> dict[str, Any]:
    layers = [0, depth, model.num_layers]
    far = dict.fromkeys(layers, 0.0)
    packed: dict[int, dict[str, Any]] = {layer: {} for layer in layers}
    for encoded in encode(model, CORPUS, planned, layers, packed=True):
        for layer, rows in encoded.states.items():
            packed[layer].update(zip(encoded.ids, rows, strict=True))
    for sentence in planned:
        for encoded in encode(model, CORPUS, [sentence], layers, packed=False):
            for layer, rows in encoded.states.items():
                others = np.stack([packed[layer][id_] for id_ in encoded.ids])
                far[layer] = max(far[layer], _far(rows, others))
    return {"layers": layers, "one_minus_cosine": list(far.values()), "packs": model.packs}


def _cut_and_whole(
    model: LanguageModel, cut: LanguageModel, planned: list[PlannedSentence], depth: int
) -> dict[str, Any]:
    """Compare a model of fewer blocks, stopped in its last one, with transformers' own run through all blocks."""
    far = 0.0
    for sentence in planned[:8]:
        ids = torch.tensor([sentence.token_ids], device=model.device)
        with torch.inference_mode():
            whole: Any = model.decoder(input_ids=ids, output_hidden_states=True, use_cache=False)
        mine = cut.hidden_states([sentence.token_ids], [depth])[0][depth]
        theirs = whole.hidden_states[depth][0]
        far = max(far, _far(mine.float().cpu().numpy(), theirs.float().cpu().numpy()))
    return {"layers": [depth], "one_minus_cosine": [far]}


def _far(one: Any, other: Any) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.max(1 - np.sum(a * b, axis=1) / lengths))


# -- batches, encoding, the job ------------------------------------------------------------------


def bare_rate(setup: Setup, model: LanguageModel, batches: Sequence[Batch]) -> float:
    """Return the tokens per second of transformers' decoder on batches that lie on the device with their masks."""
    masks = [packing.masks(model.decoder.config, model.dtype, b.positions, b.visible) for b in batches]

    def run(batch: Batch, mask: Any) -> None:
        with torch.inference_mode():
            model.decoder(
                input_ids=batch.ids, position_ids=batch.positions, attention_mask=mask, use_cache=False
            )

    run(batches[0], masks[0])
    setup.wait()
    began, tokens = time.perf_counter(), 0
    for batch, mask in itertools.cycle(zip(batches, masks, strict=True)):
        run(batch, mask)
        tokens += batch.tokens
        if tokens >= sum(b.tokens for b in batches):
            setup.wait()  # else passes would only queue up
            if time.perf_counter() - began >= setup.seconds:
                break
    return tokens / (time.perf_counter() - began)


def batches(setup: Setup) -> Iterator[Result]:
    """Measure the bare forward pass of both LLMs, bfloat16, with more and more tokens in it, until memory ends."""
    for size in (setup.small, setup.large):
        setup.clear()
        model = random_model(size, setup.device, torch.bfloat16)
        with tempfile.TemporaryDirectory() as folder:
            lines = sentences(max(64, max(setup.batches) // 8))
            rows = list(fill_rows(plan_of(model, lines, Path(folder)).read()))
        for tokens in setup.batches:
            some = list(itertools.islice(itertools.cycle(rows), max(1, tokens // ROW)))
            setup.clear()
            try:
                rate = bare_rate(setup, model, [batch_of(some, setup.device)])
            except torch.OutOfMemoryError:
                yield f"{size.name}: {tokens:,} tokens", {"tokens": tokens, "out_of_memory": True}
                break
            found = {"tokens": tokens, "tokens_per_second": rate, "peak_bytes": setup.peak()}
            yield f"{size.name}: {tokens:,} tokens", found
        del model


def encoding(setup: Setup) -> Iterator[Result]:
    """Compare `encode`, with copies to the CPU, ids and payloads, with the bare forward pass on the same rows."""
    cases = [(setup.small, torch.float32), (setup.small, torch.bfloat16), (setup.large, torch.bfloat16)]
    for size, dtype in cases:
        setup.clear()
        model = random_model(size, setup.device, dtype)
        lines = sentences(setup.sentences if size is setup.small else setup.large_sentences)
        with tempfile.TemporaryDirectory() as folder:
            planned = list(plan_of(model, lines, Path(folder)).read())
        rows = list(fill_rows(planned))
        for tokens in (setup.batches[0], setup.batches[len(setup.batches) // 2]):
            each = max(1, tokens // ROW)
            parts = [batch_of(rows[at : at + each], setup.device) for at in range(0, len(rows), each)]
            rate = bare_rate(setup, model, parts)
            del parts
            list(encode(model, CORPUS, planned[:50], [size.blocks], batch=tokens))
            began, computed = time.perf_counter(), 0
            for encoded in encode(model, CORPUS, planned, [size.blocks], batch=tokens):
                computed += encoded.computed
            mine = computed / (time.perf_counter() - began)
            yield (
                f"{size.name}, {_short(dtype)}, {tokens:,} tokens a pass",
                {"bare": rate, "encode": mine, "share": mine / rate, "tokens": computed},
            )
        del model


def job(setup: Setup) -> Iterator[Result]:
    """Run the whole job into an embedded bank: the plan, the LLM, writing, indexing, the ledger."""
    from latentbank.ingest.banks import create_bank
    from latentbank.ingest.job import store_plan

    for size, count in ((setup.small, setup.sentences), (setup.large, setup.large_sentences)):
        setup.clear()
        model = random_model(size, setup.device, torch.bfloat16)
        lines = sentences(count)
        with tempfile.TemporaryDirectory() as folder:
            rows = list(fill_rows(plan_of(model, lines, Path(folder)).read()))
        each = max(1, BATCH[setup.device] // ROW)
        parts = [batch_of(rows[at : at + each], setup.device) for at in range(0, len(rows), each)]
        bare = bare_rate(setup, model, parts)
        del parts
        for layers in ([size.blocks], sorted({1, size.blocks // 2, size.blocks})):
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                with create_bank("random", model, layers, data_dir=Path(folder, "banks")) as bank:
                    plan = plan_of(model, lines, Path(folder, "plan"))
                    planned = time.perf_counter()
                    report = store_plan(bank, plan, model)
                    seconds = time.perf_counter() - began
            yield (
                f"{size.name}, bfloat16, {len(layers)} layer{'s' if len(layers) > 1 else ''}",
                {
                    "contexts": report.contexts,
                    "layers": layers,
                    "seconds": seconds,
                    "contexts_per_second": report.contexts / seconds,
                    "plan_seconds": planned - began,
                    "encode_seconds": report.encode_seconds,
                    "index_seconds": report.index_seconds,
                    "tokens_per_second": report.computed_tokens / report.encode_seconds,
                    "bare": bare,
                },
            )
        del model


def scan(setup: Setup) -> Iterator[Result]:
    """Search exactly with 441 queries, from float16 vectors in the CPU's memory, beside the product alone."""
    from latentbank.bank.scan import Precision, nearest

    random = np.random.default_rng(19)
    for count, width in setup.scans:
        rows = random.standard_normal((count, width), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        queries = rows[:441] + 0.8 * np.roll(rows[:441], 1, axis=0)
        halves, true = rows.astype(np.float16), None
        del rows
        for dtype in ("float32", "bfloat16"):
            precision = Precision(dtype, setup.device)
            seconds = _timed(
                setup, lambda p=precision, h=halves, q=queries: nearest([h], [None], q, _TOP_K, p)
            )
            found = nearest([halves], [None], queries, _TOP_K, precision)[1]
            true = found if true is None else true
            there = torch.from_numpy(halves).to(setup.device, getattr(torch, dtype))
            asked = torch.from_numpy(queries).to(setup.device, there.dtype)
            product = _timed(setup, lambda a=asked, t=there: (a @ t.T).topk(_TOP_K))
            del there
            same = np.mean([len({*a} & {*b}) / _TOP_K for a, b in zip(found, true, strict=True)])
            yield (
                f"{count:,} × {width:,}, {dtype}",
                {"seconds": seconds, "product_and_top_k_seconds": product, "same_as_float32": float(same)},
            )
        del halves


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
