"""Running an LLM on a prompt with hidden states of one token replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentbank.errors import ModelError
from latentbank.models.language import packing
from latentbank.models.language.layout import find_blocks

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel

IDENTITY = "cat -> cat; 1135 -> 1135; hello -> hello; ? ->"
"""A prompt that makes an LLM repeat a word (after Ghandeharioun et al. 2024); the place to fill is the `?`."""
_AT_ONCE = 2048  # tokens in one forward pass
_PACKED = 512  # tokens in one row: attention takes memory with their square


class Patched:
    """An LLM on a prompt, into which hidden states are put.

    Where the LLM packs prefixes, the tokens before the place are run once for many hidden states.

    Attributes:
        language: the LLM, loaded whole.
        prompt: the prompt's token ids.
        place: the token whose hidden state is replaced.
    """

    def __init__(self, language: LanguageModel, prompt: str = IDENTITY, mark: str = "?") -> None:
        """Find the place in a prompt.

        Args:
            language: the LLM.
            prompt: the text.
            mark: the place is the last token with this text in it.

        Raises:
            ModelError: only part of the LLM is loaded, or the mark shares its token with something else.
        """
        if language.loaded_layers < language.num_layers:
            raise ModelError(
                f"{language.name} is loaded in part, {language.loaded_layers} of its {language.num_layers} layers, so "
                "it cannot run on from a hidden state: load it without deepest_layer."
            )
        self.language = language
        self.prompt = language.encode(prompt)
        start = prompt.rindex(mark)
        spans = language.spans(prompt)
        self.place = next(at for at, (low, high) in enumerate(spans) if low <= start < high)
        if prompt[slice(*spans[self.place])].strip() != mark:
            raise ModelError(
                f"{language.name} has no token of its own for {mark!r}, so nothing can be put there."
            )

    def outputs(self, states: Tensor, layer: int) -> Tensor:
        """Return the last block's output for each hidden state [n, hidden] of a layer: at its place, and at the end.

        A hidden state of the last layer reaches no other token: it alone is returned.

        Returns:
            [n, 2, hidden] in the model's dtype, before the final norm; [n, 1, hidden] for the last layer.
        """
        if layer == self.language.num_layers:
            return states[:, None]
        size = self._states_at_once()
        parts = [self._run(states[at : at + size], layer) for at in range(0, len(states), size)]
        return torch.cat(parts)

    def _states_at_once(self) -> int:
        if self.language.packs:
            most = min(_PACKED, self.language.max_length)
            return max(1, (most - self.place) // (len(self.prompt) - self.place))
        return max(1, _AT_ONCE // len(self.prompt))

    def _run(self, states: Tensor, layer: int) -> Tensor:
        count, length = len(states), len(self.prompt)
        if self.language.packs:
            tree, places, ends = self._tree(count)
            inputs = packing.tensors(tree, self.language.device)
            at = (torch.zeros(count, dtype=torch.long), torch.tensor(places))

            def forward() -> dict[int, Tensor]:
                return self.language.packed_hidden_states(*inputs, [self.language.num_layers])

            last = (torch.zeros(count, dtype=torch.long), torch.tensor(ends))
        else:
            ids = torch.tensor([self.prompt] * count)
            at = (torch.arange(count), torch.full((count,), self.place))

            def forward() -> dict[int, Tensor]:
                return self.language.hidden_states_of(ids, torch.ones_like(ids), [self.language.num_layers])

            last = (torch.arange(count), torch.full((count,), length - 1))
        with replaced(find_blocks(self.language.decoder)[layer], states, at):
            found = forward()[self.language.num_layers]
        return torch.stack([found[at], found[last]], dim=1)

    def _tree(self, count: int) -> tuple[packing.Tree, list[int], list[int]]:
        """Return the tree of the prompt with as many ends as there are states, their places and their last tokens."""
        before, after = self.prompt[: self.place], self.prompt[self.place :]
        ids, parents = list(before), [at - 1 for at in range(len(before))]
        places, ends = [], []
        for _ in range(count):
            parent = len(before) - 1
            places.append(len(ids))
            for token in after:
                ids.append(token)
                parents.append(parent)
                parent = len(ids) - 1
            ends.append(parent)
        return packing.Tree(ids, parents), places, ends


class replaced:
    """While the block runs: hidden states that enter a block are replaced at some positions."""

    def __init__(self, block: nn.Module, states: Tensor, at: tuple[Tensor, Tensor]) -> None:
        self._block, self._states, self._at = block, states, at

    def __enter__(self) -> None:
        self._handle = self._block.register_forward_pre_hook(self._put, with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _put(self, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        entering = args[0] if args else kwargs["hidden_states"]
        changed = entering.clone()
        changed[self._at] = self._states.to(entering)
        if args:
            return (changed, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": changed}
