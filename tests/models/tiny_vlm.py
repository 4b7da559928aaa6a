"""Tiny random vision-language models of every family, with their real configuration, processor and model classes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, normalizers
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerFast

from tests.models.vision.molmo2 import PillowMolmo2ImageProcessor
from tests.tiny import tiny_tokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 3,
}
VIT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    """How to build a tiny model of one family.

    Attributes:
        classes: the prefix of transformers' configuration, processor and model classes.
        config: the configuration's settings; `TOKEN(x)` strings become the token's id.
        images: the image processor class and its settings.
        processor: what the processor class takes besides its parts.
        named: tokens that the tokenizer knows by name, such as `image_token`.
        tokens: other special tokens.
        shown: the text that stands for an image in a prompt, with the tokens around it.
        processor_class: of transformers, if it is not named as `classes` say.
        config_class: likewise.
        model_class: likewise.
        text_key: the configuration's key of the LLM's settings; empty if they stand at its top.
        prefix: what the tokenizer writes before a text that begins with `shown`, as SentencePiece does.
    """

    classes: str
    config: dict[str, Any]
    images: tuple[str, dict[str, Any]]
    shown: str = "<image>"
    processor: dict[str, Any] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    tokens: tuple[str, ...] = ("<image>",)
    processor_class: str | None = None
    config_class: str | None = None
    model_class: str | None = None
    text_key: str = "text_config"
    prefix: str = ""


def _qwen(version: str, **vision: Any) -> Family:
    return Family(
        classes=f"{version}",
        config={
            "text_config": {**TEXT, "head_dim": 8, "rope_parameters": _MROPE},
            "vision_config": {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
        },
        images=(
            "Qwen2VLImageProcessorPil",
            {"patch_size": 4, "size": {"shortest_edge": 256, "longest_edge": 4096}},
        ),
        tokens=("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
        shown="<|vision_start|><|image_pad|><|vision_end|>",
    )


def _idefics(classes: str) -> Family:
    return Family(
        classes=classes,
        config={
            **_LLAMA,
            "vision_config": {**VIT, "image_size": 24, "patch_size": 4},
            "image_token_id": "<image>",
            "scale_factor": 2,
        },
        images=(
            f"{classes}ImageProcessorPil",
            {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 24}},
        ),
        processor={"image_seq_len": 9},
        tokens=(
            "<image>",
            "<fake_token_around_image>",
            "<global-img>",
            "<end_of_utterance>",
            *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
        ),
    )


_LLAMA = {"text_config": {"model_type": "llama", **TEXT}}
_CLIP = {"model_type": "clip_vision_model", **VIT, "image_size": 24, "patch_size": 4}
_CLIP_IMAGES = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
_WITH_CLS = {
    "patch_size": 4,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
_PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
_MANY_PINPOINTS = [[26 * rows, 26 * columns] for rows in range(1, 7) for columns in range(1, 7)]

FAMILIES: dict[str, Family] = {
    "qwen2_vl": _qwen("Qwen2VL", depth=2, embed_dim=16, hidden_size=32, num_heads=2),
    "qwen2_5_vl": _qwen(
        "Qwen2_5_VL",
        depth=2,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        out_hidden_size=32,
        window_size=16,
        fullatt_block_indexes=[1],
    ),
    "qwen3_vl": _qwen(
        "Qwen3VL",
        depth=3,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        out_hidden_size=32,
        num_position_embeddings=64,
        deepstack_visual_indexes=[0, 1],
    ),
    "llava": Family(
        classes="Llava",
        config={**_LLAMA, "vision_config": _CLIP, "image_token_id": "<image>"},
        images=("CLIPImageProcessorPil", _CLIP_IMAGES),
        processor=_WITH_CLS,
    ),
    "llava_next": Family(
        classes="LlavaNext",
        config={
            **_LLAMA,
            "vision_config": _CLIP,
            "image_token_id": "<image>",
            "image_grid_pinpoints": _PINPOINTS,
        },
        images=("LlavaNextImageProcessorPil", {**_CLIP_IMAGES, "image_grid_pinpoints": _PINPOINTS}),
        processor=_WITH_CLS,
    ),
    # As in the real model, the encoder's input is no multiple of the patch size, and large views are scaled down.
    "llava_onevision": Family(
        classes="LlavaOnevision",
        config={
            **_LLAMA,
            "vision_config": {"model_type": "siglip_vision_model", **VIT, "image_size": 26, "patch_size": 4},
            "image_token_id": "<image>",
            "video_token_id": "<video>",
            "image_grid_pinpoints": _MANY_PINPOINTS,
            "vision_aspect_ratio": "anyres_max_4",
        },
        images=(
            "LlavaOnevisionImageProcessorPil",
            {"size": {"height": 26, "width": 26}, "image_grid_pinpoints": _MANY_PINPOINTS},
        ),
        processor={
            "num_image_tokens": 36,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_4",
        },
        tokens=("<image>", "<video>"),
    ),
    "internvl": Family(
        classes="InternVL",
        config={
            "text_config": {"model_type": "qwen2", **TEXT},
            "vision_config": {**VIT, "image_size": [24, 24], "patch_size": [4, 4]},
            "image_token_id": "<IMG_CONTEXT>",
            "image_seq_length": 9,
        },
        images=("GotOcr2ImageProcessorPil", {"size": {"height": 24, "width": 24}}),
        processor={"image_seq_length": 9},
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        tokens=(),
        shown="<IMG_CONTEXT>",
    ),
    "idefics3": _idefics("Idefics3"),
    "smolvlm": _idefics("SmolVLM"),
    "paligemma": Family(
        classes="PaliGemma",
        config={
            "text_config": {"model_type": "gemma", **TEXT, "head_dim": 8},
            "vision_config": {"model_type": "siglip_vision_model", **VIT, "image_size": 24, "patch_size": 4},
            "image_token_id": "<image>",
            "projection_dim": 32,
        },
        images=("SiglipImageProcessorPil", {"size": {"height": 24, "width": 24}, "image_seq_length": 36}),
        named={"image_token": "<image>"},
        tokens=(),
    ),
    "gemma3": Family(
        classes="Gemma3",
        config={
            "text_config": {**TEXT, "head_dim": 8, "sliding_window": 8, "sliding_window_pattern": 2},
            "vision_config": {"model_type": "siglip_vision_model", **VIT, "image_size": 24, "patch_size": 4},
            "mm_tokens_per_image": 9,
            "boi_token_index": "<start_of_image>",
            "eoi_token_index": "<end_of_image>",
            "image_token_index": "<image_soft_token>",
        },
        images=("Gemma3ImageProcessorPil", {"size": {"height": 24, "width": 24}}),
        processor={"image_seq_length": 9},
        named={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        tokens=(),
        shown="<start_of_image>",
    ),
    "mistral3": Family(
        classes="Mistral3",
        config={
            "text_config": {"model_type": "mistral", **TEXT},
            "vision_config": {
                "model_type": "pixtral",
                **VIT,
                "image_size": 64,
                "patch_size": 4,
                "head_dim": 8,
            },
            "image_token_index": "[IMG]",
            "spatial_merge_size": 2,
        },
        images=(
            "PixtralImageProcessorPil",
            {"size": {"longest_edge": 64}, "patch_size": {"height": 4, "width": 4}},
        ),
        processor={"patch_size": 4, "spatial_merge_size": 2},
        processor_class="PixtralProcessor",
        tokens=("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        shown="[IMG]",
    ),
    "molmo2": Family(
        classes="Molmo2",
        config={
            "text_config": {**TEXT, "head_dim": 8, "additional_vocab_size": 0},
            "vision_config": {**VIT, **_HEADS, "image_size": [28, 28], "patch_size": 4},
            "adapter_config": {
                **_HEADS,
                "hidden_size": 16,
                "intermediate_size": 24,
                "text_hidden_size": 32,
                "vision_feature_layer": [2, 1],
            },
            "image_patch_id": "<im_patch>",
            "image_start_token_id": "<im_start>",
            "low_res_image_start_token_id": "<low_res_im_start>",
            "image_end_token_id": "<im_end>",
            "frame_start_token_id": "<frame_start>",
            "frame_end_token_id": "<frame_end>",
        },
        images=(
            "PillowMolmo2ImageProcessor",
            {"size": {"height": 28, "width": 28}, "patch_size": 4, "overlap_margins": [1, 1], "max_crops": 4},
        ),
        tokens=(
            "<|image|>",
            "<|video|>",
            "<im_patch>",
            "<im_col>",
            "<im_start>",
            "<low_res_im_start>",
            "<frame_start>",
            "<im_end>",
            "<frame_end>",
            "<im_low>",
        ),
        shown="<|image|>",
    ),
}


_ATTENTION_OUTPUT = ("out_proj.weight", "o_proj.weight", "attn.proj.weight", "projection_layer.weight")


def vlm_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """Return the tiny tokenizer with the family's special tokens."""
    base = tiny_tokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base.backend_tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        extra_special_tokens=dict(family.named),
    )
    if family.prefix:
        # Only where text follows, because the tokens themselves are normalized too.
        start = Regex(f"^{re.escape(family.shown)}(?=.)")
        tokenizer.backend_tokenizer.normalizer = normalizers.Replace(start, family.prefix + family.shown)
        tokenizer.add_tokens([AddedToken(token, normalized=True) for token in family.tokens])
    else:
        tokenizer.add_tokens(list(family.tokens), special_tokens=True)
    return tokenizer


