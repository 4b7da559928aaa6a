"""What a plan will cost: bytes a layer on disk and in RAM, time on this machine, and what a cluster would need."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from latentbank.bank.settings import Settings
from latentbank.bank.sizing import Machines, Shape, Sizing, layer_bytes, size
from latentbank.bank.sizing import index_seconds as seconds_to_index
from latentbank.bank.store.backends import backend
from latentbank.errors import LatentBankError
from latentbank.ingest.banks import create_bank
from latentbank.ingest.encode import Encoded, encode
from latentbank.ingest.plan import Plan
from latentbank.models.language.model import LanguageModel

# Planned sentences that the calibration runs the LLM on, at most, and for how long.
_CALIBRATION_SENTENCES = 2000
_CALIBRATION_SECONDS = 5.0
# Contexts that it stores; more would only fill the memory, for a GPU computes a hundred thousand in that time.
_CALIBRATION_CONTEXTS = 4096
_TRIAL = "calibration"


@dataclass(frozen=True)
class Speed:
    """How fast this machine is: the LLM, and storing and indexing a context in all layers.

    `trial` is how many contexts were stored and indexed; `graph` whether they got a graph.
    """

    tokens_per_second: float
    contexts_stored_per_second: float
    contexts_indexed_per_second: float
    trial: int
    graph: bool


@dataclass(frozen=True)
class Estimate:
    """Costs of storing a plan, `disk_bytes` and `ram_bytes` per layer; `seconds` None: not calibrated.

    `index_seconds` is the part of them that indexing takes.
    """

    layers: tuple[int, ...]
    disk_bytes: int
    ram_bytes: int
    speed: Speed | None
    seconds: float | None
    index_seconds: float | None


def estimate(
    plan: Plan,
    hidden_size: int,
    layers: Sequence[int],
    settings: Settings,
    speed: Speed | None = None,
    held: int = 0,
) -> Estimate:
    """Estimate what a plan needs; time only with a speed from `calibrate`.

    The LLM and the writer are taken to share the processor, which they do where the LLM runs on it. Indexing takes in
    the contexts that the bank holds already; in a graph a context costs the more the more there are.

    Args:
        plan: what will be stored.
        hidden_size: the LLM's.
        layers: the bank's.
        settings: of the bank.
        speed: of this machine.
        held: contexts that each layer of the bank holds already, of other corpora.
    """
    total = plan.contexts + held
    shape = _shape(plan, hidden_size, layers, settings, held)
    whole = layer_bytes(shape)
    share = plan.contexts / total
    seconds = index_seconds = None
    if speed is not None:
        index_seconds = total / speed.contexts_indexed_per_second
        if speed.graph:
            tried = replace(shape, contexts=speed.trial, graph_from=0, server=False)
            index_seconds *= seconds_to_index(replace(tried, contexts=total)) / seconds_to_index(tried)
        storing = plan.contexts / speed.contexts_stored_per_second
        seconds = plan.prefixes / speed.tokens_per_second + storing + index_seconds
    return Estimate(
        tuple(layers), round(whole.disk * share), round(whole.ram * share), speed, seconds, index_seconds
    )


def estimate_cluster(
    plan: Plan,
    model: LanguageModel,
    layers: Sequence[int],
    settings: Settings,
    machines: Machines,
    held: int = 0,
) -> Sizing:
    """Estimate what a Qdrant cluster needs for the bank with this plan in it, and what filling it takes.

    Raises:
        LatentBankError: such machines cannot hold it.
    """
    shape = replace(_shape(plan, model.hidden_size, layers, settings, held), server=True)
    return size(shape, machines, plan.prefixes, model.parameters_to(max(layers)))


def _shape(plan: Plan, hidden_size: int, layers: Sequence[int], settings: Settings, held: int = 0) -> Shape:
    """Give the shape of the bank with this plan in it; what it `held` before is taken to have captions as long."""
    return Shape(
        contexts=plan.contexts + held,
        layers=len(layers),
        hidden_size=hidden_size,
        caption_bytes=plan.caption_bytes / plan.contexts,
        quantization=settings.quantization,
        hnsw_m=settings.hnsw_m,
        graph_from=settings.graph_from,
        server=backend(settings).shared,
    )


def calibrate(
    plan: Plan, model: LanguageModel, layers: Sequence[int], settings: Settings, held: int = 0
) -> Speed:
    """Run the LLM on part of the plan for a few seconds, and store what it gives in a bank that is thrown away.

    It gets graphs where the bank with the plan, and what it `held` before, has them.
    """
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
    graph = plan.contexts + held >= settings.graph_from
    storing, indexing = _seconds_to_store(kept, model, layers, settings, graph)
    return Speed(
        computed / max(seconds, 1e-9),
        stored / max(storing, 1e-9),
        stored / max(indexing, 1e-9),
        stored,
        graph,
    )


def _seconds_to_store(
    kept: Sequence[Encoded], model: LanguageModel, layers: Sequence[int], settings: Settings, graph: bool
) -> tuple[float, float]:
    """Time storing and indexing in an embedded bank, with graphs or without."""
    graph_from = 0 if graph else 1 << 62
    with _folder_of(settings.data_dir) as folder:
        trial = settings.model_copy(update={"url": "", "data_dir": Path(folder), "graph_from": graph_from})
        with create_bank(
            _TRIAL,
            model,
            layers,
            metric="cosine",  # a centred bank would have to be told its means first
            settings=trial,
        ) as bank:
            started = time.monotonic()
            for encoded in kept:
                for layer, states in encoded.states.items():
                    bank.add(layer, encoded.ids, states, encoded.payloads)
            bank.commit()
            stored = time.monotonic()
            for layer in layers:
                bank.store.index(layer)
            return stored - started, time.monotonic() - stored


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
