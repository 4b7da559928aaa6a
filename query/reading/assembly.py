"""Putting readings together: the tokens of a batch go through each lens, and come back as one reading of each image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from latentbank.bank.points import Neighbor
from latentbank.query.calibration.calibration import FEWEST_OWN
from latentbank.query.calibration.references import picture_digest
from latentbank.query.lenses.base import Kind, Lens, Queries
from latentbank.query.lenses.centring import QueryMean, described, resolve_mean
from latentbank.query.reading.around import labels_of
from latentbank.query.reading.norms import beyond_range
from latentbank.query.reading.pieces import read_in_pieces
from latentbank.query.reading.reading import Place, Reading, TokenKind, TokenReading
from latentbank.query.reading.visual_tokens import ImageTokens
from latentbank.query.silence.silence import silenced
from latentbank.text import check_text, public_name

if TYPE_CHECKING:
    import numpy.typing as npt

    from latentbank.models.vision.tokens import VisualModel, VisualTokens
    from latentbank.query.silence.silence import Silence

Stream = Literal["visual", "text"]
"""Tokens that are given to a lens together; they have a mean of their own."""
_STREAMS: tuple[Stream, ...] = ("visual", "text")
_Answer = tuple[Sequence[Neighbor], float | None]  # a token's neighbors, and the p-value of the best
_Found = Mapping[tuple[str, int, Stream], Iterator[_Answer]]


@dataclass(frozen=True)
class Choices:
    """What `read_images` and `read_layers` were asked for; see there."""

    lenses: Sequence[Lens]
    top_k: int
    prompt: str | None
    query_mean: QueryMean | None
    warn: Callable[[str], None]
    between: Callable[[int], None] | None = None
    note: str = ""
    silence: Silence | None = None

    def __post_init__(self) -> None:
        """Check the prompt.

        Raises:
            QueryError: it is no text, or holds half a surrogate pair.
        """
        if self.prompt is not None:
            check_text(self.prompt, "prompt")

    def answers(
        self, lens: Lens, layers: Sequence[int], batch: Sequence[VisualTokens], stream: Stream
    ) -> list[Iterator[_Answer]]:
        """Return what a lens finds for the visual or the text tokens of a batch's images, in order, at each layer."""
        asked = [self._queries(lens, layer, batch, stream) for layer in layers]
        if not sum(map(len, asked)):
            return [iter(()) for _ in layers]
        if self.between is not None:
            between = self.between
            found = [read_in_pieces(lens, queries, self.top_k, between) for queries in asked]
        else:
            found = lens.read_each(asked, self.top_k)
        return [self._with_p_values(lens, *pair) for pair in zip(asked, found, strict=True)]

    def _with_p_values(self, lens: Lens, queries: Queries, found: list[list[Neighbor]]) -> Iterator[_Answer]:
        if self.silence is None or queries.kind != "visual":
            return iter([(neighbors, None) for neighbors in found])
        return zip(found, self.silence.p_values(lens, queries, found), strict=True)

    def _queries(self, lens: Lens, layer: int, batch: Sequence[VisualTokens], stream: Stream) -> Queries:
        """Return the visual or the text tokens of a batch's images at a layer."""
        if stream == "visual":
            states = torch.cat([tokens.states[layer] for tokens in batch])
            kind: Kind = "visual" if all(any(tokens.size) for tokens in batch) else "other"
            return Queries(states, layer, kind, self._visual_mean(lens, layer, batch))
        parts = [tokens.text.states[layer] for tokens in batch if tokens.text is not None]
        if not sum(map(len, parts)):
            return Queries(np.empty((0, 0), np.float32), layer, "text")
        return Queries(torch.cat(parts), layer, "text", _text_mean(lens, layer))

    def uncorrected(self, note: str) -> Choices:
        """Return the same choices without corrections; the readings' `note` says why.

        In a centred bank, tokens do not fall silent either, as their evidence is the corrected score.
        """
        centred = any(lens.bank is not None and lens.bank.metric == "centred" for lens in self.lenses)
        lenses = [lens.corrected(None) for lens in self.lenses]
        return replace(self, lenses=lenses, note=note, silence=None if centred else self.silence)

    def _visual_mean(
        self, lens: Lens, layer: int, batch: Sequence[VisualTokens]
    ) -> npt.NDArray[np.floating[Any]] | None:
        """Return the mean of each visual token as rows `[tokens, hidden]`; None unless the lens's bank is centred.

        Raises:
            QueryError: a mean was given and the bank is not centred.
        """
        if lens.bank is None:
            return None
        means = []
        for tokens in batch:
            states = tokens.states[layer]
            mean = resolve_mean(lens.bank, self.query_mean, layer, states)
            if mean is None:
                return None
            means.append(np.broadcast_to(mean, states.shape))
        return np.concatenate(means)


