"""Answers: what a vision-language model writes after a prompt, and the text tokens of prompt and answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from latentbank.errors import ModelError
from latentbank.models.language.explaining import quiet, reason
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.tokens import TextTokens


def check_whole(language: LanguageModel) -> None:
    """Check that an LLM can write.

    Raises:
        ModelError: only part of it is loaded.
    """
    if language.loaded_layers < language.num_layers:
        raise ModelError(
            f"{language.name} is loaded in part, {language.loaded_layers} of its {language.num_layers} layers, so it "
            "cannot write: load it without deepest_layer."
        )


def with_answer(
    model: PreTrainedModel, language: LanguageModel, inputs: Mapping[str, Any], most: int
) -> dict[str, Any]:
    """Return the inputs of one prompt, followed by the model's answer.

    Args:
        model: the whole vision-language model.
        language: the LLM inside, which is locked meanwhile.
        inputs: the processor's output for one prompt, without padding.
        most: the largest number of tokens of the answer.

    Raises:
        ModelError: only part of the LLM is loaded, or the model cannot write.
    """
    check_whole(language)
    prompt = cast(Tensor, inputs["input_ids"])
    most = min(most, language.max_length - prompt.shape[1])
    if most < 1:
        raise ModelError(
            f"The prompt fills all {language.max_length:,} positions of {language.name}, so there is none for an "
            "answer: use a smaller image or a shorter prompt."
        )
    (written,) = written_ids(model, language, inputs, most)
    return followed_by(model, inputs, written)


def followed_by(model: PreTrainedModel, inputs: Mapping[str, Any], written: Sequence[int]) -> dict[str, Any]:
    """Return inputs with the ids of an answer after each prompt.

    Args:
        model: the whole vision-language model.
        inputs: the processor's output for prompts of equal length.
        written: the ids, the same for all prompts.
    """
    prompt = cast(Tensor, inputs["input_ids"])
    extended = dict(inputs)
    nothing = cast(Any, ModelOutput)()
    for _ in written:  # one by one, as in decoding: what the model adds for several at once may differ
        extended = cast(Any, model)._update_model_kwargs_for_generation(nothing, extended)
    ids = torch.tensor([list(written)] * len(prompt), dtype=torch.long, device=prompt.device)
    extended["input_ids"] = torch.cat([prompt, ids], dim=1)
    return extended


def text_tokens(
    inputs: Mapping[str, Any], states: Mapping[int, Tensor], image_token: int, prompt_length: int
) -> TextTokens:
    """Return the text tokens of the only sequence of a forward pass.

    Args:
        inputs: the inputs of the pass.
        states: hidden states by layer, [1, sequence, hidden].
        image_token: the id of the positions of an image, which are no text.
        prompt_length: number of positions before the answer.
    """
    ids = cast(Tensor, inputs["input_ids"])[0].cpu()
    positions = (ids != image_token).nonzero().flatten()
    return TextTokens(
        states={layer: rows[0][positions.to(rows.device)] for layer, rows in states.items()},
        ids=ids[positions].numpy().astype(np.int64),
        positions=positions.numpy().astype(np.int64),
        answer=(positions >= prompt_length).numpy(),
    )


def written_ids(
    model: PreTrainedModel,
    language: LanguageModel,
    inputs: Mapping[str, Any],
    most: int,
    changes: AbstractContextManager[None] | None = None,
) -> list[list[int]]:
    """Return the ids of the answer to each prompt by greedy decoding, without the token that ends it.

    Args:
        model: the whole vision-language model.
        language: the LLM inside, which is locked meanwhile.
        inputs: the processor's output for prompts of equal length.
        most: the largest number of tokens of an answer.
        changes: what is changed in the model meanwhile; None: nothing.

    Raises:
        ModelError: the model cannot write.
    """
    writer = cast(Any, model)
    prompt = inputs["input_ids"].shape[1]
    ends = _ends(writer, language)
    padding = language.tokenizer.pad_token_id
    try:
        with quiet(), language.lock, changes or nullcontext(), torch.inference_mode():
            output = writer.generate(
                **inputs,
                max_new_tokens=most,
                do_sample=False,
                num_beams=1,
                eos_token_id=ends or None,
                suppress_tokens=_placeholders(writer.config) or None,
                pad_token_id=padding if padding is not None else (ends or [0])[0],
                disable_compile=True,
            )
    except ModelError:
        raise
    except Exception as error:  # the code of many models, and some are not made to write
        said = reason(error)
        raise ModelError(
            f"{language.name} cannot write an answer ({said}): read its prompt alone."
        ) from error
    rows = cast("list[list[int]]", output[:, prompt:].tolist())
    return [next((ids[:at] for at, token in enumerate(ids) if token in ends), ids) for ids in rows]


def _placeholders(config: Any) -> list[int]:
    """Return the ids that stand for images, frames and sound: they have no text, so no answer may hold them."""
    kinds = ("image", "video", "audio")
    found = (getattr(config, f"{kind}_token_{end}", None) for kind in kinds for end in ("id", "index"))
    return sorted({token for token in found if isinstance(token, int) and token >= 0})


def _ends(writer: Any, language: LanguageModel) -> list[int]:
    """Return the ids that end an answer: those of the model's own settings and of the tokenizer."""
    configured = getattr(getattr(writer, "generation_config", None), "eos_token_id", None)
    given = configured if isinstance(configured, list) else [configured]
    return [
        int(token) for token in dict.fromkeys([*given, language.tokenizer.eos_token_id]) if token is not None
    ]
