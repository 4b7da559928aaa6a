"""Import of an exported bank (bank/transfer/export.py), file by file, each checked against its sum."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load as load_tensors

from latentbank.bank.bank import Bank
from latentbank.bank.manifest import CorpusEntry, Manifest
from latentbank.bank.points import Payload
from latentbank.bank.rotation import rotate, unit
from latentbank.bank.settings import Settings, SettingsGiven, settings_from
from latentbank.bank.store.base import Points
from latentbank.bank.transfer.export import (
    COLUMNS,
    DESCRIPTION,
    FORMAT,
    SUMS,
    check_folder,
    contexts_file,
    digest,
    packed_ids,
    parts_of,
    read_file,
    read_sums,
    vectors_file,
)
from latentbank.bank.transfer.receive import (
    BATCH,
    MoveReport,
    Receiver,
    complete_corpora,
    receiving_bank,
    verify_corpora,
)
from latentbank.bank.verify import NORM_TOLERANCE
from latentbank.errors import CorpusError
from latentbank.progress import Progress, Silent
from latentbank.text import first_line
from latentbank.values import whole


def import_bank(
    folder: str | os.PathLike[str],
    settings: Settings | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    sample: int = 1000,
    **given: Unpack[SettingsGiven],
) -> MoveReport:
    """Import an export into a bank, which is created if it does not exist, and verify the bank.

    After a kill, call it again: it continues where it stopped. Corpora that the bank has already stay. One file of
    payloads and one of vectors are in memory at a time.

    Args:
        folder: the export.
        settings: where the bank is; None: read from `given` and the environment.
        name: the bank's name; None: as when it was exported.
        progress: counts the contexts stored of those in all layers, then layers indexed, then contexts compared.
        sample: how many vectors of each layer are verified.
        given: single settings (`url=…`, `data_dir=…`), instead of `settings`.

    Raises:
        CorpusError: the export is unfinished, a file is damaged, or the bank has another corpus of that name.
        BankMismatch: the bank exists with another LLM or other layers.

    Examples:
        >>> import latentbank as lb
        >>> with lb.open_bank("captions") as bank:
        ...     report = lb.export_bank(bank, "exported")
        >>> report = lb.import_bank("exported", name="copied")
    """
    settings = settings_from(settings, **given)
    progress, sample = progress or Silent(), whole(sample, "sample", 0)
    export = _Export(Path(folder).expanduser())
    manifest = export.manifest
    entries = complete_corpora(manifest)
    for entry in entries:
        check_folder(entry.name)
    with receiving_bank(replace(manifest, bank=name or manifest.bank), settings) as target:
        receiver = Receiver(target, entries, progress)
        for entry in receiver.todo:
            begun = any(receiver.stored_contexts(layer, entry.stored) for layer in target.layers)
            for number, count in parts_of(entry, export.part):
                _import_part(target, export, entry, number, count, receiver, check=begun)
        receiver.finish()
        wrong = verify_corpora(target, target.layers, entries, sample, progress)
    return MoveReport(
        bank=target.name,
        layers=target.layers,
        corpora=[entry.name for entry in entries],
        contexts=sum(entry.contexts for entry in entries),
        written=receiver.written,
        left_out=[],
        wrong=wrong,
    )


class _Export:
    """A finished export: its manifest, and its files, which are checked when they are read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not (folder / DESCRIPTION).is_file():
            raise CorpusError(
                f"{folder} holds no export of a bank; name the folder of one, or export a bank first."
            )
        sums = read_sums(folder)
        if sums is None:
            raise CorpusError(
                f"The export in {folder} is not whole, it has no {SUMS}; export the bank again, which continues "
                "where it stopped."
            )
        self._sums = sums
        try:
            data = json.loads(self.read(DESCRIPTION))
            version, self.part = data["format"], int(data["contexts_per_file"])
            head, corpora = data["manifest"], data["manifest"].pop("corpora")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise self.damaged(DESCRIPTION, "it does not describe an export") from None
        if version != FORMAT or self.part < 1:
            raise CorpusError(
                f"The export in {folder} has format {version}, this latentbank reads format {FORMAT}; use the "
                "latentbank version that wrote it."
            )
        self.manifest = Manifest.from_dict(head, corpora)

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            CorpusError: it is missing, or differs from what was exported.
        """
        if name not in self._sums or not (self._folder / name).is_file():
            raise self.damaged(name, "it is missing")
        data = read_file(self._folder / name)
        if digest(data) != self._sums[name]:
            raise self.damaged(name, f"it does not have the sum in {SUMS}")
        return data

    def contexts(self, entry: CorpusEntry, number: int, count: int) -> tuple[list[str], list[Payload]]:
        """Return the ids and payloads of a file of payloads."""
        name = contexts_file(entry.name, number)
        try:
            table = pq.read_table(pa.BufferReader(self.read(name))).select(COLUMNS.names).cast(COLUMNS)
        except (pa.ArrowException, ValueError, LookupError) as error:
            raise self.damaged(name, first_line(error)) from None
        rows = table.to_pylist()
        ids = [row.pop("id") for row in rows]
        if len(rows) != count or any(row["corpus"] != entry.stored for row in rows):
            raise self.damaged(name, f"it does not hold {count:,} contexts of '{entry.name}'")
        if any(column.null_count for column in table.columns):
            raise self.damaged(name, "a field is empty")
        return ids, cast("list[Payload]", rows)

    def vectors(
        self, entry: CorpusEntry, layer: int, number: int, ids: Sequence[str]
    ) -> npt.NDArray[np.float16]:
        """Return the vectors `[n, hidden]` (float16) of `ids` in a file of vectors."""
        name = vectors_file(entry.name, layer, number)
        data = self.read(name)
        try:
            tensors: Mapping[str, npt.NDArray[Any]] = load_tensors(data)
            rows, own = tensors["vectors"], tensors["ids"]
        except Exception as error:  # safetensors' own class, numpy's, or a missing tensor
            raise self.damaged(name, first_line(error)) from None
        if rows.shape != (len(ids), self.manifest.hidden_size) or rows.dtype != np.float16:
            raise self.damaged(name, f"its vectors are {rows.dtype} {list(rows.shape)}")
        if not np.array_equal(own, packed_ids(ids)):
            raise self.damaged(name, "its vectors are of other contexts")
        norms = np.linalg.norm(rows.astype(np.float32), axis=1)
        if not (abs(norms - 1.0) <= NORM_TOLERANCE).all():
            raise self.damaged(name, "its vectors do not have length 1")
        return rows

    def damaged(self, name: str, how: str) -> CorpusError:
        """Return the error for a file that cannot be used."""
        return CorpusError(
            f"{self._folder / name} is damaged ({how}); copy the export again, or export the bank again."
        )


def _import_part(
    target: Bank,
    export: _Export,
    entry: CorpusEntry,
    number: int,
    count: int,
    receiver: Receiver,
    *,
    check: bool,
) -> None:
    ids, payloads = export.contexts(entry, number, count)
    for layer in target.layers:
        if check and target.store.present(layer, ids) == set(ids):
            receiver.skip(count)
            continue
        rows = export.vectors(entry, layer, number, ids)
        for at in range(0, count, BATCH):
            part = slice(at, at + BATCH)
            stored = rotate(unit(rows[part]), target.manifest.rotation_seed)
            receiver.put(layer, Points(ids[part], stored, payloads[part]))
