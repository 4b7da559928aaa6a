"""How images become the input of the paper's vision encoders: whole, in a square, unlike what image processors do.

The rules are those that the authors of LatentLens (arXiv 2602.00462) trained with. They are Molmo's (arXiv 2409.17146).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from latentbank.errors import ModelError
from latentbank.text import listed

PADDED, SQUEEZED = "padded", "squeezed"
FILTERS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Pictures:
    """How images become square inputs of an encoder.

    Attributes:
        size: side of the square, in pixels.
        fit: `padded` keeps the shape of an image and fills the rest of the square with black, half on either side;
            `squeezed` changes its shape to the square.
        filter: `bilinear` or `bicubic`.
        antialias: whether a smaller picture is averaged over the pixels that it leaves out.
        mean: what is subtracted from red, green and blue between 0 and 1.
        std: what they are then divided by.
    """

    size: int
    fit: str
    filter: str
    antialias: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ModelError: there is no such fit or filter.
        """
        for value, known in ((self.fit, (PADDED, SQUEEZED)), (self.filter, FILTERS)):
            if value not in known:
                raise ModelError(f"Pictures cannot be {value!r}: use {listed(known)}.")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Pictures:
        """Return what `to_dict` has written, as of a projector's card.

        Raises:
            ModelError: something is missing or unknown.
        """
        try:
            return cls(**{**data, "mean": tuple(data["mean"]), "std": tuple(data["std"])})
        except (TypeError, LookupError) as error:
            raise ModelError(
                f"What the card says of the encoder's pictures cannot be read ({error})."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the settings in values that JSON can hold."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @property
    def pads(self) -> bool:
        """Whether a part of the square may be padding."""
        return self.fit == PADDED

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the encoder's input for RGB images, [images, 3, size, size] float32."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return torch.stack([(self._fitted(image) - mean) / std for image in images])

    def marks(self, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """Return whether each patch is all padding and whether it is partly padding, [patches, 2] float32, 0 or 1.

        Args:
            size: width and height of the image.
            grid: rows and columns of patches.
        """
        left, top, width, height = self._inside(size)
        shown = torch.zeros(self.size, self.size)
        shown[top : top + height, left : left + width] = 1
        rows, columns = grid
        high, wide = self.size // rows, self.size // columns
        patches = shown[: high * rows, : wide * columns].reshape(rows, high, columns, wide)
        share = patches.mean(dim=(1, 3)).flatten()
        return torch.stack([share == 0, (share > 0) & (share < 1)], dim=-1).float()

    def visible_part(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the square in pixels of the image, beyond which padding extends."""
        left, top, width, height = self._inside(size)
        across, down = size[0] / width, size[1] / height
        return -left * across, -top * down, (self.size - left) * across, (self.size - top) * down

    def _inside(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return left, top, width and height of the image within the square, in the square's pixels."""
        if not self.pads:
            return 0, 0, self.size, self.size
        width, height = (np.float32(side) for side in size)
        # In float32, as in the paper's training: it rarely decides about a pixel.
        scale = min(np.float32(self.size) / width, np.float32(self.size) / height)
        wide, high = max(1, int(width * scale)), max(1, int(height * scale))
        return (self.size - wide) // 2, (self.size - high) // 2, wide, high

    def _fitted(self, image: Image.Image) -> Tensor:
        """Return an image in the square, [3, size, size] float32 between 0 and 1."""
        values = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float()
        left, top, width, height = self._inside(image.size)
        if self.pads:
            values = values / 255
        values = nn.functional.interpolate(
            values, (height, width), mode=self.filter, align_corners=False, antialias=self.antialias
        )[0]
        # Padded pictures are resized as numbers between 0 and 1, squeezed ones as whole numbers up to 255.
        values = values.clamp(0, 1) if self.pads else values.clamp(0, 255).round() / 255
        rest = (left, self.size - width - left, top, self.size - height - top)
        return nn.functional.pad(values, rest)


def fit_positions(model: nn.Module, side: int) -> None:
    """Interpolate a DINOv2's position embeddings to a square grid, in place, as the paper's models have them.

    DINOv2's own code scales the grid by a tenth of a patch too much; transformers does no longer, and the difference is
    larger than rounding. Nothing is changed if the grid has this size already, or if the model has none of the kind.

    Args:
        model: the vision encoder.
        side: patches in a row of the grid.
    """
    embeddings: Any = getattr(model, "embeddings", None)
    old = getattr(embeddings, "position_embeddings", None)
    if not isinstance(old, nn.Parameter) or old.dim() != 3:
        return
    own = round((old.shape[1] - 1) ** 0.5)
    if own == side:
        return
    grid = old[:, 1:].detach().float().reshape(1, own, own, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / own
    new = nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", align_corners=False)
    flat = new.permute(0, 2, 3, 1).flatten(1, 2).to(old.dtype)
    embeddings.position_embeddings = nn.Parameter(torch.cat([old[:, :1].detach(), flat], dim=1), False)
