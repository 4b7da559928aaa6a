"""Whether hidden states of a visual model can be compared with others, and what to do where they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from latentbank.errors import ModelError

if TYPE_CHECKING:
    import torch


def check_directions(by_layer: Mapping[int, torch.Tensor], what: str, model: str) -> None:
    """Check that hidden states `[tokens, hidden]` by layer have directions.

    Args:
        by_layer: the hidden states.
        what: what they are of, for the message.
        model: the model's name.

    Raises:
        ModelError: one is not finite, or all zeros; the message names layer and dtype.
    """
    for layer, states in by_layer.items():
        if not states.isfinite().all():
            raise overflow_error(model, layer, what, states.dtype)
        if not states.any(dim=-1).all():
            raise ModelError(
                f"Layer {layer} of {model} gives {what}, one of which is all zeros: it has no direction to read; "
                "leave out that image or that layer."
            )


def overflow_error(model: str, layer: int, what: str, dtype: torch.dtype) -> ModelError:
    """Return the error for hidden states of a layer that the dtype cannot hold."""
    return ModelError(
        f"Layer {layer} of {model} gives {what} that are not finite in {dtype_name(dtype)}: load it in "
        f"{wider_dtypes(dtype)}.",
        argument="dtype",
    )


def wider_dtypes(dtype: torch.dtype) -> str:
    """Return the names of the dtypes whose range is larger than this one's."""
    return "bfloat16 or float32" if dtype_name(dtype) == "float16" else "float32"


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name, such as float32."""
    return str(dtype).removeprefix("torch.")
