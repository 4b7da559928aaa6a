"""A bank as plain files that anything can read: vectors as safetensors, payloads as Parquet, and what they are.

    bank.json                        the format, and the bank's manifest with its complete corpora
    SHA256SUMS                       of every other file; written last, so it says that the export is whole
    {corpus}/contexts-00000.parquet  ids and payloads of the corpus's first PART contexts, in the order of their ids
    {corpus}/L04-00000.safetensors   their `vectors` [n, hidden] float16 in layer 4, and `ids` [n, 16] uint8

Vectors have length 1 and are not rotated: a hidden state scaled to length 1 (in a centred bank after its layer's mean
was subtracted; the manifest has the means) can be compared with them by a dot product. Payloads name the corpus as
it is stored: one that has replaced another of its name `name@2`, which is the `stored_as` of its ledger entry.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save as save_tensors

from latentbank.bank.bank import Bank
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.rotation import unrotate
from latentbank.bank.store.base import Stored
from latentbank.bank.transfer.receive import BATCH, batches, complete_corpora, incomplete_corpora
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, CorpusError, LatentBankError
from latentbank.files import write_whole
from latentbank.progress import Progress, Silent

FORMAT = 1
# Contexts in one file: 128 MiB of vectors at hidden size 4,096, which are in memory while the file is written or read.
PART = 16_384
DESCRIPTION, SUMS = "bank.json", "SHA256SUMS"
# Only such corpora can name a folder.
_FOLDER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")

Ids = npt.NDArray[np.uint8]

COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("sentence", pa.int64()),
        ("position", pa.int32()),
        ("token_id", pa.int32()),
        ("token", pa.string()),
        ("word", pa.string()),
        ("caption", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
    ]
)


@dataclass(frozen=True)
class ExportReport:
    """What an export is: `contexts` in each layer, `files` and their `bytes`, `written` of them in this run.

    `left_out` are corpora that are incomplete.
    """

    bank: str
    directory: str
    layers: list[int]
    corpora: list[str]
    contexts: int
    files: int
    bytes: int
    written: int
    left_out: list[str]


def export_bank(bank: Bank, folder: Path, progress: Progress | None = None) -> ExportReport:
    """Write a bank's complete corpora to a folder; run again after a kill, it goes on with the files that are missing.

    In memory is one part at a time.

    Args:
        bank: the bank.
        folder: made if it is not there.
        progress: told contexts written of all contexts in all layers.

    Raises:
        CorpusError: no corpus is complete, or the name of one cannot be a folder's.
        BankMismatch: the folder holds another export, or layers hold other contexts than the first one.
        LatentBankError: the folder cannot be written.

    Example:
        >>> import latentbank as lb
        >>> from pathlib import Path
        >>> with lb.open_bank("captions") as bank:
        ...     report = lb.export_bank(bank, Path("exported"))
    """
    progress = progress or Silent()
    folder = folder.expanduser()
    bank.reload()
    entries = complete_corpora(bank.manifest)
    for entry in entries:
        check_folder(entry.name)
    manifest = replace(bank.manifest, corpora={entry.name: entry for entry in entries})
    described = {"format": FORMAT, "contexts_per_file": PART, "manifest": manifest.to_dict()}
    # Sorted: of the same bank the same text, in whatever order a server gives its metadata.
    text = json.dumps(described, ensure_ascii=False, indent=1, sort_keys=True)
    _check_same(folder, text)
    writer = _Writer(folder)
    if not writer.whole(DESCRIPTION):
        writer.write(DESCRIPTION, text.encode())
    done, total = 0, sum(entry.contexts for entry in entries) * len(bank.layers)
    for entry in entries:
        for layer in bank.layers:
            for rows in _export_layer(bank, layer, entry, writer):
                done += rows
                progress.update(done, total)
    writer.finish()
    return ExportReport(
        bank=bank.name,
        directory=str(folder),
        layers=bank.layers,
        corpora=[entry.name for entry in entries],
        contexts=sum(entry.contexts for entry in entries),
        files=len(writer.sums) + 1,
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        written=writer.written,
        left_out=incomplete_corpora(bank.manifest),
    )


def parts_of(entry: CorpusEntry, part: int) -> Iterator[tuple[int, int]]:
    """Give the numbers of a corpus's files and how many contexts each holds, when there are `part` in a full one."""
    for number in range(-(-entry.contexts // part)):
        yield number, min(part, entry.contexts - number * part)


def contexts_file(corpus: str, number: int) -> str:
    """Name the file of ids and payloads."""
    return f"{corpus}/contexts-{number:05d}.parquet"


def vectors_file(corpus: str, layer: int, number: int) -> str:
    """Name the file of vectors."""
    return f"{corpus}/L{layer:02d}-{number:05d}.safetensors"


def check_folder(corpus: str) -> None:
    """Refuse a corpus whose name cannot be a folder's.

    Raises:
        CorpusError: it cannot.
    """
    if not _FOLDER.fullmatch(corpus):
        raise CorpusError(f"The corpus '{corpus}' has a name that no folder can have: it cannot be exported.")


def read_ids(data: bytes) -> list[str]:
    """Read the ids of a file of payloads."""
    column = pq.read_table(pa.BufferReader(data), columns=["id"])["id"]
    return [str(id_) for id_ in column.to_pylist()]


def packed_ids(ids: Sequence[str]) -> Ids:
    """Give ids as they stand in a file of vectors: uint8 `[n, 16]`."""
    raw = b"".join(bytes.fromhex(id_.replace("-", "")) for id_ in ids)
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, 16)


def read_file(path: Path) -> bytes:
    """Read a file of an export.

    Raises:
        LatentBankError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise LatentBankError(f"{path} cannot be read ({error.strerror}); check the folder.") from None


def read_sums(folder: Path) -> dict[str, str] | None:
    """Read SHA256SUMS: sums by file name; None where there is none, that is in an export that is not whole."""
    if not (folder / SUMS).is_file():
        return None
    lines = read_file(folder / SUMS).decode(errors="replace").splitlines()
    return {name: sum_ for sum_, _, name in (line.partition("  ") for line in lines)}


def digest(data: bytes) -> str:
    """Give the SHA-256 that stands in SHA256SUMS."""
    return hashlib.sha256(data).hexdigest()


class _Writer:
    """Writes files, and in the end the list of all with their sums."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = read_sums(folder) or {}
        self.sums: dict[str, str] = {}
        self.written = 0

    def whole(self, name: str) -> bool:
        """Tell whether a file is there, and as SHA256SUMS has it if the export was whole before."""
        if name in self.sums:
            return True
        if not (self._folder / name).is_file():
            return False
        found = digest(read_file(self._folder / name))
        if self._known.get(name, found) != found:
            return False
        self.sums[name] = found
        return True

    def write(self, name: str, data: bytes) -> None:
        write_whole(self._folder / name, data)
        self.sums[name] = digest(data)
        self.written += 1

    def ids(self, name: str) -> list[str]:
        return read_ids(read_file(self._folder / name))

    def finish(self) -> None:
        lines = "".join(f"{sum_}  {name}\n" for name, sum_ in sorted(self.sums.items()))
        write_whole(self._folder / SUMS, lines.encode())


def _check_same(folder: Path, text: str) -> None:
    """Refuse a folder with an export of another bank, or of this one when it held something else."""
    try:
        there = (folder / DESCRIPTION).read_text(encoding="utf-8")
    except FileNotFoundError:
        there = text
    except (OSError, ValueError) as error:
        raise LatentBankError(
            f"{folder / DESCRIPTION} cannot be read ({error}); choose another folder."
        ) from None
    if there != text:
        raise BankMismatch(
            f"{folder} holds an export of another bank, or of this one as it was before; choose another folder, or "
            "remove that one."
        )


def _export_layer(bank: Bank, layer: int, entry: CorpusEntry, writer: _Writer) -> Iterator[int]:
    """Write a layer's files that are missing, and with the first layer those of payloads; gives contexts done."""
    first = layer == bank.layers[0]
    last: str | None = None  # the id before the part in hand
    points: Iterator[Stored] | None = None
    for number, count in parts_of(entry, PART):
        contexts, vectors = contexts_file(entry.name, number), vectors_file(entry.name, layer, number)
        if writer.whole(contexts) and writer.whole(vectors):
            ids, points = writer.ids(contexts), None
        else:
            points = points or _after(bank, layer, entry, last, payloads=first)
            ids, rows, payloads = _gather(bank, points, count)
            if len(ids) != count or (not first and ids != writer.ids(contexts)):
                raise _changed(bank, layer, entry)
            if first:
                writer.write(contexts, _parquet(payloads))
            writer.write(vectors, save_tensors({"vectors": rows, "ids": packed_ids(ids)}))
        last = ids[-1]
        yield count


def _after(
    bank: Bank, layer: int, entry: CorpusEntry, last: str | None, *, payloads: bool
) -> Iterator[Stored]:
    points = bank.store.scroll(layer, Where(corpus=entry.stored), vectors=True, payloads=payloads, start=last)
    return points if last is None else islice(points, 1, None)


def _gather(
    bank: Bank, points: Iterator[Stored], count: int
) -> tuple[list[str], npt.NDArray[np.float16], list[dict[str, Any]]]:
    """Read the next `count` contexts: ids, vectors `[n, hidden]` float16 without rotation, rows of the Parquet file."""
    ids: list[str] = []
    payloads: list[dict[str, Any]] = []
    rows = np.empty((count, bank.hidden_size), dtype=np.float16)
    for batch in batches(islice(points, count), BATCH):
        stored = np.stack([point.vector for point in batch if point.vector is not None])
        rows[len(ids) : len(ids) + len(batch)] = unrotate(stored, bank.manifest.rotation_seed)
        ids += [point.id for point in batch]
        payloads += [{"id": point.id, **point.payload} for point in batch if point.payload is not None]
    return ids, rows[: len(ids)], payloads


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, COLUMNS), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _changed(bank: Bank, layer: int, entry: CorpusEntry) -> BankMismatch:
    return BankMismatch(
        f"Layer {layer} of bank '{bank.name}' holds other contexts of '{entry.name}' than the ledger and the first "
        "layer say: it was changed meanwhile, or is damaged; run `latentbank bank verify`, then export to another "
        "folder."
    )
