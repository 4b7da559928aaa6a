"""An embedded bank's layers: one folder each, and the engine's shards that are open on them.

Beside a layer's folder `L08` there may be, for a time, `L08.new` (a layer that is being made), `L08.snapshot` (a file
it is made from) and `L08.old` (a layer that is being replaced).

A layer that cannot be written to, or whose disk is full, is loaded from a copy (see `scratch`), which can only be read.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import qdrant_edge as edge

from latentbank.bank.store.base import Points
from latentbank.bank.store.embedded.engine import engine_errors, layer_config, read_ahead
from latentbank.bank.store.embedded.full_disk import watch
from latentbank.bank.store.embedded.layer_writer import Written
from latentbank.bank.store.embedded.optimizing import Optimization
from latentbank.bank.store.embedded.scratch import RESERVE_BYTES, ScratchLayer
from latentbank.bank.store.embedded.writers import Writers
from latentbank.errors import BankNotFound, BankUnavailable, LayerNotFound
from latentbank.files import move


class Layers:
    """The layers of one version of a bank, open in this process only.

    Attributes:
        writing: held while a layer is written to. An optimization in another process needs the layer to itself.
        changing: held while shards are opened, closed or replaced.
    """

    def __init__(
        self, bank: str, folder: Path, *, there: bool, writable: bool, writers: Writers | None = None
    ) -> None:
        """Use the layers in `folder`.

        Args:
            bank: the bank's name, for messages.
            folder: where the layers are.
            there: it exists, and its lock is held.
            writable: it can be written to.
            writers: processes that can write to layers; None: only this one does.
        """
        self._bank = bank
        self._folder = folder
        self._there = there
        self._writable = writable
        self._writers = writers
        self._closed = False
        self._copies: dict[int, ScratchLayer] = {}  # of the layers that are open and can only be read
        self._shards: dict[int, edge.EdgeShard] = {}
        self.writing = threading.RLock()
        self.changing = threading.RLock()
        # A shard is closed only when it has no readers; new readers wait until it has been closed.
        self._free = threading.Condition(self.changing)
        self._users: Counter[int] = Counter()
        self._changes: Counter[int] = Counter()
        self._leaving: set[int] = set()

    def numbers(self) -> list[int]:
        """Return the layers that exist, ascending."""
        found = (path.name[1:] for path in self._folder.glob("L*") if (path / "segments").is_dir())
        return sorted(int(name) for name in found if name.isdigit())

    def path(self, layer: int) -> Path:
        """Return a layer's folder."""
        return self._folder / f"L{layer:02d}"

    def create(self, layer: int, hidden_size: int, quantization: str, ef_construct: int) -> None:
        """Create an empty layer, replacing what is there."""
        path = self.path(layer)
        fresh = path.with_suffix(".new")
        self.require_room(0)
        watch(self._folder)
        with engine_errors(self._bank), self.writing, self.changing:
            self.replace_shard(layer)
            for left_by_a_kill in (path, *self._folder.glob("L*.new")):
                if left_by_a_kill.exists():
                    shutil.rmtree(left_by_a_kill)
            fresh.mkdir()
            config = layer_config(hidden_size, quantization, ef_construct)
            shard = edge.EdgeShard.create(str(fresh), config)
            shard.flush()
            shard.close()
            move(fresh, path)

    def replace(self, layer: int, fresh: Path) -> None:
        """Put a folder in the place of a layer's, in one step."""
        path = self.path(layer)
        old = path.with_suffix(".old")
        with engine_errors(self._bank), self.writing, self.changing:
            self.replace_shard(layer)
            move(path, old)
            move(fresh, path)
            shutil.rmtree(old)

    def clean(self) -> None:
        """Remove what a kill left of snapshots; a layer that was about to be replaced is restored."""
        with engine_errors(self._bank):
            for old in self._folder.glob("L*.old"):
                if old.with_suffix("").exists():
                    shutil.rmtree(old)
                else:
                    move(old, old.with_suffix(""))
            for file in self._folder.glob("L*.snapshot"):
                file.unlink()
            for fresh in self._folder.glob("L*.new"):
                shutil.rmtree(fresh)

    def delete(self) -> None:
        """Delete all layers from the disk; none may be open."""
        for layer in self._folder.glob("L*"):
            shutil.rmtree(layer)

    def shard(self, layer: int, *, write: bool = False) -> edge.EdgeShard:
        """Return a layer's shard, opening it if necessary.

        Args:
            layer: the layer.
            write: it will be written to, so it must be open where changes stay.

        Raises:
            BankNotFound: there is no such bank.
            BankUnavailable: the bank is closed, or there is no room to open the layer.
            LayerNotFound: there is no such layer.
        """
        with self.changing:
            if write and layer in self._copies:
                self.require_room(0)
                self.replace_shard(layer)
            if layer not in self._shards:
                if self._closed:
                    raise BankUnavailable(f"The bank '{self._bank}' is closed; open it again.")
                if not self._there:
                    raise BankNotFound(f"There is no bank '{self._bank}' in {self._folder.parent}.")
                path = self.path(layer)
                if not path.is_dir():
                    raise LayerNotFound(f"The bank '{self._bank}' has no layer {layer}.")
                if write:
                    self.require_room(0)
                with engine_errors(self._bank):
                    self._take_back(layer)
                    self._load(layer, path)
            return self._shards[layer]

    def _load(self, layer: int, path: Path) -> None:
        copy = None if self._writable and self.has_room(0) else ScratchLayer(path, self._bank)
        watch(copy.path.parent if copy else self._folder)
        try:
            read_ahead(path)
            self._shards[layer] = edge.EdgeShard.load(str(copy.path if copy else path), None)
        except BaseException:
            if copy is not None:
                copy.remove()
            raise
        if copy is not None:
            self._copies[layer] = copy

    @property
    def several_write(self) -> bool:
        """Whether several processes can write to layers."""
        return self._writers is not None

    def store_elsewhere(self, layer: int, points: Points) -> None:
        """Have another process store contexts in a layer; what is read here takes the layer back."""
        assert self._writers is not None
        with engine_errors(self._bank):
            while not self._writers.store(layer, points):
                with self.writing, self.changing:
                    self.shard(layer, write=True)  # raises what is wrong with the layer
                    self.replace_shard(layer)
                    self._writers.hand_over(layer, self.path(layer))

    def flush(self, layer: int) -> Written:
        """Make what was stored in a layer durable, and return its state."""
        with engine_errors(self._bank):
            written = self._writers.flush(layer) if self._writers else None
        if written is None:
            with self.use(layer, write=True) as shard:
                shard.flush()
                state = shard.info()
            written = Written(state.points_count, state.indexed_vectors_count)
        return written

    def present(self, layer: int, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that a layer holds, without taking it back from a process that writes to it."""
        with engine_errors(self._bank):
            found = self._writers.present(layer, ids) if self._writers else None
        if found is None:
            with self.use(layer) as shard:
                records = shard.retrieve(list(ids), with_payload=False, with_vector=False)
            found = {str(record.id) for record in records}
        return found

    def optimize_elsewhere(self, layer: int, target: Optimization) -> bool:
        """Have the process that writes to a layer index it, without waiting; return False if none does."""
        with engine_errors(self._bank):
            return self._writers is not None and self._writers.optimize(layer, target)

    def end_writers(self) -> None:
        """End the processes that write to layers; the next call of `store_elsewhere` starts them again."""
        if self._writers is not None:
            with engine_errors(self._bank):
                self._writers.close()

    def _take_back(self, layer: int) -> None:
        if self._writers is not None:
            self._writers.take_back(layer)

    @contextmanager
    def use(self, layer: int, *, write: bool = False) -> Iterator[edge.EdgeShard]:
        """Provide a layer's shard, which stays open during the block; the engine's errors in it are translated.

        See `shard` for the arguments.
        """
        with self._free:
            self._free.wait_for(lambda: layer not in self._leaving)
            shard = self.shard(layer, write=write)
            self._users[layer] += 1
        try:
            with engine_errors(self._bank):
                yield shard
        finally:
            with self._free:
                self._changes[layer] += write
                self._users[layer] -= 1
                self._free.notify_all()

    def changes(self, layer: int) -> int:
        """Return a number that is another one after a layer was written to, loaded again or replaced."""
        return self._changes[layer]

    def loaded(self, layer: int) -> Path:
        """Return the folder that a layer is open from: its own, or that of its copy."""
        with self.changing:
            copy = self._copies.get(layer)
            return self.path(layer) if copy is None else copy.path

    def state(self, layer: int) -> edge.ShardInfo:
        """Return what the engine says about a layer."""
        with self.use(layer) as shard:
            return shard.info()

    def replace_shard(self, layer: int, fresh: edge.EdgeShard | None = None) -> None:
        """Close a layer's shard when it is not in use, and let `fresh` take its place."""
        with self._free:
            self._leaving.add(layer)
            try:
                self._free.wait_for(lambda: not self._users[layer])
            finally:
                self._leaving.discard(layer)
                self._free.notify_all()
            self._changes[layer] += 1
            if layer in self._shards:
                self._shards.pop(layer).close()
            else:
                self._take_back(layer)
            if layer in self._copies:
                self._copies.pop(layer).remove()
            if fresh is not None:
                self._shards[layer] = fresh

    def close_shards(self) -> None:
        """Close all shards; they are opened again when they are used."""
        with self.writing, self.changing:
            for layer in list(self._shards):
                self.replace_shard(layer)
            self.end_writers()

    def close(self) -> None:
        """Close all shards, for good."""
        with self.writing, self.changing:
            self.close_shards()
            self._closed = True

    def bytes_on_disk(self, layer: int) -> int:
        """Return the bytes that a layer takes on the disk; its files are sparse, so their lengths do not tell."""
        used = 0
        for folder, _, files in os.walk(self.path(layer)):
            for file in files:
                with suppress(FileNotFoundError):  # the layer is being optimized
                    used += os.stat(os.path.join(folder, file)).st_blocks * 512
        return used

    def require_room(self, needed: int) -> None:
        """Check that so many bytes can be written.

        Raises:
            BankUnavailable: they cannot.
        """
        if not self.has_room(needed):
            free = shutil.disk_usage(self._folder).free
            raise BankUnavailable(
                f"The disk of {self._folder} is full ({free >> 20} MiB free); make room and run the command "
                "again, it continues where it stopped."
            )

    def require_room_at(self, layer: int) -> None:
        """Check that an index can be added to a layer where it is open: in its folder, or in its copy."""
        if layer not in self._copies:
            self.require_room(0)

    def has_room(self, needed: int) -> bool:
        """Return whether so many bytes can be written, and some are left."""
        return shutil.disk_usage(self._folder).free >= needed + RESERVE_BYTES
