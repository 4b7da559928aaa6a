"""The VLMs that a page offers: loaded when they are first used, their last visual tokens kept."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from latentbank.bank.bank import Bank
from latentbank.errors import BankMismatch

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.models.vision.vision_language import VisualModel, VisualTokens

Say = Callable[[str], None]
Load = Callable[[Say], "VisualModel"]
"""Loads a model, telling what takes long before it begins."""
_KEPT_IMAGES = 4  # whose visual tokens are kept, so that another filter needs no other forward pass


class Models:
    """VLMs over one bank's LLM, by the names that people choose them by. One thread uses them.

    Args:
        bank: whose LLM they must have.
        name: of the first.
        first: loaded already.
        others: how the others are loaded, by name. What is loaded stays.

    Raises:
        BankMismatch: the first has another LLM than the bank.
    """

    def __init__(self, bank: Bank, name: str, first: VisualModel, others: Mapping[str, Load]) -> None:
        bank.require_model(first.name, first.fingerprint())
        self._bank, self._loads = bank, dict(others)
        self._ready = {name: Remembering(first)}
        self._wrong: dict[str, str] = {}
        self.names = tuple(dict.fromkeys((name, *others)))
        """All, the first one first."""

    def get(self, name: str, say: Say) -> Remembering:
        """Give a model; it is loaded if nobody has used it before.

        Raises:
            BankMismatch: it has another LLM than the bank.
            ModelError: it cannot be loaded; whoever asks again tries again.
        """
        if name in self._wrong:
            raise BankMismatch(self._wrong[name])
        if name not in self._ready:
            say(f"loading {name}")
            model = self._loads[name](say)
            try:
                self._bank.require_model(model.name, model.fingerprint())
            except BankMismatch as error:
                self._wrong[name] = str(error)  # it will not change, so it is not loaded again
                raise
            self._ready[name] = Remembering(model)
        return self._ready[name]


class Remembering:
    """A VLM that keeps the visual tokens of the last images."""

    def __init__(self, model: VisualModel) -> None:
        self.model = model
        self.name, self.revision, self.means_file = model.name, model.revision, model.means_file
        self.language, self.num_layers, self.hidden_size = model.language, model.num_layers, model.hidden_size
        self._fingerprint = model.fingerprint()
        self._kept: OrderedDict[tuple[Any, ...], VisualTokens] = OrderedDict()

    @property
    def geometry(self) -> str:
        """The model's."""
        return self.model.geometry

    def fingerprint(self) -> str:
        """The model's."""
        return self._fingerprint

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        """Give the visual tokens of images, those of images seen lately without a forward pass."""
        found = []
        for image in images:
            pixels = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            key = (pixels, image.size, tuple(layers), prompt)
            if key not in self._kept:
                (self._kept[key],) = self.model.visual_tokens([image], layers, prompt)
            self._kept.move_to_end(key)
            found.append(self._kept[key])
        while len(self._kept) > _KEPT_IMAGES:
            self._kept.popitem(last=False)
        return found
