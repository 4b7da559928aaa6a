"""Layers of an LLM: those it has, and by name those that the LatentLens paper (arXiv 2602.00462) compares."""

from __future__ import annotations

from collections.abc import Iterable

from latentbank.errors import LayerNotFound
from latentbank.text import listed

PAPER = "paper"
"""What stands for the paper's layers, wherever layers can be named."""
ALL = "all"
"""What stands for all visual layers, from the LLM's input on."""
NAMED_BANK_LAYERS = ("mid", ALL, PAPER)
"""What can stand for layers of a bank, in place of numbers."""


def require_layers(name: str, layers: Iterable[int], num_layers: int) -> None:
    """Check that an LLM has layers: 0, its input, to `num_layers`. Negative numbers do not count from the end.

    Args:
        name: what the message calls the LLM.
        layers: the layers asked for.
        num_layers: the number of blocks of the whole LLM.

    Raises:
        LayerNotFound: it lacks some.
    """
    if missing := [layer for layer in layers if not 0 <= layer <= num_layers]:
        raise LayerNotFound(f"{name} has no layer {listed(missing)}: it has layers 0 to {num_layers}.")


def paper_layers(num_layers: int) -> list[int]:
    """Return the bank layers of the paper: 1, 2, 4, 8, 16, 24, n - 2 and n - 1, as far as an LLM has them.

    Args:
        num_layers: n, the number of blocks of the whole LLM.
    """
    return sorted(
        {layer for layer in (1, 2, 4, 8, 16, 24, num_layers - 2, num_layers - 1) if 0 < layer < num_layers}
    )


def paper_visual_layers(num_layers: int) -> list[int]:
    """Return the visual layers of the paper: the LLM's input, 0, and its bank layers.

    Args:
        num_layers: the number of blocks of the whole LLM.
    """
    return [0, *paper_layers(num_layers)]


def all_visual_layers(num_layers: int) -> list[int]:
    """Return all visual layers of an LLM, from its input on.

    Args:
        num_layers: the number of blocks of the whole LLM.
    """
    return list(range(num_layers + 1))
