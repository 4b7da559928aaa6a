"""Changing hidden states, and what attention sees, inside a forward pass: one intervention for each row of a batch."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from latentbank.errors import ModelError

_ATTENDING = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True, eq=False)
class Intervention:
    """What is changed in one row of a batch.

    Attributes:
        positions: places in the sequence.
        first: the layer from which on it acts; layer l is what enters block l+1.
        last: the last layer at which hidden states are changed; None: up to what enters the last block.
        change: returns the new hidden states `[positions, hidden]` at a layer from that layer and the old ones; None:
            hidden states stay.
        cut: whether no other position attends to `positions` from the block that `first` enters on (attention knockout,
            as in arXiv 2304.14767).
    """

    positions: tuple[int, ...] = ()
    first: int = 0
    last: int | None = None
    change: Callable[[int, Tensor], Tensor] | None = None
    cut: bool = False

    def of_nothing(self) -> Intervention:
        """Return the same intervention at no position: it takes the same way through the code and changes nothing."""
        return replace(self, positions=())


NOTHING = Intervention()


@contextlib.contextmanager
def intervening(decoder: Any, blocks: nn.ModuleList, rows: Sequence[Intervention]) -> Iterator[None]:
    """Intervene in the forward passes that run in the `with` block, each with as many rows as there are interventions.

    Hidden states are changed in passes over whole sequences; steps of decoding after that keep what was changed in the
    cache of keys and values.

    Args:
        decoder: the decoder, whose configuration says which blocks attend.
        blocks: its blocks, all of them.
        rows: an intervention for each row.

    Raises:
        ModelError: attention is to be cut, and a block takes no mask that can be changed.
    """
    cutting = any(row.cut for row in rows)
    if cutting:
        _check_attends(decoder)
    handles = [
        block.register_forward_pre_hook(_Hook(layer, block, rows, cutting), with_kwargs=True, prepend=True)
        for layer, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Hook:
    """Changes what enters one block."""

    def __init__(self, layer: int, block: nn.Module, rows: Sequence[Intervention], cutting: bool) -> None:
        self.layer, self.rows, self.cutting = layer, rows, cutting
        self.names = list(inspect.signature(block.forward).parameters)

    def __call__(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        state = args[0] if args else kwargs["hidden_states"]
        if not isinstance(state, Tensor) or state.dim() != 3 or len(state) != len(self.rows):
            raise ModelError(
                f"The blocks of {type(block).__name__} do not get one residual stream for each sequence, so nothing "
                "can be changed in it: use another model."
            )
        if state.shape[1] == 1:  # a step of decoding: what was changed is in the cache
            return args, kwargs
        changed = self._changed(state)
        if args:
            args = (changed, *args[1:])
        else:
            kwargs = {**kwargs, "hidden_states": changed}
        return self._masked(args, kwargs, changed) if self.cutting else (args, kwargs)

    def _changed(self, state: Tensor) -> Tensor:
        """Return the hidden states with the changes of all rows; a copy also if nothing changes."""
        changed = state.clone()
        for number, row in enumerate(self.rows):
            if row.change is None or self.layer < row.first or not row.positions:
                continue
            if row.last is not None and self.layer > row.last:
                continue
            here = torch.tensor(row.positions, device=state.device)
            changed[number, here] = row.change(self.layer, state[number, here]).to(state)
        return changed

    def _masked(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], state: Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the block's arguments with a mask in which nothing attends to the cut positions but themselves."""
        if "attention_mask" not in self.names:
            raise _cannot_cut("its blocks take no attention mask")
        place = self.names.index("attention_mask")
        given = args[place] if place < len(args) else kwargs.get("attention_mask")
        mask = self._cut(given, state)
        if place < len(args):
            return (*args[:place], mask, *args[place + 1 :]), kwargs
        return args, {**kwargs, "attention_mask": mask}

    def _cut(self, mask: Any, state: Tensor) -> Tensor:
        count, length = state.shape[:2]
        if mask is None:  # causal, as attention does it without a mask
            mask = torch.ones(length, length, dtype=torch.bool, device=state.device).tril()[None, None]
        if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[-2:] != (length, length):
            raise _cannot_cut("its attention takes no mask of queries and keys")
        hidden = torch.zeros(count, 1, length, length, dtype=torch.bool, device=mask.device)
        for number, row in enumerate(self.rows):
            if row.cut and self.layer >= row.first and row.positions:
                here = torch.tensor(row.positions, device=mask.device)
                hidden[number, :, :, here] = True
                hidden[number, :, here, here] = (
                    False  # a token sees itself, so that no row of scores is empty
                )
        if mask.dtype == torch.bool:
            return mask & ~hidden
        return mask.masked_fill(hidden, torch.finfo(mask.dtype).min)


def _check_attends(decoder: Any) -> None:
    """Check that a decoder mixes positions by attention alone, with masks that can be changed."""
    kinds = getattr(decoder.config, "layer_types", None) or ()
    if other := sorted({str(kind) for kind in kinds} - set(_ATTENDING)):
        raise _cannot_cut(f"it mixes positions by {other[0]}, too")
    if (how := getattr(decoder.config, "_attn_implementation", "sdpa")) not in ("sdpa", "eager"):
        raise _cannot_cut(f"it runs attention by {how}")


def _cannot_cut(why: str) -> ModelError:
    return ModelError(
        f"Attention to single tokens cannot be cut in this model ({why}): replace their hidden states instead.",
        argument="by",
    )
