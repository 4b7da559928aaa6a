"""Estimate the cost of a plan: bytes per layer on disk and in RAM, time on this machine, size of a cluster."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from latentbank.bank.settings import Settings
from latentbank.bank.sizing import NO_GRAPH, Machines, Shape, Sizing, layer_bytes, size
from latentbank.bank.sizing import index_seconds as seconds_to_index
from latentbank.bank.store.backends import backend
from latentbank.errors import LatentBankError
from latentbank.ingest.banks import create_bank
from latentbank.ingest.encode import Encoded, encode
from latentbank.ingest.plan import Plan
from latentbank.models.language.model import LanguageModel

# The most planned sentences that the calibration runs the LLM on, and for how long.
_CALIBRATION_SENTENCES = 2000
_CALIBRATION_SECONDS = 5.0
# Contexts that it stores; more would only fill the memory, since a GPU computes a hundred thousand in that time.
_CALIBRATION_CONTEXTS = 4096
_TRIAL = "calibration"


@dataclass(frozen=True)
class Speed:
    """How fast this machine is.

    Attributes:
        tokens_per_second: tokens that the LLM runs on.
        contexts_stored_per_second: contexts stored in all layers.
        contexts_indexed_per_second: contexts indexed in all layers.
        trial: number of contexts that were stored and indexed to measure it.
        graph: whether they were indexed with a graph.
    """

    tokens_per_second: float
    contexts_stored_per_second: float
    contexts_indexed_per_second: float
    trial: int
    graph: bool


@dataclass(frozen=True)
class Estimate:
    """What storing a plan costs.

    Attributes:
        layers: the bank layers.
        disk_bytes: disk space of each layer.
        ram_bytes: memory of each layer.
        speed: of this machine; None: not measured.
        seconds: time of the whole job; None without a speed.
        index_seconds: the part of it that indexing takes.
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
    stored: int = 0,
) -> Estimate:
    """Return what a plan needs; the time only with a speed from `calibrate`.

    The LLM and the writer are assumed to share the processor, as they do where the LLM runs on it. Indexing includes
    the contexts that the bank holds already; in a graph, the cost of a context grows with their number.

    Args:
        plan: what will be stored.
        hidden_size: the LLM's.
        layers: the bank's.
        settings: of the bank.
        speed: of this machine.
        stored: contexts of other corpora that each layer of the bank holds already.
    """
    total = plan.contexts + stored
    shape = _shape(plan, hidden_size, layers, settings, stored)
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
    stored: int = 0,
) -> Sizing:
    """Return what a Qdrant cluster needs for the bank with this plan in it, and for filling it.

    Args:
        plan: what will be stored.
        model: the LLM.
        layers: the bank's.
        settings: of the bank.
        machines: nodes of the cluster, and GPUs that fill the bank.
        stored: contexts of other corpora that each layer of the bank holds already.

    Raises:
        LatentBankError: such machines cannot hold the bank.
    """
    shape = replace(_shape(plan, model.hidden_size, layers, settings, stored), server=True)
    return size(shape, machines, plan.prefixes, model.parameters_to(max(layers)))


def _shape(plan: Plan, hidden_size: int, layers: Sequence[int], settings: Settings, stored: int = 0) -> Shape:
    """Return the shape of the bank with this plan in it; contexts `stored` before count with captions as long."""
    return Shape(
        contexts=plan.contexts + stored,
        layers=len(layers),
        hidden_size=hidden_size,
        caption_bytes=plan.caption_bytes / plan.contexts,
        quantization=settings.quantization,
        hnsw_m=settings.hnsw_m,
        graph_from=settings.graph_from,
        server=backend(settings).shared,
    )


def calibrate(
    plan: Plan, model: LanguageModel, layers: Sequence[int], settings: Settings, stored: int = 0
) -> Speed:
    """Measure this machine: run the LLM on part of the plan for a few seconds, and store that in a temporary bank.

    Args:
        plan: what will be stored.
        model: the LLM, loaded at least as deep as the deepest layer.
        layers: the bank's.
        settings: of the bank; the temporary bank is embedded, in the same folder.
        stored: contexts of other corpora that each layer of the bank holds already. They decide with the plan's
            whether the layers get a graph.

    Raises:
        LatentBankError: the folder of embedded banks cannot be used.
    """
    part = islice(plan.read(), _CALIBRATION_SENTENCES)
    kept: list[Encoded] = []
    computed, trial, started = 0, 0, 0.0
    for i, encoded in enumerate(encode(model, plan.corpus, part, layers)):
        if trial < _CALIBRATION_CONTEXTS:
            kept.append(encoded)
            trial += len(encoded.ids)
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
    graph = plan.contexts + stored >= settings.graph_from
    storing, indexing = _seconds_to_store(kept, model, layers, settings, graph)
    return Speed(
        computed / max(seconds, 1e-9),
        trial / max(storing, 1e-9),
        trial / max(indexing, 1e-9),
        trial,
        graph,
    )


def _seconds_to_store(
    kept: Sequence[Encoded], model: LanguageModel, layers: Sequence[int], settings: Settings, graph: bool
) -> tuple[float, float]:
    """Return the seconds that storing and indexing take in an embedded bank, with graphs or without."""
    graph_from = 0 if graph else NO_GRAPH
    with _folder_of(settings.data_dir) as folder:
        trial = settings.model_copy(update={"url": "", "data_dir": Path(folder), "graph_from": graph_from})
        with create_bank(
            _TRIAL,
            model,
            layers,
            metric="cosine",  # a centred bank would need its means first
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
    """Return a temporary folder beside the banks, since banks need room: the system's own is often in memory."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=data_dir, prefix=".calibration-")
    except OSError as error:
        raise LatentBankError(
            f"The folder {data_dir} cannot be used ({error.strerror}); set LATENTBANK_DATA_DIR, or plan without "
            "calibration."
        ) from None
