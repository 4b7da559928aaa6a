"""Language models that hear and do not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentbank.errors import ModelError
from latentbank.models.audio.listening import RULES
from latentbank.models.language.loading import ModelFiles
from latentbank.models.vision.multimodal import Multimodal

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.models.vision.tokens import VisualTokens


def hears_only(files: ModelFiles) -> bool:
    """Return whether a model takes sound that can be read, and no images."""
    return files.config.model_type in RULES and not files.takes_images


class AudioLanguageModel(Multimodal):
    """A model of transformers that takes sound and text, such as Qwen2-Audio and Granite Speech.

    Its attributes and layers are those of `VisionLanguageModel`.
    """

    def __repr__(self) -> str:
        """Return name, layers, and how seconds are found."""
        return f"<AudioLanguageModel {self.name}, {self.num_layers} layers, {self.geometry}>"

    @property
    def geometry(self) -> str:
        """How the seconds of its tokens are found, for people."""
        return f"exact, {self.model.config.model_type}"

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        """Raise an error, as the model takes no images.

        Raises:
            ModelError: always.
        """
        del images, layers, prompt
        raise ModelError(f"{self.name} takes sound and text, no images: read sound with it.")
