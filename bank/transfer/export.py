"""Export of a bank as files in open formats: vectors as safetensors, payloads as Parquet, and a description.

    bank.json                        the format, and the bank's manifest with its complete corpora
    SHA256SUMS                       of every other file; written last, so an export without it is unfinished
    {corpus}/contexts-00000.parquet  ids and payloads of the corpus's first PART contexts, in the order of their ids
    {corpus}/L04-00000.safetensors   their `vectors` [n, hidden] float16 in layer 4, and `ids` [n, 16] uint8
    images/V01234567/                an export of the images of a VLM (bank/transfer/images.py), in the same form

Vectors have length 1 and are not rotated: a hidden state scaled to length 1 (in a centred bank after its layer's mean
was subtracted; the manifest has the means) can be compared with them by a dot product. Payloads have the stored name of
the corpus: for one that has replaced another, such as `name@2`, that is the `stored_as` of its ledger entry.
"""

from __future__ import annotations

import hashlib
import json
import os
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
from latentbank.bank.kinds import require_bank
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.points import Stored
from latentbank.bank.rotation import unrotate
from latentbank.bank.store.fields import holds_images
from latentbank.bank.transfer.receive import BATCH, batches, complete_corpora, incomplete_corpora
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, CorpusError, LatentBankError
from latentbank.files import write_whole
from latentbank.locks import alone_in
from latentbank.progress import Progress, Silent
from latentbank.text import as_unicode

FORMAT = 1
# Contexts in one file: 128 MiB of vectors at hidden size 4,096, held in memory while the file is written or read.
PART = 16_384
DESCRIPTION, SUMS = "bank.json", "SHA256SUMS"
# Names of corpora that can name a folder.
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
IMAGE_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        *((name, pa.string()) for name in ("corpus", "image", "digest")),
        *((name, pa.int32()) for name in ("token", "tokens", "tile", "row", "column")),
        ("box", pa.list_(pa.float64())),
        ("size", pa.list_(pa.int32())),
        ("norm", pa.float64()),
        ("word", pa.string()),
        ("picture", pa.string()),
    ]
)
"""The columns of visual tokens; `word` and `picture` may be empty."""


