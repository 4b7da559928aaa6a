"""A reading as JSON for the page's modules; captions and contexts are stored once."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentbank.bank.words import Words, tight
from latentbank.query.lenses.registry import score_of, searches_bank, title_of

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.bank.points import Neighbor
    from latentbank.query.reading.reading import Reading, TokenReading

FORMAT = 1
LARGEST_SIDE = 1280
"""Largest side of an image in a page, in pixels. A larger image is scaled down; its tokens' boxes are not."""
FRAME_SIDE = 640
"""Largest side of a frame of a video in a page, in pixels."""


def page_data(reading: Reading) -> dict[str, Any]:
    """Return a reading as JSON-ready data, as page/reading.js takes it.

    Captions and contexts are in tables, and neighbors refer to them by number. A token of an image is a list of its
    label, tile, row, column and box, without the box if its place is not known; a token of text is its label alone.
    `around` is there if the text around an image was read: for each token its kind ("visual", "prompt" or "answer") and
    the whole word of the text it belongs to. `found` has for each lens, layer and token the neighbors as [context, bank
    layer, score]; a corrected score is followed by the neighbor's own, its cosine or probability. `about_lenses` has
    each lens's title, what its own scores are, and whether its neighbors are a bank's.

    A reading in which tokens may be silent has `p_values`: for each lens, layer and token that of its best neighbor,
    or None. A silent token is one that has a p-value and no neighbors.

    A video and a sound also have their `duration`, and for each token the `seconds` that it sees or hears (None for
    text); a video has `frames`, an image of each step of time, which is a tile.
    """
    captions: dict[str, int] = {}
    corpora: dict[str, int] = {}
    contexts: dict[tuple[Any, ...], int] = {}

    def number(table: dict[Any, int], key: Any) -> int:
        return table.setdefault(key, len(table))

    def found(neighbor: Neighbor) -> list[Any]:
        context = (
            neighbor.word,
            neighbor.token,
            number(captions, neighbor.caption),
            neighbor.start,
            neighbor.end,
            number(corpora, neighbor.corpus),
        )
        scores = [_short(neighbor.score)]
        if neighbor.corrected is not None:
            own = neighbor.cosine if neighbor.probability is None else neighbor.probability
            scores.append(_short(own))
        return [number(contexts, context), neighbor.bank_layer, *scores]

    read = {
        lens: [
            [[found(neighbor) for neighbor in token.neighbors] for token in reading.at(layer, lens)]
            for layer in reading.layers
        ]
        for lens in reading.lenses
    }
    data: dict[str, Any] = {
        "format": FORMAT,
        "source": reading.source,
        "bank": reading.bank,
        "model": reading.model,
        "lenses": list(reading.lenses),
        "about_lenses": {
            name: {"title": title_of(name), "score": score_of(name), "bank": searches_bank(name)}
            for name in reading.lenses
        },
        "bank_layers": list(reading.bank_layers),
        "layers": list(reading.layers),
        "metric": reading.metric,
        "query_mean": reading.query_mean,
        "note": reading.note,
        "fdr": reading.fdr,
        "correction": reading.correction,
        "size": None if reading.size is None else list(reading.size),
        "geometry": reading.geometry,
        "prompt": reading.prompt,
        "image": None if reading.image is None else image_uri(reading.image),
        "tokens": [_placed(token) for token in reading.at(reading.layers[0])],
        "norms": [[_short(token.norm) for token in reading.at(layer)] for layer in reading.layers],
        "captions": list(captions),
        "corpora": list(corpora),
        "contexts": [list(context) for context in contexts],
        "found": read,
    }
    if reading.fdr is not None:
        data["p_values"] = _p_values(reading)
    if (reading.size is not None or reading.duration is not None) and reading.around(reading.layers[0]):
        data["around"] = _around(reading.at(reading.layers[0]))
    if reading.duration is not None:
        data |= _timed(reading, reading.duration)
    return data


def _placed(token: TokenReading) -> list[Any]:
    """Return a token's label, and the place of a visual one."""
    if (at := token.place) is None:
        return [token.label]
    return [token.label, at.tile, at.row, at.column, *(round(edge, 2) for edge in at.box or ())]


def _p_values(reading: Reading) -> dict[str, list[list[float | None]]]:
    """Return the p-values by lens, layer and token."""

    def short(token: TokenReading) -> float | None:
        return None if token.p_value is None else _short(token.p_value)

    return {
        lens: [[short(token) for token in reading.at(layer, lens)] for layer in reading.layers]
        for lens in reading.lenses
    }


def _timed(reading: Reading, duration: float) -> dict[str, Any]:
    """Return what only a video and a sound have."""
    first = reading.at(reading.layers[0])
    data: dict[str, Any] = {
        "duration": _short(duration),
        "seconds": [token.seconds and [round(at, 3) for at in token.seconds] for token in first],
    }
    if reading.frames:
        data["frames"] = [image_uri(frame, FRAME_SIDE) for frame in reading.frames]
    return data


def _around(tokens: Sequence[TokenReading]) -> list[list[str]]:
    """Return the kind of each token, and for text the whole word it belongs to; "" for visual tokens.

    Consecutive tokens of a kind are one text: their labels joined.
    """
    texts = itertools.groupby(tokens, lambda token: token.kind)
    found: list[list[str]] = []
    for kind, group in texts:
        run = list(group)
        joined = "".join(token.label for token in run)
        words, at = Words(joined), 0
        for token in run:
            span = tight(joined, at, at + len(token.label))
            at += len(token.label)
            found.append([kind, "" if kind in ("visual", "audio") else words.at(*span).strip()])
    return found


def page_json(reading: Reading) -> str:
    """Return `page_data` as JSON that is safe inside an HTML script element: it has no `<`."""
    text = json.dumps(page_data(reading), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def shrunk(image: Image.Image, side: int = LARGEST_SIDE) -> Image.Image:
    """Return a copy of an image in RGB, of at most `side` pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    return small


def image_uri(image: Image.Image, side: int = LARGEST_SIDE) -> str:
    """Return an image as a data URI: a JPEG of the `shrunk` image."""
    buffer = io.BytesIO()
    shrunk(image, side).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _short(number: float) -> float:
    """Return a number rounded to four significant digits, which is more than the page shows."""
    return float(f"{number:.4g}")
