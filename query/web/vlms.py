"""The VLMs that a page offers: each is loaded when it is first used, and keeps the visual tokens of the last images."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from latentbank.bank.bank import Bank
from latentbank.errors import BankMismatch

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
        bank.require_model(first.name, first.fingerprint())
        self._bank, self._loaders = bank, dict(others)
        self._loaded = {name: CachedVLM(first)}
        self._mismatches: dict[str, str] = {}
        self.names = tuple(dict.fromkeys((name, *others)))

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
                self._bank.require_model(model.name, model.fingerprint())
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

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        """Return the visual tokens of images; those of the last images need no forward pass."""
        found = []
        for image in images:
            pixels = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            key = (pixels, image.size, tuple(layers), prompt)
            if key not in self._cache:
                (self._cache[key],) = self.model.visual_tokens([image], layers, prompt)
            self._cache.move_to_end(key)
            found.append(self._cache[key])
        while len(self._cache) > _KEPT_IMAGES:
            self._cache.popitem(last=False)
        return found
