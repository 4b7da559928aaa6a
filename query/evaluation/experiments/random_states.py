"""The control of model comparisons: the same contexts in an LLM of the same sizes with random weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from latentbank.bank.bank import Bank
from latentbank.bank.points import Neighbor, context_id
from latentbank.bank.rotation import unit
from latentbank.errors import ModelError
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress
from latentbank.query.evaluation.experiments.similarity import Floats
from latentbank.query.reading.text import planned_with_bos

_TOKENS = 1024  # of one forward pass, about


def with_random_weights(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """Return an LLM of the same class, sizes and tokenizer whose weights are drawn as its class begins a training."""
    decoder: Any = model.decoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = type(decoder)(copy.deepcopy(decoder.config)).to(model.dtype).to(model.device).eval()
    return LanguageModel(f"{model.name}, random weights", drawn, model.tokenizer, num_layers=model.num_layers)


def context_states(
    model: LanguageModel, bank: Bank, contexts: Sequence[Neighbor], layers: Sequence[int], progress: Progress
) -> Mapping[int, Floats]:
    """Return the directions of contexts in a model, by layer `[contexts, hidden]` float32, of length 1.

    Args:
        model: a model with the tokenizer of the bank's LLM.
        bank: the bank that the contexts are of.
        contexts: the contexts, with their captions and the names that their corpora are stored under.
        layers: the layers.
        progress: counts the contexts.

    Raises:
        ModelError: the tokenizer gives other tokens than the bank was filled with.
    """
    always = planned_with_bos(bank)
    prefixes = [model.encode(one.caption, always_bos=always)[: one.position + 1] for one in contexts]
    for one, ids in zip(contexts, prefixes, strict=True):
        if not ids or context_id(one.corpus, ids) != one.id:
            raise ModelError(
                f"The tokenizer of {model.name} gives other tokens for {one.caption!r} than the bank '{bank.name}' "
                "was filled with; name the bank's own LLM, or leave the control out.",
                argument="random",
            )
    found = {layer: np.empty((len(contexts), model.hidden_size), np.float32) for layer in layers}
    order = sorted(range(len(contexts)), key=lambda row: len(prefixes[row]))
    done = 0
    while done < len(order):
        rows = order[done : done + max(1, _TOKENS // len(prefixes[order[done]]))]
        for row, states in zip(
            rows, model.hidden_states([prefixes[row] for row in rows], layers), strict=True
        ):
            for layer in layers:
                found[layer][row] = states[layer][-1].float().cpu().numpy()
        done += len(rows)
        progress.update(done, len(order))
    return {layer: unit(rows) for layer, rows in found.items()}
