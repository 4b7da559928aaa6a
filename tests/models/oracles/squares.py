"""Types that see the whole image, or a square of it, as one tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from latentbank.models.vision.vision_language import VisionLanguageModel
from tests.models.oracles.tiles import LLAMA, LONG, keep_patches_apart, siglip
from tests.models.tiny_vlm import VIT, Family
from tests.models.vision.oracle import Case

_CLIP = {"model_type": "clip_vision_model", **VIT, "patch_size": 14}
_DEFAULT = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}


def _clip(classes: str, side: int, images: str, **config: Any) -> Family:
    """Return a model of LLaVA's kind: the shorter side is resized, the longer side cropped."""
    return Family(
        classes=classes,
        config={
            **LLAMA,
            "vision_config": {**_CLIP, "image_size": side},
            "image_token_index": "<image>",
            "video_token_index": "<video>",
            **config,
        },
        images=(images, {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}),
        processor={"patch_size": 14, **_DEFAULT},
        processor_class="LlavaProcessor" if classes == "VipLlava" else None,
        tokens=("<image>", "<video>"),
    )


def _padded(classes: str, config: dict[str, Any]) -> Family:
    """Return a model of Janus's kind: the image is padded to a square."""
    return Family(
        classes=classes,
        config={**LLAMA, **config, "image_token_id": "<image_placeholder>"},
        images=(
            f"{classes}ImageProcessor",
            {"size": {"height": 384, "width": 384}, "min_size": 14},
        ),
        processor={"num_image_tokens": 576},
        named={
            "image_token": "<image_placeholder>",
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
        },
        tokens=(),
        shown="<image_placeholder>",
    )


def _codes(vlm: VisionLanguageModel, images: Sequence[Image.Image]) -> list[Tensor]:
    """Return what Chameleon's encoder gives before it is quantized, [tokens, width] for each image.

    The encoder normalizes over the whole image, and its attention has a name of its own; here both do nothing.
    """
    encoder: Any = vlm.model.get_submodule("model.vqmodel.encoder")
    for module in encoder.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
            if name == "proj_out":
                child.weight.zero_()
    pixels = vlm.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        return list(encoder(pixels).flatten(2).transpose(1, 2))


# The names of Chameleon's visual words hold their numbers in letters.
_WORDS = {f"IMGIMG{''.join(chr(65 + int(digit)) for digit in str(n))}Z": 5 + n for n in range(16)}

