"""Visual tokens as sample queries, for `latentbank.bank.tuning`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from latentbank.bank.search import as_floats, prepared
from latentbank.bank.tuning import Sample, sample_rows
from latentbank.errors import ImageError
from latentbank.models.vision.sources import Source
from latentbank.query.lenses.centring import kept_means, resolve_mean
from latentbank.query.reading.visual_tokens import Broken, image_tokens

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.vision.tokens import VisualModel

_BATCH = 8  # images in one forward pass


def visual_samples(
    bank: Bank,
    model: VisualModel,
    images: Iterable[Source],
    layers: Sequence[int],
    queries: int = 256,
    broken: Broken | None = None,
) -> dict[int, Sample]:
    """Return visual tokens of some images as queries of a bank, by visual layer.

    Args:
        bank: a bank of the VLM's own language model.
        model: the VLM.
        images: pictures like those that will be read.
        layers: the visual layers.
        queries: how many tokens of each layer are taken, at random.
        broken: called with the name of an image that cannot be read, and the error; None: the error is raised.

    Raises:
        BankMismatch: the bank belongs to another model.
        ImageError: no image can be read.
    """
    bank.require_model(model.name, model.language.identity())
    batches = image_tokens(model, images, layers, None, _BATCH, broken)
    found = [image.tokens.states for batch in batches for image in batch]
    if not found:
        raise ImageError("None of the images can be read, so nothing can be measured with them.")
    samples = {}
    for layer in layers:
        states = as_floats(torch.cat([states[layer] for states in found]))
        mean = None
        if bank.metric == "centred":
            mean = resolve_mean(bank, kept_means(model) or "batch", layer, states)
        rows = sample_rows(states, queries)
        samples[layer] = Sample(prepared(bank.manifest, states[rows], "visual tokens", mean))
    return samples
