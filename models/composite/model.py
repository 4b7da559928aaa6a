"""Vision-language models composed of a vision encoder, a projector and a language model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latentbank.errors import ModelError
from latentbank.identity import Identity, difference, other_adapter
from latentbank.models.composite.captions import (
    CaptionLoss,
    answer_ids,
    answers_ids,
    caption_loss,
    write_captions,
)
from latentbank.models.composite.layout import Frame, ImageTokens, frame_of
from latentbank.models.composite.projector import Projector
from latentbank.models.language.fingerprint import fingerprint
from latentbank.models.language.intervening import Intervention, intervening
from latentbank.models.language.layout import find_blocks
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.answers import check_whole
from latentbank.models.vision.encoders import Encoder
from latentbank.models.vision.prompted import Prompted
from latentbank.models.vision.tokens import TextTokens, VisualTokens
from latentbank.text import public_name

_BATCH = 16  # images in one forward pass


class CompositeVLM:
    """A vision encoder, a projector and a language model, with the interface of a `VisualModel`.

    The input sequence is BOS, the visual tokens row by row, a newline and then text, or what the projector's card says:
    tokens that begin and end the image and each of its rows, and a prompt.

    Attributes:
        name: the three parts, for people.
        revision: always None; the card has the revisions of the parts.
        language: the LLM.
        encoder: the vision encoder.
        projector: the projector between them.
        card: where the projector is from.
        frame: what stands around the visual tokens in the input sequence.
        num_layers: number of layers of the whole LLM.
        hidden_size: width of a hidden state.
        geometry: how boxes are found, for people.
        means_file: the file for the measured means of its visual tokens, beside the projector's file; None if the
            projector comes from no file.
    """

    revision: str | None = None

    def __init__(
        self,
        encoder: Encoder,
        projector: Projector,
        language: LanguageModel,
        card: Mapping[str, Any],
        file: str | os.PathLike[str] | None = None,
    ) -> None:
        """Compose the parts.

        Args:
            encoder: the vision encoder.
            projector: trained between this encoder and this LLM.
            language: the LLM.
            card: where the projector is from.
            file: the projector's file, if it comes from one.

        Raises:
            ModelError: the projector was trained between other models, or its sizes are not those of the models.
        """
        check_card(card, encoder.name, encoder.fingerprint(), language)
        width = language.embedding.shape[1]  # some OPT models widen what comes from the embedding
        if (projector.features, projector.hidden_size) != (encoder.features, width):
            raise ModelError(
                f"The projector maps {projector.features} features to {projector.hidden_size} dimensions, but "
                f"{encoder.name} has {encoder.features} features and {language.name} takes {width} "
                "dimensions: train a projector for them."
            )
        self.encoder, self.language, self.card = encoder, language, dict(card)
        self.projector = projector.to(language.device).eval().requires_grad_(False)
        self.frame: Frame = frame_of(language, card, encoder.grid[1], self.projector.added)
        self.name = f"{public_name(encoder.name)} + {projector.kind} + {public_name(language.name)}"
        self.num_layers, self.hidden_size = language.num_layers, language.hidden_size
        self.geometry = f"exact, {public_name(encoder.name)}, {encoder.grid[0]} x {encoder.grid[1]}"
        self.means_file = None if file is None else Path(file).with_suffix(".means.safetensors")
        self._head: CaptionLoss | None = None

    def fingerprint(self) -> str:
        """Return the LLM's fingerprint; a bank must have the same."""
        return self.language.fingerprint()

    def visual_fingerprint(self) -> str:
        """See `latentbank.models.vision.tokens.visual_fingerprint`."""
        projector = fingerprint({}, [], self.projector.parameters())
        parts = f"{self.fingerprint()} {self.language.identity().adapter} {self.encoder.fingerprint()} {projector}"
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()

    @torch.no_grad()
    def project(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the visual tokens as they enter the language model, [images, tokens, hidden] in its dtype."""
        features = self.encoder.encode(images)
        return self.frame.entering(self.projector(features.to(self.language.device)))

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        """Return the visual tokens of each image, from forward passes that stop after the deepest layer.

        Args:
            images: RGB images.
            layers: which layers' hidden states to return.
            prompt: has no effect here: text comes after the image, so no visual token depends on it.

        Raises:
            LayerNotFound: the model does not have a layer, or the layer is not loaded.
        """
        del prompt
        found: list[VisualTokens] = []
        for start in range(0, len(images), _BATCH):
            group = images[start : start + _BATCH]
            visual = self.project(group)
            positions = self.frame.layout.ids(visual.shape[1])[1]
            states = self._states(self._inputs(visual, ()), layers)
            for number, image in enumerate(group):
                own = {layer: state[number, positions] for layer, state in states.items()}
                found.append(self._tokens(own, image.size, np.array(positions)))
        return found

    def tokens_with_text(
        self, image: Image.Image, layers: Sequence[int], prompt: str | None = None, answer: int = 0
    ) -> VisualTokens:
        """Return the visual tokens of an image with the text tokens before and after it, and those of the answer.

        Args:
            image: an RGB image.
            layers: which layers' hidden states to return.
            prompt: has no effect here; the text is what the projector was trained with.
            answer: the largest number of tokens of the answer; 0: none is written.

        Raises:
            LayerNotFound: the model does not have a layer, or the layer is not loaded.
            ModelError: an answer is requested and only part of the language model is loaded.
        """
        del prompt
        visual = self.project([image])
        written = answer_ids(self.frame, self._whole_head(), visual[0], answer) if answer else []
        after = [*self.frame.layout.after, *written]
        ids, positions = self.frame.layout.ids(visual.shape[1], after)
        states = self._states(self._inputs(visual, after), layers)
        found = self._tokens(
            {layer: rows[0, positions] for layer, rows in states.items()}, image.size, np.array(positions)
        )
        around = np.setdiff1d(np.arange(len(ids)), positions)
        return replace(
            found,
            text=TextTokens(
                {layer: rows[0][torch.from_numpy(around).to(rows.device)] for layer, rows in states.items()},
                np.array(ids, np.int64)[around],
                around,
                around >= len(ids) - len(written),
                ImageTokens(**marks).names() if (marks := self.card.get("image_tokens")) else {},
            ),
        )

    def prompted(self, image: Image.Image, layers: Sequence[int], prompt: str | None = None) -> Prompted:
        """Return an image in its prompt, to run with interventions; see `PromptedModel`. `prompt` has no effect."""
        tokens = replace(self.tokens_with_text(image, layers, prompt), text=None)
        visual, layout, language = self.project([image]), self.frame.layout, self.language

        def run(answer: Sequence[int], count: int) -> object:
            inputs = self._inputs(visual.expand(count, -1, -1), [*layout.after, *answer])
            return language.decoder(inputs_embeds=inputs, use_cache=False)

        def decode(most: int, rows: Sequence[Intervention]) -> list[list[int]]:
            head = self._whole_head()
            with language.lock, intervening(language.decoder, find_blocks(language.decoder), rows):
                return answers_ids(self.frame, head, visual.expand(len(rows), -1, -1), most)

        return Prompted(language, tokens, len(layout.ids(visual.shape[1])[0]), run, decode)

    def captions(self, images: Sequence[Image.Image], most: int = 64) -> list[str]:
        """Return captions of at most `most` tokens that the language model writes, by greedy decoding.

        Raises:
            ModelError: only part of the language model is loaded.
        """
        head = self._whole_head()
        written: list[str] = []
        for start in range(0, len(images), _BATCH):
            visual = self.project(images[start : start + _BATCH])
            written += write_captions(self.frame, head, list(visual), most)
        return written

    def _whole_head(self) -> CaptionLoss:
        """Return the loss with the unembedding, which writes; the LLM must be loaded whole."""
        check_whole(self.language)
        if self._head is None:
            self._head = caption_loss(self.language)
        return self._head

    @torch.no_grad()
    def _inputs(self, visual: Tensor, after: Sequence[int]) -> Tensor:
        """Return the LLM's inputs [images, length, hidden] for visual tokens and the ids after them."""
        return self.frame.inputs(visual, after)

    def _states(self, inputs: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        def forward() -> object:
            return self.language.decoder(inputs_embeds=inputs, use_cache=False)

        return self.language.collect(forward, layers, inputs.shape[0] * inputs.shape[1])

    def _tokens(
        self, states: dict[int, Tensor], size: tuple[int, int], positions: NDArray[np.int64]
    ) -> VisualTokens:
        """Return the visual tokens that show a part of an image; those that show only padding are left out."""
        height, width = self.encoder.grid
        rows, columns = (places.ravel() for places in np.indices((height, width)))
        boxes = self.encoder.boxes(size)
        # A CLS token comes first if the encoder keeps it, and has no place in the grid.
        extra = np.full(len(boxes) - height * width, -1)
        shown = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[0]
        if len(shown) < len(boxes):
            kept = torch.from_numpy(shown)
            states = {layer: state[kept.to(state.device)] for layer, state in states.items()}
        return VisualTokens(
            states,
            boxes[shown],
            np.concatenate([extra, rows])[shown],
            np.concatenate([extra, columns])[shown],
            np.zeros(len(shown), np.int64),
            size,
            positions=positions[shown],
        )


def check_card(
    card: Mapping[str, Any], encoder_name: str, encoder_fingerprint: str, language: LanguageModel
) -> None:
    """Check that a projector was trained between an encoder and a language model.

    Args:
        card: the projector's card.
        encoder_name: the encoder's name, for the message.
        encoder_fingerprint: the encoder's fingerprint.
        language: the LLM.

    Raises:
        ModelError: the projector was trained between other models.
    """
    names = {"encoder": encoder_name, "llm": language.name}
    found = {"encoder": Identity(encoder_fingerprint), "llm": language.identity()}
    for part, name in names.items():
        trained, here = card.get(part), public_name(name)
        if (
            not trained or "fingerprint" not in trained
        ):  # as of a connector, whose models are those of the hub
            continue
        if (differs := difference(Identity.from_dict(trained), found[part])) is None:
            continue
        if advice := other_adapter(Identity.from_dict(trained), found[part], "the projector was trained"):
            raise ModelError(
                f"The projector does not belong to {here} as it is loaded; {advice}.", argument="adapter"
            )
        own = public_name(trained["name"])
        other = f"the one of that name here, which differs in {differs}" if own == here else here
        raise ModelError(
            f"The projector was trained with the {'LLM' if part == 'llm' else part} {own}, not with {other}: use that "
            "one, or train a projector for this one."
        )