def _filled(value: Any, tokenizer: PreTrainedTokenizerFast, key: str = "") -> Any:
    """Return a copy of a setting in which names of tokens are replaced by ids."""
    if isinstance(value, dict):
        return {k: _filled(v, tokenizer, k) for k, v in value.items()}
    if isinstance(value, str) and (key.endswith(("_id", "_index")) or key == value):
        return tokenizer.convert_tokens_to_ids(value)
    return value


def tiny_vlm(family: Family, seed: int = 0, **text: Any) -> PreTrainedModel:
    """Return a random float32 model of a family; `text` goes into its language model's configuration."""
    tokenizer = vlm_tokenizer(family)
    settings = _filled(family.config, tokenizer)
    inner = settings[family.text_key] if family.text_key else settings
    inner.update({"vocab_size": len(tokenizer), **inner, **text})
    config = getattr(transformers, family.config_class or f"{family.classes}Config")(**settings)
    torch.manual_seed(seed)
    model_class = family.model_class or f"{family.classes}ForConditionalGeneration"
    model: PreTrainedModel = getattr(transformers, model_class)(config)
    model = model.float().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
                # Unlike trained attention, random attention mixes all patches evenly. These weights keep a patch's
                # content, so that the tests can find its token.
                if "vision" in key or "visual" in key:
                    parameter.mul_(0.2 if key.endswith(_ATTENTION_OUTPUT) else 1)
            elif "norm" in key or "ln_" in key:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.get_input_embeddings().weight.normal_(0, 1)
    return model


