"""Readings with given neighbors, for the page's tests."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from latentbank.bank.points import Neighbor
from latentbank.query.reading.reading import Place, Reading, TokenKind, TokenReading

HOSTILE = '</script><img src=x onerror="window.hit=1"> 🐕 dog & cat'


def neighbor(
    word: str, score: float = 0.5, caption: str = "", lens: str = "latent", layer: int = 1
) -> Neighbor:
    """A neighbor of a lens; for LatentLens, its caption ends with its word."""
    if lens == "logit":
        return Neighbor(word, f" {word}", math.nan, probability=score)
    if lens == "embedding":
        return Neighbor(word, f" {word}", score)
    text = caption or f"Here is a {word}"
    start = text.rfind(word)
    return Neighbor(
        word, f" {word}", score, text, start, start + len(word), layer, "first", id=f"{text} {layer}"
    )


def reading_of(
    captions: Sequence[str] = ("",),
    lenses: Sequence[str] = ("latent", "logit"),
    layers: Sequence[int] = (0, 8),
    size: tuple[int, int] = (60, 40),
    source: str = "a photo.png",
    image: bool = True,
    grid: tuple[int, int] = (2, 3),
) -> Reading:
    """An image's reading of 2 x 3 patches, each with two neighbors, the word telling layer, row and column."""
    rows, columns = grid
    wide, high = size[0] / columns, size[1] / rows
    places = [
        Place(0, row, column, (column * wide, row * high, (column + 1) * wide, (row + 1) * high))
        for row in range(rows)
        for column in range(columns)
    ]
    tokens = [
        TokenReading(
            number,
            f"{place.row},{place.column}",
            layer,
            10.0 + number,
            (
                neighbor(f"w{layer}x{number}", 0.4 + number / 20, lens=lens, layer=1 + number % 2),
                neighbor("dog", 0.3, captions[number % len(captions)], lens, 2),
            ),
            lens,
            place,
        )
        for lens in lenses
        for layer in layers
        for number, place in enumerate(places)
    ]
    return Reading(
        source=source,
        bank="small",
        model="vlm",
        lenses=tuple(lenses),
        bank_layers=(1, 2),
        layers=tuple(layers),
        tokens=tuple(tokens),
        size=size,
        geometry="exact",
        image=Image.linear_gradient("L").resize(size).convert("RGB") if image else None,
    )


def film_reading() -> Reading:
    """The reading of a video of one second, in two steps of 2 x 3 patches."""
    plain = reading_of(lenses=("latent",))
    tokens = [
        replace(
            token,
            index=token.index + 6 * step,
            kind="visual",
            place=replace(token.place, tile=step) if token.place else None,
            seconds=(step / 2, (step + 1) / 2),
        )
        for layer in plain.layers
        for step in (0, 1)
        for token in plain.at(layer)
    ]
    frames = tuple(Image.new("RGB", (60, 40), colour) for colour in ("maroon", "navy"))
    return replace(plain, tokens=tuple(tokens), image=frames[0], frames=frames, duration=1.0)


def sound_reading() -> Reading:
    """The reading of a sound of 1.5 seconds, in six tokens, with one token of an answer."""
    plain = reading_of(lenses=("latent",))
    tokens = []
    for layer in plain.layers:
        for token in plain.at(layer):
            span = token.index / 4, (token.index + 1) / 4
            tokens.append(replace(token, label=f"{span[0]:.2f} s", kind="audio", place=None, seconds=span))
        tokens.append(
            TokenReading(6, "Noise", layer, 5.0, (neighbor("noise", 0.9),), "latent", kind="answer")
        )
    return replace(plain, tokens=tuple(tokens), size=None, image=None, duration=1.5)


def told_reading() -> Reading:
    """The reading of `reading_of` with text around: a prompt, and the answer "A w8x3." in four tokens.

    Only the patch with the number 3 has the word w8x3 among its neighbors, at layer 8.
    """
    plain = reading_of(lenses=("latent",))
    text: list[tuple[TokenKind, str]] = [
        ("prompt", "<s>"), ("prompt", "Tell"), ("answer", "A"), ("answer", " w8"), ("answer", "x3"), ("answer", "."),
    ]  # fmt: skip
    tokens = [
        token
        for layer in plain.layers
        for token in (
            *(replace(token, kind="visual") for token in plain.at(layer)),
            *(
                TokenReading(6 + at, label, layer, 5.0, (neighbor("same", 0.99),), "latent", kind=kind)
                for at, (kind, label) in enumerate(text)
            ),
        )
    ]
    return replace(plain, tokens=tuple(tokens))


def png(image: Image.Image) -> bytes:
    """An image as a PNG file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def corrected(reading: Reading) -> Reading:
    """The same reading with corrected scores: less than the neighbors' own by a half."""
    tokens = tuple(
        replace(token, neighbors=tuple(replace(n, corrected=n.score - 0.5) for n in token.neighbors))
        for token in reading.tokens
    )
    return replace(reading, tokens=tokens, correction="both")