@dataclass(frozen=True)
class ExportReport:
    """What an export holds.

    `directory` is empty for an export that was removed after it was pushed to the hub. `contexts` counts those in each
    layer, `files` and `bytes` the whole export, `written` the files written in this run. `left_out` names incomplete
    corpora, which were not exported.
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


def export_bank(bank: Bank, folder: str | os.PathLike[str], progress: Progress | None = None) -> ExportReport:
    """Write a bank's complete corpora to a folder; called again after a kill, it writes the files that are missing.

    One file's contexts are in memory at a time.

    Args:
        bank: the bank.
        folder: the folder; created if it does not exist.
        progress: counts the contexts written, of those in all layers.

    Raises:
        CorpusError: no corpus is complete, or a corpus's name cannot be a folder's name.
        BankMismatch: the folder holds another export, or a layer holds other contexts than the first one.
        QueryError: the bank is only a bank's name.
        LatentBankError: the folder cannot be written, or another job exports to it.

    Examples:
        >>> import latentbank as lb
        >>> with lb.open_bank("captions") as bank:
        ...     report = lb.export_bank(bank, "exported")
    """
    require_bank(bank)
    progress = progress or Silent()
    folder = Path(folder).expanduser()
    bank.reload()
    entries = complete_corpora(bank.manifest)
    for entry in entries:
        check_folder(entry.name)
    manifest = replace(bank.manifest.without_path(), corpora={entry.name: entry for entry in entries})
    described = {"format": FORMAT, "contexts_per_file": PART, "manifest": manifest.to_dict()}
    # Sorted, so that a bank always gives the same text, in whatever order a server returns its metadata.
    text = as_unicode(json.dumps(described, ensure_ascii=False, indent=1, sort_keys=True))
    with alone_in(folder, f"exports to {folder}"):
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
    """Yield the number of each of a corpus's files and how many contexts it holds; a full file holds `part`."""
    for number in range(-(-entry.contexts // part)):
        yield number, min(part, entry.contexts - number * part)


def contexts_file(corpus: str, number: int, layer: int | None = None) -> str:
    """Return the name of a file of ids and payloads: of all layers, or of visual tokens at one `layer`."""
    if layer is not None:
        return f"{corpus}/L{layer:02d}-{number:05d}.parquet"
    return f"{corpus}/contexts-{number:05d}.parquet"


def vectors_file(corpus: str, layer: int, number: int) -> str:
    """Return the name of a file of vectors."""
    return f"{corpus}/L{layer:02d}-{number:05d}.safetensors"


def check_folder(corpus: str) -> None:
    """Check that a corpus's name can be a folder's name.

    Raises:
        CorpusError: it cannot.
    """
    if not _FOLDER.fullmatch(corpus):
        raise CorpusError(f"The corpus '{corpus}' cannot be exported: its name cannot be a folder's name.")


def read_ids(data: bytes) -> list[str]:
    """Return the ids in a file of payloads."""
    column = pq.read_table(pa.BufferReader(data), columns=["id"])["id"]
    return [str(id_) for id_ in column.to_pylist()]


def packed_ids(ids: Sequence[str]) -> Ids:
    """Return ids as a file of vectors holds them: uint8 `[n, 16]`."""
    raw = b"".join(bytes.fromhex(id_.replace("-", "")) for id_ in ids)
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, 16)


def read_file(path: Path) -> bytes:
    """Return the content of an export's file.

    Raises:
        LatentBankError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise LatentBankError(f"{path} cannot be read ({error.strerror}); check the folder.") from None


def read_sums(folder: Path) -> dict[str, str] | None:
    """Return the sums in SHA256SUMS by file name; None if the export is unfinished and has none."""
    if not (folder / SUMS).is_file():
        return None
    lines = read_file(folder / SUMS).decode(errors="replace").splitlines()
    return {name: sum_ for sum_, _, name in (line.partition("  ") for line in lines)}


def digest(data: bytes) -> str:
    """Return the SHA-256 of a file's content, as in SHA256SUMS."""
    return hashlib.sha256(data).hexdigest()


class _Writer:
    """Writes files, and at the end the list of all files with their sums."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = read_sums(folder) or {}
        self.sums: dict[str, str] = {}
        self.written = 0

    def whole(self, name: str) -> bool:
        """Return whether a file exists and, if an earlier export was finished, still has the sum in SHA256SUMS."""
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
    """Check that a folder holds no export of another bank, or of this bank with other contents."""
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
            f"{folder} holds an export of another bank, or of an earlier state of this one; choose another folder, or "
            "remove it."
        )


def _export_layer(bank: Bank, layer: int, entry: CorpusEntry, writer: _Writer) -> Iterator[int]:
    """Write a layer's missing files, for the first layer also those of payloads; yields the contexts of each file.

    Payloads of visual tokens differ from layer to layer, so each has files of them.
    """
    first, images = layer == bank.layers[0], holds_images(bank.store.bank)
    told = first or images
    last: str | None = None  # the last id of the previous file
    points: Iterator[Stored] | None = None
    for number, count in parts_of(entry, PART):
        contexts = contexts_file(entry.name, number, layer if images else None)
        vectors = vectors_file(entry.name, layer, number)
        if writer.whole(contexts) and writer.whole(vectors):
            ids, points = writer.ids(contexts), None
        else:
            points = points or _after(bank, layer, entry, last, payloads=told)
            ids, rows, payloads = _gather(bank, points, count)
            known = contexts_file(entry.name, number, bank.layers[0] if images else None)
            if len(ids) != count or (not first and ids != writer.ids(known)):
                raise _changed(bank, layer, entry)
            if told:
                writer.write(contexts, _parquet(payloads, IMAGE_COLUMNS if images else COLUMNS))
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
    """Return the next `count` contexts: ids, unrotated vectors `[n, hidden]` float16, and rows of the Parquet file."""
    ids: list[str] = []
    payloads: list[dict[str, Any]] = []
    rows = np.empty((count, bank.hidden_size), dtype=np.float16)
    for batch in batches(islice(points, count), BATCH):
        stored = np.stack([point.vector for point in batch if point.vector is not None])
        rows[len(ids) : len(ids) + len(batch)] = unrotate(stored, bank.manifest.rotation_seed)
        ids += [point.id for point in batch]
        payloads += [{"id": point.id, **point.payload} for point in batch if point.payload is not None]
    return ids, rows[: len(ids)], payloads


def _parquet(rows: list[dict[str, Any]], columns: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, columns), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _changed(bank: Bank, layer: int, entry: CorpusEntry) -> BankMismatch:
    return BankMismatch(
        f"Layer {layer} of bank '{bank.name}' holds other contexts of '{entry.name}' than the ledger and the first "
        "layer say: it was changed in the meantime, or is damaged; verify the bank, then export it to another folder."
    )
