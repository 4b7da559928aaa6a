"""Readings: a lens's neighbors for the tokens of a sentence, or for hidden states from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.merge import Unique
from latentbank.bank.points import Neighbor
from latentbank.bank.search import as_floats
from latentbank.bank.settings import Metric
from latentbank.bank.where import Filter
from latentbank.bank.words import Words, tight
from latentbank.errors import LatentBankError, LayerNotFound, QueryError
from latentbank.query.lenses.base import Kind, Queries
from latentbank.query.lenses.centring import QueryMean, described, resolve_mean
from latentbank.query.lenses.latent import LatentLens

if TYPE_CHECKING:
    import pandas
    import PIL.Image

    from latentbank.models.language.model import LanguageModel

_CAPTION = 72


@dataclass(frozen=True, slots=True)
class Place:
    """Where a visual token is in its image.

    `row` and `column` count in the grid of its tile (0: the whole image), -1 for a token that has no place in it,
    such as an encoder's CLS; `box` is left, top, right and bottom in pixels of the original image.
    """

    tile: int
    row: int
    column: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class TokenReading:
    """One token's neighbors at one layer, by one lens.

    `label` is what people call the token (its text; the row and column of a visual one), `index` its place in
    what was read, `layer` the layer its hidden state was taken from (-1: not known), `norm` that hidden
    state's length, `place` where a visual token is in its image (None: it is none).
    """

    index: int
    label: str
    layer: int
    norm: float
    neighbors: tuple[Neighbor, ...]
    lens: str = "latent"
    place: Place | None = None

    def head(self) -> dict[str, Any]:
        """Give everything but the neighbors as JSON-ready data, a visual token's place with it."""
        data = {
            "index": self.index,
            "label": self.label,
            "layer": self.layer,
            "lens": self.lens,
            "norm": self.norm,
        }
        if (at := self.place) is not None:
            data |= {"tile": at.tile, "row": at.row, "column": at.column, "box": list(at.box)}
        return data


@dataclass(frozen=True)
class Reading:
    """The neighbors that one lens or several found for all tokens of something, at the layers asked for.

    `source` is what was read (the sentence, the image's name), `bank_layers` where the neighbors of LatentLens
    come from. `metric` is the bank's; where it is "centred", `query_mean` says which mean was taken from the hidden
    states before LatentLens read them. `tokens` holds one entry for each lens, layer and token, in this order. Of
    an image there are also its `size` (width, height), `geometry` (how the boxes were found), the `prompt` it was
    read with and `image` itself, upright and in RGB.
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
    size: tuple[int, int] | None = None
    geometry: str | None = None
    prompt: str | None = None
    image: PIL.Image.Image | None = field(default=None, repr=False, compare=False)

    @property
    def lens(self) -> str:
        """The lens's name; of several, their names with commas."""
        return ",".join(self.lenses)

    def at(self, layer: int, lens: str | None = None) -> list[TokenReading]:
        """Give the token readings of one layer, by one lens (the first where none is named).

        Raises:
            LayerNotFound: the reading does not have the layer; the message names those it has.
            QueryError: the same for the lens.
        """
        if layer not in self.layers:
            raise LayerNotFound(
                f"The reading has no layer {layer}; it has {', '.join(map(str, self.layers))}."
            )
        if lens is not None and lens not in self.lenses:
            raise QueryError(f"The reading has no lens {lens}; it has {', '.join(self.lenses)}.")
        chosen = lens or self.lenses[0]
        return [token for token in self.tokens if token.layer == layer and token.lens == chosen]

    @property
    def tiles(self) -> list[int]:
        """The tiles that an image's tokens lie in, ascending; empty where it was no image."""
        return sorted({token.place.tile for token in self.tokens if token.place is not None})

    def patches(self, layer: int, lens: str | None = None, tile: int | None = None) -> list[TokenReading]:
        """Give the token readings of one layer that have a place in a tile.

        Args:
            layer: the visual layer.
            lens: the first where none is named.
            tile: the first (the whole image, where the model sees it whole) where none is named.

        Raises:
            LayerNotFound, QueryError: as for `at`; what was read is no image, or has no such tile.
        """
        chosen = self.tiles[0] if tile is None and self.tiles else tile
        found = [
            token
            for token in self.at(layer, lens)
            if token.place is not None and token.place.tile == chosen and token.place.row >= 0
        ]
        if not found:
            has = f"it has {', '.join(map(str, self.tiles))}" if self.tiles else "what was read is no image"
            raise QueryError(f"The reading has no tile {tile}; {has}.")
        return found

    def grid(self, layer: int, lens: str | None = None, tile: int | None = None) -> list[list[str]]:
        """Give the best word of each visual token, as rows and columns of a tile; "" where there is no token.

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
        """Give the reading as JSON-ready data (docs/json.md describes it)."""
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
        }
        if self.size is not None:
            data |= {"size": list(self.size), "geometry": self.geometry, "prompt": self.prompt}
        return data | {
            "tokens": [
                {**token.head(), "neighbors": [neighbor.to_dict() for neighbor in token.neighbors]}
                for token in self.tokens
            ]
        }

    def rows(self) -> list[dict[str, Any]]:
        """Give one row per neighbor: its token's `index`, `label`, `layer`, `lens` and `norm`, its `rank` and itself.

        Of an image also `tile`, `row`, `column` and the box as `left`, `top`, `right`, `bottom`. The context's id
        is called `neighbor_id`.
        """
        rows = []
        for token in self.tokens:
            head = token.head()
            if (box := head.pop("box", None)) is not None:
                head |= dict(zip(("left", "top", "right", "bottom"), box, strict=True))
            for rank, neighbor in enumerate(token.neighbors):
                found = neighbor.to_dict()
                rows.append({**head, "rank": rank, "neighbor_id": found.pop("id"), **found})
        return rows

    def to_pandas(self) -> pandas.DataFrame:
        """Give `rows` as a data frame.

        Raises:
            LatentBankError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise LatentBankError(
                "to_pandas needs pandas: install latentbank with its extra, `pip install latentbank[pandas]`."
            ) from None
        return pandas.DataFrame(self.rows())

    def title(self) -> str:
        """Say in one line what was read, and against what."""
        against = (
            f" against {self.bank}, bank layers {', '.join(map(str, self.bank_layers))}" if self.bank else ""
        )
        against += f", {self.metric} by {self.query_mean}" if self.query_mean else ""
        if self.size is None:
            return f"{' + '.join(self.lenses)} reading of {_short(self.source, 60)!r}{against}"
        name = self.source if len(self.source) <= 60 else f"…{self.source[-59:]}"  # a path's end tells more
        of = f"{name!r} ({self.size[0]} x {self.size[1]}) by {self.model}"
        return f"{' + '.join(self.lenses)} reading of {of}{against}"

    def __repr__(self) -> str:
        if self.size is not None:
            from latentbank.query.output.grids import grid_lines

            return "\n".join([self.title(), *grid_lines(self)])
        width = max((len(token.label.strip()) for token in self.tokens), default=0)
        lines = [self.title()]
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
        """Draw one layer of an image's reading and give the matplotlib axis; see `query.output.plots.plot_reading`."""
        from latentbank.query.output.plots import plot_reading

        return plot_reading(self, layer, lens, tile, axis, words=words, heat=heat)

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the page to look through the lens, in a frame of its own."""
        if self.size is not None and self.image is None:
            return None
        from latentbank.query.web.file import framed

        return framed(self, 720 if self.size else 480)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows for the reading of an image: the best word on each patch."""
        if self.image is None:
            return None
        from latentbank.query.output.pictures import draw_reading, png_bytes

        return png_bytes(draw_reading(self))


