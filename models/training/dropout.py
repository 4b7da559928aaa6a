"""Dropout on what a language model's blocks add to the residual stream, at the positions that predict the caption.

The models of the LatentLens paper are trained with it (`response_residual_dropout` of their configuration, 0.1), also
where the LLM is frozen: the projector then cannot rely on a few of the LLM's directions. Visual tokens, prompt and
weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentbank.errors import ModelError
from latentbank.models.language.layout import find_blocks
from latentbank.models.language.model import LanguageModel

# The two modules of a block whose outputs it adds to the residual stream. Blocks that normalize the outputs (OLMo 2,
# Gemma 2) come first: others have modules of the second kind, too.
_BRANCHES = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
    ("self_attn", "mlp"),
    ("self_attn", "feed_forward"),
    ("self_attn", "block_sparse_moe"),
    ("attn", "mlp"),
    ("attention", "mlp"),
    ("self_attention", "mlp"),
)


class ResponseDropout:
    """Dropout in the blocks of one LLM, active inside `on`."""

    def __init__(self, language: LanguageModel, share: float) -> None:
        """Find the modules whose outputs are added to the residual stream.

        Args:
            language: the LLM, loaded whole.
            share: share of the values that are set to zero; the others are divided by 1 - `share`.

        Raises:
            ModelError: the LLM's blocks add something else than the outputs of two modules.
        """
        self.share = share
        self._modules = _branches(language)

    @contextmanager
    def on(self, rows: Tensor, positions: Tensor, seeds: Sequence[Sequence[int]]) -> Iterator[None]:
        """Drop values in the forward passes of the block.

        Args:
            rows: row of each position that predicts a token of the caption, [targets] long, in ascending order.
            positions: those positions, [targets] long.
            seeds: numbers for each row that its random values depend on, and on nothing else: neither on the other rows
                nor on how the rows of a step are divided.
        """
        counts = torch.bincount(rows, minlength=len(seeds)).tolist()
        generators = [
            torch.Generator(rows.device).manual_seed(_seed(numbers)) if count else None
            for numbers, count in zip(seeds, counts, strict=True)
        ]

        def dropped(_module: nn.Module, _args: Any, output: Any) -> Any:
            state = output if isinstance(output, Tensor) else output[0]
            kept = torch.cat(
                [
                    torch.rand(count, state.shape[-1], generator=generator, device=rows.device)
                    for count, generator in zip(counts, generators, strict=True)
                    if generator is not None
                ]
            )
            factor = torch.ones_like(state)
            factor[rows, positions] = ((kept >= self.share) / (1 - self.share)).to(state.dtype)
            return state * factor if isinstance(output, Tensor) else (state * factor, *output[1:])

        with _hooked(self._modules, dropped):
            yield


def _seed(numbers: Sequence[int]) -> int:
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0] >> 1)


def _branches(language: LanguageModel) -> list[nn.Module]:
    """Return the modules whose outputs the blocks add to the residual stream.

    They are known by their names, and tried: with zeros in the place of their outputs, the blocks change nothing.
    """
    blocks = find_blocks(language.decoder)
    for names in _BRANCHES:
        if all(isinstance(getattr(block, name, None), nn.Module) for block in blocks for name in names):
            modules = [getattr(block, name) for block in blocks for name in names]
            if _add_all(language, modules):
                return modules
    raise ModelError(
        f"The blocks of {language.name} add to the residual stream in a way that dropout does not know: train without "
        "dropout."
    )


def _add_all(language: LanguageModel, modules: Sequence[nn.Module]) -> bool:
    """Return whether the blocks pass on what they get if these modules put out zeros."""

    def nothing(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return torch.zeros_like(output)
        return (torch.zeros_like(output[0]), *output[1:])

    ids = [token % language.vocab_size for token in range(11, 15)]
    deepest = language.num_layers
    with _hooked(modules, nothing):
        states = language.hidden_states([ids], [0, deepest])[0]
    return bool(torch.equal(states[0], states[deepest]))


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield
