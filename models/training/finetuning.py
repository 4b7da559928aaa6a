"""Training the language model, too: making its weights trainable, and saving it as a model of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from latentbank.errors import ModelError
from latentbank.files import make_folder
from latentbank.models.language.layout import PER_BLOCK
from latentbank.models.language.model import LanguageModel
from latentbank.models.language.prepacked import unpack
from latentbank.models.language.unembedding import causal_around, unembedding_of_language

FOLDER = "llm"
"""The folder of a trained LLM, beside the projector that was trained with it."""


class TrainedLanguage:
    """A language model whose blocks and final norm are trained; its embedding and unembedding stay frozen.

    Attributes:
        language: the LLM; its weights change while it is trained.
        weights: the trainable weights by their names in the decoder.
    """

    def __init__(self, language: LanguageModel) -> None:
        """Make the weights trainable, in place.

        Raises:
            ModelError: the weights are not float32, or transformers has no causal LLM with this decoder, so that the
                result could not be saved.
        """
        self.language = language
        decoder = language.decoder
        if any(weight.dtype != torch.float32 for weight in decoder.parameters()):
            raise ModelError(
                f"{language.name} is trained in float32, because its small changes are lost in {language.dtype}: load "
                "it in float32.",
                argument="dtype",
            )
        self._causal = _causal(language)
        unpack(decoder)
        language.changed()
        frozen = {id(weight) for weight in _embeddings(decoder)}
        self.weights: dict[str, nn.Parameter] = {}
        for name, weight in decoder.named_parameters():
            if id(weight) not in frozen:
                weight.requires_grad_(True)
                self.weights[name] = weight

    def state(self) -> dict[str, Tensor]:
        """Return the weights for a checkpoint."""
        return {name: weight.detach() for name, weight in self.weights.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a checkpoint."""
        for name, weight in self.weights.items():
            weight.copy_(state[name])

    def save(self, folder: str | os.PathLike[str], dtype: torch.dtype) -> LanguageModel:
        """Write the whole LLM and its tokenizer, and return the LLM as it is loaded from there.

        Args:
            folder: the folder.
            dtype: of the written weights.

        Raises:
            ModelError: the folder cannot be written.
        """
        language, path = self.language, Path(folder).absolute()
        for weight in self.weights.values():
            weight.requires_grad_(False)
        copies: dict[int, Tensor] = {}  # tied weights stay one tensor, which is written once
        state = {
            name: copies.setdefault(tensor.data_ptr(), tensor.to(dtype))
            for name, tensor in self._causal.state_dict().items()
        }
        try:
            make_folder(path)
            self._causal.save_pretrained(path, state_dict=state)
            language.tokenizer.save_pretrained(path)
        except OSError as error:
            raise ModelError(f"The LLM cannot be written to {path}: {error.strerror or error}.") from error
        return LanguageModel(
            str(path),
            language.decoder,
            language.tokenizer,
            num_layers=language.num_layers,
            trust_remote_code=language.trust_remote_code,
        )


def _causal(language: LanguageModel) -> PreTrainedModel:
    head: Any = unembedding_of_language(language).head
    whole = causal_around(language.decoder, head, trust_remote_code=language.trust_remote_code)
    if whole is None:
        raise ModelError(
            f"transformers has no class for the LLM of {language.name} alone, so it could not be saved: train the "
            "projector only."
        )
    return whole


def _embeddings(decoder: PreTrainedModel) -> list[Tensor]:
    modules = [decoder.get_input_embeddings(), *(getattr(decoder, name, None) for name in PER_BLOCK)]
    return [weight for module in modules if module is not None for weight in module.parameters()]
