"""Readings: a lens's neighbors for the tokens of an image or a text, and what can be made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from latentbank.bank.points import Neighbor
from latentbank.errors import LatentBankError, LayerNotFound, QueryError
from latentbank.text import listed

if TYPE_CHECKING:
    import pandas
    import PIL.Image

    from latentbank.bank.settings import Metric

TokenKind = Literal["visual", "audio", "prompt", "answer", "text", "other"]
"""What a token is: of an image or video, of a sound, of the prompt around it, of the model's answer, of a sentence, or
something else."""
_CAPTION = 72


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a visual token in its image.

    Attributes:
        tile: the tile of the image that it belongs to; 0: the whole image.
        row: its row in the tile's grid; -1 for a token outside the grid, such as an encoder's CLS, or a token that a
            resampler mixes from all patches of a tile.
        column: its column in the tile's grid; -1 for a token outside the grid.
        box: left, top, right and bottom in pixels of the original image; None: it is not known where it looks.
    """

    tile: int
    row: int
    column: int
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class TokenReading:
    """One token's neighbors at one layer, by one lens.

    Attributes:
        index: the token's position in what was read.
        label: its name for people: its text, or the row and column of a visual token.
        layer: the layer its hidden state was taken from; -1: not known.
        norm: the length of that hidden state.
        neighbors: what the lens found, best first.
        lens: the lens's name.
        place: the place of a visual token in its image; None for other tokens.
        kind: what the token is.
        seconds: start and end of the time that a token of a video or a sound sees or hears; None for other tokens.
        p_value: how probable a best neighbor as good as this token's is where there is nothing to see; None: not known.
        silent: whether its neighbors were left out, because they say no more than chance; it then has none.
    """

    index: int
    label: str
    layer: int
    norm: float
    neighbors: tuple[Neighbor, ...]
    lens: str = "latent"
    place: Place | None = None
    kind: TokenKind = "other"
    seconds: tuple[float, float] | None = None
    p_value: float | None = None
    silent: bool = False

    def head(self) -> dict[str, Any]:
        """Return everything but the neighbors as JSON-ready data, with the place of a visual token."""
        data = {
            "index": self.index,
            "label": self.label,
            "kind": self.kind,
            "layer": self.layer,
            "lens": self.lens,
            "norm": self.norm,
            "p_value": self.p_value,
            "silent": self.silent,
        }
        if (at := self.place) is not None and at.box is None:
            data |= {"tile": at.tile, "row": None, "column": None, "box": None}
        elif at is not None and at.box is not None:
            data |= {"tile": at.tile, "row": at.row, "column": at.column, "box": list(at.box)}
        if self.seconds is not None:
            data["seconds"] = list(self.seconds)
        return data


