"""Prefix packing: sentences that share prefixes in one row, and whether a model supports it.

A row holds the nodes of one or more prefix trees. Each token attends to its ancestors and itself, and its position is
its depth, so its hidden state is the one it has in its sentence.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from latentbank.models.language.layout import setting
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel

# How far a packed hidden state may be from the plain one: 1 - cosine, and the relative error of the norm. Half
# precision rounds differently when shapes differ: after SmolLM2's 30 layers by 6e-6 and 2e-3 in float16, by 4e-4 and
# 2e-2 in bfloat16. Wrong masks or positions give 5e-2 and more.
_AGREE = {torch.float32: (1e-5, 1e-3), torch.float16: (1e-3, 5e-2), torch.bfloat16: (1e-2, 2e-1)}


@dataclass(frozen=True)
class Tree:
    """A row of prefix trees: token ids and parents (-1: a root) of the nodes, parents first."""

    ids: list[int]
    parents: list[int]

    def path(self, node: int) -> list[int]:
        """Return the nodes from the root to `node`, inclusive."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def leaves(self) -> list[int]:
        """Return the nodes without children."""
        return sorted(set(range(len(self.ids))) - set(self.parents))


def obstacle(decoder: PreTrainedModel) -> str | None:
    """Return why a decoder cannot run prefix-packed rows, or None if it may be able to."""
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return "it takes no position ids"
    if decoder.config._attn_implementation not in ("sdpa", "eager"):
        return f"its attention ({decoder.config._attn_implementation}) takes no custom mask"
    unknown = _kinds(decoder.config) - {"full_attention", "sliding_attention"}
    return f"it has {listed(sorted(unknown))} layers" if unknown else None


def masks(
    config: PretrainedConfig, dtype: torch.dtype, positions: Tensor, visible: Tensor
) -> Tensor | dict[str, Tensor]:
    """Return the `attention_mask` of a decoder for prefix-packed rows.

    Args:
        config: the decoder's configuration.
        dtype: the decoder's dtype.
        positions: depth of each token in its tree, [rows, n] long.
        visible: whether query i attends to key j, [rows, n, n] bool.

    Returns:
        One mask [rows, 1, n, n] if all blocks attend in the same way, otherwise one for each kind of block. It is
        boolean for SDPA and additive for eager attention.
    """
    by_kind = {"full_attention": visible}
    kinds = _kinds(config)
    if "sliding_attention" in kinds:
        distance = positions[:, :, None] - positions[:, None, :]
        by_kind["sliding_attention"] = visible & (distance < config.sliding_window)
    ready = {kind: _in_attention_format(mask[:, None], config, dtype) for kind, mask in by_kind.items()}
    return ready if len(kinds) > 1 else ready[next(iter(kinds))]


def trial_row(config: PretrainedConfig, vocab_size: int, max_length: int) -> Tree:
    """Return two small prefix trees of random ids with several branches, deeper than a small sliding window."""
    window = setting(config, "sliding_window") or 0
    depth = min(max(24, window + 8 if window <= 64 else 0), max_length)
    generator = torch.Generator().manual_seed(0)
    ids: list[int] = []
    parents: list[int] = []

    def grow(parent: int, length: int) -> int:
        for _ in range(length):
            ids.append(int(torch.randint(vocab_size, (), generator=generator)))
            parents.append(parent)
            parent = len(ids) - 1
        return parent

    third = max(1, depth // 3)
    trunk = grow(-1, third)
    for _ in range(2):
        fork = grow(trunk, third)
        for _ in range(2):
            grow(fork, depth - 2 * third)
    second = grow(-1, third)
    for _ in range(2):
        grow(second, depth - third)
    return Tree(ids, parents)


def tensors(tree: Tree, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return `input_ids` [1, n] long, `positions` [1, n] long and `visible` [1, n, n] bool of one row."""
    visible = torch.from_numpy(ancestors(tree.parents))[None]
    positions = visible.sum(dim=-1) - 1
    return torch.tensor([tree.ids], device=device), positions.to(device), visible.to(device)


def ancestors(parents: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Return for each node which nodes are its ancestors or itself, [nodes, nodes] bool.

    Args:
        parents: each node's parent (-1: a root), parents first.
    """
    related = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            related[node, : parent + 1] = related[parent, : parent + 1]
    return related


def try_packing(model: LanguageModel) -> str | None:
    """Return how the hidden states of a small packed row differ from the plain ones, or None if they agree."""
    tree = trial_row(model.decoder.config, model.vocab_size, model.max_length)
    paths = [tree.path(leaf) for leaf in tree.leaves()]
    deepest = model.loaded_layers
    plain = model.hidden_states([[tree.ids[node] for node in path] for path in paths], [deepest])
    try:
        row = tensors(tree, model.device)
        packed = model.packed_hidden_states(*row, [deepest])[deepest][0]
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError) as error:
        return f"it takes no custom mask, {type(error).__name__}"
    return difference(
        torch.cat([packed[path] for path in paths]), torch.cat([states[deepest] for states in plain])
    )


def difference(packed: Tensor, plain: Tensor) -> str | None:
    """Return how packed hidden states [tokens, hidden] differ from plain ones, or None if they agree."""
    a, b = packed.cpu().double(), plain.cpu().double()  # Apple's GPU has no float64
    far = float((1 - torch.cosine_similarity(a, b, dim=-1)).max())
    longer = float(((a.norm(dim=-1) / b.norm(dim=-1)) - 1).abs().max())
    turned, stretched = _AGREE.get(plain.dtype, _AGREE[torch.float32])
    if far < turned and longer < stretched:  # not so for NaN
        return None
    return f"packed hidden states differ from the plain ones, 1 - cosine {far:.1e}, norm off by {longer:.1e}"


def _kinds(config: PretrainedConfig) -> set[str]:
    """Return the kinds of attention of the decoder's blocks."""
    kinds = setting(config, "layer_types")
    if kinds:
        return set(kinds)
    return {"sliding_attention" if setting(config, "sliding_window") else "full_attention"}


def _in_attention_format(mask: Tensor, config: PretrainedConfig, dtype: torch.dtype) -> Tensor:
    if config._attn_implementation != "eager":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(dtype).min
    )
