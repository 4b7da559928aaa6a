"""Grids of words: an image's reading as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from latentbank.errors import QueryError

if TYPE_CHECKING:
    from latentbank.query.reading.reading import Reading


def grid_lines(reading: Reading, width: int = 100) -> list[str]:
    """Return an image's reading as lines of text: a heading and a grid of words for each lens, layer and tile.

    Args:
        reading: of an image.
        width: cells of a terminal that a line may take; words are shortened to fit, but to no less than four cells.
    """
    lines = []
    for lens in reading.lenses:
        for layer in reading.layers:
            for tile in reading.tiles:
                part = f", tile {tile}" if len(reading.tiles) > 1 else ""
                lines.append(f"{lens} lens, visual layer {layer}{part}")
                grid = reading.grid(layer, lens, tile)
                longest = max((cell_len(word) for row in grid for word in row), default=0)
                cell = max(4, min(longest, (width - 2) // len(grid[0]) - 1))
                for row in grid:
                    cells = (set_cell_size(shorten(word, cell), cell) for word in row)
                    lines.append(("  " + " ".join(cells)).rstrip())
    return lines


def choose_tile(reading: Reading, tile: int | None) -> int:
    """Return the tile of an image's reading to draw: `tile`, or the first one if it is None.

    Raises:
        QueryError: it is not the reading of an image, or it no longer holds the image.
    """
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
