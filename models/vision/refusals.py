"""Models whose visual tokens cannot be read, and why."""

from __future__ import annotations

from latentbank.errors import ModelError
from latentbank.models.language.layout import has_eyes, text_config
from latentbank.models.language.loading import ModelFiles

_CROSS_ATTENTION = (
    "its LLM looks at images through cross-attention, so none of the tokens in its sequence is visual"
)
_QUERIES = "its processor puts the image's tokens before every prompt, which latentbank does not follow"
_BECAUSE = {
    "mllama": _CROSS_ATTENTION,
    "idefics": _CROSS_ATTENTION,
    "blip": _CROSS_ATTENTION,
    "blip-2": _QUERIES,
    "instructblip": _QUERIES,
    "instructblipvideo": _QUERIES,
}
_EARS = ("audio_config", "num_mel_bins", "audio_token_id", "audio_token_index", "speech_config")


def check_takes_images(files: ModelFiles) -> None:
    """Check that a model's visual tokens can be read, before its weights are.

    Raises:
        ModelError: they cannot; the message says why.
    """
    name, config = files.name, files.config
    kind = config.model_type
    because = _BECAUSE.get(kind)
    if because is None and getattr(text_config(config), "cross_attention_layers", None):
        because = _CROSS_ATTENTION
    if because is not None:
        raise ModelError(
            f"The visual tokens of {name} (its type is {kind}) cannot be read: {because}. Use a model that puts them "
            "into the LLM's sequence, such as LLaVA, Qwen-VL or InternVL."
        )
    if files.takes_images:
        return
    if has_eyes(config):
        raise ModelError(
            f"{name} (its type is {kind}) takes images, but neither transformers nor the model's own code has a class "
            "that latentbank can load it with: update transformers, or use another model."
        )
    hears = any(getattr(config, name, None) is not None for name in _EARS)
    sound = "it takes sound and text, no images" if hears else "it takes text alone, no images"
    raise ModelError(f"{name} is not a vision-language model (its type is {kind}): {sound}.")