def save_tiny_vlm(
    directory: str | Path,
    family: str | Family,
    seed: int = 0,
    change: Callable[[PreTrainedModel], None] = lambda model: None,
    **text: Any,
) -> Path:
    """Write a tiny model and its processor's files, as they are on the hub; `change` alters its weights."""
    path = Path(directory)
    family = FAMILIES[family] if isinstance(family, str) else family
    model = tiny_vlm(family, seed, **text)
    change(model)
    model.save_pretrained(path)
    tokenizer = vlm_tokenizer(family)
    tokenizer.save_pretrained(path)
    image_class, settings = family.images
    if image_class == "PillowMolmo2ImageProcessor":
        PillowMolmo2ImageProcessor(**settings).save_pretrained(path)
    elif image_class.endswith("Pil"):
        getattr(transformers, image_class)(**settings).save_pretrained(path)
    else:  # the class as in the hub's files, which may need torchvision
        (path / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": image_class, **settings}), encoding="utf-8"
        )
    processor_class = family.processor_class or f"{family.classes}Processor"
    (path / "processor_config.json").write_text(
        json.dumps({"processor_class": processor_class, **family.processor}), encoding="utf-8"
    )
    (path / "chat_template.jinja").write_text(TEMPLATE.replace("IMAGE", family.shown), encoding="utf-8")
    return path
