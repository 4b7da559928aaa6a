"""A patch of a photo that is not stored: its hidden states, as a VLM reads it now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.errors import BankMismatch, QueryError
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.query.reading.visual_tokens import image_tokens

if TYPE_CHECKING:
    from latentbank.bank.images.bank import ImageBank
    from latentbank.models.vision.sources import Source
    from latentbank.models.vision.tokens import VisualModel


def states_of_patch(
    images: ImageBank,
    model: VisualModel,
    image: Source,
    layers: Sequence[int],
    row: int,
    column: int,
    tile: int | None = None,
) -> dict[int, npt.NDArray[np.float32]]:
    """Return the hidden states `[hidden]` of one patch of an image by visual layer.

    Args:
        images: the bank of images that will be asked.
        model: the VLM whose images it holds.
        image: a path, bytes or an open image.
        layers: the visual layers.
        row: of the patch, from 0 at the top.
        column: of the patch, from 0 at the left.
        tile: 0 for the view of the whole image; None: the first tile that has the patch.

    Raises:
        BankMismatch: the images are another VLM's.
        ImageError: the image cannot be read.
        QueryError: it has no such patch; the message says which it has.
    """
    if visual_fingerprint(model) != images.fingerprint:
        raise BankMismatch(
            f"The images of the bank '{images.name}' are those of {images.model}, not of {model.name}; name that VLM.",
            argument="model",
        )
    ((read,),) = image_tokens(model, [image], layers, None, 1, None)
    tokens = read.tokens
    there = (tokens.rows == row) & (tokens.columns == column)
    if tile is not None:
        there &= tokens.tiles == tile
    if not there.any():
        raise QueryError(
            f"{read.name} has no patch in row {row}, column {column}; it has rows 0 to {int(tokens.rows.max())} and "
            f"columns 0 to {int(tokens.columns.max())}.",
            argument="patch",
        )
    place = int(there.argmax())
    return {layer: tokens.states[layer][place].float().cpu().numpy() for layer in layers}
