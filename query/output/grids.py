"""Grids of words: an image's reading as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from latentbank.errors import QueryError

if TYPE_CHECKING:
    from latentbank.query.reading.reading import Reading


def grid_lines(reading: Reading, width: int = 100) -> list[str]:
    """Lay out an image's reading as grids of words: one for each lens, layer and tile, each under its own heading.

    Args:
        reading: of an image.
        width: cells of a terminal that a line may take; words are cut to fit, but none below four cells.
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
                    cells = (set_cell_size(fitted(word, cell), cell) for word in row)
                    lines.append(("  " + " ".join(cells)).rstrip())
    return lines


def drawn_tile(reading: Reading, tile: int | None) -> int:
    """Give the tile of an image's reading that is drawn: the one that is named, else the first.

    Raises:
        QueryError: it is not the reading of an image, or does not hold the image any more.
    """
    if reading.image is None or not reading.tiles:
        raise QueryError("Only the reading of an image can be drawn, by the process that read it.")
    return reading.tiles[0] if tile is None else tile


def fitted(word: str, width: int) -> str:
    """Cut a word to `width` cells of a terminal, with an ellipsis where something is missing; white space is shown."""
    shown = word if word.strip() else repr(word)[1:-1]
    shown = "".join(letter if letter.isprintable() else "·" for letter in shown)
    return shown if cell_len(shown) <= width else set_cell_size(shown, width - 1).rstrip() + "…"
