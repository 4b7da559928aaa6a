"""Which part of an image each visual token stands for: boxes in pixels of the image as it was before resizing.

Every family of vision-language models resizes, pads, crops and merges in its own way, and puts the visual tokens in
its own order. The functions in `models/vision/families.py` repeat the arithmetic of that, not the work on pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Size = tuple[int, int]
Edges = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Places:
    """Where the image positions of one image belong, in the order of the LLM's input sequence.

    Attributes:
        boxes: left, top, right, bottom in pixels of the original image, [positions, 4] float32.
        rows: within the grid of the position's tile, [positions] int64.
        columns: within the grid of the position's tile, [positions] int64.
        tiles: 0 for a view of the whole image, [positions] int64.
        visual: False for positions that show no part of the image, such as a row's newline, [positions] bool.
    """

    boxes: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int64]
    visual: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.visual)


class Unplaced(Exception):
    """The family's rules do not say where this image's tokens are."""


@dataclass(frozen=True)
class Picture:
    """What a family's rules are applied to.

    Attributes:
        size: width and height of the original image.
        config: the model's configuration.
        processor: the model's processor.
        inputs: what the processor made of the images, for all of them.
        index: which of the images this is.
        together: how many images share its prompt.
    """

    size: Size
    config: Any
    processor: Any
    inputs: Mapping[str, Any]
    index: int
    together: int


Family = Callable[[Picture], Places]


def grid(
    size: Size, top_to_bottom: Edges, left_to_right: Edges, tile: int = 0, newlines: bool = False
) -> Places:
    """A tile of visual tokens, row by row.

    Args:
        size: width and height of the original image, to which boxes are cut.
        top_to_bottom: edges of the rows in pixels of the original image, one more than there are rows.
        left_to_right: edges of the columns, likewise.
        tile: its number.
        newlines: whether a position that shows nothing ends every row.
    """
    rows, columns = len(top_to_bottom) - 1, len(left_to_right) - 1
    y = np.clip(top_to_bottom, 0, size[1])
    x = np.clip(left_to_right, 0, size[0])
    row, column = (part.reshape(-1) for part in np.mgrid[:rows, : columns + newlines])
    visual = column < columns
    inside = np.minimum(column, columns - 1)
    boxes = np.stack([x[inside], y[row], x[inside + 1], y[row + 1]], axis=-1)
    return Places(
        boxes=boxes.astype(np.float32),
        rows=row.astype(np.int64),
        columns=column.astype(np.int64),
        tiles=np.full(len(row), tile, dtype=np.int64),
        visual=visual,
    )


def unplaced(count: int, size: Size) -> Places:
    """`count` positions that show no part of the image."""
    zeros = np.zeros(count, dtype=np.int64)
    boxes = np.tile(np.array([0, 0, *size], dtype=np.float32), (count, 1))
    return Places(boxes, zeros, zeros, zeros, np.zeros(count, dtype=bool))


def join(parts: Sequence[Places]) -> Places:
    """Tiles one after the other."""
    return Places(
        boxes=np.concatenate([part.boxes for part in parts]),
        rows=np.concatenate([part.rows for part in parts]),
        columns=np.concatenate([part.columns for part in parts]),
        tiles=np.concatenate([part.tiles for part in parts]),
        visual=np.concatenate([part.visual for part in parts]),
    )


def even(start: float, stop: float, count: int) -> Edges:
    """Edges of `count` equal parts."""
    return np.linspace(start, stop, count + 1)


def whole(size: Size, rows: int, columns: int, tile: int = 0, newlines: bool = False) -> Places:
    """A tile that shows the whole image, however its sides were stretched, in equal parts."""
    return grid(size, even(0, size[1], rows), even(0, size[0], columns), tile, newlines)


def guess(size: Size, count: int) -> Places:
    """For a family without rules: a square grid over the whole image if `count` is a square, else one row of tokens
    whose boxes are the whole image."""
    side = math.isqrt(count)
    if side * side == count:
        return whole(size, side, side)
    zeros = np.zeros(count, dtype=np.int64)
    boxes = np.tile(np.array([0, 0, *size], dtype=np.float32), (count, 1))
    return Places(boxes, zeros, np.arange(count, dtype=np.int64), zeros, np.ones(count, dtype=bool))
