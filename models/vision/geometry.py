"""Which part of an image each visual token shows, as boxes in pixels of the original image.

Every family of vision-language models resizes, pads, crops and merges in its own way, and orders its visual tokens in
its own way. The modules in `models/vision/families/` repeat the arithmetic of these steps, not the work on pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Size = tuple[int, int]
Edges = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Places:
    """The places of one image's positions, in the order of the LLM's input sequence.

    Attributes:
        boxes: left, top, right, bottom in pixels of the original image, [positions, 4] float32; NaN where it is not
            known what a position shows.
        rows: within the grid of the position's tile, [positions] int64; -1 for a position that is in no grid.
        columns: within the grid of the position's tile, [positions] int64; -1 for a position that is in no grid.
        tiles: 0 for a view of the whole image, [positions] int64.
        visual: False for positions that show no part of the image, such as a row's newline or padding,
            [positions] bool. They are left out of readings, means and norms.
    """

    boxes: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int64]
    visual: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.visual)


class Unplaced(Exception):
    """Raised where a family's rules do not say where an image's tokens are."""


@dataclass(frozen=True)
class Picture:
    """An image and the model inputs made of it: the input of a family's rules.

    Attributes:
        size: width and height of the original image.
        config: the model's configuration.
        processor: the model's processor.
        inputs: the processor's output for all images.
        index: number of this image among all.
        together: how many images share its prompt.
    """

    size: Size
    config: Any
    processor: Any
    inputs: Mapping[str, Any]
    index: int
    together: int

    def setting(self, name: str) -> Any:
        """Return a setting of the image processor; one of the processor class takes precedence."""
        settings = getattr(self.processor, "images_kwargs", {})
        return settings[name] if name in settings else getattr(self.processor.image_processor, name)


def grid(
    size: Size, top_to_bottom: Edges, left_to_right: Edges, tile: int = 0, newlines: bool = False
) -> Places:
    """Return a tile of visual tokens, row by row. Positions that lie outside the image are padding, so not visual.

    Args:
        size: width and height of the original image; boxes are clipped to it.
        top_to_bottom: edges of the rows in pixels of the original image, [rows + 1].
        left_to_right: edges of the columns in pixels of the original image, [columns + 1].
        tile: the tile's number.
        newlines: whether every row ends with a position that shows no part of the image.
    """
    rows, columns = len(top_to_bottom) - 1, len(left_to_right) - 1
    y = np.clip(top_to_bottom, 0, size[1])
    x = np.clip(left_to_right, 0, size[0])
    row, column = (part.reshape(-1) for part in np.mgrid[:rows, : columns + newlines])
    visual = column < columns
    inside = np.minimum(column, columns - 1)
    boxes = np.stack([x[inside], y[row], x[inside + 1], y[row + 1]], axis=-1)
    # A part of less than a millionth of the image is an error of rounding.
    visual &= (boxes[:, 2] - boxes[:, 0] > 1e-6 * size[0]) & (boxes[:, 3] - boxes[:, 1] > 1e-6 * size[1])
    return Places(
        boxes=boxes.astype(np.float32),
        rows=row.astype(np.int64),
        columns=column.astype(np.int64),
        tiles=np.full(len(row), tile, dtype=np.int64),
        visual=visual,
    )


def unplaced(count: int, size: Size) -> Places:
    """Return `count` positions that show no part of the image."""
    zeros = np.zeros(count, dtype=np.int64)
    boxes = np.tile(np.array([0, 0, *size], dtype=np.float32), (count, 1))
    return Places(boxes, zeros, zeros, zeros, np.zeros(count, dtype=bool))


def nowhere(count: int) -> Places:
    """Return `count` visual tokens of which it is not known what they show."""
    return mixed((math.nan,) * 4, count)


def mixed(box: tuple[float, float, float, float], count: int, tile: int = 0) -> Places:
    """Return `count` visual tokens that each show all of one box, because the model mixes its patches.

    Args:
        box: left, top, right, bottom in pixels of the original image.
        count: number of tokens.
        tile: the tile's number.
    """
    outside = np.full(count, -1, dtype=np.int64)
    return Places(
        boxes=np.tile(np.array(box, dtype=np.float32), (count, 1)),
        rows=outside,
        columns=outside,
        tiles=np.full(count, tile, dtype=np.int64),
        visual=np.ones(count, dtype=bool),
    )


def join(parts: Sequence[Places]) -> Places:
    """Return several tiles as one, in the order given."""
    return Places(
        boxes=np.concatenate([part.boxes for part in parts]),
        rows=np.concatenate([part.rows for part in parts]),
        columns=np.concatenate([part.columns for part in parts]),
        tiles=np.concatenate([part.tiles for part in parts]),
        visual=np.concatenate([part.visual for part in parts]),
    )


def even(start: float, stop: float, count: int) -> Edges:
    """Return the edges of `count` equal parts, [count + 1]."""
    return np.linspace(start, stop, count + 1)


def whole(size: Size, rows: int, columns: int, tile: int = 0, newlines: bool = False) -> Places:
    """Return a tile that shows the whole image in equal parts, whatever the aspect ratio it was stretched to."""
    return grid(size, even(0, size[1], rows), even(0, size[0], columns), tile, newlines)


def patch_edges(pixels: int, patch: int) -> Edges:
    """Return the edges of patches along one side of an encoder's input, [patches + 1].

    The last patch extends to the end of the side, over the pixels that no patch covers.
    """
    edges = np.arange(pixels // patch + 1, dtype=np.float64) * patch
    edges[-1] = pixels
    return edges


def squeezed(size: Size, side: int, patch: int) -> Places:
    """Return a tile of the whole image, stretched to a square of `side` pixels and cut into patches."""
    edges = patch_edges(side, patch) / side
    return grid(size, edges * size[1], edges * size[0])


def crops(size: Size, top_to_bottom: Edges, left_to_right: Edges, side: int) -> list[Places]:
    """Return square crops of a canvas as tiles 1 and more, row by row.

    Args:
        size: width and height of the original image; boxes are clipped to it.
        top_to_bottom: edges of the tokens' rows over the whole canvas, in pixels of the original image.
        left_to_right: edges of the tokens' columns.
        side: rows and columns of tokens in each crop.
    """
    rows, columns = (len(edges) // side for edges in (top_to_bottom, left_to_right))
    return [
        grid(
            size,
            top_to_bottom[row * side : (row + 1) * side + 1],
            left_to_right[column * side : (column + 1) * side + 1],
            tile=1 + row * columns + column,
        )
        for row in range(rows)
        for column in range(columns)
    ]


def equal_crops(size: Size, rows: int, columns: int, side: int) -> list[Places]:
    """Return equal crops of the whole image, stretched to the crops' canvas, as tiles 1 and more, row by row."""
    return crops(size, even(0, size[1], rows * side), even(0, size[0], columns * side), side)


def crops_then_whole(size: Size, rows: int, columns: int, side: int, *, cropped: bool) -> Places:
    """Return equal crops of the image as tiles 1 and more, then the whole image as tile 0.

    Args:
        size: width and height of the original image.
        rows: rows of crops.
        columns: columns of crops.
        side: rows and columns of tokens in each tile.
        cropped: whether there are crops; otherwise there is the whole image only.
    """
    parts = equal_crops(size, rows, columns, side) if cropped else []
    return join([*parts, whole(size, side, side)])
