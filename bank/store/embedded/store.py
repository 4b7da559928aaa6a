"""The embedded store: the Qdrant engine inside this process, one folder a bank, one process at a time.

Layout: `{data_dir}/{bank}/manifest.json`, `lock`, and one engine shard a layer in `L{layer:02d}/`. Beside it are, for a
time, `.new` (a layer that is being made), `.snapshot` (a file that one is made from) and `.old` (one that is replaced).

The engine's write-ahead log is switched off: it keeps a second copy of everything just written (64 MB
a layer) and costs a fifth of the writing time. What makes a write durable is `commit`, which flushes
every shard; a process killed between two commits loses at most what was written since the last one.

Only to index a large layer the engine runs in another process, started from here (see `optimizing`).
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import portalocker
import qdrant_edge as edge

from latentbank.bank.points import INDEXED_FIELDS, Payload
from latentbank.bank.settings import Settings
from latentbank.bank.sizing import segments_of
from latentbank.bank.store.base import (
    Floats,
    Hit,
    LayerInfo,
    NoSnapshot,
    Points,
    Stored,
    share_key,
    share_path,
)
from latentbank.bank.store.conditions import conditions, each_condition, reads_captions
from latentbank.bank.store.embedded.engine import (
    CAPTION_INDEX,
    KINDS,
    engine_failed,
    graph_of,
    layer_config,
    no_room,
    read_ahead,
)
from latentbank.bank.store.embedded.optimizing import Optimization, optimize
from latentbank.bank.store.embedded.pointer import read_pointer
from latentbank.bank.store.embedded.unpacking import came_indexed, forget_origin, unpack
from latentbank.bank.versions import split_name
from latentbank.bank.where import Filter, Where
from latentbank.errors import BankBusy, BankNotFound, BankUnavailable, LayerNotFound
from latentbank.memory import give_back

log = logging.getLogger("latentbank")

# Kept free on the disk: the engine writes through memory maps, and a process that touches a mapped
# page for which there is no disk left is killed, so we stop before that. Loading a layer writes too: 56 MiB the
# first time after it was indexed, when the engine adds a segment for new points.
RESERVE_BYTES = 64 << 20
_SCROLL = 4096
# What the manifest is called from the moment a bank is being deleted.
_DELETING = "deleting"
# Points the engine is given at once. It holds Python's lock meanwhile, in which the LLM's thread cannot start its
# next operation: a millisecond costs nothing, for operations take longer.
_UPSERT = 16
# A pause after that, where somebody searches: a search is many short steps, each of which would wait for the lock.
_PAUSE = 1e-3
# For so long after a search more of them are expected.
_READ_SECONDS = 60.0
# A process that indexes is killed with the one it does it for (Linux); so long it may take to be gone.
_DYING_SECONDS = 5.0
# Contexts of a layer that is being loaded which are put away at once, quantized and mapped from their files. Until then
# the engine keeps their ids and payload indexes in memory, over a kilobyte each. A large layer's pieces are a tenth of
# what it holds, up to the second number, for with each the whole layer is loaded anew.
PIECE, LARGEST_PIECE = 20_000, 100_000
# The size of a graph that is searched with `ef` candidates, and the fewest for a small one.
LARGE, FEWEST = 600_000, 64
# Segments while a layer is loaded: none is merged with another.
_MANY = 1_000_000
# Contexts whose captions take more than a second to index.
_WORTH_SAYING = 50_000


def embedded_bank_names(settings: Settings) -> list[str]:
    """Give the stored names of all versions of the banks in `data_dir`, sorted."""
    return sorted(path.parent.name for path in settings.data_dir.glob("*/manifest.json"))


class EmbeddedStore:
    """See `latentbank.bank.store.base.Store`."""

    shared = False

    def __init__(self, bank: str, settings: Settings, *, create: bool = False) -> None:
        self._bank = bank
        self._settings = settings
        self._path = settings.data_dir / bank
        self._shards: dict[int, edge.EdgeShard] = {}
        self._dirty: set[int] = set()
        self._pieces: dict[int, int] = {}  # their sizes, of the layers that are being loaded
        self._guard = threading.RLock()
        # Whoever writes to layers has them alone: what is optimized in another process must not change meanwhile.
        self._writing = threading.RLock()
        self._searched = -math.inf
        # Readers of each layer at this moment: a shard is let go only when it has none. New ones wait meanwhile.
        self._free = threading.Condition(self._guard)
        self._users: Counter[int] = Counter()
        self._leaving: set[int] = set()
        self._lock: Any = None
        try:
            if create:
                self._path.mkdir(parents=True, exist_ok=True)
            there = self._path.is_dir()
        except OSError as error:
            raise BankUnavailable(
                f"The folder {self._path} cannot be used ({error.strerror}); set LATENTBANK_DATA_DIR."
            ) from None
        if there:
            self._lock = _take_lock(self._path / "lock", bank)
            self._finish_deletion()
            self._finish_snapshots()

    def _finish_deletion(self) -> None:
        if (self._path / _DELETING).exists():
            with _engine_errors(self._bank):
                for layer in self._path.glob("L*"):
                    shutil.rmtree(layer)
                (self._path / _DELETING).unlink()

    def _finish_snapshots(self) -> None:
        """Remove what a kill left of snapshots; a layer that was about to be replaced is itself again."""
        with _engine_errors(self._bank):
            for old in self._path.glob("L*.old"):
                if old.with_suffix("").exists():
                    shutil.rmtree(old)
                else:
                    old.replace(old.with_suffix(""))
            for file in self._path.glob("L*.snapshot"):
                file.unlink()
            for fresh in self._path.glob("L*.new"):
                shutil.rmtree(fresh)

    @property
    def bank(self) -> str:
        """See `Store`."""
        return self._bank

    @property
    def settings(self) -> Settings:
        """See `Store`."""
        return self._settings

    def in_use(self) -> str:
        """See `Store`."""
        return read_pointer(split_name(self._bank)[0], self._settings)

    # -- manifest ------------------------------------------------------------------------------

    def read_manifest(self) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]] | None:
        """See `Store`."""
        return split_manifest(self._read_file())

    def _read_file(self) -> dict[str, Any] | None:
        return read_manifest_file(self._bank, self._path)

    def write_manifest(self, head: Mapping[str, Any]) -> None:
        """See `Store`."""
        with self._guard:
            found = self._read_file() or {}
            tables = {key: found.get(key, {}) for key in ("shares", "corpora")}
            self._replace_manifest({**head, **tables})

    def write_entry(self, corpus: str, entry: Mapping[str, Any] | None) -> None:
        """See `Store`."""
        self.write_entries({corpus: entry})

    def write_entries(self, entries: Mapping[str, Mapping[str, Any] | None]) -> None:
        """See `Store`."""
        self._merge("corpora", entries)

    def read_shares(self, corpus: str) -> Mapping[str, Mapping[str, Any]]:
        """See `Store`."""
        found = (self._read_file() or {}).get("shares", {})
        return {key: one for path, one in found.items() if (key := share_key(path, corpus)) is not None}

    def write_shares(self, corpus: str, records: Mapping[str, Mapping[str, Any] | None]) -> None:
        """See `Store`."""
        self._merge("shares", {share_path(corpus, key): record for key, record in records.items()})

    def _merge(self, table: str, changes: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Change rows of one of the manifest's tables, or remove them (None)."""
        with self._guard:
            data = self._read_file()
            if data is None:
                raise BankNotFound(f"There is no bank '{self._bank}' in {self._settings.data_dir}.")
            rows = {key: row for key, row in data.get(table, {}).items() if key not in changes}
            rows |= {key: row for key, row in changes.items() if row is not None}
            self._replace_manifest({**data, table: rows})

    def _replace_manifest(self, data: Mapping[str, Any]) -> None:
        target, fresh = self._path / "manifest.json", self._path / "manifest.json.new"
        with _engine_errors(self._bank):
            with fresh.open("w", encoding="utf-8") as file:
                json.dump(data, file, ensure_ascii=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(target)

    # -- layers --------------------------------------------------------------------------------

    def layers(self) -> list[int]:
        """See `Store`."""
        found = (path.name[1:] for path in self._path.glob("L*") if (path / "segments").is_dir())
        return sorted(int(name) for name in found if name.isdigit())

    def create(self, layer: int, hidden_size: int, quantization: str) -> None:
        """See `Store`."""
        path = self._layer_path(layer)
        fresh = path.with_suffix(".new")
        self._room(0)
        with _engine_errors(self._bank), self._writing, self._guard:
            self._let_go(layer)
            for left_by_a_kill in (path, *self._path.glob("L*.new")):
                if left_by_a_kill.exists():
                    shutil.rmtree(left_by_a_kill)
            fresh.mkdir()
            config = layer_config(hidden_size, quantization, self._settings.hnsw_ef_construct)
            shard = edge.EdgeShard.create(str(fresh), config)
            for field, kind in INDEXED_FIELDS.items():
                shard.update(edge.UpdateOperation.create_field_index(field, KINDS[kind]))
            shard.flush()
            shard.close()
            fresh.replace(path)

    def defer_index(self, layer: int, expected: int) -> None:
        """See `Store`; the embedded engine never builds an index unasked."""
        has_graph = expected >= self._settings.graph_from
        self._pieces[layer] = min(PIECE, -(-expected // 2)) if has_graph else PIECE

    def upsert(self, layer: int, points: Points) -> None:
        """See `Store`."""
        self._room(points.vectors.nbytes)
        with self._writing, self._use(layer) as shard:
            self._dirty.add(layer)
            for at in range(0, len(points.ids), _UPSERT):
                part = slice(at, at + _UPSERT)
                rows = zip(
                    points.ids[part], points.vectors[part].tolist(), points.payloads[part], strict=True
                )
                with _engine_errors(self._bank):
                    built = [
                        edge.Point(id_, row, cast("dict[str, Any]", payload)) for id_, row, payload in rows
                    ]
                    shard.update(edge.UpdateOperation.upsert_points(built))
                if self._is_read():
                    time.sleep(_PAUSE)

    def commit(self) -> None:
        """See `Store`."""
        with _engine_errors(self._bank), self._writing:
            for layer in sorted(self._dirty):
                with self._use(layer) as shard:
                    shard.flush()
            full = [layer for layer in self._dirty if self._is_full(layer)]
            self._dirty.clear()
        for layer in full:
            # A layer that has a graph keeps it: another setting would apply to all its segments.
            self._optimize(layer, graph_of(self._layer_path(layer)), LARGEST_PIECE, _MANY)

    def _state(self, layer: int) -> edge.ShardInfo:
        with _engine_errors(self._bank), self._use(layer) as shard:
            return shard.info()

    def _is_full(self, layer: int) -> bool:
        """Tell whether what was added to a layer is worth putting away; never while it is not being loaded."""
        state = self._state(layer)
        return _unindexed(state) >= max(self._pieces.get(layer, math.inf), _tenth(state.points_count))

    def _is_read(self) -> bool:
        return time.monotonic() - self._searched < _READ_SECONDS

    def _candidates(self, layer: int, ef: int) -> int:
        """How many candidates a segment's graph is searched with: by the cube root of its size, at least a few.

        Measured on layers of 150,000 and 600,000 contexts in two segments: with 80 and 127 of them recall is 0.996 and
        0.990 (benchmarks/search.py).
        """
        state = self._state(layer)
        segments = max(1, state.segments_count - 1)  # the engine keeps one more for new points
        return max(FEWEST, math.ceil(ef * math.cbrt(state.points_count / segments / LARGE)))

    def index(self, layer: int) -> None:
        """See `Store`. A layer that came indexed, in a snapshot, stays as it is until something is added to it."""
        self._pieces.pop(layer, None)
        if came_indexed(self._layer_path(layer)) and not _unindexed(self._state(layer)):
            return
        count = self.count(layer)
        graph, segments = 0, 1
        if count >= self._settings.graph_from:
            graph, segments = self._settings.hnsw_m, segments_of(count)
        # The engine merges the smallest segments until one is full: with room for a piece more than the average, as
        # many as we want come out, of about one size.
        self._optimize(layer, graph, -(-count // segments) + max(PIECE, _tenth(count)), segments)

    def _optimize(self, layer: int, graph: int, largest: int, segments: int) -> None:
        """Index what is not, with graphs of `graph` edges a node (0: none), and merge segments.

        Args:
            layer: the layer.
            graph: edges a node.
            largest: contexts in a segment that comes from merging, at most.
            segments: how many there may be; only what is more is merged.
        """
        path = self._layer_path(layer)
        with _engine_errors(self._bank), self._writing:
            self._room(self._used(layer))  # segments are rewritten beside the old ones
            shard = self._shard(layer)
            shard.flush()
            forget_origin(path)
            head = (self.read_manifest() or ({}, {}))[0]
            wanted = Optimization(
                head["hidden_size"],
                head["quantization"],
                self._settings.hnsw_ef_construct,
                graph,
                largest,
                segments,
            )
            contexts, read = shard.info().points_count, self._is_read()
            fresh = None
            try:
                fresh = optimize(path, wanted, contexts, self._lock.fileno(), read=read)
            finally:
                # Not before: what is closed drops its files from the page cache, and the new shard maps most of them.
                with self._guard:
                    self._let_go(layer)
                    if fresh is not None:
                        self._shards[layer] = fresh
                give_back()

    def _index_captions(self, layer: int, where: Filter | Sequence[Filter | None] | None) -> None:
        """Index the words of captions if a filter needs them and they are not indexed yet.

        Not while a layer is loaded: few are ever searched by caption, and the index takes more memory to build than
        everything else together.
        """
        if not reads_captions(where) or "caption" in self._state(layer).payload_schema:
            return
        with _engine_errors(self._bank), self._writing, self._use(layer) as shard:
            state = shard.info()
            if "caption" in state.payload_schema:  # another thread has indexed them meanwhile
                return
            self._room(0)
            if (count := state.points_count) >= _WORTH_SAYING:
                log.warning(
                    "Indexing the captions of %s contexts of layer %d, for this filter and later ones.",
                    f"{count:,}",
                    layer,
                )
            shard.update(edge.UpdateOperation.create_field_index("caption", CAPTION_INDEX))
            shard.flush()
            give_back()

    # -- points --------------------------------------------------------------------------------

    def search(
        self,
        layer: int,
        queries: Floats,
        limit: int,
        where: Filter | Sequence[Filter | None] | None = None,
        exact: bool = False,
        payloads: bool = True,
        ef: int | None = None,
    ) -> list[list[Hit]]:
        """See `Store`."""
        self._searched = time.monotonic()
        self._index_captions(layer, where)
        params = edge.SearchParams(
            hnsw_ef=max(limit, self._candidates(layer, ef or self._settings.ef)),
            exact=exact,
            quantization=edge.QuantizationSearchParams(
                ignore=exact, rescore=True, oversampling=self._settings.oversampling
            ),
        )
        rows = np.asarray(queries, dtype=np.float32).tolist()
        requests = [
            edge.QueryRequest(
                limit=limit,
                query=edge.Query.Nearest(row),
                filter=condition,
                params=params,
                with_payload=payloads,
            )
            for row, condition in zip(
                rows, each_condition(where, len(rows), edge, edge.RangeFloat), strict=True
            )
        ]
        with _engine_errors(self._bank), self._use(layer) as shard:
            answers = shard.query_batch(edge.QueryBatchRequest(requests))
        return [
            [Hit(str(p.id), p.score, cast("Payload", p.payload) if payloads else None) for p in answer]
            for answer in answers
        ]

    def payloads(self, layer: int, ids: Sequence[str]) -> dict[str, Payload]:
        """See `Store`."""
        with _engine_errors(self._bank), self._use(layer) as shard:
            found = shard.retrieve(list(ids), with_payload=True, with_vector=False)
        return {str(record.id): cast("Payload", record.payload) for record in found}

    def count(self, layer: int, where: Filter | None = None) -> int:
        """See `Store`."""
        self._index_captions(layer, where)
        request = edge.CountRequest(filter=conditions(where, edge, edge.RangeFloat))
        with _engine_errors(self._bank), self._use(layer) as shard:
            return shard.count(request)

    def facet(self, layer: int, field: str, where: Filter | None = None, limit: int = 100) -> dict[Any, int]:
        """See `Store`."""
        self._index_captions(layer, where)
        selected = conditions(where, edge, edge.RangeFloat)
        with _engine_errors(self._bank), self._use(layer) as shard:
            answer = shard.facet(edge.FacetRequest(field, limit, True, selected))
        # Values whose points are all deleted are still known to the index.
        return {hit.value: hit.count for hit in answer.hits if hit.count}

    def present(self, layer: int, ids: Sequence[str]) -> set[str]:
        """See `Store`."""
        with _engine_errors(self._bank), self._use(layer) as shard:
            found = shard.retrieve(list(ids), with_payload=False, with_vector=False)
        return {str(record.id) for record in found}

    def scroll(
        self,
        layer: int,
        where: Filter | None = None,
        vectors: bool = False,
        payloads: bool = False,
        start: str | None = None,
    ) -> Iterator[Stored]:
        """See `Store`."""
        self._index_captions(layer, where)
        selected = conditions(where, edge, edge.RangeFloat)
        offset: Any = start
        while True:
            request = edge.ScrollRequest(
                offset=offset, limit=_SCROLL, filter=selected, with_payload=payloads, with_vector=vectors
            )
            with _engine_errors(self._bank), self._use(layer) as shard:
                records, offset = shard.scroll(request)
            for record in records:
                row = np.asarray(record.vector, dtype=np.float32) if vectors else None
                yield Stored(str(record.id), cast("Payload", record.payload) if payloads else None, row)
            if offset is None:
                return

    def delete_corpus(self, layer: int, corpus: str) -> None:
        """See `Store`."""
        selected = conditions(Where(corpus=corpus), edge, edge.RangeFloat)
        with _engine_errors(self._bank), self._writing, self._use(layer) as shard:
            shard.update(edge.UpdateOperation.delete_points_by_filter(selected))
            shard.flush()

    def save_snapshot(self, layer: int, file: Path, told: Callable[[int], None]) -> None:
        """See `Store`. The engine reads snapshots but makes none."""
        del layer, file, told
        raise NoSnapshot("an embedded bank makes no snapshots")

    def load_snapshot(self, layer: int, save: Callable[[Path], None], expected: Mapping[str, int]) -> None:
        """See `Store`."""
        path = self._layer_path(layer)
        file, fresh, old = (path.with_suffix(end) for end in (".snapshot", ".new", ".old"))
        head = (self.read_manifest() or ({}, {}))[0]
        self._room(0)
        try:
            save(file)
            self._room(file.stat().st_size)
            with _engine_errors(self._bank):
                if fresh.exists():
                    shutil.rmtree(fresh)
                unpack(file, fresh, head["hidden_size"], head["quantization"], expected)
                with self._writing, self._guard:
                    self._let_go(layer)
                    path.replace(old)
                    fresh.replace(path)
                    shutil.rmtree(old)
        finally:
            file.unlink(missing_ok=True)
            shutil.rmtree(fresh, ignore_errors=True)

    def info(self, layer: int) -> LayerInfo:
        """See `Store`."""
        state = self._state(layer)
        points = self.count(layer)
        return LayerInfo(points, min(state.indexed_vectors_count, points), self._used(layer))

    # -- the whole bank ------------------------------------------------------------------------

    def delete(self) -> None:
        """See `Store`."""
        self._close_shards()
        if self._path.is_dir():
            with _engine_errors(self._bank):
                # One step ends the bank and says so: what an interrupted deletion leaves belongs to nobody.
                if (manifest := self._path / "manifest.json").exists():
                    manifest.replace(self._path / _DELETING)
                self._finish_deletion()
                shutil.rmtree(self._path)
        self.close()

    def close(self) -> None:
        """See `Store`."""
        with self._writing, self._guard:
            self._close_shards()
            if self._lock is not None:
                portalocker.unlock(self._lock)
                self._lock.close()
                self._lock = None

    def _close_shards(self) -> None:
        with self._writing, self._guard:
            for layer in list(self._shards):
                self._let_go(layer)

    def _let_go(self, layer: int) -> None:
        """Close a layer's shard, when nobody uses it any more."""
        with self._free:
            self._leaving.add(layer)
            try:
                self._free.wait_for(lambda: not self._users[layer])
            finally:
                self._leaving.discard(layer)
                self._free.notify_all()
            self._dirty.discard(layer)
            if layer in self._shards:
                self._shards.pop(layer).close()

    @contextmanager
    def _use(self, layer: int) -> Iterator[edge.EdgeShard]:
        """Give a layer's shard, which stays open meanwhile."""
        with self._free:
            self._free.wait_for(lambda: layer not in self._leaving)
            shard = self._shard(layer)
            self._users[layer] += 1
        try:
            yield shard
        finally:
            with self._free:
                self._users[layer] -= 1
                self._free.notify_all()

    def _layer_path(self, layer: int) -> Path:
        return self._path / f"L{layer:02d}"

    def _used(self, layer: int) -> int:
        """Bytes that a layer takes on the disk: its files are sparse, so their lengths say nothing."""
        used = 0
        for folder, _, files in os.walk(self._layer_path(layer)):
            for file in files:
                with suppress(FileNotFoundError):  # it is being optimized
                    used += os.stat(os.path.join(folder, file)).st_blocks * 512
        return used

    def _shard(self, layer: int) -> edge.EdgeShard:
        with self._guard:
            if layer not in self._shards:
                if self._lock is None:
                    raise BankNotFound(f"There is no bank '{self._bank}' in {self._settings.data_dir}.")
                path = self._layer_path(layer)
                if not path.is_dir():
                    raise LayerNotFound(f"The bank '{self._bank}' has no layer {layer}.")
                self._room(0)
                with _engine_errors(self._bank):
                    read_ahead(path)
                    self._shards[layer] = edge.EdgeShard.load(str(path), None)
            return self._shards[layer]

    def _room(self, needed: int) -> None:
        free = shutil.disk_usage(self._path).free
        if free < needed + RESERVE_BYTES:
            raise BankUnavailable(
                f"The disk of {self._path} is full ({free >> 20} MiB free); make room and run the command "
                "again, it continues where it stopped."
            )


def _unindexed(state: edge.ShardInfo) -> int:
    return state.points_count - state.indexed_vectors_count


def _tenth(contexts: int) -> int:
    return min(contexts // 10, LARGEST_PIECE)


def read_manifest_file(bank: str, path: Path) -> dict[str, Any] | None:
    """Read a bank's file whole, by the folder it is in; None where there is no such bank.

    Raises:
        BankUnavailable: it is damaged, or cannot be read.
    """
    try:
        data = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _damaged(bank, path, type(error).__name__) from None
    if not isinstance(data, dict):
        raise _damaged(bank, path, "it is no table")
    return data


def split_manifest(
    data: dict[str, Any] | None,
) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]] | None:
    """Give a file's head and ledger, as `Store.read_manifest` does."""
    if data is None:
        return None
    head = {key: value for key, value in data.items() if key not in ("shares", "corpora")}
    return head, data.get("corpora", {})


def _take_lock(path: Path, bank: str) -> Any:
    try:
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise BankUnavailable(f"The bank's lock {path} cannot be opened: {error.strerror}.") from None
    patience = time.monotonic() + _DYING_SECONDS
    while not _try_lock(file):
        file.seek(0)
        holder = file.read().decode(errors="replace").strip() or "?"
        if time.monotonic() < patience and _has_ended(holder):
            time.sleep(0.02)
            continue
        file.close()
        where = (
            "in this process already" if holder == str(os.getpid()) else f"in another process (pid {holder})"
        )
        raise BankBusy(
            f"The embedded bank '{bank}' is open {where}; close it there, or share the bank through a Qdrant "
            "server."
        )
    with suppress(OSError):  # on a full disk nobody learns who holds the lock, but it holds
        file.truncate(0)
        file.write(str(os.getpid()).encode())
    return file


def _try_lock(file: Any) -> bool:
    try:
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.LockException:
        return False
    return True


def _has_ended(holder: str) -> bool:
    """Tell whether a lock's holder was killed: what it left to index ends in a moment, and with it the lock."""
    if os.name != "posix":
        return False
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OSError):
        pass
    return False


def _damaged(bank: str, path: Path, how: str) -> BankUnavailable:
    return BankUnavailable(
        f"The manifest of bank '{bank}' cannot be read ({how}); restore {path / 'manifest.json'} from a backup."
    )


@contextmanager
def _engine_errors(bank: str) -> Iterator[None]:
    """The engine raises plain Exception, or a panic that is none: both, and the system's, become one sentence."""
    try:
        yield
    except BaseException as error:
        if not engine_failed(error) and not isinstance(error, OSError):
            raise
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if no_room(text):
            raise BankUnavailable(
                f"The disk of bank '{bank}' is full or its quota used up; make room and run the command again, "
                "it continues where it stopped."
            ) from error
        raise BankUnavailable(f"The bank '{bank}' cannot be used: {text}.") from error
