"""What a training starts from: the first projector, the tokens that mark an image, and the sequences."""

from __future__ import annotations

import os
from math import isqrt

import torch

from latentbank.errors import ModelError
from latentbank.models.composite.layout import ImageTokens
from latentbank.models.composite.model import check_card
from latentbank.models.composite.projector import Projector, load_projector
from latentbank.models.language.layout import setting
from latentbank.models.language.model import LanguageModel
from latentbank.models.language.tokens import check_ids
from latentbank.models.training.batches import Sequences
from latentbank.models.training.features import Features
from latentbank.models.training.prompts import Prompts
from latentbank.models.training.stages import TrainSettings
from latentbank.models.vision.pictures import Pictures

_SAMPLE = 100_000  # visual tokens for the mean and the standard deviation of the features
_TOKENS = 4  # start, patch, column and end of an image


def image_tokens(language: LanguageModel, settings: TrainSettings) -> ImageTokens | None:
    """Return the tokens that mark an image, which follow the LLM's own; None: nothing marks it."""
    if not settings.image_tokens:
        return None
    first = language.embedding.shape[0]
    return ImageTokens(start=first, end=first + 1, patch=first + 2, column=first + 3, first_added=first)


def sequences_of(features: Features, language: LanguageModel, settings: TrainSettings) -> Sequences:
    """Return the rows of some features as sequences of an LLM.

    Raises:
        ModelError: there is no room for captions, a token is unknown to the LLM, or images that are not square grids of
            tokens, whole, are to be marked.
    """
    prompts = None if settings.prompt is None else Prompts(settings.prompt)
    image, count = image_tokens(language, settings), int(features.values.shape[1])
    columns = isqrt(count)
    if image is not None and (columns**2 != count or any(row.patches is not None for row in features.rows)):
        raise ModelError(
            "Tokens that mark the rows of an image need square grids of visual tokens, whole: train without the CLS "
            "token and without regions.",
            argument="cls",
        )
    sequences = Sequences(
        features, language.tokenizer, language.max_length, prompts, image=image, columns=columns
    )
    check_ids(language, sequences.tokens)
    return sequences


def first_projector(
    features: Features,
    language: LanguageModel,
    settings: TrainSettings,
    init: str | os.PathLike[str] | None,
) -> Projector:
    """Return the projector that a training starts with, on the CPU.

    Args:
        features: the rows of the first stage.
        language: the LLM.
        settings: the settings of the training.
        init: a projector file to start from; None: random weights.

    Raises:
        ModelError: `init` is from other models, or has not the image tokens of these settings.
    """
    if init is not None:
        projector, card = load_projector(init)
        check_card(card, features.encoder, features.fingerprint, language)
        image = image_tokens(language, settings)
        if card.get("image_tokens") != (None if image is None else image.to_dict()):
            raise ModelError(
                "The projector to start from marks images with other tokens than this training: train with the recipe "
                "that it was trained with.",
                argument="recipe",
            )
        return projector.train().requires_grad_(True)
    embedding, width = language.embedding, settings.width
    if width is None and settings.projector == "swiglu":  # as wide as the LLM's own, as in the paper
        width = setting(language.decoder.config, "intermediate_size")
    pictures = features.settings.get("pictures")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        projector = Projector(
            settings.projector,
            features.width,
            embedding.shape[1],
            width if isinstance(width, int) else None,
            padding=pictures is not None and Pictures.from_dict(pictures).pads,
            added=_TOKENS if settings.image_tokens else 0,
        )
    if projector.kind != "swiglu":  # which begins as in the paper, with weights of a fixed scale
        scale = float(embedding[:: max(1, len(embedding) // 4096)].float().pow(2).mean().sqrt())
        projector.fit(features.sample(_SAMPLE, settings.seed), scale)
    return projector
