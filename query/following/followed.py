"""What following a token gives: its neighbors at each layer, and the drift of its hidden state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentbank.bank.points import Neighbor
from latentbank.errors import LatentBankError
from latentbank.query.reading.reading import Place

if TYPE_CHECKING:
    import PIL.Image

Vector = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Drift:
    """Cosines of a hidden state with the same token's at other layers; None: there is no such layer, or none is known.

    Attributes:
        previous: with that at the layer before it among those followed.
        first: with that at the first layer.
        centred_previous: as `previous`, after each layer's mean was subtracted.
        centred_first: as `first`, after each layer's mean was subtracted.
    """

    previous: float | None = None
    first: float | None = None
    centred_previous: float | None = None
    centred_first: float | None = None


@dataclass(frozen=True)
class Step:
    """A followed token at one layer.

    Attributes:
        layer: the layer.
        drift: how far it has drifted.
        norm: the length of its hidden state; None: a bank keeps directions alone.
        neighbors: what each lens found there, best first, by the lens's name.
    """

    layer: int
    drift: Drift
    norm: float | None
    neighbors: Mapping[str, tuple[Neighbor, ...]]


@dataclass(frozen=True)
class Followed:
    """A token, followed through layers.

    Attributes:
        kind: "context" of a bank, "text" or "visual".
        label: its name for people: its text, or the row and column of a visual token.
        source: the caption, the sentence, or the image's name.
        bank: the bank that was searched; "": none was.
        model: the model that its hidden states come from.
        lenses: the lenses' names.
        steps: one for each layer, ascending.
        means: which means were subtracted for the centred cosines, in words.
        context: the context itself; None if it is none.
        span: start and end of the token in `source`, in characters; None for a visual token.
        place: the place of a visual token; None for others.
        size: width and height of its image in pixels; None for others.
        image: the image itself.
    """

    kind: str
    label: str
    source: str
    bank: str
    model: str
    lenses: tuple[str, ...]
    steps: tuple[Step, ...]
    means: str
    context: Neighbor | None = None
    span: tuple[int, int] | None = None
    place: Place | None = None
    size: tuple[int, int] | None = None
    image: PIL.Image.Image | None = field(default=None, repr=False, compare=False)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, ascending."""
        return tuple(step.layer for step in self.steps)

    @property
    def title(self) -> str:
        """A line that names the token: its sentence with the token in brackets, or its place in the image."""
        if self.span is None:
            return f"visual token {self.label} of {self.source}"
        start, end = self.span
        return f"{self.source[:start]}[{self.source[start:end]}]{self.source[end:]}"

    def _repr_png_(self) -> bytes | None:
        """Return what a notebook shows: its picture, if matplotlib is installed."""
        from latentbank.query.following.figure import draw_followed

        try:
            return draw_followed(self, "png")
        except LatentBankError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data (docs/json.md describes it)."""
        data: dict[str, Any] = {
            "kind": self.kind,
            "label": self.label,
            "source": self.source,
            "bank": self.bank,
            "model": self.model,
            "lenses": list(self.lenses),
            "means": self.means,
        }
        if self.context is not None:
            data["context"] = self.context.to_dict()
        if self.span is not None:
            data["span"] = list(self.span)
        if self.place is not None:
            box = None if self.place.box is None else list(self.place.box)
            data |= {**asdict(self.place), "box": box, "size": list(self.size or ())}
        steps = [
            {
                "layer": step.layer,
                "norm": step.norm,
                **asdict(step.drift),
                "neighbors": {
                    lens: [one.to_dict() for one in found] for lens, found in step.neighbors.items()
                },
            }
            for step in self.steps
        ]
        return data | {"steps": steps}


def drifts(states: Sequence[Vector] | None, centred: Sequence[Vector] | None) -> list[Drift]:
    """Return the drift of one token at each layer.

    Args:
        states: its hidden state at each layer in turn, `[hidden]`, of any length; None: not known.
        centred: the same after each layer's mean was subtracted; None: not known.
    """
    plain, without = (None if rows is None else _cosines(rows) for rows in (states, centred))
    count = len(next(rows for rows in (states, centred) if rows is not None))
    nothing = [(None, None)] * count
    return [Drift(*one, *other) for one, other in zip(plain or nothing, without or nothing, strict=True)]


def _cosines(rows: Sequence[Vector]) -> list[tuple[float | None, float | None]]:
    """Return each row's cosines with the row before it and with the first."""
    wide = np.stack(rows).astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    unit = wide / np.where(lengths > 0, lengths, np.nan)[:, None]
    found: list[tuple[float | None, float | None]] = [(None, None)]
    for layer in range(1, len(unit)):
        found.append((_known(unit[layer] @ unit[layer - 1]), _known(unit[layer] @ unit[0])))
    return found


def _known(value: float) -> float | None:
    """Return a cosine from -1 to 1; None if a row was zero, so that it has none."""
    return float(np.clip(value, -1, 1)) if np.isfinite(value) else None