def read_text(
    bank: Bank,
    model: LanguageModel,
    sentence: str,
    layers: Sequence[int] | int | None = None,
    *,
    token: str | None = None,
    bank_layers: BankLayers = "mid",
    top_k: int = 5,
    where: Filter | None = None,
    unique: Unique | None = None,
    exact: bool = False,
) -> Reading:
    """Read every token of a sentence against a bank.

    Args:
        bank: of the same model.
        model: the LLM; its fingerprint is checked.
        sentence: the text.
        layers: the layers whose hidden states are read; None: the middle one of the bank's layers.
        token: read only tokens of this word, or tokens with this text (case folded).
        bank_layers: "mid", "all", one bank layer or several.
        top_k: neighbors per token.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word".
        exact: compare with every context in full precision.

    Returns:
        A reading of all real tokens. Where the bank's corpora were planned with a BOS before every sentence, the
        sentence gets one too. The first token of a sentence sees nothing but itself, so its
        neighbors mean little; a bank holds no such contexts.

    Raises:
        BankMismatch: the bank belongs to another model.
        LayerNotFound: a layer that the model does not have, or whose mean of text a centred bank does not know.
        QueryError: the sentence is empty, or has no such token.
    """
    bank.require_model(model.name, model.fingerprint())
    chosen = _as_list(bank, layers)
    always_bos = _planned_with_bos(bank)
    ids = model.encode(sentence, always_bos=always_bos)
    special = set(model.tokenizer.all_special_ids)
    texts = [str(model.tokenizer.decode([id_])) for id_ in ids]
    places = [i for i, id_ in enumerate(ids) if id_ not in special]
    if not places:
        raise QueryError("The sentence has no tokens; give some text.")
    if token is not None:
        spans = model.spans(sentence, always_bos=always_bos)
        places = _matching(sentence, texts, spans, places, token)
    states = model.hidden_states([ids], chosen)[0]
    lens = LatentLens(bank, bank_layers, where, unique, exact)
    return _read(
        lens,
        {layer: states[layer][places].float().cpu().numpy() for layer in chosen},
        labels=[texts[i] for i in places],
        indices=places,
        source=sentence,
        kind="text",
        top_k=top_k,
        query_mean="text" if bank.metric == "centred" else None,
    )


