"""Hidden states in tables: Parquet files, and the SQLite databases that VLM-Lens writes.

The database is that of github.com/compling-wat/vlm-lens as of commit ac8289a (2025-10-23): a table `tensors` with a row
for each input and module, among its columns `name` (the model), `image_path`, `label`, `layer` (the module's name) and
`tensor` (what torch.save wrote, `[1, tokens, hidden]`, or `[1, hidden]` if it was pooled). Earlier versions lack some
of the other columns.
"""

from __future__ import annotations

import io
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from latentbank.errors import QueryError
from latentbank.query.states.states import Floats, Part, rows_of
from latentbank.text import first_line, listed, public_name

_TABLE = "tensors"
_COLUMNS = {"id", "name", "layer", "tensor"}
_BLOCK = re.compile(r"(?:.*\.)?(?:layers|blocks|h)\.(\d+)")
_NOT_OF_THE_LLM = re.compile(r"vis|image|clip|encoder|q_?former|audio", re.IGNORECASE)


def parquet_parts(path: Path) -> tuple[list[Part], Mapping[str, str]]:
    """Return the columns of hidden states of a Parquet file, a row for each token.

    A column of lists of numbers holds states. `label` and `layer` are the tokens' names and layers, if they are there.

    Raises:
        QueryError: the file cannot be read, or has no such column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise QueryError(f"{path.name} cannot be read as Parquet: {first_line(error)}.") from None
    vectors = [field.name for field in schema if _is_vector(field.type)]
    if not vectors:
        raise QueryError(
            f"{path.name} has no column of lists of numbers, only {listed(schema.names)}; a row must hold a hidden "
            "state."
        )
    about = {key.decode(): value.decode("utf-8", "replace") for key, value in (schema.metadata or {}).items()}
    layers: list[Any] = [None]
    if "layer" in schema.names:
        column = pq.read_table(path, columns=["layer"]).column("layer")
        if not pa.types.is_integer(column.type) or column.null_count:
            raise QueryError(f"The column layer of {path.name} must hold whole numbers, and no gaps.")
        layers = sorted(set(column.to_pylist()))

    def reader(vector: str, layer: int | None) -> Callable[[], tuple[Any, tuple[str, ...] | None]]:
        def read() -> tuple[Any, tuple[str, ...] | None]:
            wanted = [name for name in (vector, "label") if name in schema.names]
            rows = [] if layer is None else [("layer", "==", layer)]
            table = pq.read_table(path, columns=wanted, filters=rows or None)
            labels = tuple(map(str, table.column("label").to_pylist())) if "label" in schema.names else None
            return _stacked(table.column(vector), vector, path), labels

        return read

    return [Part(vector, layer, reader(vector, layer)) for vector in vectors for layer in layers], about


def _stacked(column: Any, name: str, path: Path) -> np.ndarray[Any, Any]:
    """Return a column of lists as `[rows, width]`.

    Raises:
        QueryError: a row is missing or has another length; the row is named.
    """
    import pyarrow.compute as pc

    lengths = pc.list_value_length(column).to_pylist()
    for row, length in enumerate(lengths):
        if length != lengths[0] or length is None:
            found = "is missing" if length is None else f"has {length} numbers, the first {lengths[0]}"
            raise QueryError(f"Row {row} of the column {name} of {path.name} {found}.")
    flat = pc.list_flatten(column)
    if flat.null_count:
        raise QueryError(f"The column {name} of {path.name} holds gaps; each state needs all its numbers.")
    return np.asarray(flat.to_numpy()).reshape(len(lengths), -1)


def _is_vector(kind: Any) -> bool:
    import pyarrow as pa

    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def sqlite_parts(path: Path) -> tuple[list[Part], Mapping[str, str]]:
    """Return the modules of a database that VLM-Lens wrote; the inputs' tokens follow each other in the rows' order.

    Raises:
        QueryError: it is no such database, or holds states of several models.
    """
    try:
        with closing(_opened(path)) as database:
            columns = {row[1] for row in database.execute(f"PRAGMA table_info({_TABLE})")}
            if missing := _COLUMNS - columns:
                raise QueryError(
                    f"{path.name} is no database of VLM-Lens: its table {_TABLE} has no {listed(sorted(missing))}."
                    if columns
                    else f"{path.name} is no database of VLM-Lens: it has no table {_TABLE}."
                )
            models = [str(row[0]) for row in database.execute(f"SELECT DISTINCT name FROM {_TABLE}")]
            modules = [str(row[0]) for row in database.execute(f"SELECT DISTINCT layer FROM {_TABLE}")]
    except sqlite3.Error as error:
        raise QueryError(f"{path.name} cannot be read as SQLite: {first_line(error)}.") from None
    if len(models) > 1:
        raise QueryError(
            f"{path.name} holds states of several models: {listed(map(public_name, models))}; save each alone."
        )
    about = {"model": public_name(models[0])} if models else {}
    naming = sorted({"image_path", "label"} & columns)
    return [
        Part(module, module_layer(module), partial(_of_module, path, module, naming)) for module in modules
    ], about


def module_layer(module: str) -> int | None:
    """Return the layer that a module's output is; None: it is no block of an LLM, as far as its name says.

    Block number 7, such as model.layers.7, is the eighth, so what it gives out is layer 8.
    """
    match = _BLOCK.fullmatch(module)
    return None if match is None or _NOT_OF_THE_LLM.search(module) else int(match[1]) + 1


def _opened(path: Path) -> sqlite3.Connection:
    """Open a database for reading alone; what is defined in it can run no functions of its own choice."""
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def _of_module(path: Path, module: str, naming: list[str]) -> tuple[Any, tuple[str, ...]]:
    columns = ", ".join(["id", "tensor", *naming])
    parts: list[Floats] = []
    labels: list[str] = []
    try:
        with closing(_opened(path)) as database:
            asked = f"SELECT {columns} FROM {_TABLE} WHERE layer = ? ORDER BY id"
            for number, blob, *names in database.execute(asked, [module]):
                what = f"Row {number} of the table {_TABLE} of {path.name}"
                rows = rows_of(_tensor(blob, what), what)
                if parts and rows.shape[1] != parts[0].shape[1]:
                    raise QueryError(
                        f"{what} is {rows.shape[1]} wide, others of '{module}' {parts[0].shape[1]}."
                    )
                given = dict(zip(naming, names, strict=True))
                name = given.get("label") or PureWindowsPath(given.get("image_path") or "").name or number
                parts.append(rows)
                labels += [f"{name}"] if len(rows) == 1 else [f"{name} {n}" for n in range(len(rows))]
    except sqlite3.Error as error:
        raise QueryError(f"{path.name} cannot be read as SQLite: {first_line(error)}.") from None
    return np.concatenate(parts), tuple(labels)


def _tensor(blob: Any, what: str) -> Any:
    """Return the tensor that torch.save wrote; nothing else in it is unpickled."""
    import torch

    try:
        found = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for bytes that are no checkpoint
        raise QueryError(
            f"{what} holds no plain tensor that can be read safely ({type(error).__name__})."
        ) from None
    if not isinstance(found, torch.Tensor):
        raise QueryError(f"{what} holds {type(found).__name__}, no tensor.")
    return found
