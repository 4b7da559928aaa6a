"""Estimate the means of a centred bank from a sample of a plan, before its contexts are stored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from latentbank.bank.rotation import unit
from latentbank.ingest.encode import encode
from latentbank.ingest.plan import Plan
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress, Silent

SAMPLE = 8192
"""Contexts in the sample: the error of their mean is about 1 % of the spread of single contexts."""


def text_means(
    plan: Plan,
    model: LanguageModel,
    layers: Sequence[int],
    progress: Progress | None = None,
    *,
    units: bool = True,
    batch: int | None = None,
) -> dict[int, npt.NDArray[np.float32]]:
    """Return the mean of a plan's contexts' hidden states, scaled to length 1, at each layer: float32 `[hidden]`.

    The sample is evenly spread over the planned sentences and depends on nothing but the plan, so a job that was
    killed during the estimate gets the same means again. Plans of up to `SAMPLE` contexts are used whole.

    Args:
        plan: made with this model's tokenizer.
        model: loaded at least as deep as the deepest layer.
        layers: the bank layers.
        progress: counts contexts of the sample.
        units: scale each hidden state to length 1 first; False: as earlier versions did, for their banks.
        batch: tokens in one forward pass; None: chosen by the device.

    Raises:
        ModelError: a hidden state is not finite.
    """
    progress = progress or Silent()
    progress.stage("centring", "contexts")
    share = min(1.0, SAMPLE / plan.contexts)
    sentences = plan.sample(math.ceil(plan.planned_sentences * share))
    sums = {layer: np.zeros(model.hidden_size) for layer in layers}
    count = 0
    for encoded in encode(model, plan.corpus, sentences, layers, batch=batch):
        for layer, states in encoded.states.items():
            sums[layer] += (unit(states) if units else states).sum(axis=0, dtype=np.float64)
        count += len(encoded.ids)
        progress.update(count, max(count, round(plan.contexts * share)))
    return {layer: (total / count).astype(np.float32) for layer, total in sums.items()}