def read_hidden(
    bank: Bank,
    hidden_states: npt.ArrayLike | Mapping[int, npt.ArrayLike],
    *,
    labels: Sequence[str] | None = None,
    source: str = "hidden states",
    bank_layers: BankLayers = "mid",
    top_k: int = 5,
    where: Filter | None = None,
    unique: Unique | None = None,
    exact: bool = False,
    query_mean: QueryMean | None = None,
) -> Reading:
    """Read hidden states from anywhere: soft prompts, speech, latent reasoning steps.

    Args:
        bank: of the LLM that the hidden states live in.
        hidden_states: `[tokens, hidden]`, or a mapping from layer to such arrays of equal length.
        labels: what to call each token; numbers when None.
        source: what to call all of them.
        bank_layers: as for `read_text`.
        top_k: neighbors per token.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word".
        exact: compare with every context in full precision.
        query_mean: for a centred bank, which mean the hidden states have: "text" (the bank's, of their layer),
            "batch" (their own), `Means` that were measured on others of their kind, or an array `[hidden]`.

    Raises:
        QueryError: wrong shape, or a hidden state that is zero or not finite; a centred bank without
            `query_mean`, or another bank with it.
    """
    given = hidden_states if isinstance(hidden_states, Mapping) else {-1: hidden_states}
    arrays = {layer: _rows(states) for layer, states in given.items()}
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise QueryError("Every layer needs hidden states of the same tokens, and at least one of them.")
    (count,) = lengths
    if labels is not None and len(labels) != count:
        raise QueryError(f"There are {len(labels)} labels for {count} tokens.")
    lens = LatentLens(bank, bank_layers, where, unique, exact)
    names = list(labels) if labels is not None else [str(i) for i in range(count)]
    return _read(lens, arrays, names, list(range(count)), source, "other", top_k, query_mean)


def excerpt(neighbor: Neighbor, width: int = _CAPTION, left: str = "[", right: str = "]") -> str:
    """Give the part of a caption around the token's span, the span marked, at most about `width` wide."""
    caption, start, end = neighbor.caption, neighbor.start, neighbor.end
    room = max(0, width - (end - start)) // 2
    first, last = max(0, start - room), min(len(caption), end + room)
    before = ("…" if first else "") + caption[first:start]
    after = caption[end:last] + ("…" if last < len(caption) else "")
    return f"{before}{left}{caption[start:end]}{right}{after}"


def _read(
    lens: LatentLens,
    states: Mapping[int, npt.NDArray[Any]],
    labels: Sequence[str],
    indices: Sequence[int],
    source: str,
    kind: Kind,
    top_k: int,
    query_mean: QueryMean | None,
) -> Reading:
    tokens = []
    for layer, rows in states.items():
        norms = np.linalg.norm(np.asarray(rows, dtype=np.float64), axis=-1)
        mean = resolve_mean(lens.bank, query_mean, layer, rows)
        found = lens.read(Queries(rows, layer if layer >= 0 else None, kind, mean), top_k)
        tokens += [
            TokenReading(index, label, layer, float(norm), tuple(neighbors))
            for index, label, norm, neighbors in zip(indices, labels, norms, found, strict=True)
        ]
    return Reading(
        source=source,
        bank=lens.bank.name,
        model=lens.bank.manifest.model,
        lenses=(lens.name,),
        bank_layers=tuple(lens.searched_layers()),
        layers=tuple(states),
        tokens=tuple(tokens),
        metric=lens.bank.metric,
        query_mean=described(query_mean),
    )


def _planned_with_bos(bank: Bank) -> bool:
    """Whether every corpus of the bank has the model's BOS before its sentences."""
    planned = [entry.plan.get("bos") for entry in bank.corpora.values()]
    return bool(planned) and all(bos == "always" for bos in planned)


def _as_list(bank: Bank, layers: Sequence[int] | int | None) -> list[int]:
    if layers is None:
        middle = bank.choose_layers("mid")
        return [middle[len(middle) // 2]]
    return [layers] if isinstance(layers, int) else list(dict.fromkeys(layers))


def _matching(
    sentence: str, texts: list[str], spans: list[tuple[int, int]], places: list[int], token: str
) -> list[int]:
    wanted = token.strip().casefold()
    words = Words(sentence)
    found = [
        i
        for i in places
        if wanted in (texts[i].strip().casefold(), words.at(*tight(sentence, *spans[i])).casefold())
    ]
    if not found:
        raise QueryError(
            f"The sentence has no token or word '{token}'; its tokens are {' '.join(repr(texts[i]) for i in places)}."
        )
    return found


def _rows(states: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        return np.atleast_2d(as_floats(states))
    except (TypeError, ValueError) as error:
        raise QueryError(f"Hidden states must be an array of numbers [tokens, hidden]: {error}.") from None


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
