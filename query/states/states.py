"""Hidden states with their layers and labels, and how they are chosen from what a file holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentbank.bank.search import as_floats
from latentbank.errors import LayerNotFound, QueryError
from latentbank.text import listed

Floats = npt.NDArray[np.float32]
NOT_KNOWN = -1
"""The layer of states that come from a layer nobody has named."""
_LAYER = re.compile(r"(?:l|layer|hidden_states?)?[ ._-]?(\d{1,4})", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class States:
    """Hidden states of the same tokens at one layer or several.

    Attributes:
        by_layer: by layer `[tokens, hidden]`, float32; layer -1: not known.
        labels: what each token is called; None: its number.
        source: what all of them are called, such as the file's name.
        model: the model they come from, as whoever saved them says; "": not said.
        fingerprint: that model's fingerprint; "": not said.
    """

    by_layer: Mapping[int, Floats]
    labels: tuple[str, ...] | None
    source: str
    model: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        """Check the states.

        Raises:
            QueryError: layers of different tokens, no tokens, labels of another number, or a row that is not finite or
                all zeros; the row is named.
        """
        counts = {layer: len(rows) for layer, rows in self.by_layer.items()}
        if len(set(counts.values())) > 1:
            told = listed(f"{count} at layer {layer}" for layer, count in counts.items())
            raise QueryError(
                f"The layers of {self.source} have different numbers of tokens ({told}); read one alone."
            )
        if not all(counts.values()) or not counts:
            raise QueryError(f"{self.source} holds no hidden states; it needs at least one token.")
        count = len(next(iter(self.by_layer.values())))
        if self.labels is not None and len(self.labels) != count:
            raise QueryError(
                f"There are {len(self.labels)} labels for the {count} tokens of {self.source}.",
                argument="labels",
            )
        for layer, rows in self.by_layer.items():
            self._check(layer, rows)

    def _check(self, layer: int, rows: Floats) -> None:
        for wrong, what in (
            (~np.isfinite(rows).all(axis=1), "holds a value that is not finite"),
            (~rows.any(axis=1), "is all zeros: it has no direction"),
        ):
            if wrong.any():
                row = int(wrong.argmax())
                name = f" ({self.labels[row]})" if self.labels else ""
                at = f" at layer {layer}" if layer != NOT_KNOWN else ""
                raise QueryError(f"Row {row}{name} of {self.source}{at} {what}.")

    @property
    def width(self) -> int:
        """The width of a hidden state."""
        return int(next(iter(self.by_layer.values())).shape[1])

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(next(iter(self.by_layer.values())))


@dataclass(frozen=True)
class Part:
    """A tensor of a file, which is read only if it is chosen.

    Attributes:
        name: what the file calls it; "" if the file holds no more than this one.
        layer: the layer that the file says it comes from; None: the file does not say.
        read: returns it, with the labels of its tokens if the file has some.
    """

    name: str
    layer: int | None
    read: Callable[[], tuple[Any, tuple[str, ...] | None]]


def layer_of(name: str) -> int | None:
    """Return the layer that a tensor's name stands for, such as 8, layer_8, L08 or hidden_states.8; None: none.

    The path of a module, such as model.layers.8, stands for none: what it gives out enters block 9, and is layer 9.
    """
    match = _LAYER.fullmatch(name.strip())
    return int(match[1]) if match else None


def chosen(
    parts: Sequence[Part], layers: Sequence[int] | None, tensor: str | None, source: str
) -> tuple[dict[int, Floats], tuple[str, ...] | None]:
    """Return the states that were asked for, by layer, and their labels.

    Args:
        parts: what the file holds.
        layers: the layers to read, or the one that the states come from where the file does not say; None: all.
        tensor: the name of the tensor to read; None: the file says which, or there is one.
        source: the file's name.

    Raises:
        QueryError: several tensors and none chosen, no tensor of that name, or one that is no `[tokens, hidden]`.
        LayerNotFound: the file does not have a layer.
    """
    wanted = list(dict.fromkeys(layers)) if layers is not None else None
    if tensor is not None:
        named = [part for part in parts if part.name == tensor]
        if not named:
            raise QueryError(f"{source} holds no '{tensor}'; it holds {_names(parts)}.", argument="tensor")
        parts = named
    if not parts:
        raise QueryError(f"{source} holds no hidden states.")
    if len(parts) == 1:
        found = {_only_layer(parts[0], wanted, source): parts[0]}
    else:
        by_layer: dict[int, Part] = {part.layer: part for part in parts if part.layer is not None}
        if not by_layer or len(by_layer) < sum(part.layer is not None for part in parts):
            raise QueryError(
                f"{source} holds several tensors: {_names(parts)}; choose one.", argument="tensor"
            )
        if missing := [layer for layer in wanted or () if layer not in by_layer]:
            raise LayerNotFound(
                f"{source} has no layer {missing[0]}; it has {listed(sorted(by_layer))}.", argument="layer"
            )
        found = {layer: by_layer[layer] for layer in (wanted or sorted(by_layer))}
    read = {layer: part.read() for layer, part in found.items()}
    labels = next((given for _, given in read.values() if given is not None), None)
    return {
        layer: rows_of(states, f"'{found[layer].name}' of {source}" if found[layer].name else source)
        for layer, (states, _) in read.items()
    }, labels


def rows_of(states: Any, what: str) -> Floats:
    """Return a tensor as `[tokens, hidden]`; a batch of one is taken as its only entry.

    Raises:
        QueryError: it has another shape, or holds no numbers.
    """
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            rows = as_floats(states).astype(np.float32, copy=False)
    except (TypeError, ValueError) as error:
        raise QueryError(
            f"{what} is no array of numbers [tokens, hidden]: {str(error).rstrip('.')}."
        ) from None
    given = list(rows.shape)
    while rows.ndim > 2 and rows.shape[0] == 1:
        rows = rows[0]
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2:
        raise QueryError(f"{what} has shape {given}; it must be [tokens, hidden].")
    return rows


def _only_layer(part: Part, wanted: list[int] | None, source: str) -> int:
    """Return the layer of the only tensor.

    Raises:
        QueryError: several layers are named.
        LayerNotFound: the file says that it is another one.
    """
    if wanted is None:
        return NOT_KNOWN if part.layer is None else part.layer
    if part.layer is not None and wanted != [part.layer]:
        raise LayerNotFound(
            f"{source} has no layer {next(n for n in wanted if n != part.layer)}; it has {part.layer}.",
            argument="layer",
        )
    if len(wanted) != 1:
        raise QueryError(
            f"{source} holds one tensor, so its states come from one layer; name one.", argument="layer"
        )
    return wanted[0]


def _names(parts: Sequence[Part], most: int = 12) -> str:
    names = [part.name for part in parts]
    return listed(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
