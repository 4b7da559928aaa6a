"""What the lenses share that translate a hidden state into the last layer's before they unembed it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from latentbank.errors import QueryError
from latentbank.query.lenses import vocabulary
from latentbank.query.lenses.base import Lens, LensOptions, Queries
from latentbank.query.lenses.logit import LogitLens
from latentbank.text import public_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    from latentbank.bank.points import Neighbor
    from latentbank.models.language.translators import TranslatorKind, Translators
    from latentbank.models.vision.tokens import VisualModel


@dataclass(frozen=True)
class TranslatedLens(Lens):
    """LogitLens after a map of the layer that hidden states are of. Those of the last layer are read as they are.

    Args:
        translators: the map of each layer.
        logit: LogitLens of the same LLM.
        last: the LLM's last layer.

    Attributes:
        kind: of the translators.
        trained_by: the function that makes them.
    """

    translators: Translators
    logit: LogitLens
    last: int

    kind: ClassVar[TranslatorKind]
    trained_by: ClassVar[str]
    score = "probability"

    @classmethod
    def make(cls, options: LensOptions) -> Self:
        """Return the lens with the maps that were trained for the VLM's language model.

        Raises:
            QueryError: none were trained for it on this machine.
            BankMismatch: they are of another LLM with the same fingerprint.
            ModelError: the language model has no unembedding, or it cannot be loaded.
        """
        from latentbank.models.language.translators import load_translators

        language = options.model.language
        file = kept_file(options.folder(), cls.kind, language.fingerprint())
        if not file.is_file():
            raise QueryError(
                f"There is no {cls.title} of {public_name(language.name)} on this machine yet; train it on text, or "
                "import one.",
                functions=(cls.trained_by,),
            )
        translators = load_translators(file)
        translators.check(language)
        logit = LogitLens.make(
            replace(options, correction=None)
        )  # its calibration is not of translated states
        return cls(translators, logit, language.num_layers)

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        """Return the most probable tokens for each query.

        Raises:
            QueryError: wrong shape, a hidden state that is zero or not finite, or a layer that is not known.
            LayerNotFound: the layer has no map.
        """
        if queries.layer is None:
            raise QueryError(
                f"{self.title} has a map of each layer: say which layer the hidden states are of."
            )
        if queries.layer == self.last:
            return self.logit.read(queries, top_k)
        states = self.translators.translate(vocabulary.checked_rows(queries.states), queries.layer)
        return self.logit.read(replace(queries, states=states), top_k)

    def check(self, model: VisualModel) -> None:
        """Check that the maps are of the VLM's language model.

        Raises:
            BankMismatch: they are of another LLM.
        """
        self.translators.check(model.language)

    def check_layers(self, layers: Sequence[int]) -> None:
        """Check that each layer has a map.

        Raises:
            LayerNotFound: one has none.
        """
        for layer in layers:
            if layer != self.last:
                self.translators.require(layer)

    def version(self) -> str:
        """Return a digest of the card, which says how the maps were made."""
        about = json.dumps(dict(self.translators.card), sort_keys=True)
        return hashlib.blake2b(about.encode(), digest_size=8).hexdigest()

    def distinct(self) -> Self:
        """Return the same lens with one neighbor per word."""
        return replace(self, logit=self.logit.distinct())


def kept_file(data_dir: Path, kind: TranslatorKind, fingerprint: str) -> Path:
    """Return the file in which an LLM's tuned or Jacobian lens is kept, in the folder of embedded banks."""
    return data_dir / ".lenses" / f"{kind}-{fingerprint}.safetensors"  # no bank's name begins with a dot
