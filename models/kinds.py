"""The kind of model that a function was given: a language model, a vision-language model, or only a model's name."""

from __future__ import annotations

import os

from latentbank.errors import ModelError


def require_language(model: object) -> None:
    """Check that a model is a language model.

    Raises:
        ModelError: it is a vision-language model, or only a model's name.
    """
    if isinstance(model, str | os.PathLike):
        raise ModelError(f"The model is only a name, {os.fspath(model)}; load it with load_language_model.")
    if _is_visual(model):
        raise ModelError(
            f"{getattr(model, 'name', 'The model')} is a vision-language model; give the language model in it, its "
            "attribute `language`."
        )


def require_visual(model: object) -> None:
    """Check that a model is a vision-language model.

    Raises:
        ModelError: it is a language model, or only a model's name.
    """
    if isinstance(model, str | os.PathLike):
        raise ModelError(f"The model is only a name, {os.fspath(model)}; load it with load_visual_model.")
    if not _is_visual(model):
        raise ModelError(
            f"{getattr(model, 'name', 'The model')} is no vision-language model; load one with load_visual_model."
        )


def _is_visual(model: object) -> bool:
    return hasattr(model, "visual_tokens")
