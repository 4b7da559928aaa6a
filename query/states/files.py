"""Hidden states in files: safetensors, npy, Parquet, and VLM-Lens' SQLite database."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentbank.errors import QueryError
from latentbank.query.states.states import Part, States, chosen, layer_of
from latentbank.query.states.tables import parquet_parts, sqlite_parts
from latentbank.text import first_line
from latentbank.values import Layers, layers_of

Found = tuple[list[Part], Mapping[str, str]]
"""The tensors of a file, and what it says about them: `model`, `fingerprint`, `labels`, `layer`."""


def load_states(
    path: str | os.PathLike[str],
    layers: Layers | None = None,
    *,
    tensor: str | None = None,
    labels: Sequence[str] | None = None,
) -> States:
    """Read hidden states from a file; what kind it is, its name says.

    Args:
        path: a .safetensors, .npy or .parquet file, or a .db, .sqlite or .sqlite3 file that VLM-Lens wrote. A pickled
            .npy file is refused, and nothing in a database is unpickled but plain tensors.
        layers: the layers to read; where the file does not say it, the layer that the states come from. None: all of
            the file's.
        tensor: the tensor (of Parquet the column, of VLM-Lens the module) to read; None: the file says which.
        labels: what each token is called; None: as the file says, else its number.

    Raises:
        QueryError: the file cannot be read, holds something else, or it is not clear what to read.
        LayerNotFound: the file does not have a layer.

    Examples:
        >>> from latentbank.query.states.files import load_states
        >>> states = load_states("steps.safetensors", layers=[8, 16])
        >>> states.width
        576
    """
    file = Path(path).expanduser()
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise QueryError(
            f"{file.name} is of no kind that is read; give .safetensors, .npy, .parquet, or VLM-Lens' .db."
        )
    if not file.is_file():
        raise QueryError(f"There is no file {path}; check the path.")
    parts, about = read(file)
    return states_of(parts, about, file.name, layers, tensor, labels)


def states_of(
    parts: list[Part],
    about: Mapping[str, str],
    source: str,
    layers: Layers | None = None,
    tensor: str | None = None,
    labels: Sequence[str] | None = None,
) -> States:
    """Return the states that were asked for; `about` is what the file says, and the rest as for `load_states`."""
    numbers = None if layers is None else layers_of(layers)
    if numbers == []:
        raise QueryError("Name at least one layer.", argument="layer")
    if len(parts) == 1 and parts[0].layer is None and (told := layer_of(about.get("layer", ""))) is not None:
        parts = [Part(parts[0].name, told, parts[0].read)]
    by_layer, own = chosen(parts, numbers, tensor, source)
    given = tuple(map(str, labels)) if labels is not None else own or _labels(about, source)
    return States(by_layer, given, source, about.get("model", ""), about.get("fingerprint", ""))


def _labels(about: Mapping[str, str], source: str) -> tuple[str, ...] | None:
    """Return the labels in a file's metadata, a JSON list of texts; None: there are none."""
    if "labels" not in about:
        return None
    try:
        labels = json.loads(about["labels"])
    except (ValueError, RecursionError):
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise QueryError(f"The labels in the metadata of {source} are no JSON list of texts.")
    return tuple(labels)


def _safetensors(path: Path) -> Found:
    from safetensors import SafetensorError, safe_open

    try:
        # As torch tensors, because numpy has no bfloat16.
        with safe_open(str(path), framework="pt") as file:
            names = sorted(file.keys())
            about = dict(file.metadata() or {})
    except (OSError, SafetensorError, ValueError) as error:
        raise QueryError(f"{path.name} cannot be read as safetensors: {first_line(error)}.") from None

    def reader(name: str) -> Callable[[], tuple[Any, None]]:
        def read() -> tuple[Any, None]:
            with safe_open(str(path), framework="pt") as file:
                return file.get_tensor(name), None

        return read

    return [Part(name, layer_of(name), reader(name)) for name in names], about


def _npy(path: Path) -> Found:
    import numpy as np

    def read() -> tuple[Any, None]:
        try:
            return np.load(path, allow_pickle=False), None
        except ValueError as error:
            if "pickle" in str(error).lower():
                raise QueryError(
                    f"{path.name} holds Python objects or is no npy file; it is not unpickled, which could run "
                    "code. Save an array of numbers."
                ) from None
            raise QueryError(f"{path.name} cannot be read as npy: {first_line(error)}.") from None
        except (OSError, EOFError) as error:
            raise QueryError(f"{path.name} cannot be read as npy: {first_line(error)}.") from None

    return [Part("", None, read)], {}


_READERS: Mapping[str, Callable[[Path], Found]] = {
    ".safetensors": _safetensors,
    ".npy": _npy,
    ".parquet": parquet_parts,
    ".db": sqlite_parts,
    ".sqlite": sqlite_parts,
    ".sqlite3": sqlite_parts,
}
