"""The tokens of an image in an LLM's input sequence, the text around them, and the models that give them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from latentbank.errors import LayerNotFound, ModelError
from latentbank.text import listed

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import Tensor

    from latentbank.models.audio.sounds import Sound
    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.clips import Clip


@dataclass(frozen=True)
class TextTokens:
    """The text tokens of a sequence with an image, in the order of the sequence: those of the prompt, then the answer.

    Attributes:
        states: hidden states by layer, [tokens, hidden] in the model's dtype, on its device.
        ids: token ids, [tokens] int64. Special tokens are among them.
        positions: places in the sequence, [tokens] int64.
        answer: True for tokens that the model wrote, False for those of the prompt, [tokens] bool.
        names: of tokens that the tokenizer does not know, by their ids.
    """

    states: dict[int, Tensor]
    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    answer: npt.NDArray[np.bool_]
    names: Mapping[int, str] = field(default_factory=dict)

    def of_answer(self) -> TextTokens:
        """Return the tokens of the answer alone."""
        chosen = self.answer
        states = {layer: rows[chosen.nonzero()[0]] for layer, rows in self.states.items()}
        return TextTokens(states, self.ids[chosen], self.positions[chosen], chosen[chosen], self.names)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class VisualTokens:
    """The visual tokens of one image, in the order of the LLM's input sequence.

    Attributes:
        states: hidden states by layer, [tokens, hidden] in the model's dtype, on its device.
        boxes: left, top, right, bottom in pixels of the original image, [tokens, 4] float32; NaN for a token of which
            it is not known where it looks.
        rows: row in the grid of the token's tile, [tokens] int64; -1 for a token that is in no grid.
        columns: column in the grid of the token's tile, [tokens] int64; -1 for a token that is in no grid.
        tiles: 0 for a view of the whole image, 1 and more for the others, [tokens] int64.
        size: width and height of the original image.
        geometry: how the boxes were found, for people; None: as the model's `geometry` says.
        positions: places in the sequence, [tokens] int64; None: not known.
        text: the text tokens of the sequence; None: they were not requested.
        seconds: start and end of the time that a token of a video or a sound sees or hears, [tokens, 2] float32; None
            for an image. Tokens of a video of the same time are a tile; tokens of sound have no boxes, and size 0 x 0.
    """

    states: dict[int, Tensor]
    boxes: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int64]
    size: tuple[int, int]
    geometry: str | None = None
    positions: npt.NDArray[np.int64] | None = None
    text: TextTokens | None = None
    seconds: npt.NDArray[np.float32] | None = None

    def norms(self, layer: int) -> npt.NDArray[np.float32]:
        """Return the L2 norms of the hidden states of a layer, [tokens] float32, computed in float32.

        Raises:
            LayerNotFound: `layer` was not requested.
        """
        if layer not in self.states:
            raise LayerNotFound(f"Layer {layer} was not requested, only {listed(self.states)}.")
        norms: npt.NDArray[np.float32] = self.states[layer].float().norm(dim=-1).cpu().numpy()
        return norms

    def __len__(self) -> int:
        return len(self.rows)


class VisualModel(Protocol):
    """A model whose visual tokens can be read: a vision-language model of transformers, or a composite one.

    Attributes:
        name: the name it was loaded by.
        revision: the commit on the hub, where known.
        language: the LLM inside, with its tokenizer.
        num_layers: number of layers of the whole LLM.
        hidden_size: width of a hidden state.
        means_file: the file for the measured means of its visual tokens; None if the model has no file or folder of its
            own.
    """

    name: str
    revision: str | None
    language: LanguageModel
    num_layers: int
    hidden_size: int
    means_file: Path | None

    @property
    def geometry(self) -> str:
        """How boxes are found, for people: it begins with `exact`, or with `unknown` if tokens have no place."""

    def fingerprint(self) -> str:
        """Return the LLM's fingerprint."""

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        """Return the visual tokens of each image, from one forward pass that stops after the deepest layer."""


@runtime_checkable
class TextModel(Protocol):
    """A model that also gives the text tokens around an image."""

    def tokens_with_text(
        self, image: Image.Image, layers: Sequence[int], prompt: str | None = None, answer: int = 0
    ) -> VisualTokens:
        """Return the visual tokens of an image, with `positions` and `text`, from one forward pass.

        Args:
            image: in RGB.
            layers: which layers' hidden states to return.
            prompt: as for `visual_tokens`; it holds one image.
            answer: the largest number of tokens that the model writes after the prompt, by greedy decoding; 0: none.
                The answer ends before a token that ends the sequence.

        Raises:
            LayerNotFound: the model does not have a layer, or the layer is not loaded.
            ModelError: an answer is requested and only part of the model is loaded.
        """


@runtime_checkable
class VideoModel(Protocol):
    """A model that also reads videos."""

    def video_tokens(
        self, clip: Clip, layers: Sequence[int], prompt: str | None = None, answer: int = 0
    ) -> VisualTokens:
        """Return the visual tokens of a video, with `positions`, `text` and `seconds`, from one forward pass.

        Args:
            clip: the frames that the model sees.
            layers: as for `tokens_with_text`.
            prompt: the exact text, with one placeholder of a video; None: the model's own.
            answer: as for `tokens_with_text`.

        Raises:
            ModelError: the model's type takes no videos; also as for `tokens_with_text`.
        """


@runtime_checkable
class AudioModel(Protocol):
    """A model that also reads sound."""

    def audio_tokens(
        self, sound: Sound, layers: Sequence[int], prompt: str | None = None, answer: int = 0
    ) -> VisualTokens:
        """Return the tokens of a sound, with `positions`, `text` and `seconds`, from one forward pass.

        Args:
            sound: what the model hears.
            layers: as for `tokens_with_text`.
            prompt: the exact text, with one placeholder of a sound; None: the model's own.
            answer: as for `tokens_with_text`.

        Raises:
            ModelError: the model's type takes no sound; also as for `tokens_with_text`.
        """


@runtime_checkable
class FingerprintedModel(Protocol):
    """A model that can be told from others over the same LLM."""

    def visual_fingerprint(self) -> str:
        """Return 32 hex digits from all weights that make its visual tokens; see `visual_fingerprint`."""


def visual_fingerprint(model: VisualModel) -> str:
    """Return what tells a VLM from others, also from those over the same LLM: 32 hex digits.

    The weights of the encoder and of what projects into the LLM are sampled as those of LLMs are. A model that does not
    tell them is known by its name.
    """
    if isinstance(model, FingerprintedModel):
        return model.visual_fingerprint()
    return hashlib.blake2b(f"{model.fingerprint()} {model.name}".encode(), digest_size=16).hexdigest()


def tokens_with_text(
    model: VisualModel, image: Image.Image, layers: Sequence[int], prompt: str | None, answer: int
) -> VisualTokens:
    """Return the visual tokens of an image with the text tokens around them; see `TextModel`.

    Raises:
        ModelError: the model does not give text tokens.
    """
    if not isinstance(model, TextModel):
        raise ModelError(
            f"{model.name} does not give the text around an image: read its visual tokens alone."
        )
    return model.tokens_with_text(image, layers, prompt, answer)
