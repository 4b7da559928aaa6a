"""Read an export (bank/transfer/export.py) into a bank, file by file, each checked against its sum."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load as load_tensors

from latentbank.bank.bank import Bank
from latentbank.bank.manifest import CorpusEntry, Manifest
from latentbank.bank.points import Payload
from latentbank.bank.rotation import rotate, unit
from latentbank.bank.settings import Settings
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


def import_bank(
    folder: Path,
    settings: Settings,
    name: str | None = None,
    progress: Progress | None = None,
    sample: int = 1000,
) -> MoveReport:
    """Read an export into the bank it is of, made if there is none, and verify it.

    Run again after a kill, it goes on where it stopped; corpora that are there already stay. In memory is one file of
    payloads and one of vectors at a time.

    Args:
        folder: the export.
        settings: where the bank is.
        name: the bank's name; by default the one it was exported from.
        progress: told contexts stored of all contexts in all layers, then layers indexed, then contexts compared.
        sample: how many vectors of each layer are verified.

    Raises:
        CorpusError: the export is not whole, a file is damaged, or the bank holds another corpus of that name.
        BankMismatch: a bank of that name is there, of another LLM or with other layers.

    Example:
        >>> import latentbank as lb
        >>> from pathlib import Path
        >>> with lb.open_bank("captions") as bank:
        ...     report = lb.export_bank(bank, Path("exported"))
        >>> report = lb.import_bank(Path("exported"), lb.load_settings(), name="copied")
    """
    progress = progress or Silent()
    export = _Export(folder.expanduser())
    manifest = export.manifest
    entries = complete_corpora(manifest)
    for entry in entries:
        check_folder(entry.name)
    with receiving_bank(replace(manifest, bank=name or manifest.bank), settings) as target:
        receiver = Receiver(target, entries, progress)
        for entry in receiver.todo:
            begun = any(receiver.stored_contexts(layer, entry.stored) for layer in target.layers)
            for number, count in parts_of(entry, export.part):
                _import_part(target, export, entry, number, count, receiver, look=begun)
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
    """An export that is whole: its manifest, and its files, each checked when it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not (folder / DESCRIPTION).is_file():
            raise CorpusError(
                f"{folder} holds no export of a bank; `latentbank bank export NAME {folder}` makes one."
            )
        sums = read_sums(folder)
        if sums is None:
            raise CorpusError(
                f"The export in {folder} is not whole, it has no {SUMS}; run `latentbank bank export` again, it "
                "goes on where it stopped."
            )
        self._sums = sums
        try:
            data = json.loads(self.read(DESCRIPTION))
            version, self.part = data["format"], int(data["contexts_per_file"])
            head, corpora = data["manifest"], data["manifest"].pop("corpora")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise self.damaged(DESCRIPTION, "it describes no export") from None
        if version != FORMAT or self.part < 1:
            raise CorpusError(
                f"The export in {folder} has format {version}, this latentbank reads format {FORMAT}; use the "
                "latentbank version that wrote it."
            )
        self.manifest = Manifest.from_dict(head, corpora)

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            CorpusError: it is missing, or not what was exported.
        """
        if name not in self._sums or not (self._folder / name).is_file():
            raise self.damaged(name, "it is missing")
        data = read_file(self._folder / name)
        if digest(data) != self._sums[name]:
            raise self.damaged(name, f"it is not the one {SUMS} tells of")
        return data

    def contexts(self, entry: CorpusEntry, number: int, count: int) -> tuple[list[str], list[Payload]]:
        """Read a file of payloads: its ids, and the payloads."""
        name = contexts_file(entry.name, number)
        try:
            table = pq.read_table(pa.BufferReader(self.read(name))).select(COLUMNS.names).cast(COLUMNS)
        except (pa.ArrowException, ValueError, LookupError) as error:
            raise self.damaged(name, str(error).splitlines()[0]) from None
        rows = table.to_pylist()
        ids = [row.pop("id") for row in rows]
        if len(rows) != count or any(row["corpus"] != entry.stored for row in rows):
            raise self.damaged(name, f"it holds not {count:,} contexts of '{entry.name}'")
        if any(column.null_count for column in table.columns):
            raise self.damaged(name, "a field is empty")
        return ids, cast("list[Payload]", rows)

    def vectors(
        self, entry: CorpusEntry, layer: int, number: int, ids: Sequence[str]
    ) -> npt.NDArray[np.float16]:
        """Read a file of vectors `[n, hidden]`: those of `ids`."""
        name = vectors_file(entry.name, layer, number)
        data = self.read(name)
        try:
            tensors: Mapping[str, npt.NDArray[Any]] = load_tensors(data)
            rows, own = tensors["vectors"], tensors["ids"]
        except Exception as error:  # safetensors' own class, numpy's, a missing tensor
            raise self.damaged(name, str(error).splitlines()[0]) from None
        if rows.shape != (len(ids), self.manifest.hidden_size) or rows.dtype != np.float16:
            raise self.damaged(name, f"its vectors are {rows.dtype} {list(rows.shape)}")
        if not np.array_equal(own, packed_ids(ids)):
            raise self.damaged(name, "its vectors are of other contexts")
        norms = np.linalg.norm(rows.astype(np.float32), axis=1)
        if not (abs(norms - 1.0) <= NORM_TOLERANCE).all():
            raise self.damaged(name, "its vectors do not have length 1")
        return rows

    def damaged(self, name: str, how: str) -> CorpusError:
        """Say that a file cannot be used."""
        return CorpusError(
            f"{self._folder / name} is damaged ({how}); copy the export again, or run `latentbank bank export`."
        )


def _import_part(
    target: Bank,
    export: _Export,
    entry: CorpusEntry,
    number: int,
    count: int,
    receiver: Receiver,
    *,
    look: bool,
) -> None:
    ids, payloads = export.contexts(entry, number, count)
    for layer in target.layers:
        if look and target.store.present(layer, ids) == set(ids):
            receiver.skip(count)
            continue
        rows = export.vectors(entry, layer, number, ids)
        for at in range(0, count, BATCH):
            part = slice(at, at + BATCH)
            stored = rotate(unit(rows[part]), target.manifest.rotation_seed)
            receiver.put(layer, Points(ids[part], stored, payloads[part]))
