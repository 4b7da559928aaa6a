"""The VLMs that a page offers: each is loaded when it is first used, and keeps the visual tokens of the last images."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from latentbank.bank.bank import Bank
from latentbank.errors import BankMismatch
from latentbank.models.vision.tokens import tokens_with_text, visual_fingerprint

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.models.vision.tokens import VisualModel, VisualTokens

Say = Callable[[str], None]
Load = Callable[[Say], "VisualModel"]
"""Loads a model; it is given a function that shows a message, for what takes long."""
_KEPT_IMAGES = 4  # images whose visual tokens are kept, so that a change of the filter needs no forward pass


class Models:
    """VLMs over one bank's LLM, by the names that people choose them by. Not thread-safe.

    Args:
        bank: the bank whose LLM they must have.
        name: of the first model.
        first: a loaded model.
        others: how to load the other models, by name. A loaded model stays loaded.

    Attributes:
        names: of all models, the first model's first.

    Raises:
        BankMismatch: the first model has another LLM than the bank.
    """

    def __init__(self, bank: Bank, name: str, first: VisualModel, others: Mapping[str, Load]) -> None:
        bank.require_model(first.name, first.language.identity())
        self._bank, self._loaders = bank, dict(others)
        self._loaded = {name: CachedVLM(first)}
        self._mismatches: dict[str, str] = {}
        self.names = tuple(dict.fromkeys((name, *others)))

    @property
    def first(self) -> VisualModel:
        """The model that is loaded from the start."""
        return self._loaded[self.names[0]].model

    def get(self, name: str, say: Say) -> CachedVLM:
        """Return a model; load it if this is its first use.

        Raises:
            BankMismatch: it has another LLM than the bank.
            ModelError: it cannot be loaded; the next call tries again.
        """
        if name in self._mismatches:
            raise BankMismatch(self._mismatches[name])
        if name not in self._loaded:
            say(f"loading {name}")
            model = self._loaders[name](say)
            try:
                self._bank.require_model(model.name, model.language.identity())
            except BankMismatch as error:
                self._mismatches[name] = str(error)  # loading the model again would give the same result
                raise
            self._loaded[name] = CachedVLM(model)
        return self._loaded[name]


class CachedVLM:
    """A VLM that keeps the visual tokens of the last images it was given.

    Attributes:
        model: the VLM itself.
    """

    def __init__(self, model: VisualModel) -> None:
        self.model = model
        self.name, self.revision, self.means_file = model.name, model.revision, model.means_file
        self.language, self.num_layers, self.hidden_size = model.language, model.num_layers, model.hidden_size
        self._fingerprint = model.fingerprint()
        self._cache: OrderedDict[tuple[Any, ...], VisualTokens] = OrderedDict()

    @property
    def geometry(self) -> str:
        """The model's geometry."""
        return self.model.geometry

    def fingerprint(self) -> str:
        """Return the model's fingerprint."""
        return self._fingerprint

    def visual_fingerprint(self) -> str:
        """Return what tells the model from others over the same LLM."""
        return visual_fingerprint(self.model)

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        """Return the visual tokens of images; those of the last images need no forward pass."""
        return [
            self._kept(
                (_digest(image), image.size, tuple(layers), prompt),
                partial(self._visual, image, layers, prompt),
            )
            for image in images
        ]

    def tokens_with_text(
        self, image: Image.Image, layers: Sequence[int], prompt: str | None = None, answer: int = 0
    ) -> VisualTokens:
        """Return the visual tokens of an image with the text around them; those of the last images are kept, too.

        Raises:
            ModelError: the model does not give text tokens.
        """
        return self._kept(
            (_digest(image), image.size, tuple(layers), prompt, answer),
            lambda: tokens_with_text(self.model, image, layers, prompt, answer),
        )

    def _visual(self, image: Image.Image, layers: Sequence[int], prompt: str | None) -> VisualTokens:
        (tokens,) = self.model.visual_tokens([image], layers, prompt)
        return tokens

    def _kept(self, key: tuple[Any, ...], run: Callable[[], VisualTokens]) -> VisualTokens:
        if key not in self._cache:
            self._cache[key] = run()
        self._cache.move_to_end(key)
        while len(self._cache) > _KEPT_IMAGES:
            self._cache.popitem(last=False)
        return self._cache[key]


def _digest(image: Image.Image) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
