"""What a plan will cost: bytes a layer on disk and in RAM, and time on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from bank.settings import Settings
from ingest.encode import encode
from ingest.plan import Plan
from models.language import LanguageModel

# A context's payload beside its caption, and the engine's own bookkeeping (id, versions, payload indexes); and how
# often its caption counts (itself, and the index of its words). Measured on layers of 150,000 contexts of
# concepts.txt, which took 2,750 bytes a context with captions of 167.
_PAYLOAD_BYTES = 420
_CAPTIONS = 2.5
_BYTES_PER_CODE = {"int8": 1.0, "turbo": 0.5, "none": 0.0}
# Planned sentences that the calibration runs the LLM on, at most, and for how long.
_CALIBRATION_SENTENCES = 2000
_CALIBRATION_SECONDS = 5.0


@dataclass(frozen=True)
class Estimate:
    """Costs of storing a plan, `disk_bytes` and `ram_bytes` per layer; `seconds` None: not calibrated."""

    layers: tuple[int, ...]
    disk_bytes: int
    ram_bytes: int
    tokens_per_second: float | None
    seconds: float | None


def estimate(
    plan: Plan,
    hidden_size: int,
    layers: Sequence[int],
    settings: Settings,
    tokens_per_second: float | None = None,
) -> Estimate:
    """Estimate what a plan needs; time only with the LLM's speed from `calibrate`."""
    codes = hidden_size * _BYTES_PER_CODE[settings.quantization]
    graph = settings.hnsw_m * 2 * 4 * 1.1 if plan.contexts >= settings.graph_from else 0.0
    caption = _CAPTIONS * plan.caption_bytes / plan.contexts
    disk = plan.contexts * (2 * hidden_size + codes + graph + _PAYLOAD_BYTES + caption)
    ram = plan.contexts * (codes + graph)
    seconds = plan.prefixes / tokens_per_second if tokens_per_second else None
    return Estimate(tuple(layers), round(disk), round(ram), tokens_per_second, seconds)


def calibrate(plan: Plan, model: LanguageModel, layers: Sequence[int]) -> float:
    """Run the LLM on part of the plan for a few seconds; gives tokens per second (nothing is stored)."""
    part = islice(plan.read(), _CALIBRATION_SENTENCES)
    computed, started = 0, 0.0
    for i, encoded in enumerate(encode(model, plan.corpus, part, layers)):
        if i == 0:
            started = time.monotonic()  # the first pass warms up
            first = encoded.computed
            continue
        computed += encoded.computed
        if time.monotonic() - started > _CALIBRATION_SECONDS:
            break
    if not computed:  # a plan of one batch: time it again, warm
        started = time.monotonic()
        computed = (
            sum(e.computed for e in encode(model, plan.corpus, islice(plan.read(), 200), layers)) or first
        )
    return computed / max(time.monotonic() - started, 1e-9)
