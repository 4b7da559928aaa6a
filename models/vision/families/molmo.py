"""Molmo (allenai/Molmo-7B-D and its like), whose code comes with the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentbank.models.vision.geometry import Picture, Places, Size, Unplaced
from latentbank.models.vision.registry import Family

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Cells:
    """Cells of pooled patches that the model reads, in any order.

    Attributes:
        positions: in the LLM's input sequence, [cells].
        rows: in the grid of the whole canvas, [cells].
        columns: likewise.
        canvas: rows and columns of patches of the canvas.
    """

    positions: Numbers
    rows: Numbers
    columns: Numbers
    canvas: Size


def _places(picture: Picture) -> Places:
    """Return the whole image, then a stitched view of overlapping crops; both keep the image's shape and pad it.

    The processor says at which position of the sequence each pooled cell of each crop is read, and which cells are not,
    because another crop shows them too. Crops follow each other row by row.
    """
    if picture.together > 1:
        raise Unplaced
    images = picture.processor.image_processor
    index = np.asarray(picture.inputs["image_input_idx"][picture.index].cpu(), dtype=np.int64)
    side = int(images.image_token_length_h)
    cells = index.reshape(-1, side, side)
    cells = cells[(cells >= 0).any(axis=(1, 2))]
    patch, pool = int(images.image_patch_size), 2
    patches = int(images.base_image_input_size[0]) // patch
    if patches != side * pool:
        raise Unplaced
    found = [_whole(cells[0], patches)]
    if len(cells) > 1:
        found.append(_stitched(cells[1:], patches, images.overlap_margins))
    return _in_order(picture.size, found, pool, patch)


def _whole(cells: Numbers, patches: int) -> _Cells:
    rows, columns = np.nonzero(cells >= 0)
    return _Cells(cells[rows, columns], rows, columns, (patches, patches))


def _stitched(cells: Numbers, patches: int, margins: Any) -> _Cells:
    """Return the cells of crops, of which each but those at the edges leaves out a margin."""
    left, right = (int(margin) for margin in margins)
    step = patches - left - right
    if left < 2 or left % 2 or step % 2:
        raise Unplaced
    # Crops of the first row begin with their first row of cells, the others leave out a margin.
    across = int((cells[:, 0] >= 0).any(axis=1).sum())
    down = len(cells) // across if across else 0
    if across * down != len(cells):
        raise Unplaced
    crop, row, column = np.nonzero(cells >= 0)
    return _Cells(
        cells[crop, row, column],
        crop // across * step // 2 + row,
        crop % across * step // 2 + column,
        (down * step + left + right, across * step + left + right),
    )


def _in_order(size: Size, found: list[_Cells], pool: int, patch: int) -> Places:
    """Return the places of all cells by their position in the sequence."""
    boxes = [_boxes(size, part, pool, patch) for part in found]
    order = np.argsort(np.concatenate([part.positions for part in found]))
    every = np.concatenate(boxes)[order]
    return Places(
        boxes=every.astype(np.float32),
        rows=np.concatenate([part.rows for part in found])[order],
        columns=np.concatenate([part.columns for part in found])[order],
        tiles=np.concatenate([np.full(len(part.rows), tile) for tile, part in enumerate(found)])[order],
        visual=np.all(every[:, 2:] - every[:, :2] > 1e-6 * np.array(size), axis=1, keepdims=True)[:, 0],
    )


def _boxes(size: Size, cells: _Cells, pool: int, patch: int) -> npt.NDArray[np.float64]:
    """Return the boxes of cells in pixels of the original image, which lies in the middle of the canvas."""
    high, wide = (length * patch for length in cells.canvas)
    # The processor computes in float32, which decides about rounding down.
    width, height = (np.float32(length) for length in size)
    scale = min(np.float32(wide) / width, np.float32(high) / height)
    fitted = np.array([int(width * scale), int(height * scale)])
    start = (np.array([wide, high]) - fitted) // 2
    corners = np.stack([cells.columns, cells.rows], axis=-1)
    low, high_corner = (
        np.clip((corner * pool * patch - start) * np.array(size) / fitted, 0, size)
        for corner in (corners, corners + 1)
    )
    return np.concatenate([low, high_corner], axis=1)


FAMILY = Family("Molmo", ("molmo",), _places)
