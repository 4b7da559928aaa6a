"""Numbers of the report: one table for everything that is measured here and everything that was published."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from latentbank.errors import LatentBankError
from latentbank.files import write_whole

FIGURES = {
    "shares": "Interpretable visual tokens",
    "pass": "The first word alone",
    "corpus": "Size of the corpus",
    "alignment": "Which bank layer the neighbors are from",
    "norms": "Norms",
    "drift": "How far tokens drift",
    "cosines": "Cosine of the nearest neighbor",
    "speech": "Parts of speech",
}
"""The figures of the report, in its order, with their titles."""

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("figure", "model", "lens", "kind")),
        ("layer", pa.int16()),
        *((name, pa.float64()) for name in ("at", "value", "low", "high")),
        ("of", pa.int64()),
        ("source", pa.string()),
    ]
)
COLUMNS = tuple(_SCHEMA.names)
_PUBLISHED = Path(__file__).parent / "data" / "published.csv"

_REPOSITORY = "github.com/BennoKrojer/molmo at 8410b81"
SOURCES = {
    "data": f"{_REPOSITORY}, paper_plots/data.json (the data behind the authors' plots)",
    "rebuttal": f"{_REPOSITORY}, REBUTTAL.md (corpus size and pass@1, three pairs)",
    "journal": f"{_REPOSITORY}, JOURNAL.md (entries of 2026-05-19 and 2026-01-23)",
}
"""Where the published numbers are from, by the short name in the table."""


@dataclass(frozen=True)
class Measured:
    """One number of a figure.

    Attributes:
        figure: a key of `FIGURES`.
        model: the plan's name of the model; of published numbers the authors' name.
        lens: the lens's name; empty where no lens is involved.
        kind: what is counted: a kind of interpretable token, a part of speech, visual or text tokens.
        layer: the visual layer; None: the mean over all layers.
        at: the place on the figure's axis: bank layer, percent of the corpus, left edge of a bin, or number of words.
        value: the number; shares are from 0 to 1.
        low: lower end of its 95 % interval; None: there is no interval.
        high: upper end.
        of: how many tokens it is a share or a mean of; None: not said.
        source: empty for what was measured here, else a key of `SOURCES`.
    """

    figure: str
    model: str
    lens: str
    kind: str
    layer: int | None = None
    at: float | None = None
    value: float = 0.0
    low: float | None = None
    high: float | None = None
    of: int | None = None
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the number as JSON-ready data (docs/json.md describes it)."""
        return asdict(self)


@cache
def published() -> tuple[Measured, ...]:
    """Return the published numbers (benchmarks/published_figures.py wrote them)."""
    with _PUBLISHED.open(encoding="utf-8", newline="") as file:
        return tuple(_from_text(row) for row in csv.DictReader(file))


def write_table(path: Path, rows: Iterable[Measured], about: Mapping[str, Any]) -> Path:
    """Write numbers as a Parquet file, whole or not at all, and return its path.

    Args:
        path: the file.
        rows: the numbers.
        about: kept as JSON in the file's metadata, under "about".

    Raises:
        LatentBankError: the file cannot be written.
    """
    schema = _SCHEMA.with_metadata({"about": json.dumps(about, ensure_ascii=False)})
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([row.to_dict() for row in rows], schema), buffer, compression="zstd")
    return write_whole(path, buffer.getvalue().to_pybytes())


def read_table(path: Path) -> tuple[list[Measured], dict[str, Any]]:
    """Return the numbers of a file, and what is known about them.

    Raises:
        LatentBankError: the file cannot be read.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise LatentBankError(
            f"{path} cannot be read ({error}); remove it, and it is measured again."
        ) from None
    about = json.loads((table.schema.metadata or {}).get(b"about", b"{}"))
    return [Measured(**row) for row in table.to_pylist()], about


def _from_text(row: Mapping[str, str]) -> Measured:
    """Return a number from texts, of which empty ones are None or empty."""
    kinds = {field.name: str(field.type) for field in fields(Measured)}
    converted: dict[str, Any] = {}
    for name, text in row.items():
        if kinds[name] == "str":
            converted[name] = text
        elif text:
            converted[name] = int(text) if kinds[name].startswith("int") else float(text)
    return Measured(**converted)
