"""When and how an embedded bank's layers are indexed: while they are loaded, after that, and for filters by caption."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import qdrant_edge as edge

from latentbank.bank.planning import Work, cores
from latentbank.bank.settings import Settings
from latentbank.bank.sizing import segments_of
from latentbank.bank.store.conditions import reads_captions
from latentbank.bank.store.embedded.engine import CAPTION_INDEX, engine_errors, graph_of, has_caption_index
from latentbank.bank.store.embedded.layer_writer import Written
from latentbank.bank.store.embedded.layers import Layers
from latentbank.bank.store.embedded.lock import BankLock
from latentbank.bank.store.embedded.manifest_file import ManifestFile
from latentbank.bank.store.embedded.optimizing import Optimization, Task, in_other_processes, optimize
from latentbank.bank.store.embedded.unpacking import forget_origin, is_from_snapshot
from latentbank.bank.store.fields import has_graph
from latentbank.bank.store.graphs import MOST_BY_ACORN, kib, scan_for
from latentbank.bank.where import Filter
from latentbank.files import sync_folders
from latentbank.memory import release_memory

log = logging.getLogger("latentbank")

# For so many seconds after a search more of them are expected.
_READ_SECONDS = 60.0
# Contexts after which what was added to a layer being loaded is quantized and mapped from its files. Until then the
# engine keeps their ids and payload indexes in memory, over a kilobyte each. A large layer's pieces are a tenth of what
# it holds, at most the second number, because each piece loads the whole layer anew.
PIECE, LARGEST_PIECE = 20_000, 100_000
# Contexts still to come to a layer from which other processes write to it: one takes a third of a second to start.
MANY = 10_000
# The size of a graph that is searched with `ef` candidates, and the fewest candidates in a small one.
LARGE, FEWEST = 600_000, 64
# Segments while a layer is loaded: none is merged with another.
_MANY = 1_000_000
# How much longer a filter makes a search through a graph; and what a search by ACORN takes as long as, in scans of all
# that a filter selects (benchmarks/filters.py: it takes 0.5 to 2 of them).
_FILTERED, _BY_ACORN = 2, 2
# Contexts whose captions take more than a second to index.
_LOG_FROM = 50_000


@dataclass(frozen=True)
class _Goal:
    """What a layer is to become.

    Attributes:
        layer: the layer.
        graph: edges per node of the graphs; 0: no graph.
        largest: most contexts in a segment that results from merging.
        segments: how many segments there may be; only if there are more, some are merged.
    """

    layer: int
    graph: int
    largest: int
    segments: int


class Indexing:
    """Indexes the layers of one version of an embedded bank."""

    def __init__(
        self, bank: str, settings: Settings, layers: Layers, manifest: ManifestFile, lock: BankLock | None
    ) -> None:
        """Index `layers` as the settings say; `lock` is passed on to processes that do so."""
        self._bank = bank
        self._settings = settings
        self._layers = layers
        self._manifest = manifest
        self._lock = lock
        self._pieces: dict[int, int] = {}  # by layer, of those that are being loaded
        self._many: set[int] = set()  # those of them that get many contexts
        self._searched = -math.inf

    def note_search(self) -> None:
        """Record that a search of the bank begins."""
        self._searched = time.monotonic()

    def is_read(self) -> bool:
        """Return whether the bank was searched recently."""
        return time.monotonic() - self._searched < _READ_SECONDS

    def defer(self, layer: int, expected: int) -> None:
        """Expect a layer to be loaded until it holds so many contexts."""
        graph = has_graph(self._bank, expected, self._settings)
        self._pieces[layer] = min(PIECE, -(-expected // 2)) if graph else PIECE
        if expected - self._layers.state(layer).points_count >= MANY:
            self._many.add(layer)

    def is_loading(self, layer: int) -> bool:
        """Return whether a layer is being loaded, so that its indexes follow later."""
        return layer in self._pieces

    def gets_many(self, layer: int) -> bool:
        """Return whether a layer is being loaded with so many contexts that other processes should write to it.

        Not while the bank is searched: each search would take the layer back.
        """
        return layer in self._many and self._layers.several_write and not self.is_read()

    def is_due(self, layer: int, state: Written) -> bool:
        """Return whether enough was added to a layer to index it; always False unless it is being loaded."""
        return state.points - state.indexed >= max(self._pieces.get(layer, math.inf), _tenth(state.points))

    def index_piece(self, layer: int) -> None:
        """Index what was added to a layer that is being loaded, without merging segments.

        A process that writes to the layer does so by itself, while others write to other layers.
        """
        # A layer that has a graph keeps it: another setting would apply to all its segments.
        path = self._layers.path(layer)
        goal = _Goal(layer, graph_of(path).edges, LARGEST_PIECE, _MANY)
        with engine_errors(self._bank):
            self._layers.require_room(self._layers.bytes_on_disk(layer))
            forget_origin(path)
        if not self._layers.optimize_elsewhere(layer, self._target(goal)):
            self._optimize([goal])

    def together(self, counts: Mapping[int, int]) -> list[list[int]]:
        """Return layers of so many contexts in groups that `index` is best given at once.

        One processor quantizes a layer, all of them build a graph. So layers without a graph are indexed side by side,
        one for each processor, if other processes do it.
        """
        groups: list[list[int]] = []
        alone = True  # nothing is indexed beside the last group
        for layer, count in counts.items():
            single = has_graph(self._bank, count, self._settings) or not in_other_processes(count, self._lock)
            if single or alone or len(groups[-1]) >= cores():
                groups.append([])
            groups[-1].append(layer)
            alone = single
        return groups

    def index(self, counts: Mapping[int, int]) -> None:
        """Index layers of so many contexts, which are loaded, at once.

        They are indexed one after the other if the disk has no room for all. A layer that came with its indexes, in a
        snapshot, stays as it is until something is added to it.
        """
        for layer in counts:
            self._pieces.pop(layer, None)
            self._many.discard(layer)
        if not self._many:
            self._layers.end_writers()
        goals = [self._goal(layer, count) for layer, count in counts.items() if not self._came_indexed(layer)]
        together = len(goals) > 1 and self._layers.has_room(self._bytes(goals))
        for part in [goals] if together else [[goal] for goal in goals]:
            self._optimize(part)

    def _bytes(self, goals: Sequence[_Goal]) -> int:
        return sum(self._layers.bytes_on_disk(goal.layer) for goal in goals)

    def _came_indexed(self, layer: int) -> bool:
        return is_from_snapshot(self._layers.path(layer)) and not _unindexed(self._layers.state(layer))

    def _goal(self, layer: int, count: int) -> _Goal:
        graph, segments = 0, 1
        if has_graph(self._bank, count, self._settings):
            graph, segments = self._settings.hnsw_m, segments_of(count)
        # The engine merges the smallest segments until one is full. With room for a piece more than the average, the
        # result is as many segments as intended, of about the same size.
        return _Goal(layer, graph, -(-count // segments) + max(PIECE, _tenth(count)), segments)

    def index_captions(self, layer: int, where: Filter | Sequence[Filter | None] | None) -> None:
        """Index captions if a filter needs them and they are not indexed yet, or as earlier versions did.

        This is not done while a layer is loaded: few layers are ever searched by caption, and building the index takes
        more memory than everything else together.
        """
        if not reads_captions(where) or has_caption_index(self._layers.state(layer)):
            return
        with self._layers.writing, self._layers.use(layer) as shard:
            state = shard.info()
            if has_caption_index(state):  # another thread has indexed them in the meantime
                return
            self._layers.require_room_at(layer)
            if (count := state.points_count) >= _LOG_FROM:
                log.warning(
                    "Indexing the captions of %s contexts of layer %d, for this filter and later ones.",
                    f"{count:,}",
                    layer,
                )
            shard.update(edge.UpdateOperation.create_field_index("caption", CAPTION_INDEX))
            shard.flush()
            release_memory()

    def candidates(self, layer: int, ef: int) -> int:
        """Return how many candidates to examine in each segment's graph: by the cube root of its size.

        Measured on four layers of 150,000 contexts in two segments, searched together: with 80, 100 and 200 candidates
        in each, recall@5 is 0.985, 0.991 and 0.996 (benchmarks/search.py).
        """
        state = self._layers.state(layer)
        return max(FEWEST, math.ceil(ef * math.cbrt(state.points_count / _segments(state) / LARGE)))

    def work(self, layer: int, ef: int, hidden_size: int, selected: int | None) -> Work:
        """Return what a search of a layer has to do if a filter selects so many contexts; None: there is no filter."""
        graph, state = graph_of(self._layers.path(layer)), self._layers.state(layer)
        contexts, segments = state.points_count, _segments(state)
        asked = contexts if selected is None else selected
        if not graph.edges or kib(asked // segments, hidden_size) < graph.scan:
            return Work(contexts, asked, False, segments, selected)
        compared = min(segments * self.candidates(layer, ef), contexts)
        if selected is None:
            return Work(contexts, compared, True, segments)
        if selected <= MOST_BY_ACORN * contexts:
            return Work(contexts, _BY_ACORN * selected, False, segments, selected)
        return Work(contexts, min(_FILTERED * compared, selected), True, segments, selected)

    def _optimize(self, goals: Sequence[_Goal]) -> None:
        """Index what is not indexed yet, and merge segments."""
        with engine_errors(self._bank), self._layers.writing:
            # Segments are rewritten beside the old ones.
            self._layers.require_room(self._bytes(goals))
            tasks = [self._task(goal) for goal in goals]
            fresh: list[edge.EdgeShard | None] = [None] * len(goals)
            try:
                fresh[:] = optimize(tasks, self._lock, read=self.is_read())
                for task in tasks:
                    sync_folders(task.path)  # the engine has synced the files of its new segments
            finally:
                # Not earlier: closing a shard drops its files from the page cache, and the new one maps most of them.
                for goal, shard in zip(goals, fresh, strict=True):
                    self._layers.replace_shard(goal.layer, shard)
                release_memory()

    def _task(self, goal: _Goal) -> Task:
        path, shard = self._layers.path(goal.layer), self._layers.shard(goal.layer, write=True)
        shard.flush()
        forget_origin(path)
        return Task(path, self._target(goal), shard.info().points_count)

    def _target(self, goal: _Goal) -> Optimization:
        known, head = graph_of(self._layers.path(goal.layer)), (self._manifest.read() or ({}, {}))[0]
        # A layer that has a graph keeps its settings: others would build it anew.
        scan, ef_construct = known.scan, known.ef_construct
        if goal.graph and not known.edges:
            ef_construct = self._settings.hnsw_ef_construct
            contexts = self._layers.state(goal.layer).points_count
            scan = scan_for(contexts, goal.segments, head["hidden_size"])
        return Optimization(
            head["hidden_size"],
            head["quantization"],
            ef_construct,
            goal.graph,
            goal.largest,
            goal.segments,
            scan,
        )


def _unindexed(state: edge.ShardInfo) -> int:
    return state.points_count - state.indexed_vectors_count


def _segments(state: edge.ShardInfo) -> int:
    return max(1, state.segments_count - 1)  # the engine keeps one more for new points


def _tenth(contexts: int) -> int:
    return min(contexts // 10, LARGEST_PIECE)
