"""An image in a model's prompt that is run again and again: with an answer after it, and with changes inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from latentbank.errors import ModelError
from latentbank.models.language.intervening import Intervention, intervening
from latentbank.models.language.layout import find_blocks
from latentbank.models.vision.answers import check_whole

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.tokens import VisualModel, VisualTokens


@dataclass(frozen=True, eq=False)
class Prompted:
    """One image in a model's prompt.

    Attributes:
        language: the LLM, loaded whole.
        tokens: the image's visual tokens, with their `positions` in the sequence.
        length: number of positions of the prompt with its image.
        run: runs the model on so many copies of the prompt, each followed by the same ids.
        decode: writes at most so many tokens by greedy decoding after as many copies as there are interventions.
    """

    language: LanguageModel
    tokens: VisualTokens
    length: int
    run: Callable[[Sequence[int], int], object]
    decode: Callable[[int, Sequence[Intervention]], list[list[int]]]

    def states(self, answer: Sequence[int], rows: Sequence[Intervention]) -> Tensor:
        """Return the last block's output at the positions that predict an answer, `[rows, answer, hidden]`.

        Args:
            answer: the ids of the answer, at least one.
            rows: an intervention for each copy of the sequence. Rows do not depend on each other, so a row without a
                change is equal to the last bit in each run of the same number of rows.

        Raises:
            ModelError: the memory is too small, or the model does not allow such an intervention.
        """
        language, given = self.language, list(answer)[:-1]

        def forward() -> None:
            with intervening(language.decoder, find_blocks(language.decoder), rows):
                self.run(given, len(rows))

        last = language.num_layers
        tokens = len(rows) * (self.length + len(given))
        return language.collect(forward, [last], tokens)[last][:, self.length - 1 :]

    def write(self, most: int, rows: Sequence[Intervention]) -> list[list[int]]:
        """Return the ids that the model writes in each row by greedy decoding, at most `most`.

        Raises:
            ModelError: the model cannot write, or attention is to be cut.
        """
        if any(row.cut for row in rows):
            raise ModelError("Attention can be cut while an answer is scored, not while one is written.")
        return self.decode(most, rows)


@runtime_checkable
class PromptedModel(Protocol):
    """A model whose image and prompt can be run with interventions."""

    def prompted(self, image: Image.Image, layers: Sequence[int], prompt: str | None = None) -> Prompted:
        """Return an image in its prompt, with the visual tokens' hidden states at `layers`.

        Raises:
            ModelError: only part of the LLM is loaded.
            QueryError: the prompt does not have exactly one placeholder of an image.
        """


def prompted(
    model: VisualModel, image: Image.Image, layers: Sequence[int], prompt: str | None = None
) -> Prompted:
    """Return an image in a model's prompt, ready to be run with interventions; see `PromptedModel`.

    Raises:
        ModelError: nothing can be changed inside this model, or only part of it is loaded.
    """
    if not isinstance(model, PromptedModel):
        raise ModelError(f"{model.name} cannot be run with changed hidden states: use another model.")
    check_whole(model.language)
    return model.prompted(image, layers, prompt)
