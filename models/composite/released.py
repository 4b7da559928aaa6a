"""What the configuration of a connector says that the authors of LatentLens released (arXiv 2602.00462).

Their models are Molmo's (arXiv 2409.17146) with one picture and one projector. Names on the left are those of their
`config.yaml`; what they mean was read in their model's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from latentbank.errors import ModelError
from latentbank.models.composite.layout import ImageTokens
from latentbank.models.vision.pictures import PADDED, SQUEEZED, Pictures
from latentbank.text import listed

# Encoders and LLMs by the last part of the path of their converted weights.
_VISION = {
    "vit-l-14-336": "openai/clip-vit-large-patch14-336",
    "dinov2-large-336": "facebook/dinov2-large",
    "siglip-so400m-14-384": "google/siglip-so400m-patch14-384",
}
_LLMS = {
    "olmo-1024-preview": "allenai/OLMo-7B-1024-preview",
    "llama3-8b": "meta-llama/Meta-Llama-3-8B",
    "qwen2-7b": "Qwen/Qwen2-7B",
}
# How `resize_mode` fits an image into the square: fit, filter, antialias.
_FITS = {
    "default": (PADDED, "bilinear", True),
    "torch-bilinear": (PADDED, "bilinear", True),
    "siglip": (SQUEEZED, "bilinear", False),
    "dino": (SQUEEZED, "bicubic", True),
    "metaclip": (SQUEEZED, "bicubic", True),
}
_HALF = (0.5, 0.5, 0.5)
# Mean and standard deviation of colours, by `image_model_type`: CLIP's, SigLIP's and ImageNet's.
_COLOURS = {
    "openai": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": (_HALF, _HALF),
    "dino": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# What a connector must have to be the kind that is read here; other values stand in configurations of other models.
_MODEL = {
    "crop_mode": "resize",
    "image_pooling_2d": "none",
    "image_pooling_h": 1,
    "image_pooling_w": 1,
    "image_projector": "mlp",
    "image_padding_embed": "pad_and_partial_pad",
    "normalize_input_embeds": False,
    "pad_tokenizer": True,
    "pad_value": 0,
    "remove_black_pads": False,
    "message_formatting": "none",
    "prompt_type": "none",
}
_DEFAULTS: dict[str, Any] = {"remove_black_pads": False, "pad_value": 0, "pad_tokenizer": True}
_ACTIVATIONS = ("swiglu", "llama_swiglu")  # the projector's is SwiGLU with both


@dataclass(frozen=True)
class Released:
    """A connector's configuration.

    Attributes:
        vision: hub id of the vision encoder; "" if it is not one of the paper's.
        llm: hub id of the LLM; "" if it is not one of the paper's.
        layers: the encoder's layers in the order of their features, counted as transformers' `hidden_states` are.
        features: width of one layer of the encoder.
        width: width of the SwiGLU.
        hidden_size: width of the LLM's input embedding.
        added: number of tokens with embeddings of the connector's own.
        pictures: how images become the encoder's input.
        tokens: what marks an image in the input sequence.
        prompt: what stands between the image and a caption.
    """

    vision: str
    llm: str
    layers: tuple[int, ...]
    features: int
    width: int
    hidden_size: int
    added: int
    pictures: Pictures
    tokens: ImageTokens
    prompt: str


def read_config(path: Path) -> Released:
    """Read a connector's `config.yaml`.

    Raises:
        ModelError: it cannot be read, or describes another kind of model.
    """
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ModelError(f"{path} cannot be read as YAML: download it again.") from error
    try:
        return _released(config, path)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} is not the configuration of a connector of LatentLens ({type(error).__name__}: {error}): give the "
            "folder that the authors released."
        ) from error


def _released(config: Mapping[str, Any], path: Path) -> Released:
    model, vision = config["model"], config["model"]["vision_backbone"]
    for key in ("ft_llm", "ft_vit"):
        if config.get(key):
            part = "LLM" if key == "ft_llm" else "encoder"
            raise ModelError(f"The {part} of {path} was trained too, so a connector alone is not its model.")
    for key, value in _MODEL.items():
        _check(path, key, model.get(key, _DEFAULTS.get(key)), value)
    _check(path, "activation_type", model["activation_type"], *_ACTIVATIONS)
    _check(path, "image_model_type", vision["image_model_type"], *_COLOURS)
    _check(path, "resize_mode", vision.get("resize_mode", "default"), *_FITS)
    side, *others = {int(pixels) for pixels in vision["image_default_input_size"]}
    if others:
        raise ModelError(f"{path} has pictures that are not square, which no encoder here takes.")
    fit, kernel, antialias = _FITS[vision.get("resize_mode", "default")]
    mean, std = _COLOURS[vision["image_model_type"]]
    wide = model.get("mlp_hidden_size") or model["mlp_ratio"] * model["d_model"]
    return Released(
        vision=_VISION.get(_stem(model.get("vit_load_path")), ""),
        llm=_LLMS.get(_stem(model.get("llm_load_path")), ""),
        layers=_layers(model, vision["image_num_layers"]),
        features=int(vision["image_emb_dim"]),
        width=int(wide) // 2,
        hidden_size=int(model["d_model"]),
        added=int(model["additional_vocab_size"]),
        pictures=Pictures(side, fit, kernel, antialias, mean, std),
        tokens=_tokens(model),
        prompt=_prompt(config, path),
    )


def _check(path: Path, key: str, value: Any, *allowed: Any) -> None:
    if value not in allowed:
        raise ModelError(
            f"{path} has the {key} {value}, but only connectors with {listed(allowed)} are read: import one of the "
            "paper's."
        )


def _stem(path: str | None) -> str:
    """Return the last part of a path of any system without its ending."""
    return PureWindowsPath(path or "").stem


def _layers(model: Mapping[str, Any], kept: int) -> tuple[int, ...]:
    """Return the encoder's layers as transformers counts them: 0 enters the first block.

    `vit_layers` counts the outputs of the blocks that are kept, of CLIP 23 of 24, from 0 or back from -1.
    """
    one = model.get("vit_intermediate_layer")
    chosen = model["vit_layers"] if one is None else [one]
    return tuple(1 + (layer if layer >= 0 else kept + layer) for layer in map(int, chosen))


def _tokens(model: Mapping[str, Any]) -> ImageTokens:
    """Return the image tokens: they follow the last token of the vocabulary, in this order.

    Their embeddings are looked up in the LLM's rows and, after these, the connector's. OLMo's vocabulary has fewer
    tokens than the LLM has rows, so OLMo's image tokens have rows of the LLM that no text uses.
    """
    first = int(model["vocab_size"])
    return ImageTokens(
        start=first,
        end=first + 1,
        patch=first + 2,
        column=first + 3 if model["use_col_tokens"] else None,
        first_added=int(model.get("embedding_size") or first),
    )


def _prompt(config: Mapping[str, Any], path: Path) -> str:
    """Return the prompt of a caption: the style, and the length that is asked for where none is given."""
    model = config["model"]
    kind, length = model["system_prompt_kind"], model.get("default_inference_len")
    _check(path, "system_prompt_kind", kind, "style_and_length", "style", "none")
    if kind == "none":
        return " " if model.get("always_start_with_space", True) else ""
    if kind == "style":
        return "long_caption:"
    return f"long_caption {'' if length is None else length}:"
