"""A server bank's ledger: its head, its corpora's entries and records about shares, as points without vectors.

The points lie in a collection of their own beside the layers, with a replica on every node. The head and each entry are
changed by compare-and-set: a change is a function of the record that was read, and the server writes the result only
where the record's version is still the one that was read. The server does not say whether it did. So each write has an
id, and a record carries the id of the last write of each connection that led to it: a change is made once most replicas
hold a record with its id. Otherwise it is applied anew, to what the record has become. docs/team.md says why this is
right while a node is dead, hangs or recovers, and which of Qdrant's guarantees it needs.

A record that is removed stays as a point whose record is null, with its version: a change made for the old record can
then never be taken for one of a new record of the same name. Records about shares are written as they are: each has one
writer, and nothing depends on them.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from latentbank.bank.store.base import Change, Record, StoredManifest
from latentbank.bank.store.names import ledger_name, share_key, share_path
from latentbank.bank.store.server.client import Connection
from latentbank.bank.store.server.retrying import exists_already, missing, passing
from latentbank.bank.token import claims_of
from latentbank.errors import BankBusy
from latentbank.version import __version__

Kind = Literal["head", "entry", "share"]

# Ids of earlier writes in a record, one for each connection. While a node hangs, a writer may learn only after many
# seconds that its write was made. By then others can have followed it with hundreds of writes; if they are more
# connections than this, the change is made again.
_HISTORY = 64
# How often a change is applied anew because another writer was faster, and the seconds between (doubled, with jitter).
_TRIES, _FIRST_PAUSE, _LONGEST_PAUSE = 200, 0.005, 0.5
# Seconds before replicas that do not agree, because a write is under way, are read again.
_PAUSES = (0.0, 0.01, 0.05, 0.2, 0.5)
_SCROLL = 1000
_IDS = uuid.UUID("5f1d6b1c-7f0e-5f43-9d0c-6c61746c6564")
_QUORUM, _MAJORITY = models.ReadConsistencyType.QUORUM, models.ReadConsistencyType.MAJORITY


class NoLedger(Exception):
    """The bank has no ledger collection."""


class HiddenLedger(Exception):
    """The API key is a token that does not open the ledger collection, if there is one."""


class _Overtaken(Exception):
    """Another writer changed the record first."""


@dataclass(frozen=True)
class _Row:
    """A record as stored: its version, the id of the write that made it and of earlier ones.

    `agreed`: most replicas hold this row. Otherwise it is what one of them holds.
    """

    version: int
    record: Record | None
    writes: tuple[str, ...]
    agreed: bool = True

    @classmethod
    def of(cls, point: models.Record, *, agreed: bool = True) -> _Row:
        payload = point.payload or {}
        return cls(payload["version"], payload["record"], (payload["writer"], *payload["history"]), agreed)


class Ledger:
    """The ledger of one version of a bank."""

    def __init__(self, server: Connection, bank: str) -> None:
        """Name the version; it need not exist."""
        self._server = server
        self._bank = bank
        self._name = ledger_name(bank)
        self._id = uuid.uuid4().hex[:12]
        self._writes = itertools.count(1)
        self._changing = threading.Lock()  # one change at a time: a record keeps one id for each connection

    def create(self) -> None:
        """Create the collection unless it exists; it has no head yet, so it makes no bank."""
        status = self._server.call(self._server.rest.cluster_status)
        nodes = max(1, len(getattr(status, "peers", None) or ()))

        def create() -> None:
            try:
                self._server.rest.create_collection(
                    self._name,
                    vectors_config={},
                    shard_number=1,
                    replication_factor=nodes,
                    write_consistency_factor=nodes // 2 + 1,
                )
            except Exception as error:
                if not exists_already(error):
                    raise

        self._server.call(create)
        index = self._server.rest.create_payload_index
        for field, kind in (("kind", "keyword"), ("version", "integer")):
            schema = models.PayloadSchemaType(kind)
            self._server.call(partial(index, self._name, field, field_schema=schema, wait=True))

    def delete(self) -> None:
        """Delete the collection, if there is one."""
        self._server.call(partial(self._server.rest.delete_collection, self._name))

    # -- reading -------------------------------------------------------------------------------

    def read(self) -> StoredManifest | None:
        """Return the head and the entries, by name; None if there is no head.

        One replica is asked, because after a change every replica that may answer has it (see docs/team.md).

        Raises:
            NoLedger: there is no ledger collection.
            HiddenLedger: this key may not see it.
        """
        found: dict[str, dict[str, Record]] = {"head": {}, "entry": {}}
        for payload in self._payloads("head", "entry"):
            if payload["record"] is not None:
                found[payload["kind"]][payload["key"]] = payload["record"]
        head = found["head"].get("")
        return None if head is None else (head, dict(sorted(found["entry"].items())))

    def exists(self) -> bool:
        """Return whether there is a head; see `read`."""
        return self._ask(partial(self._retrieve, _id("head", ""))) is not None

    def read_shares(self, corpus: str) -> dict[str, Record]:
        """Return the records about shares of a corpus's ingestion, by key."""
        found = {}
        for payload in self._payloads("share"):
            if (key := share_key(payload["key"], corpus)) is not None:
                found[key] = payload["record"]
        return found

    def _payloads(self, *kinds: Kind) -> Iterator[dict[str, Any]]:
        match = models.FieldCondition(key="kind", match=models.MatchAny(any=[str(kind) for kind in kinds]))
        offset: Any = None
        while True:
            points, offset = self._ask(
                partial(
                    self._server.rest.scroll,
                    self._name,
                    models.Filter(must=[match]),
                    limit=_SCROLL,
                    offset=offset,
                )
            )
            yield from (point.payload for point in points)
            if offset is None:
                return

    def _ask(self, request: Callable[[], Any], *, writes: bool = False) -> Any:
        """Send a request whose answer says, too, whether there is a ledger."""

        def ask() -> Any:
            try:
                return request()
            except Exception as error:
                if missing(error):
                    raise NoLedger from None
                if not writes and self._hidden(error):
                    raise HiddenLedger from None
                raise

        return self._server.call(ask)

    def _hidden(self, error: Exception) -> bool:
        forbidden = isinstance(error, UnexpectedResponse) and error.status_code == 403
        return forbidden and claims_of(self._server.settings.key() or "") is not None

    # -- writing -------------------------------------------------------------------------------

    def change(self, kind: Kind, key: str, change: Change) -> Record | None:
        """Change a record, or make or remove it (None), by compare-and-set; see `Store.change_entry`.

        Raises:
            NoLedger: there is no ledger collection.
            BankBusy: other writers were faster too many times.
        """
        tries = Retrying(
            stop=stop_after_attempt(_TRIES),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE),
            retry=retry_if_exception_type(_Overtaken),
            reraise=True,
        )
        try:
            with self._changing:
                return tries(self._try, _id(kind, key), kind, key, change, {})
        except _Overtaken:
            raise BankBusy(
                f"The ledger of the bank '{self._bank}' is changed by too many others at the same moment; try again."
            ) from None

    def insert(self, kind: Kind, key: str, record: Record) -> None:
        """Write a record unless there is or was one of that name."""
        self._write(_id(kind, key), self._payload(kind, key, None, record), None)

    def write_shares(self, corpus: str, records: Mapping[str, Record | None]) -> None:
        """Store records about shares of a corpus's ingestion, or remove them (None)."""
        paths = {share_path(corpus, key): record for key, record in records.items()}
        written = [
            models.PointStruct(
                id=_id("share", path), vector={}, payload=self._payload("share", path, None, record)
            )
            for path, record in paths.items()
            if record is not None
        ]
        removed = [_id("share", path) for path, record in paths.items() if record is None]
        rest = self._server.rest
        if written:
            self._ask(partial(rest.upsert, self._name, written, wait=True), writes=True)
        if removed:
            selector = models.PointIdsList(points=list(removed))
            self._ask(partial(rest.delete, self._name, selector, wait=True), writes=True)

    def _try(
        self, id_: str, kind: Kind, key: str, change: Change, tried: dict[str, Record | None]
    ) -> Record | None:
        """Make a change once, or find that an earlier try has made it.

        Args:
            id_: the record's point.
            kind: the record's kind.
            key: its name.
            change: see `Store.change_entry`.
            tried: what the earlier tries wrote, by the ids of their writes; this one is added. A write can arrive after
                its writer has looked for it, for instance when a node hangs.

        Raises:
            _Overtaken: another writer was faster, or the replicas do not agree.
        """
        found = self._settled(id_)
        record = found.record if found else None
        made = next((write for write in found.writes if write in tried), None) if found else None
        result = change(record) if made is None else tried[made]
        changed = result if made is None else record
        if changed == record and (found is None or found.agreed):
            return result
        payload = self._payload(kind, key, found, changed)
        tried[payload["writer"]] = result
        self._write(id_, payload, found)
        now = self._settled(id_)
        if now is None or not now.agreed or payload["writer"] not in now.writes:
            raise _Overtaken
        return result

    def _payload(self, kind: Kind, key: str, found: _Row | None, record: Record | None) -> dict[str, Any]:
        """Return what a write stores: the next version of a record, and who wrote it."""
        return {
            "kind": kind,
            "key": key,
            "version": found.version + 1 if found else 1,
            "record": None if record is None else dict(record),
            "writer": f"{self._id}-{next(self._writes)}",
            "history": _last_of_each(found.writes)[:_HISTORY] if found else [],
            "by": f"{socket.gethostname()}, process {os.getpid()}, latentbank {__version__}",
        }

    def _write(self, id_: str, payload: dict[str, Any], found: _Row | None) -> None:
        """Write a row where the replicas hold nothing newer than `found`; None: where they hold no such row at all.

        The node with the highest number puts writes in order (strong). If it cannot be reached, the highest that can
        does (medium).
        """
        condition: dict[str, Any] = {"update_mode": models.UpdateMode.INSERT_ONLY}
        if found is not None:
            # Not "equal to": a replica that missed an earlier write gets this one.
            known = models.FieldCondition(key="version", range=models.Range(lte=found.version))
            condition = {"update_filter": models.Filter(must=[known])}
        point = models.PointStruct(id=id_, vector={}, payload=payload)
        write = partial(self._server.rest.upsert, self._name, [point], wait=True, **condition)

        orderings = itertools.chain(
            [models.WriteOrdering.STRONG], itertools.repeat(models.WriteOrdering.MEDIUM)
        )
        self._ask(lambda: write(ordering=next(orderings)), writes=True)

    def _settled(self, id_: str) -> _Row | None:
        """Return the row that most replicas hold, or None if it is nowhere.

        Two of three replicas are compared, so that one may be dead. If they differ, a write is under way: they are read
        again. If they still differ, because a write failed half-way, all are compared.
        """
        alone: models.Record | None = None
        for pause in _PAUSES:
            time.sleep(pause)
            if (agreed := self._ask(partial(self._retrieve, id_, _QUORUM))) is not None:
                return _Row.of(agreed)
            if (alone := self._ask(partial(self._retrieve, id_))) is None:
                return None
        most = self._ask(partial(self._of_all, id_))
        if most is not None:
            return _Row.of(most)
        return _Row.of(alone, agreed=False) if alone else None

    def _of_all(self, id_: str) -> models.Record | None:
        try:
            return self._retrieve(id_, _MAJORITY)
        except Exception as error:
            if passing(error):  # not all of them are there
                return None
            raise

    def _retrieve(
        self, id_: str, consistency: models.ReadConsistencyType | None = None
    ) -> models.Record | None:
        found = self._server.rest.retrieve(self._name, [id_], consistency=consistency)
        return found[0] if found else None


def _id(kind: Kind, key: str) -> str:
    return str(uuid.uuid5(_IDS, f"{kind}/{key}"))


def _last_of_each(writes: Iterable[str]) -> list[str]:
    """Return the first write of each connection; writes come newest first, their ids are CONNECTION-NUMBER."""
    found: dict[str, str] = {}
    for write in writes:
        found.setdefault(write.partition("-")[0], write)
    return list(found.values())
