"""Token ids that a model's input embedding has rows for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from latentbank.errors import ModelError

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel


def check_ids(model: LanguageModel, ids: Iterable[int], text: str | None = None) -> None:
    """Check that the input embedding has a row for each token id.

    A tokenizer can have more tokens than its model: tokens that were added to it without resizing the embedding.

    Args:
        model: the LLM.
        ids: token ids.
        text: the sentence they come from, for the message.

    Raises:
        ModelError: a token has no row.
    """
    beyond = next((token for token in ids if not 0 <= token < model.vocab_size), None)
    if beyond is None:
        return
    name = model.tokenizer.convert_ids_to_tokens(beyond) if 0 <= beyond < len(model.tokenizer) else None
    token = f"The token {name!r} (id {beyond})" if name else f"The token id {beyond}"
    where = "" if text is None else f" in {text[:60]!r}"
    raise ModelError(
        f"{token}{where} is outside the {model.vocab_size} rows of the input embedding of {model.name}: use the "
        "model's own tokenizer, or resize the model's embedding to the tokenizer and save both again."
    )
