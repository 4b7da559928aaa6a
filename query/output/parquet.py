"""Readings of images as Parquet files, one for each image, in a folder that can be filled in several runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from latentbank.errors import LatentBankError
from latentbank.files import write_whole
from latentbank.locks import alone_in
from latentbank.models.vision.sources import ImageSource
from latentbank.query.reading.reading import Reading
from latentbank.text import as_unicode, public_name

# Programs that read a folder of Parquet files as one table skip files whose names begin with an underscore.
SETTINGS = "_settings.json"
_COLUMNS = pa.schema(
    [
        ("source", pa.string()),
        ("index", pa.int32()),
        ("label", pa.string()),
        ("kind", pa.string()),
        ("layer", pa.int16()),
        ("lens", pa.string()),
        ("norm", pa.float32()),
        ("p_value", pa.float32()),
        ("silent", pa.bool_()),
        *((name, pa.int32()) for name in ("tile", "row", "column")),
        *((name, pa.float32()) for name in ("left", "top", "right", "bottom")),
        *((name, pa.float32()) for name in ("start_second", "end_second")),
        ("rank", pa.int16()),
        ("word", pa.string()),
        ("token", pa.string()),
        ("cosine", pa.float32()),
        ("probability", pa.float32()),
        ("corrected", pa.float32()),
        ("caption", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("bank_layer", pa.int16()),
        ("corpus", pa.string()),
        ("sentence", pa.int64()),
        ("position", pa.int32()),
        ("token_id", pa.int32()),
        ("neighbor_id", pa.string()),
    ]
)


class ReadingFolder:
    """A folder of readings: one Parquet file for each image, with a row for each neighbor and all columns.

    A silent token has one row, which names no neighbor.

    Files are written whole or not at all, so a job that was killed continues with the images that have no file.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        """Open the folder, or create it.

        Args:
            folder: where the files are.
            settings: what the readings depend on besides the images: model, bank, layers, lenses and so on.

        Raises:
            LatentBankError: the folder cannot be written, or it holds readings made with other settings.
        """
        self.folder = Path(folder).expanduser()
        with alone_in(self.folder, f"opens {self.folder}", wait=True):
            self._settle(self.folder / SETTINGS, json.loads(json.dumps(settings)))

    def _settle(self, path: Path, given: dict[str, Any]) -> None:
        """Write the folder's settings, or compare them with those that are there."""
        try:
            # Earlier versions recorded the path of a local model, and no weights.
            defaults = {"weights": given["weights"]} if "weights" in given else {}
            known = defaults | json.loads(path.read_text(encoding="utf-8"))
            if isinstance(model := known.get("model"), str):
                known["model"] = public_name(model)
        except FileNotFoundError:
            write_whole(path, as_unicode(json.dumps(given, ensure_ascii=False, indent=1)).encode())
            return
        except (OSError, ValueError, TypeError):
            raise LatentBankError(f"{path} cannot be read; choose another folder.") from None
        if known != given:
            keys = [key for key in given if known.get(key) != given[key]] or sorted(
                known.keys() - given.keys()
            )
            keys.sort(key="weights".__eq__)  # their digest depends on the deepest layer: other keys say more
            raise LatentBankError(
                f"{self.folder} holds readings made with another {keys[0]} ({known.get(keys[0])}, not "
                f"{given.get(keys[0])}); choose another folder, or the same settings."
            )

    def path(self, image: ImageSource) -> Path:
        """Return the path of the file of an image's reading."""
        return self.folder / image.file_name(".parquet")

    def write(self, image: ImageSource, reading: Reading) -> Path:
        """Write the reading of an image and return the path of its file.

        Raises:
            LatentBankError: the file cannot be written.
        """
        rows = [{"source": as_unicode(reading.source), **row} for row in reading.rows()]
        head = {key: value for key, value in reading.to_dict().items() if key != "tokens"}
        schema = _COLUMNS.with_metadata({"reading": as_unicode(json.dumps(head, ensure_ascii=False))})
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema), buffer, compression="zstd")
        return write_whole(self.path(image), buffer.getvalue().to_pybytes())
