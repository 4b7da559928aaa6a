"""The order of a composite model's input: what stands before, within and after the visual tokens of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from latentbank.errors import ModelError
from latentbank.models.language.model import LanguageModel


@dataclass(frozen=True)
class ImageTokens:
    """The ids of the tokens that mark an image, as in Molmo (arXiv 2409.17146), whose layout the paper's models have.

    Attributes:
        start: stands before the first row of visual tokens.
        patch: its embedding is added to every visual token.
        column: stands after each row; None: nothing does.
        end: stands after the last row.
        first_added: ids from here on are rows of the projector's own embeddings, those before it of the LLM's. OLMo has
            more rows than its tokenizer has tokens, and its image tokens are among them.
    """

    start: int
    patch: int
    column: int | None
    end: int
    first_added: int

    def names(self) -> dict[int, str]:
        """Return Molmo's names of the tokens by their ids."""
        names = {self.start: "<im_start>", self.patch: "<im_patch>", self.end: "<im_end>"}
        return names if self.column is None else {**names, self.column: "<im_col>"}

    def to_dict(self) -> dict[str, Any]:
        """Return what a projector's card holds of it."""
        return asdict(self)


@dataclass(frozen=True)
class Layout:
    """The order of a sequence: `before`, the visual tokens, `after`, the caption, `end`; all are token ids.

    Attributes:
        before: ids before the visual tokens.
        after: ids between them and the caption or prompt.
        end: the id that ends a caption.
        patch: the id whose embedding is added to every visual token; None: nothing is added.
        column: the id that stands after each row of visual tokens; None: nothing does.
        columns: number of visual tokens in a row; 0: there is no `column`.
        first_added: the first id that is a row of the projector's own embeddings; None: it has none.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    end: int
    patch: int | None = None
    column: int | None = None
    columns: int = 0
    first_added: int | None = None

    def image(self, count: int) -> tuple[list[int], list[int]]:
        """Return the ids at and between `count` visual tokens, and the places of the visual tokens among them.

        The id at a visual token is `patch`, or without one `end`, which is not used.
        """
        here = self.end if self.patch is None else self.patch
        if self.column is None:
            return [here] * count, list(range(count))
        rows = range(0, count, self.columns)
        ids = [token for start in rows for token in [here] * min(self.columns, count - start) + [self.column]]
        return ids, [place + place // self.columns for place in range(count)]

    def ids(self, count: int, after: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """Return the ids of a sequence with `count` visual tokens, and the positions of the visual tokens in it.

        Args:
            count: number of visual tokens.
            after: ids after them; None: those of the layout.
        """
        image, places = self.image(count)
        start = len(self.before)
        end = self.after if after is None else after
        return [*self.before, *image, *end], [start + place for place in places]


def layout_of(
    tokenizer: PreTrainedTokenizerBase, image: ImageTokens | None = None, columns: int = 0
) -> Layout:
    """Return the layout BOS, visual tokens, newline, caption, EOS, in the tokenizer's ids; or one with image tokens.

    If the tokenizer has no BOS, its EOS takes that place; such models are trained to begin after it. Without it the
    first visual token would be the attention sink.

    Args:
        tokenizer: the LLM's.
        image: the tokens that mark an image. They stand around the visual tokens, and no newline does.
        columns: number of visual tokens in a row, for image tokens with a `column`.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token.
    """
    end = cast("int | None", tokenizer.eos_token_id)
    if end is None:
        raise ModelError(
            "The tokenizer has no end-of-sequence token, which marks the end of a caption: use another LLM."
        )
    bos = cast("int | None", tokenizer.bos_token_id)
    begin = end if bos is None else bos
    if image is None:
        return Layout((begin,), tuple(caption_ids(tokenizer, "\n")), end)
    return Layout(
        (begin, image.start), (image.end,), end, image.patch, image.column, columns, image.first_added
    )


def caption_ids(tokenizer: PreTrainedTokenizerBase, caption: str) -> list[int]:
    """Return the token ids of a caption without special tokens; the name of one in the caption is plain text."""
    encoded = tokenizer(caption, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return cast("list[int]", encoded["input_ids"])


@dataclass(frozen=True)
class Frame:
    """What stands around an image's visual tokens in the input of an LLM.

    Attributes:
        language: the LLM.
        layout: the order.
        added: embeddings of the tokens from `layout.first_added` on, [tokens, hidden]; None if there are none. With
            those of a projector that is trained, gradients reach them.
    """

    language: LanguageModel
    layout: Layout
    added: Tensor | None = None

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings [..., hidden] in the LLM's dtype of token ids [...] on its device."""
        table = self.language.decoder.get_input_embeddings()
        if self.added is None or self.layout.first_added is None:
            return cast(Tensor, table(ids))
        own = ids >= self.layout.first_added
        text = table(ids.masked_fill(own, 0))
        rows = nn.functional.embedding((ids - self.layout.first_added).clamp(min=0), self.added)
        return torch.where(own[..., None], rows.to(text.dtype), text)

    def entering(self, visual: Tensor) -> Tensor:
        """Return visual tokens as they enter the LLM, in its dtype, from a projector's outputs [..., hidden]."""
        visual = visual.to(self.language.device, self.language.dtype)
        if self.layout.patch is None:
            return visual
        return visual + self.embed(torch.tensor(self.layout.patch, device=visual.device))

    def inputs(self, visual: Tensor, after: Sequence[int] | None = None) -> Tensor:
        """Return the LLM's inputs [images, length, hidden] for images with equally many visual tokens.

        Args:
            visual: as they enter the LLM, [images, tokens, hidden].
            after: ids after the visual tokens; None: those of the layout.
        """
        ids, positions = self.layout.ids(visual.shape[1], after)
        text = self.embed(torch.tensor(ids, device=self.language.device)).expand(len(visual), -1, -1).clone()
        text[:, positions] = visual.to(text)
        return text


def frame_of(
    language: LanguageModel, card: Mapping[str, Any], columns: int, added: Tensor | None = None
) -> Frame:
    """Return what stands around an image according to a projector's card.

    Args:
        language: the LLM.
        card: the projector's card. Without `image_tokens` the layout is the plain one. Its `prompt` stands after the
            image tokens, or in the newline's place.
        columns: number of visual tokens in a row.
        added: the projector's own token embeddings, [tokens, hidden].

    Raises:
        ModelError: the LLM has too few token embeddings, or the projector lacks those that the card names.
    """
    entry = card.get("image_tokens")
    image = None if entry is None else ImageTokens(**entry)
    if image is not None:
        rows = language.embedding.shape[0]
        highest = max(image.start, image.patch, image.column or 0, image.end)
        if rows < min(image.first_added, highest + 1) or highest >= image.first_added + (
            0 if added is None else len(added)
        ):
            raise ModelError(
                f"The projector's card names the image token {highest}, which neither {language.name} ({rows:,} "
                "token embeddings) nor the projector has: use the LLM that it was trained with."
            )
    layout = layout_of(language.tokenizer, image, columns)
    if prompt := card.get("prompt"):
        ending = () if image is None else layout.after  # a newline stands in the place of a prompt
        layout = replace(layout, after=(*ending, *caption_ids(language.tokenizer, prompt)))
    return Frame(language, layout, added)
