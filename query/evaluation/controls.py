"""Controls: a VLM with an untrained projector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from latentbank.models.composite.model import CompositeVLM
from latentbank.models.composite.projector import Projector

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel


def with_random_projector(
    model: VisualModel, images: Sequence[Image.Image], seed: int = 0
) -> CompositeVLM | None:
    """Return the same VLM with a projector of random weights, as before training; None if it has no projector.

    The encoder and the LLM are shared with `model`.

    Args:
        model: a VLM; only a `CompositeVLM` has a projector that can be replaced.
        images: a sample on which the projector's outputs are scaled to the LLM's token embeddings, so that norms alone
            do not tell its visual tokens from a trained projector's.
        seed: seed of the weights.
    """
    if not isinstance(model, CompositeVLM):
        return None
    old = model.projector
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Projector(**old.shape())
    embedding = model.language.embedding
    features = model.encoder.encode(images).flatten(0, 1).float().cpu()
    fresh.fit(features, float(embedding.float().pow(2).mean().sqrt()))
    return CompositeVLM(model.encoder, fresh, model.language, {})
