"""An LLM where a vision-language model is expected: for lenses that read hidden states without any image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from latentbank.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.tokens import VisualTokens


class LanguageAlone:
    """An LLM in the place of a `VisualModel`; it is loaded when something of it is first asked for.

    Args:
        load: returns the LLM.

    Attributes:
        name: the LLM's.
        revision: the LLM's.
        language: the LLM.
        num_layers: the LLM's.
        hidden_size: the LLM's.
        means_file: None, as there are no visual tokens.
        geometry: begins with `unknown`, as there is no image.
    """

    name: str
    revision: str | None
    language: LanguageModel
    num_layers: int
    hidden_size: int
    means_file: Path | None = None
    geometry = "unknown: there is no image"

    def __init__(self, load: Callable[[], LanguageModel]) -> None:
        self._load = load

    def __getattr__(self, name: str) -> Any:
        """Load the LLM, and keep what a `VisualModel` has of it."""
        if name not in ("name", "revision", "language", "num_layers", "hidden_size"):
            raise AttributeError(name)
        self.language = self._load()
        self.name, self.revision = self.language.name, self.language.revision
        self.num_layers, self.hidden_size = self.language.num_layers, self.language.hidden_size
        return getattr(self, name)

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
