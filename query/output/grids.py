"""Grids of words: an image's reading as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from latentbank.errors import QueryError
from latentbank.values import Layers, layers_of, names_of

if TYPE_CHECKING:
    from latentbank.query.reading.reading import Reading, TokenReading


def grid_lines(reading: Reading, width: int = 100) -> list[str]:
    """Return an image's reading as lines of text: a heading and a grid of words for each lens, layer and tile.

    If no token has a place in a grid, the words stand in the order of the tokens, and a line says why.
    Text around the image follows the grids of a layer, token by token, if it was read.

    Args:
        reading: of an image.
        width: cells of a terminal that a line may take; words are shortened to fit, but to no less than four cells.
    """
    lines = []
    for lens in reading.lenses:
        for layer in reading.layers:
            for tile in reading.tiles:
                part = reading.tile_name(tile)
                made = correction_of(reading, reading.patches(layer, lens, tile))
                told = [f"{lens} lens, visual layer {layer}", part, f"corrected: {made}" if made else ""]
                lines.append(", ".join(filter(None, told)))
                grid = reading.grid(layer, lens, tile)
                longest = max((cell_len(word) for row in grid for word in row), default=0)
                cell = max(4, min(longest, (width - 2) // len(grid[0]) - 1))
                for row in grid:
                    cells = (set_cell_size(shorten(word, cell), cell) for word in row)
                    lines.append(("  " + " ".join(cells)).rstrip())
            if not reading.tiles and reading.size is not None:
                for heading, words in lists_of(reading.at(layer, lens)):
                    lines.append(f"{lens} lens, visual layer {layer}, {heading}")
                    filled = textwrap.wrap(" ".join(words), max(20, width - 2), break_on_hyphens=False)
                    lines += [f"  {line}" for line in filled]
            if reading.size is None:
                lines.append(f"{lens} lens, layer {layer}")
                lines += _by_second(reading.at(layer, lens), width)
            for kind, tokens in reading.around(layer, lens).items():
                lines.append(f"  {kind}, each token → its best word")
                lines += [f"    {line}" for line in told_lines(tokens, width - 4)]
    return lines


def correction_of(reading: Reading, tokens: Sequence[TokenReading]) -> str:
    """Return how the scores of tokens were corrected; "" if they were not, as by a lens that cannot correct."""
    corrected = any(token.neighbors and token.neighbors[0].corrected is not None for token in tokens)
    return reading.correction if corrected else ""


def _by_second(tokens: Sequence[TokenReading], width: int) -> list[str]:
    """Return the best words of a sound's tokens, second by second."""
    seconds: dict[int, list[str]] = {}
    for token in tokens:
        if token.kind == "audio" and token.seconds is not None:
            word = shorten(token.neighbors[0].word, 40) if token.neighbors else "-"
            seconds.setdefault(int(token.seconds[0]), []).append(word)
    return [
        line
        for second, words in seconds.items()
        for line in textwrap.wrap(
            f"{second} s: " + " ".join(words),
            max(20, width),
            initial_indent="  ",
            subsequent_indent="     ",
            break_on_hyphens=False,
        )
    ]


def told(token: TokenReading, width: int = 40) -> str:
    """Return a text token and its best word, such as `dog→puppy`, each in at most `width` cells."""
    label = shorten(token.label.strip() or token.label, width)
    return f"{label}→{shorten(token.neighbors[0].word, width)}" if token.neighbors else label


def told_lines(tokens: Sequence[TokenReading], width: int) -> list[str]:
    """Return text tokens and their best words as lines of at most `width` cells where they fit."""
    lines: list[str] = []
    for item in map(told, tokens):
        if lines and cell_len(lines[-1]) + 2 + cell_len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(item)
    return lines


def lists_of(tokens: Sequence[TokenReading]) -> list[tuple[str, list[str]]]:
    """Return the best words of tokens that stand in no grid, tile by tile, each list with a heading."""
    tiles: dict[int, list[TokenReading]] = {}
    for token in tokens:
        if token.place is not None:  # text around the image is no part of it
            tiles.setdefault(token.place.tile, []).append(token)
    found = []
    for tile, inside in tiles.items():
        placed = any(token.place is not None and token.place.box is not None for token in inside)
        where = f"that each see all of tile {tile}" if placed else "without a place in the image"
        words = [shorten(token.neighbors[0].word, 40) for token in inside if token.neighbors]
        found.append((f"{len(inside)} tokens {where}", words))
    return found


@dataclass(frozen=True)
class Panels:
    """The panels of a picture or figure: a row for each visual layer, a column for each lens.

    Attributes:
        layers: the visual layers.
        lenses: the lens of each column. Of a video, a lens has a column for each step of time.
        tiles: the tile whose tokens are drawn in each column; None if no token has a place in a grid.
        tokens: the token readings of each panel, `tokens[row][column]`.
    """

    layers: Sequence[int]
    lenses: Sequence[str]
    tiles: Sequence[int | None]
    tokens: Sequence[Sequence[Sequence[TokenReading]]]


def panels_of(
    reading: Reading, layers: Layers | None, lenses: str | Sequence[str] | None, tile: int | None
) -> Panels:
    """Return the panels in which an image's reading is drawn; None: all layers, all lenses, the first tile.

    Raises:
        QueryError: it is not the reading of an image that still holds it, or has no such lens, layer or tile.
    """
    rows = list(reading.layers) if layers is None else layers_of(layers)
    columns = list(reading.lenses) if lenses is None else names_of(lenses)
    if not rows or not columns:
        raise QueryError(f"Name at least one {'lens' if rows else 'layer'} to draw.")
    if reading.size is None and reading.duration is not None:
        heard = [
            [[t for t in reading.at(layer, lens) if t.kind == "audio"] for lens in columns] for layer in rows
        ]
        return Panels(rows, columns, [None] * len(columns), heard)
    if reading.image is not None and reading.size and not reading.tiles and tile is None:
        everything = [[reading.at(layer, lens) for lens in columns] for layer in rows]
        return Panels(rows, columns, [None] * len(columns), everything)
    shown = reading.tiles if reading.frames and tile is None else [choose_tile(reading, tile)]
    pairs = [(lens, step) for lens in columns for step in shown]
    tokens = [[reading.patches(layer, lens, step) for lens, step in pairs] for layer in rows]
    return Panels(rows, [lens for lens, _ in pairs], [step for _, step in pairs], tokens)


def choose_tile(reading: Reading, tile: int | None) -> int:
    """Return the tile of an image's reading to draw: `tile`, or the first one if it is None.

    Raises:
        QueryError: it is not the reading of an image, it no longer holds the image, or no token stands in a grid.
    """
    if reading.size and not reading.tiles:
        raise QueryError(
            f"No token of this reading has a place in a grid (boxes: {reading.geometry}), so there is no figure to "
            "draw; a picture lists the words below the image."
        )
    if reading.image is None or not reading.tiles:
        raise QueryError("Only a reading that holds its image can be drawn: read the image in this process.")
    return reading.tiles[0] if tile is None else tile


def shorten(word: str, width: int) -> str:
    """Return a word in at most `width` cells of a terminal, with an ellipsis in place of what is cut off.

    White space is written as its escape sequence, and other unprintable characters as dots.
    """
    shown = word if word.strip() else repr(word)[1:-1]
    shown = "".join(letter if letter.isprintable() else "·" for letter in shown)
    return shown if cell_len(shown) <= width else set_cell_size(shown, width - 1).rstrip() + "…"
