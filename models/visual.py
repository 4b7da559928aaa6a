"""Any model that sees, by one name: a VLM of transformers, one put together here, or the demo's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from latentbank.errors import ModelError

if TYPE_CHECKING:
    from latentbank.models.language.unembedding import Unembedding
    from latentbank.models.vision.vision_language import VisualModel


def load_visual_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    deepest_layer: int | Callable[[int], int] | None = None,
    trust_remote_code: bool = False,
    folder: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> VisualModel:
    """Load a model whose visual tokens can be read.

    Args:
        name: hub id or directory of an image-text-to-text model, a projector's .safetensors file (its encoder and
            LLM are loaded too, by the names in its card), or `demo`.
        device: as for `load_language_model`.
        dtype: as for `load_language_model`; the demo's is float32.
        revision: branch, tag or commit on the hub.
        deepest_layer: as for `load_language_model`.
        trust_remote_code: run the Python code that comes with the model. Only for authors you trust.
        folder: where the demo's LLM is kept once it was converted from its GGUF, for faster loads later; None: nowhere.
            Other models take none.
        say: told of what takes long, before it begins.

    Raises:
        ModelError: it cannot be loaded, or takes no images.
        LayerNotFound: `deepest_layer` is none of the model's layers.
    """
    demo = partial(
        _load_demo, device=device, dtype=dtype, deepest_layer=deepest_layer, folder=folder, say=say
    )
    if name == "demo":
        from latentbank.demo.vlm import PROJECTOR

        return demo(PROJECTOR)
    if name.endswith(".safetensors"):
        return _load_composite(name, device, dtype, deepest_layer, trust_remote_code, demo)
    from latentbank.models.vision.vision_language import load_vision_language_model

    return load_vision_language_model(
        name,
        device=device,
        dtype=dtype,
        revision=revision,
        deepest_layer=deepest_layer,
        trust_remote_code=trust_remote_code,
    )


def unembedding_of(model: VisualModel) -> Unembedding:
    """Give the unembedding of the LLM inside a model that sees, for LogitLens.

    It shares what is loaded already. Only of a composite model whose LLM has an unembedding of its own, one not tied
    to its input embeddings, it is loaded, as a composite model keeps the LLM's decoder alone.

    Raises:
        ModelError: the LLM has none, or it cannot be loaded.
    """
    from latentbank.models.language.unembedding import unembedding_of_language
    from latentbank.models.vision.vision_language import VisionLanguageModel

    if isinstance(model, VisionLanguageModel):
        return model.unembedding()
    return unembedding_of_language(model.language)


def _load_demo(
    projector: str | Path,
    device: str | None,
    dtype: str | None,
    deepest_layer: int | Callable[[int], int] | None,
    folder: str | Path | None,
    say: Callable[[str], None] | None,
) -> VisualModel:
    from latentbank.demo.vlm import load_demo

    if dtype not in (None, "float32"):
        raise ModelError("The demo VLM runs in float32 only: leave --dtype out.")
    return load_demo(folder, projector=projector, device=device, deepest_layer=deepest_layer, say=say)


def _load_composite(
    path: str,
    device: str | None,
    dtype: str | None,
    deepest_layer: int | Callable[[int], int] | None,
    trust_remote_code: bool,
    demo: Callable[[str], VisualModel],
) -> VisualModel:
    """Load a projector's file and the encoder and the LLM that its card names."""
    from latentbank.demo.vlm import LANGUAGE_NAME
    from latentbank.models.composite.model import CompositeVLM
    from latentbank.models.composite.projector import load_projector
    from latentbank.models.language.model import load_language_model
    from latentbank.models.vision.encoders import DEFAULT_LAYER, load_encoder

    projector, card = load_projector(path)
    if not card.get("encoder") or not card.get("llm"):
        raise ModelError(f"The card of {path} names no encoder and LLM: train the projector with latentbank.")
    seen, llm = card["encoder"], card["llm"]
    if llm["name"] == LANGUAGE_NAME:  # from a wheel, like the demo's encoder
        return demo(path)
    encoder = load_encoder(
        seen["name"],
        layer=seen.get("layer", DEFAULT_LAYER),
        cls=seen.get("cls", False),
        device=device,
        dtype=dtype,
        revision=seen.get("revision"),
        trust_remote_code=trust_remote_code,
    )
    language = load_language_model(
        llm["name"],
        device=device,
        dtype=dtype,
        revision=llm.get("revision"),
        deepest_layer=deepest_layer,
        trust_remote_code=trust_remote_code,
    )
    return CompositeVLM(encoder, projector, language, card, path)