@dataclass(frozen=True)
class _Head:
    """What a token is called, before its neighbors are known; `number` counts the tokens of its stream."""

    stream: Stream
    number: int
    kind: TokenKind
    label: str
    place: Place | None = None
    seconds: tuple[float, float] | None = None


def read_batches(
    model: VisualModel,
    batches: Iterator[list[ImageTokens]],
    groups: Sequence[Sequence[int]],
    choices: Choices,
) -> Iterator[Reading]:
    """Read the tokens of batches. The layers of a group become one reading of each image."""
    warned = False
    for part, chosen in _apart(batches, choices):
        batch = [image.tokens for image in part]
        if not warned and (warning := beyond_range(model, batch)):
            warned = True
            chosen.warn(warning)
        for layers in groups:
            found = {
                (lens.name, layer, stream): answers
                for lens in chosen.lenses
                for stream in _STREAMS
                for layer, answers in zip(layers, chosen.answers(lens, layers, batch, stream), strict=True)
            }
            for image in part:
                yield _reading(model, image, layers, found, chosen)


def _apart(
    batches: Iterator[list[ImageTokens]], choices: Choices
) -> Iterator[tuple[list[ImageTokens], Choices]]:
    """Yield batches with the choices they are read by: pictures among too few that a lens was calibrated on, apart."""
    corrections = [lens.correction for lens in choices.lenses if lens.correction is not None]
    few = next((made.calibration for made in corrections if made.calibration.few), None)
    if few is None:
        yield from ((part, choices) for part in batches)
        return
    calibration = few
    note = (
        f"Not corrected: the picture is one of only {len(few.pictures)} that {few.model} was calibrated on; calibrate "
        f"it on others, or on {FEWEST_OWN} or more together."
    )

    def is_own(image: ImageTokens) -> bool:
        return image.image is not None and calibration.is_own(picture_digest(image.image))

    for part in batches:
        for own, images in itertools.groupby(part, is_own):
            yield list(images), choices.uncorrected(note) if own else choices


