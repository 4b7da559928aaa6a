"""Any model that sees, by one name: a VLM of transformers, one put together here, or the demo's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from latentbank_errors import ModelError

if TYPE_CHECKING:
    from models.language import LanguageModel
    from models.unembedding import Unembedding
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
        name: hub id or directory of an image-text-to-text model, a projector's .safetensors file (its encoder and
            LLM are loaded too, by the names in its card), or `demo`.
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
        return _load_composite(name, device, dtype, deepest_layer, trust_remote_code)
    from models.vision_language import load_vision_language_model

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
    from models.unembedding import Unembedding, load_unembedding
    from models.vision_language import VisionLanguageModel

    if isinstance(model, VisionLanguageModel):
        return model.unembedding()
    language = model.language
    if getattr(language.decoder.config, "tie_word_embeddings", False):
        return Unembedding(language.name, _with_head(language), language.lock)
    return load_unembedding(
        language.name, device=str(language.device), dtype=language.dtype, revision=language.revision
    )


def _with_head(language: LanguageModel) -> Any:
    """The whole causal LLM around a decoder, its unembedding tied to the input embeddings: nothing is copied."""
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM  # its functions have no types
    with torch.device("meta"):  # takes no memory
        whole = auto.from_config(language.decoder.config, dtype=language.dtype)
    setattr(whole, whole.base_model_prefix, language.decoder)
    whole.get_output_embeddings().weight = language.decoder.get_input_embeddings().weight
    return whole.eval()


def _load_composite(
    path: str,
    device: str | None,
    dtype: str | None,
    deepest_layer: int | Callable[[int], int] | None,
    trust_remote_code: bool,
) -> VisualModel:
    """Load a projector's file and the encoder and the LLM that its card names."""
    from models.composite import CompositeVLM
    from models.demo import LANGUAGE_NAME, load_demo
    from models.encoders import DEFAULT_LAYER, load_encoder
    from models.language import load_language_model
    from models.projector import load_projector

    projector, card = load_projector(path)
    if not card.get("encoder") or not card.get("llm"):
        raise ModelError(f"The card of {path} names no encoder and LLM: train the projector with latentbank.")
    seen, llm = card["encoder"], card["llm"]
    if llm["name"] == LANGUAGE_NAME:  # from a wheel, like the demo's encoder
        return load_demo(projector=path, device=device, deepest_layer=deepest_layer)
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
    return CompositeVLM(encoder, projector, language, card)
