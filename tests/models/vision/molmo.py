"""A stand-in for Molmo's model and processor, whose code comes with its weights and is not part of transformers.

The processor crops, pads, pools and numbers as Molmo's does; the model adds a cell's colours to its token.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.processing_utils import ProcessorMixin

from tests.models.tiny_vlm import TEXT
from tests.tiny import tiny_tokenizer

PATCH, SIDE, MARGIN, MOST = 14, 24, 4, 12
WINDOW = SIDE - 2 * MARGIN


class MolmoImages:
    """What a rule may ask of the image processor."""

    base_image_input_size = (336, 336)
    image_patch_size = PATCH
    image_token_length_h = image_token_length_w = SIDE // 2
    overlap_margins = (MARGIN, MARGIN)
    max_crops = MOST


class MolmoProcessor(ProcessorMixin):
    """Prepares one prompt and its images, which come first."""

    def __init__(self, tokenizer: Any) -> None:
        self.image_processor = MolmoImages()
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, source: str, **_: Any) -> MolmoProcessor:
        """Load the tokenizer."""
        return cls(AutoTokenizer.from_pretrained(source))

    def process(self, images: list[Image.Image], text: str) -> dict[str, Tensor]:
        """Return ids, crops as patches, and the position at which each pooled cell of each crop is read."""
        special = {name: self.tokenizer.convert_tokens_to_ids(f"<im_{name}>") for name in NAMES}
        ids = [self.tokenizer.bos_token_id]
        crops: list[np.ndarray] = []
        index: list[np.ndarray] = []
        for image in images:
            whole = padded(image, SIDE, SIDE)
            down, across = tiling(image.size)
            canvas = padded(image, down * WINDOW + 2 * MARGIN, across * WINDOW + 2 * MARGIN)
            for view, parts in ((whole, [(0, 0)]), (canvas, np.ndindex(down, across))):
                rows, columns = (length // PATCH // 2 for length in view.shape[:2])
                start = len(ids) + 1
                ids += [special["start"]]
                ids += ([special["patch"]] * columns + [special["col"]]) * rows + [special["end"]]
                read = np.zeros((rows, columns), dtype=bool)
                for row, column in parts:
                    top, left = row * WINDOW, column * WINDOW
                    crops.append(patches(view[top * PATCH :, left * PATCH :][: SIDE * PATCH, : SIDE * PATCH]))
                    cells = np.full((SIDE // 2, SIDE // 2), -100)
                    for y, x in np.ndindex(*cells.shape):
                        # Margins between crops are read from the crop whose middle is nearer.
                        inner = [
                            (n == 0 or place >= MARGIN // 2)
                            and (n == many - 1 or place < (SIDE - MARGIN) // 2)
                            for n, many, place in (
                                (row, down if view is canvas else 1, y),
                                (column, across if view is canvas else 1, x),
                            )
                        ]
                        if all(inner):
                            there = (top // 2 + y, left // 2 + x)
                            assert not read[there]
                            read[there] = True
                            cells[y, x] = start + there[0] * (columns + 1) + there[1]
                    index.append(cells.reshape(-1))
                assert read.all()
        ids += self.tokenizer(text, add_special_tokens=False)["input_ids"]
        pixels = torch.tensor(np.stack(crops), dtype=torch.float32)
        return {
            "input_ids": torch.tensor(ids),
            "images": pixels,
            "image_masks": torch.ones(pixels.shape[:2]),
            "image_input_idx": torch.tensor(np.stack(index)),
        }


NAMES = ("patch", "col", "start", "end")


def tiling(size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of crops: those that shrink the image least, or else enlarge it least."""
    width, height = (max(length - 2 * MARGIN * PATCH, 1) for length in size)
    options = sorted(
        ((rows, columns) for rows in range(1, MOST + 1) for columns in range(1, MOST // rows + 1)),
        key=lambda option: (option[0] * option[1], option[0]),
    )
    scales = [
        min(rows * WINDOW * PATCH / height, columns * WINDOW * PATCH / width) for rows, columns in options
    ]
    large = [scale if scale >= 1 else math.inf for scale in scales]
    return options[int(np.argmin(large))] if min(large) < math.inf else options[int(np.argmax(scales))]


def padded(image: Image.Image, rows: int, columns: int) -> np.ndarray:
    """Return an image in the middle of a black canvas of so many patches, [height, width, 3] from 0 to 1."""
    high, wide = rows * PATCH, columns * PATCH
    scale = min(np.float32(wide) / np.float32(image.width), np.float32(high) / np.float32(image.height))
    fitted = (int(np.float32(image.width) * scale), int(np.float32(image.height) * scale))
    canvas = Image.new("RGB", (wide, high))
    canvas.paste(
        image.resize(fitted, Image.Resampling.BILINEAR), ((wide - fitted[0]) // 2, (high - fitted[1]) // 2)
    )
    return np.asarray(canvas, dtype=np.float32) / 255


def patches(crop: np.ndarray) -> np.ndarray:
    """Return the patches of a crop, [patches, values]."""
    side = crop.shape[0] // PATCH
    return crop.reshape(side, PATCH, side, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(side * side, -1)


class MolmoConfig(LlamaConfig):
    """The LLM's configuration; as in Molmo's, nothing in it names a vision model."""

    model_type = "molmo"


class MolmoForCausalLM(PreTrainedModel):
    """Adds the mean colours of a cell, projected, to the embedding of its token."""

    config_class = MolmoConfig
    base_model_prefix = "model"

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.vision_backbone = nn.Linear(PATCH * PATCH * 3, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the LLM's."""
        return self.model.embed_tokens

    def forward(
        self,
        input_ids: Tensor,
        images: Tensor | None = None,
        image_masks: Tensor | None = None,
        image_input_idx: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutputWithPast:
        """Run the LLM with the images' cells in their places."""
        embedded = self.model.embed_tokens(input_ids)
        if images is not None and image_input_idx is not None:
            side = math.isqrt(images.shape[2])
            cells = images.unflatten(2, (side // 2, 2, side // 2, 2)).mean(dim=(3, 5)).flatten(2, 3)
            seen = image_input_idx >= 0
            row = torch.arange(len(images))[:, None, None].expand_as(seen)
            embedded = embedded.index_put(
                (row[seen], image_input_idx[seen]), self.vision_backbone(cells[seen]), accumulate=True
            )
        return self.model(inputs_embeds=embedded, attention_mask=attention_mask, use_cache=use_cache)


def save_stand_in(path: Path) -> Path:
    """Register the stand-in with transformers, and write a tiny model of it."""
    AutoConfig.register("molmo", MolmoConfig, exist_ok=True)
    AutoModelForCausalLM.register(MolmoConfig, MolmoForCausalLM, exist_ok=True)
    AutoProcessor.register(MolmoConfig, MolmoProcessor, exist_ok=True)
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.add_tokens([f"<im_{name}>" for name in NAMES], special_tokens=True)
    torch.manual_seed(0)
    config = MolmoConfig(**{**TEXT, "vocab_size": len(tokenizer)})
    MolmoForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "processor_config.json").write_text(json.dumps({"processor_class": "MolmoProcessor"}))
    return path