def _reading(
    model: VisualModel, image: ImageTokens, layers: Sequence[int], found: _Found, choices: Choices
) -> Reading:
    """Return the reading of one image. Its neighbors come next in what each lens `found` at each layer."""
    heads = _heads(model, image.tokens)
    norms = {(layer, stream): _norms(image.tokens, layer, stream) for layer in layers for stream in _STREAMS}
    searching = next((lens for lens in choices.lenses if lens.bank is not None), None)
    bank = searching.bank if searching else None
    tokens = []
    for lens, layer in itertools.product(choices.lenses, layers):
        for index, head in enumerate(heads):
            neighbors, p_value = next(found[lens.name, layer, head.stream])
            norm = float(norms[layer, head.stream][head.number])
            of = lens.name, head.place, head.kind, head.seconds
            tokens.append(TokenReading(index, head.label, layer, norm, tuple(neighbors), *of, p_value))
    nothing = not all(token.neighbors for token in tokens)
    fdr = None if choices.silence is None else choices.silence.fdr
    return Reading(
        source=image.name,
        bank=bank.name if bank else "",
        model=public_name(model.name),
        lenses=tuple(lens.name for lens in choices.lenses),
        bank_layers=tuple(searching.searched_layers()) if searching else (),
        layers=tuple(layers),
        tokens=tuple(tokens if fdr is None else silenced(tokens, fdr)),
        metric=bank.metric if bank else "cosine",
        query_mean=_mean_told(choices, searching),
        note=(searching.why_nothing() if searching is not None and nothing else "") or choices.note,
        size=image.tokens.size if image.image is not None else None,
        geometry=image.tokens.geometry or model.geometry,
        prompt=choices.prompt,
        image=image.image,
        frames=image.frames,
        duration=image.duration,
        correction=next((lens.correction.mode for lens in choices.lenses if lens.correction is not None), ""),
        fdr=fdr,
    )


def _heads(model: VisualModel, tokens: VisualTokens) -> list[_Head]:
    """Return what is read of an image, in the order of the sequence."""
    times: list[tuple[float, float] | None] = (
        [None] * len(tokens) if tokens.seconds is None else [(a, b) for a, b in tokens.seconds.tolist()]
    )
    visual = [
        _Head("visual", number, "visual", place_label(number, place), place, seconds)
        if any(tokens.size)
        else _Head("visual", number, "audio", f"{seconds[0] if seconds else 0:.2f} s", None, seconds)
        for number, (place, seconds) in enumerate(zip(places_of(tokens), times, strict=True))
    ]
    text = tokens.text
    if text is None:
        return visual
    labels = labels_of(text, model.language.tokenizer)
    around = [
        _Head("text", number, "answer" if written else "prompt", label)
        for number, (label, written) in enumerate(zip(labels, text.answer.tolist(), strict=True))
    ]
    places = np.arange(-len(visual), 0) if tokens.positions is None else tokens.positions
    order = np.argsort(np.concatenate([places, text.positions]), kind="stable")
    return [[*visual, *around][at] for at in order.tolist()]


def places_of(tokens: VisualTokens) -> Iterator[Place]:
    """Yield the place of each visual token."""
    for tile, row, column, (left, top, right, bottom) in zip(
        tokens.tiles.tolist(),
        tokens.rows.tolist(),
        tokens.columns.tolist(),
        tokens.boxes.tolist(),
        strict=True,
    ):
        box = None if math.isnan(left) else (left, top, right, bottom)
        yield Place(tile, row, column, box)


def _mean_told(choices: Choices, searching: Lens | None) -> str:
    """Return in a few words which mean is subtracted from visual tokens; "" for none."""
    if searching is None or searching.bank is None:
        return ""
    if searching.correction is not None and searching.bank.metric == "centred":
        return f"mean of {searching.correction.calibration.kind}, weighted"
    return described(choices.query_mean)


def _norms(tokens: VisualTokens, layer: int, stream: Stream) -> npt.NDArray[np.float32]:
    if stream == "visual":
        return tokens.norms(layer)
    if tokens.text is None:
        return np.empty(0, np.float32)
    norms: npt.NDArray[np.float32] = tokens.text.states[layer].float().norm(dim=-1).cpu().numpy()
    return norms


def _text_mean(lens: Lens, layer: int) -> npt.NDArray[np.floating[Any]] | None:
    """Return the bank's mean of text; None unless the lens's bank is centred."""
    if lens.bank is None or lens.bank.metric != "centred":
        return None
    return lens.bank.text_mean(layer)


def place_label(index: int, place: Place) -> str:
    """Return the name of a visual token for people, such as "3,4" or "1:3,4"; its number if it is in no grid."""
    if place.row < 0:
        return str(index)
    at = f"{place.row},{place.column}"
    return f"{place.tile}:{at}" if place.tile else at
