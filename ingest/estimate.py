"""What a plan will cost: bytes a layer on disk and in RAM, and time on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bank.bank import create_bank
from bank.settings import Settings
from ingest.encode import Encoded, encode
from ingest.plan import Plan
from latentbank_errors import LatentBankError
from models.language import LanguageModel

# A context's payload beside its caption, and the engine's own bookkeeping (id, versions, payload indexes). Measured on
# layers of 150,000 contexts of concepts.txt, which took 2,430 bytes a context with captions of 167.
_PAYLOAD_BYTES = 400
# How often its caption counts: itself, and on a server, which indexes them while it loads, the index of its words.
# Embedded, the first filter by caption adds that.
_CAPTIONS, _CAPTIONS_ON_SERVER = 1.0, 2.5
_BYTES_PER_CODE = {"int8": 1.0, "turbo": 0.5, "none": 0.0}
# Planned sentences that the calibration runs the LLM on, at most, and for how long.
_CALIBRATION_SENTENCES = 2000
_CALIBRATION_SECONDS = 5.0
# Contexts that it stores; more would only fill the memory, for a GPU computes a hundred thousand in that time.
_CALIBRATION_CONTEXTS = 4096
_TRIAL = "calibration"


@dataclass(frozen=True)
class Speed:
    """How fast this machine is: the LLM, and storing and indexing a context in all layers."""

    tokens_per_second: float
    contexts_stored_per_second: float


@dataclass(frozen=True)
class Estimate:
    """Costs of storing a plan, `disk_bytes` and `ram_bytes` per layer; `seconds` None: not calibrated."""

    layers: tuple[int, ...]
    disk_bytes: int
    ram_bytes: int
    speed: Speed | None
    seconds: float | None


def estimate(
    plan: Plan,
    hidden_size: int,
    layers: Sequence[int],
    settings: Settings,
    speed: Speed | None = None,
) -> Estimate:
    """Estimate what a plan needs; time only with a speed from `calibrate`.

    The LLM and the writer are taken to share the processor, which they do where the LLM runs on it.
    """
    codes = hidden_size * _BYTES_PER_CODE[settings.quantization]
    graph = settings.hnsw_m * 2 * 4 * 1.1 if plan.contexts >= settings.graph_from else 0.0
    captions = _CAPTIONS_ON_SERVER if settings.url else _CAPTIONS
    caption = captions * plan.caption_bytes / plan.contexts
    disk = plan.contexts * (2 * hidden_size + codes + graph + _PAYLOAD_BYTES + caption)
    ram = plan.contexts * (codes + graph)
    seconds = None
    if speed is not None:
        storing = plan.contexts / speed.contexts_stored_per_second
        seconds = plan.prefixes / speed.tokens_per_second + storing
    return Estimate(tuple(layers), round(disk), round(ram), speed, seconds)


def calibrate(plan: Plan, model: LanguageModel, layers: Sequence[int], settings: Settings) -> Speed:
    """Run the LLM on part of the plan for a few seconds, and store what it gives in a bank that is thrown away."""
    part = islice(plan.read(), _CALIBRATION_SENTENCES)
    kept: list[Encoded] = []
    computed, stored, started = 0, 0, 0.0
    for i, encoded in enumerate(encode(model, plan.corpus, part, layers)):
        if stored < _CALIBRATION_CONTEXTS:
            kept.append(encoded)
            stored += len(encoded.ids)
        if i == 0:
            started = time.monotonic()  # the first pass warms up
            continue
        computed += encoded.computed
        if time.monotonic() - started > _CALIBRATION_SECONDS:
            break
    seconds = time.monotonic() - started
    if not computed:  # a plan of one batch: time it again, warm
        started = time.monotonic()
        computed = sum(e.computed for e in encode(model, plan.corpus, plan.read(), layers))
        seconds = time.monotonic() - started
    return Speed(
        computed / max(seconds, 1e-9),
        stored / max(_seconds_to_store(kept, plan, model, layers, settings), 1e-9),
    )


def _seconds_to_store(
    kept: Sequence[Encoded], plan: Plan, model: LanguageModel, layers: Sequence[int], settings: Settings
) -> float:
    """Time storing and indexing in an embedded bank, with graphs where the whole plan would get them."""
    graph_from = 0 if plan.contexts >= settings.graph_from else plan.contexts + 1
    with _folder_of(settings.data_dir) as folder:
        trial = settings.model_copy(update={"url": "", "data_dir": Path(folder), "graph_from": graph_from})
        with create_bank(
            _TRIAL,
            trial,
            model=model.name,
            fingerprint=model.fingerprint(),
            layers=layers,
            num_layers=model.num_layers,
            hidden_size=model.hidden_size,
            metric="cosine",  # a centred bank would have to be told its means first
        ) as bank:
            started = time.monotonic()
            for encoded in kept:
                for layer, states in encoded.states.items():
                    bank.add(layer, encoded.ids, states, encoded.payloads)
            bank.commit()
            for layer in layers:
                bank.store.index(layer)
            return time.monotonic() - started


def _folder_of(data_dir: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a folder where banks are, for they need room: the system's folder for such things is often in memory."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=data_dir, prefix=".calibration-")
    except OSError as error:
        raise LatentBankError(
            f"The folder {data_dir} cannot be used ({error.strerror}); set LATENTBANK_DATA_DIR, or plan with "
            "--no-calibrate."
        ) from None
