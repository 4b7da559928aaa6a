"""Collecting hidden states during a forward pass that ends after the deepest layer asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from latentbank.errors import LayerNotFound
from latentbank.layers import require_layers
from latentbank.values import Layers, layers_of


class _DeepEnough(Exception):
    """Raised in a hook to end a forward pass once the deepest layer is collected."""


def check_layers(name: str, layers: Layers, num_layers: int, deepest: int) -> list[int]:
    """Return layers in ascending order, each once.

    Args:
        name: the model's name.
        layers: the layers asked for.
        num_layers: number of layers of the whole LLM.
        deepest: the deepest layer that can be collected from the part that is loaded.

    Raises:
        LayerNotFound: the model does not have a layer, or the layer is not loaded.
    """
    requested = sorted(layers_of(layers))
    require_layers(name, requested, num_layers)
    for layer in requested:
        if layer > deepest:
            raise LayerNotFound(
                f"Layer {layer} of {name} is not loaded, only 0 to {deepest}: "
                f"load it with deepest_layer={layer}."
            )
    return requested


@contextlib.contextmanager
def collecting(blocks: nn.ModuleList, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect hidden states during the forward pass in the `with` block, and end it after the deepest layer.

    Args:
        blocks: the decoder's blocks that are loaded.
        layers: in ascending order, at least one: layer l is what enters block l+1, the last one the output of the last
            block.

    Yields:
        The hidden states by layer; filled when the block ends.
    """
    states: dict[int, Tensor] = {}

    def keep(reached: int, state: Tensor) -> None:
        # A block may be skipped, as Mllama's cross-attention is without an image: then nothing entered it, and the next
        # block gets what it would have got.
        states.update({layer: state for layer in layers if layer <= reached and layer not in states})
        if layers[-1] in states:
            raise _DeepEnough

    def entering(layer: int) -> Any:
        def hook(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(layer, args[0] if args else kwargs["hidden_states"])

        return hook

    left: dict[str, Tensor] = {}

    def leaving(block: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        left["last"] = output if isinstance(output, Tensor) else output[0]
        if block is blocks[-1]:
            keep(len(blocks), left["last"])

    handles = [
        block.register_forward_pre_hook(entering(layer), with_kwargs=True)
        for layer, block in enumerate(blocks)
        if layer >= layers[0]
    ]
    handles += [block.register_forward_hook(leaving) for block in blocks]
    try:
        yield states
        if left:  # the forward pass came to its end: the last blocks were skipped
            keep(len(blocks), left["last"])
    except _DeepEnough:
        pass
    finally:
        for handle in handles:
            handle.remove()
