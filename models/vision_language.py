"""Vision-language models: the visual tokens of images, at any layer, and where each is in its image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from latentbank_errors import LayerNotFound


@dataclass(frozen=True)
class VisualTokens:
    """The visual tokens of one image, in the order of the LLM's input sequence.

    Attributes:
        states: per layer their hidden states [tokens, hidden], in the model's dtype, on its device.
        boxes: left, top, right, bottom in pixels of the original image, [tokens, 4] float32.
        rows: within the grid of the token's tile, [tokens] int64.
        columns: within the grid of the token's tile, [tokens] int64.
        tiles: 0 for a view of the whole image, 1 and more for the others, [tokens] int64.
        size: width and height of the original image.
    """

    states: dict[int, Tensor]
    boxes: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int64]
    size: tuple[int, int]

    def norms(self, layer: int) -> npt.NDArray[np.float32]:
        """The L2 norms of the hidden states of `layer`, [tokens] float32, computed in float32.

        Raises:
            LayerNotFound: `layer` was not asked for.
        """
        if layer not in self.states:
            raise LayerNotFound(f"Layer {layer} was not asked for, only {', '.join(map(str, self.states))}.")
        norms: npt.NDArray[np.float32] = self.states[layer].float().norm(dim=-1).cpu().numpy()
        return norms

    def __len__(self) -> int:
        return len(self.rows)
