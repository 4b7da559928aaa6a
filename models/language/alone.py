"""An LLM where a vision-language model is expected: for lenses that read hidden states without any image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from latentbank.errors import ModelError

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.tokens import VisualTokens


class LanguageAlone:
    """An LLM in the place of a `VisualModel`; it is loaded when something of it is first asked for.

    Args:
        load: returns the LLM.

    Attributes:
        means_file: None, as there are no visual tokens.
        geometry: begins with `unknown`, as there is no image.
    """

    means_file = None
    geometry = "unknown: there is no image"

    def __init__(self, load: Callable[[], LanguageModel]) -> None:
        self._load = load

    @cached_property
    def language(self) -> LanguageModel:
        """The LLM."""
        return self._load()

    @property
    def name(self) -> str:
        """The LLM's name."""
        return self.language.name

    @property
    def revision(self) -> str | None:
        """The LLM's commit on the hub, where known."""
        return self.language.revision

    @property
    def num_layers(self) -> int:
        """Number of layers of the LLM."""
        return self.language.num_layers

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        return self.language.hidden_size

    def fingerprint(self) -> str:
        """Return the LLM's fingerprint."""
        return self.language.fingerprint()

    def visual_tokens(
        self,
        images: Sequence[Image.Image],  # noqa: ARG002 (no image is taken)
        layers: Sequence[int],  # noqa: ARG002
        prompt: str | None = None,  # noqa: ARG002
    ) -> list[VisualTokens]:
        """Refuse images.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.name} is an LLM alone and takes no images: use a vision-language model.")
