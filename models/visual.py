"""Any model that sees, by one name: a VLM of transformers, one put together here, or the demo's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.vision_language import VisualModel


def load_visual_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    deepest_layer: int | Callable[[int], int] | None = None,
    trust_remote_code: bool = False,
) -> VisualModel:
    """Load a model whose visual tokens can be read.

    Args:
        name: hub id or directory of an image-text-to-text model, a projector's .safetensors file (with its encoder
            and LLM, which its card names), or `demo`.
        device: as for `load_language_model`.
        dtype: as for `load_language_model`; the demo's is float32.
        revision: branch, tag or commit on the hub.
        deepest_layer: as for `load_language_model`.
        trust_remote_code: run the Python code that comes with the model. Only for authors you trust.

    Raises:
        ModelError: it cannot be loaded, or takes no images.
        LayerNotFound: `deepest_layer` is none of the model's layers.
    """
    if name == "demo":
        from models.demo import load_demo

        return load_demo(device=device, deepest_layer=deepest_layer)
    if name.endswith(".safetensors"):
        from models.composite import load_composite

        return load_composite(name, device=device, dtype=dtype, deepest_layer=deepest_layer)
    from models.vision_language import load_vision_language_model

    return load_vision_language_model(
        name,
        device=device,
        dtype=dtype,
        revision=revision,
        deepest_layer=deepest_layer,
        trust_remote_code=trust_remote_code,
    )