CASES = {
    "vipllava": Case(_clip("VipLlava", 336, "CLIPImageProcessor", vision_feature_layer=[-2, -1, 1])),
    "video_llava": Case(_clip("VideoLlava", 224, "VideoLlavaImageProcessor"), torchvision=False),
    "janus": Case(
        _padded(
            "Janus",
            {
                "vision_config": {**VIT, "image_size": 384, "patch_size": 16, "projection_dim": 32},
                "vq_config": {
                    "embed_dim": 8,
                    "num_embeddings": 16,
                    "latent_channels": 32,
                    "base_channels": 32,
                    "channel_multiplier": [1, 1],
                    "num_res_blocks": 1,
                    "projection_dim": 32,
                    "image_token_embed_dim": 32,
                },
            },
        )
    ),
    "deepseek_vl": Case(_padded("DeepseekVL", {"vision_config": siglip(384, 16)})),
    "lighton_ocr": Case(
        Family(
            classes="LightOnOcr",
            config={
                "text_config": {"model_type": "qwen3", **LONG, "head_dim": 8},
                "vision_config": {
                    "model_type": "pixtral",
                    **VIT,
                    "image_size": 1540,
                    "patch_size": 14,
                    "head_dim": 8,
                },
                "image_token_id": "<|image_pad|>",
                "spatial_merge_size": 2,
            },
            images=(
                "PixtralImageProcessor",
                {"size": {"longest_edge": 1540}, "patch_size": {"height": 14, "width": 14}},
            ),
            processor={"patch_size": 14, "spatial_merge_size": 2},
            named={
                "image_token": "<|image_pad|>",
                "image_break_token": "<|vision_pad|>",
                "image_end_token": "<|vision_end|>",
            },
            tokens=(),
            shown="<|image_pad|>",
        )
    ),
    "gemma4": Case(
        Family(
            classes="Gemma4",
            config={
                "text_config": {
                    **LONG,
                    "head_dim": 8,
                    "global_head_dim": 8,
                    "hidden_size_per_layer_input": 0,
                    "sliding_window": 8,
                    "layer_types": ["sliding_attention", "full_attention"] * 2,
                },
                "vision_config": {**VIT, "num_key_value_heads": 2, "head_dim": 8},
                "audio_config": None,
                "image_token_id": "<|image|>",
                "boi_token_id": "<|image>",
                "eoi_token_id": "<image|>",
                "audio_token_id": "<|audio|>",
                "boa_token_id": "<|audio>",
                "eoa_token_index": "<audio|>",
                "video_token_id": "<|video|>",
            },
            images=("Gemma4ImageProcessor", {"patch_size": 16, "max_soft_tokens": 280}),
            processor={"feature_extractor": {"feature_extractor_type": "Gemma4AudioFeatureExtractor"}},
            named={
                "image_token": "<|image|>",
                "boi_token": "<|image>",
                "eoi_token": "<image|>",
                "audio_token": "<|audio|>",
                "boa_token": "<|audio>",
                "eoa_token": "<audio|>",
            },
            tokens=("<|video|>",),
            shown="<|image|>",
        )
    ),
    "idefics2": Case(
        Family(
            classes="Idefics2",
            config={
                "text_config": {"model_type": "mistral", **LONG},
                "vision_config": {**VIT, "image_size": 980, "patch_size": 14},
                "perceiver_config": {
                    "hidden_size": 32,
                    "resampler_depth": 2,
                    "resampler_n_heads": 2,
                    "resampler_head_dim": 8,
                    "num_key_value_heads": 2,
                },
                "image_token_id": "<image>",
            },
            images=(
                "Idefics2ImageProcessor",
                {"size": {"shortest_edge": 378, "longest_edge": 980}, "do_image_splitting": True},
            ),
            processor={"image_seq_len": 64},
            tokens=("<image>", "<fake_token_around_image>", "<end_of_utterance>"),
        ),
        margin=0.03,  # of a crop, not of a patch
        mixers=("connector",),
    ),
    "fuyu": Case(
        Family(
            classes="Fuyu",
            config={
                "text_config": {"model_type": "persimmon", **LONG},
                "patch_size": 30,
                "image_token_id": "|SPEAKER|",
            },
            images=("FuyuImageProcessor", {"size": {"height": 1080, "width": 1920}}),
            tokens=("|SPEAKER|", "|NEWLINE|", "<s>", "<0x04>"),
            shown="|SPEAKER|",
            model_class="FuyuForCausalLM",
            prefix="_",
        ),
        pillow=False,
        together=False,
    ),
    "chameleon": Case(
        Family(
            classes="Chameleon",
            config={
                **LONG,
                "vq_config": {
                    "embed_dim": 8,
                    "num_embeddings": 16,
                    "latent_channels": 32,
                    "base_channels": 32,
                    "channel_multiplier": [1, 1, 1, 1, 1],
                    "num_res_blocks": 1,
                },
                "vocabulary_map": {"<image>": "<image>", **_WORDS},
            },
            images=(
                "ChameleonImageProcessor",
                {"size": {"shortest_edge": 512}, "crop_size": {"height": 512, "width": 512}},
            ),
            processor={"image_seq_length": 1024},
            named={
                "image_token": "<image>",
                "boi_token": "<racm3:break>",
                "eoi_token": "<eoss>",
                "sep_token": "<reserved08706>",
            },
            text_key="",
        ),
        states=_codes,
        alone=keep_patches_apart,
    ),
}
