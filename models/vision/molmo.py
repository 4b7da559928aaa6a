"""Molmo's processor, whose code comes with the model, made to be called as those of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import BatchFeature

from latentbank.errors import QueryError

# What fills up a batch; the model leaves out crops and masks of this value, and positions below 0.
_FILL = {"images": -1, "image_masks": -1, "image_input_idx": -100, "input_ids": 0}


class WithProcess:
    """A mixin for a processor class that has `process`, for one prompt and its images, and cannot be called."""

    image_token = "<im_patch>"
    tokenizer: Any

    @property
    def image_token_id(self) -> int:
        """The id of the token that holds the place of a visual token."""
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    def __call__(self, images: Sequence[Sequence[Any]], text: Sequence[str], **_: Any) -> BatchFeature:
        """Return the inputs of all prompts, each with its images before its text.

        Raises:
            QueryError: an image belongs elsewhere in a prompt.
        """
        found = [self._one(group, sample) for group, sample in zip(images, text, strict=True)]
        inputs = {key: _stacked([one[key] for one in found], fill) for key, fill in _FILL.items()}
        lengths = torch.tensor([len(one["input_ids"]) for one in found])
        inputs["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        return BatchFeature(inputs)

    def _one(self, images: Sequence[Any], text: str) -> dict[str, Tensor]:
        rest = text.removeprefix(self.image_token * len(images))
        if self.image_token in rest:
            raise QueryError(
                f"This model takes images before all text: put {self.image_token} at the beginning of the prompt.",
                argument="prompt",
            )
        return cast(dict[str, Tensor], cast(Any, self).process(images=list(images), text=rest.strip()))


def _stacked(parts: list[Tensor], fill: int) -> Tensor:
    """Stack tensors of different lengths along their first dimension, filled up at their ends."""
    longest = max(len(part) for part in parts)
    whole = parts[0].new_full((len(parts), longest, *parts[0].shape[1:]), fill)
    for row, part in zip(whole, parts, strict=True):
        row[: len(part)] = part
    return whole
