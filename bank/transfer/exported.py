"""An exported bank (bank/transfer/export.py), in a folder or on the hub: each file is checked when it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load as load_tensors

from latentbank.bank.manifest import CorpusEntry, Manifest
from latentbank.bank.points import Payload
from latentbank.bank.store.fields import holds_images
from latentbank.bank.transfer.export import (
    COLUMNS,
    DESCRIPTION,
    FORMAT,
    IMAGE_COLUMNS,
    SUMS,
    contexts_file,
    digest,
    packed_ids,
    parts_of,
    read_file,
    read_sums,
    vectors_file,
)
from latentbank.bank.verify import NORM_TOLERANCE
from latentbank.errors import CorpusError
from latentbank.files import existing
from latentbank.hub import fetch_files, list_files, repository_of
from latentbank.progress import Progress
from latentbank.text import first_line


class Download(Protocol):
    """Brings files of an export on the hub into its folder here."""

    def __call__(
        self, names: Sequence[str], progress: Progress | None = None, *, again: bool = False
    ) -> Path:
        """Return the folder; `again` downloads even files that are there."""


class Export:
    """A finished export: its manifest, and its files, which are checked when they are read."""

    def __init__(self, folder: Path, download: Download | None = None) -> None:
        """Read an export's description.

        Args:
            folder: where its files are.
            download: for an export on the hub, of which the folder holds the description and the sums already.

        Raises:
            CorpusError: the folder holds no finished export.
        """
        self._folder, self._download = folder, download
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
        self.images = holds_images(self.manifest.bank)

    def fetch(self, entries: Sequence[CorpusEntry], layers: Sequence[int], progress: Progress) -> None:
        """Download the files of some corpora and layers, if the export is on the hub.

        Raises:
            LatentBankError: they cannot be downloaded.
        """
        if self._download is not None and entries:
            parts = [(entry.name, number) for entry in entries for number, _ in parts_of(entry, self.part)]
            of = layers if self.images else [None]
            names = [contexts_file(*part, layer) for part in parts for layer in of]
            names += [vectors_file(name, layer, number) for name, number in parts for layer in layers]
            progress.stage("downloading", "MiB")
            self._download(names, progress)
            progress.stage("importing", "contexts")

    def read(self, name: str) -> bytes:
        """Return a file's content; one from the hub that is damaged here is downloaded again.

        Raises:
            CorpusError: it is missing, or differs from what was exported.
        """
        if name not in self._sums or not (self._folder / name).is_file():
            raise self.damaged(name, "it is missing")
        data = read_file(self._folder / name)
        if digest(data) != self._sums[name] and self._download is not None:
            data = read_file(self._download([name], again=True) / name)
        if digest(data) != self._sums[name]:
            raise self.damaged(name, f"it does not have the sum in {SUMS}")
        return data

    def contexts(
        self, entry: CorpusEntry, number: int, count: int, layer: int
    ) -> tuple[list[str], list[Payload]]:
        """Return the ids and payloads of a file of payloads; of contexts they are the same for each layer."""
        name = contexts_file(entry.name, number, layer if self.images else None)
        columns = IMAGE_COLUMNS if self.images else COLUMNS
        try:
            table = pq.read_table(pa.BufferReader(self.read(name))).select(columns.names).cast(columns)
        except (pa.ArrowException, ValueError, LookupError) as error:
            raise self.damaged(name, first_line(error)) from None
        rows = table.to_pylist()
        if self.images:
            rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
        ids = [row.pop("id") for row in rows]
        if len(rows) != count or any(row["corpus"] != entry.stored for row in rows):
            raise self.damaged(name, f"it does not hold {count:,} contexts of '{entry.name}'")
        full = table.drop_columns(["word", "picture"]) if self.images else table
        if any(column.null_count for column in full.columns):
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
        what = "copy the export again" if self._download is None else "ask its owner to push it again"
        return CorpusError(f"{self._folder / name} is damaged ({how}); {what}, or export the bank again.")


def open_export(source: str | os.PathLike[str]) -> Export:
    """Return the export in a folder, or in a dataset repository on the hub ("USER/NAME" or "USER/NAME@REVISION").

    Of a repository only the description is downloaded, to the hub's own cache.

    Raises:
        CorpusError: there is no finished export.
        LatentBankError: the repository cannot be read.
    """
    folder = Path(source).expanduser()
    repository = None if existing(os.fspath(source)) else repository_of(os.fspath(source), "dataset")
    if repository is None:
        return Export(folder)
    listing = list_files(repository)
    if not {DESCRIPTION, SUMS} <= listing.sizes.keys():
        raise CorpusError(
            f"{repository} on the hub holds no export of a bank; name a repository that a bank was pushed to."
        )

    def download(names: Sequence[str], progress: Progress | None = None, *, again: bool = False) -> Path:
        if lost := [name for name in names if name not in listing.sizes]:
            raise CorpusError(f"{repository} on the hub lacks {lost[0]}; ask its owner to push it again.")
        return fetch_files(listing, names, progress, again=again)

    return Export(download([DESCRIPTION, SUMS]), download)