@dataclass(frozen=True)
class Reading:
    """The neighbors that one or several lenses found for all tokens of an image or a text, at the layers asked for.

    Attributes:
        source: what was read: the sentence, or the image's name.
        bank: the name of the bank; "" if no lens searched one.
        model: the name of the model that the hidden states come from.
        lenses: the lenses' names.
        bank_layers: the bank layers that were searched.
        layers: the layers that were read.
        tokens: one entry for each lens, layer and token, in this order.
        metric: the bank's metric.
        query_mean: of a centred bank, the mean that was subtracted from the hidden states, in words.
        size: width and height of an image in pixels; None for a text.
        note: why tokens have no neighbors, in a sentence; "" if all have some.
        geometry: how the boxes of an image's tokens were found; it begins with `unknown` if they have none.
        prompt: the text that an image was read with.
        image: the image itself, upright and in RGB; of a video, the first frame.
        frames: of a video, an image of each step of time, which is a tile; otherwise empty.
        duration: of a video or a sound, its seconds.
        correction: how the lenses' scores were corrected: "hubs", "mean" or "both"; "": they were not.
        fdr: the largest share of the words given that may be false; tokens beyond it are silent. None: all have words.

    Examples:
        >>> import latentbank as lb
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> with lb.open_bank("captions") as bank:
        ...     reading = lb.read_text(bank, model, "A dog sleeps on the porch.", layers=8)
        >>> for token in reading.tokens:
        ...     words = [neighbor.word for neighbor in token.neighbors]
        >>> frame = reading.to_pandas()
    """

    source: str
    bank: str
    model: str
    lenses: tuple[str, ...]
    bank_layers: tuple[int, ...]
    layers: tuple[int, ...]
    tokens: tuple[TokenReading, ...]
    metric: Metric = "cosine"
    query_mean: str = ""
    note: str = ""
    size: tuple[int, int] | None = None
    geometry: str | None = None
    prompt: str | None = None
    image: PIL.Image.Image | None = field(default=None, repr=False, compare=False)
    frames: tuple[PIL.Image.Image, ...] = field(default=(), repr=False, compare=False)
    duration: float | None = None
    correction: str = ""
    fdr: float | None = None

    @property
    def lens(self) -> str:
        """The lens's name; of several lenses, their names with commas between them."""
        return ",".join(self.lenses)

    def at(self, layer: int, lens: str | None = None) -> list[TokenReading]:
        """Return the token readings of one layer, by one lens.

        Args:
            layer: a layer of the reading.
            lens: a lens's name; None: the first lens.

        Raises:
            LayerNotFound: the reading does not have the layer; the message names those it has.
            QueryError: the reading does not have the lens; the message names those it has.
        """
        if layer not in self.layers:
            raise LayerNotFound(f"The reading has no layer {layer}; it has {listed(self.layers)}.")
        if lens is not None and lens not in self.lenses:
            raise QueryError(f"The reading has no lens {lens}; it has {listed(self.lenses)}.")
        chosen = lens or self.lenses[0]
        return [token for token in self.tokens if token.layer == layer and token.lens == chosen]

    @property
    def tiles(self) -> list[int]:
        """The tiles that have a grid of tokens, ascending; empty for a text, or if no token has a place in a grid."""
        return sorted({at.tile for token in self.tokens if (at := token.place) is not None and at.row >= 0})

    @property
    def answer(self) -> str:
        """What the model wrote about an image, as far as it was read; "" if no answer was asked for."""
        first = self.at(self.layers[0])
        return "".join(token.label for token in first if token.kind == "answer")

    def around(self, layer: int, lens: str | None = None) -> dict[TokenKind, list[TokenReading]]:
        """Return the token readings of the text around an image at one layer: those of prompt and answer, if any.

        Raises:
            LayerNotFound: as for `at`.
            QueryError: as for `at`.
        """
        found: dict[TokenKind, list[TokenReading]] = {"prompt": [], "answer": []}
        for token in self.at(layer, lens):
            if token.kind in found:
                found[token.kind].append(token)
        return {kind: tokens for kind, tokens in found.items() if tokens}

    def span(self, tile: int) -> tuple[float, float] | None:
        """Return start and end in seconds of a tile of a video; None for an image."""
        inside = (token for token in self.tokens if token.place is not None and token.place.tile == tile)
        return next((token.seconds for token in inside), None)

    def tile_name(self, tile: int) -> str:
        """Return what people call a tile: the seconds of a video's step, or its number; "" for the only tile."""
        if (span := self.span(tile)) is not None:
            return f"{span[0]:.2f} to {span[1]:.2f} s"
        return f"tile {tile}" if len(self.tiles) > 1 else ""

    def frame(self, tile: int | None) -> PIL.Image.Image | None:
        """Return the image that a tile's tokens are drawn on: a video's frame of that step, else the image."""
        return self.frames[tile] if tile is not None and self.frames else self.image

    def patches(self, layer: int, lens: str | None = None, tile: int | None = None) -> list[TokenReading]:
        """Return the token readings of one layer that have a place in the grid of a tile.

        Args:
            layer: the visual layer.
            lens: a lens's name; None: the first lens.
            tile: a tile; None: the first, which is the whole image if the model sees it whole.

        Raises:
            LayerNotFound: as for `at`.
            QueryError: as for `at`; also if what was read is not an image, or has no such tile.
        """
        chosen = self.tiles[0] if tile is None and self.tiles else tile
        found = [
            token
            for token in self.at(layer, lens)
            if token.place is not None and token.place.tile == chosen and token.place.row >= 0
        ]
        if not found:
            if self.tiles:
                raise QueryError(f"The reading has no tile {tile}; it has {listed(self.tiles)}.")
            if self.size is None:
                raise QueryError("What was read is not an image, so its tokens have no grid.")
            raise QueryError(f"No token of the reading has a place in a grid (boxes: {self.geometry}).")
        return found

    def grid(self, layer: int, lens: str | None = None, tile: int | None = None) -> list[list[str]]:
        """Return the best word of each visual token as rows of a tile's grid; "" where there is no token.

        Arguments and errors are those of `patches`.
        """
        cells = {
            (token.place.row, token.place.column): token.neighbors[0].word if token.neighbors else ""
            for token in self.patches(layer, lens, tile)
            if token.place is not None
        }
        rows, columns = (max(place) + 1 for place in zip(*cells, strict=True))
        return [[cells.get((row, column), "") for column in range(columns)] for row in range(rows)]

    def to_dict(self) -> dict[str, Any]:
        """Return the reading as JSON-ready data (docs/json.md describes it)."""
        data: dict[str, Any] = {
            "source": self.source,
            "bank": self.bank,
            "model": self.model,
            "lens": self.lens,
            "lenses": list(self.lenses),
            "bank_layers": list(self.bank_layers),
            "layers": list(self.layers),
            "metric": self.metric,
            "query_mean": self.query_mean,
            "note": self.note,
            "correction": self.correction,
            "fdr": self.fdr,
        }
        if self.size is not None:
            data |= {"size": list(self.size), "geometry": self.geometry, "prompt": self.prompt}
        elif self.duration is not None:
            data |= {"geometry": self.geometry, "prompt": self.prompt}
        if self.size is not None or self.duration is not None:
            data["answer"] = self.answer
        if self.duration is not None:
            data["duration"] = self.duration
        return data | {
            "tokens": [
                {**token.head(), "neighbors": [neighbor.to_dict() for neighbor in token.neighbors]}
                for token in self.tokens
            ]
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per neighbor, and one for each silent token.

        A row has the token's `index`, `label`, `kind`, `layer`, `lens`, `norm`, `p_value` and `silent`, the neighbor's
        `rank` (from 0) and its fields; the context's id is called `neighbor_id`. Rows of visual tokens also have
        `tile`, `row`, `column` and the box as `left`, `top`, `right`, `bottom`. The row of a silent token has nothing
        of a neighbor.
        """
        rows = []
        for token in self.tokens:
            head = token.head()
            if "box" in head:
                edges = head.pop("box") or (None,) * 4
                head |= dict(zip(("left", "top", "right", "bottom"), edges, strict=True))
            if (span := head.pop("seconds", None)) is not None:
                head |= {"start_second": span[0], "end_second": span[1]}
            if token.silent:
                rows.append(head)
            for rank, neighbor in enumerate(token.neighbors):
                found = neighbor.to_dict()
                rows.append({**head, "rank": rank, "neighbor_id": found.pop("id"), **found})
        return rows

    def to_pandas(self) -> pandas.DataFrame:
        """Return `rows` as a data frame.

        Raises:
            LatentBankError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise LatentBankError("to_pandas needs pandas: install pandas.") from None
        return pandas.DataFrame(self.rows())

    def title(self) -> str:
        """Return a line that names what was read, and against what."""
        against = f" against {self.bank}, bank layers {listed(self.bank_layers)}" if self.bank else ""
        against += f", {self.metric} by {self.query_mean}" if self.query_mean else ""
        against += f", corrected: {self.correction}" if self.correction else ""
        if self.size is None:
            return f"{' + '.join(self.lenses)} reading of {_short(self.source, 60)!r}{against}"
        # The end of a path says more than its beginning.
        name = self.source if len(self.source) <= 60 else f"…{self.source[-59:]}"
        of = f"{name!r} ({self.size[0]} x {self.size[1]}) by {self.model}"
        return f"{' + '.join(self.lenses)} reading of {of}{against}"

    def __repr__(self) -> str:
        noted = [self.note] if self.note else []
        if self.size is not None:
            from latentbank.query.output.grids import grid_lines

            return "\n".join([self.title(), *noted, *grid_lines(self)])
        width = max((len(token.label.strip()) for token in self.tokens), default=0)
        lines = [self.title(), *noted]
        for token in self.tokens:
            best = token.neighbors[0] if token.neighbors else None
            words = "  ".join(f"{n.word} {n.score:.2f}" for n in token.neighbors)
            layer = f"L{token.layer:02d} " if token.layer >= 0 else ""
            lines.append(f"  {layer}{token.label.strip():<{width}}  {words}")
            if best is not None and best.caption:
                lines.append(f"  {'':<{len(layer) + width}}  {excerpt(best)}")
        return "\n".join(lines)

    def plot(
        self,
        layer: int | None = None,
        lens: str | None = None,
        tile: int | None = None,
        axis: Any = None,
        *,
        words: bool = True,
        heat: bool = True,
    ) -> Any:
        """Draw one layer of an image's reading and return the matplotlib axis; see `plot_reading`."""
        from latentbank.query.output.plots import plot_reading

        return plot_reading(self, layer, lens, tile, axis, words=words, heat=heat)

    def _repr_html_(self) -> str | None:
        """Return what a notebook shows: the interactive page, in a frame of its own."""
        if self.size is not None and self.image is None:
            return None
        from latentbank.query.web.file import framed

        return framed(self, 720 if self.size else 480)

    def _repr_png_(self) -> bytes | None:
        """Return what a notebook shows without HTML: an image with the best word on each patch."""
        if self.image is None:
            return None
        from latentbank.query.output.pictures import draw_reading, png_bytes

        return png_bytes(draw_reading(self))


def excerpt(neighbor: Neighbor, width: int = _CAPTION, left: str = "[", right: str = "]") -> str:
    """Return the part of a caption around the token's span, with the span marked.

    Args:
        neighbor: whose caption is cut.
        width: about how many characters are kept; a longer span is kept whole.
        left: the mark before the span.
        right: the mark after the span.
    """
    caption, start, end = neighbor.caption, neighbor.start, neighbor.end
    room = max(0, width - (end - start)) // 2
    first, last = max(0, start - room), min(len(caption), end + room)
    before = ("…" if first else "") + caption[first:start]
    after = caption[end:last] + ("…" if last < len(caption) else "")
    return f"{before}{left}{caption[start:end]}{right}{after}"


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
