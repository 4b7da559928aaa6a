"""Families of square crops and of squeezed images, Pixtral and Molmo 2, with the sizes of well-known models."""

from __future__ import annotations

from typing import Any

from tests.models.tiny_vlm import TEXT, VIT, Family
from tests.models.vision.oracle import Case

_TEXT: dict[str, Any] = {**TEXT, "max_position_embeddings": 65536}
_LLAMA = {"model_type": "llama", **_TEXT}
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
_SQUARE_14 = {**VIT, "image_size": 448, "patch_size": 14}
_TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 15) for column in range(1, 15))


def _idefics(classes: str, side: int, patch: int, scale: int, longest: int) -> Case:
    return Case(
        Family(
            classes=classes,
            config={
                "text_config": _LLAMA,
                "vision_config": {**VIT, "image_size": side, "patch_size": patch},
                "image_token_id": "<image>",
                "scale_factor": scale,
            },
            images=(
                f"{classes}ImageProcessor",
                {"size": {"longest_edge": longest}, "max_image_size": {"longest_edge": side}},
            ),
            processor={"image_seq_len": (side // patch // scale) ** 2},
            tokens=(
                "<image>",
                "<fake_token_around_image>",
                "<global-img>",
                "<end_of_utterance>",
                *_TILES,
            ),
        ),
        # The image is resized up to three times, by Lanczos filters.
        margin=0.4,
        reach=6,
    )


def _pixtral(spatial_merge: int, family: dict[str, Any]) -> Case:
    return Case(
        Family(
            **{
                "images": (
                    "PixtralImageProcessor",
                    {"size": {"longest_edge": 1540}, "patch_size": {"height": 14, "width": 14}},
                ),
                "processor": {"patch_size": 14, "spatial_merge_size": spatial_merge},
                "processor_class": "PixtralProcessor",
                "tokens": ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
                "shown": "[IMG]",
                **family,
            }
        )
    )


_PIXTRAL = {"model_type": "pixtral", **VIT, "image_size": 1540, "patch_size": 14, "head_dim": 8}

CASES = {
    "internvl": Case(
        Family(
            classes="InternVL",
            config={
                "text_config": {"model_type": "qwen2", **_TEXT},
                "vision_config": {**VIT, "image_size": [448, 448], "patch_size": [14, 14]},
                "image_token_id": "<IMG_CONTEXT>",
                "image_seq_length": 256,
            },
            images=("GotOcr2ImageProcessor", {"size": {"height": 448, "width": 448}, "max_patches": 12}),
            processor={"image_seq_length": 256},
            named={
                "start_image_token": "<img>",
                "end_image_token": "</img>",
                "context_image_token": "<IMG_CONTEXT>",
                "video_token": "<video>",
            },
            tokens=(),
            shown="<IMG_CONTEXT>",
        )
    ),
    "idefics3": _idefics("Idefics3", 364, 14, 2, 1456),
    "smolvlm": _idefics("SmolVLM", 512, 16, 4, 2048),
    "paligemma": Case(
        Family(
            classes="PaliGemma",
            config={
                "text_config": {"model_type": "gemma", **_TEXT, "head_dim": 8},
                "vision_config": {
                    "model_type": "siglip_vision_model",
                    **VIT,
                    "image_size": 224,
                    "patch_size": 14,
                },
                "image_token_id": "<image>",
                "projection_dim": 32,
            },
            images=("SiglipImageProcessor", {"size": {"height": 224, "width": 224}, "image_seq_length": 256}),
            named={"image_token": "<image>"},
            tokens=(),
        )
    ),
    "gemma3": Case(
        Family(
            classes="Gemma3",
            config={
                "text_config": {**_TEXT, "head_dim": 8, "sliding_window": 8},
                "vision_config": {
                    "model_type": "siglip_vision_model",
                    **VIT,
                    "image_size": 896,
                    "patch_size": 14,
                },
                "mm_tokens_per_image": 256,
                "boi_token_index": "<start_of_image>",
                "eoi_token_index": "<end_of_image>",
                "image_token_index": "<image_soft_token>",
            },
            images=("Gemma3ImageProcessor", {"size": {"height": 896, "width": 896}}),
            processor={"image_seq_length": 256},
            named={
                "boi_token": "<start_of_image>",
                "eoi_token": "<end_of_image>",
                "image_token": "<image_soft_token>",
            },
            tokens=(),
            shown="<start_of_image>",
        )
    ),
    "llava/pixtral": _pixtral(
        1,
        {
            "classes": "Llava",
            "config": {
                "text_config": {"model_type": "mistral", **_TEXT},
                "vision_config": _PIXTRAL,
                "image_token_index": "[IMG]",
                "vision_feature_select_strategy": "full",
                "vision_feature_layer": -1,
            },
        },
    ),
    "mistral3": _pixtral(
        2,
        {
            "classes": "Mistral3",
            "config": {
                "text_config": {"model_type": "mistral", **_TEXT},
                "vision_config": _PIXTRAL,
                "image_token_index": "[IMG]",
                "spatial_merge_size": 2,
            },
        },
    ),
    "molmo2": Case(
        Family(
            classes="Molmo2",
            config={
                "text_config": {**_TEXT, "head_dim": 8, "additional_vocab_size": 0},
                "vision_config": {**VIT, **_HEADS, "image_size": [378, 378], "patch_size": 14},
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
                "Molmo2ImageProcessor",
                {"size": {"height": 378, "width": 378}, "patch_size": 14, "max_crops": 8},
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
        mixers=("image_pooling_2d",),
        pillow=False,
    ),
    "qianfan_ocr": Case(
        Family(
            classes="QianfanOCR",
            config={
                "text_config": {"model_type": "qwen3", **_TEXT, "head_dim": 8},
                "vision_config": {**VIT, "image_size": [448, 448], "patch_size": [14, 14]},
                "image_token_id": "<IMG_CONTEXT>",
                "image_seq_length": 256,
            },
            images=("GotOcr2ImageProcessor", {"size": {"height": 448, "width": 448}, "max_patches": 12}),
            processor={"image_seq_length": 256},
            named={
                "start_image_token": "<img>",
                "end_image_token": "</img>",
                "context_image_token": "<IMG_CONTEXT>",
            },
            tokens=("<image>",),
            shown="<image>",
        )
    ),
    "mistral_large4": _pixtral(
        2,
        {
            "classes": "MistralLarge4",
            "config": {
                "text_config": {
                    **{key: value for key, value in _TEXT.items() if key != "num_key_value_heads"},
                    "num_key_value_heads": 4,
                    "kv_lora_rank": 8,
                    "q_lora_rank": 8,
                    "qk_rope_head_dim": 4,
                    "qk_nope_head_dim": 4,
                    "v_head_dim": 8,
                    "head_dim": 4,
                    "moe_intermediate_size": 16,
                    "n_routed_experts": 2,
                    "n_shared_experts": 1,
                    "num_experts_per_tok": 1,
                    "index_topk": 16,
                    "index_head_dim": 8,
                    "index_n_heads": 2,
                },
                "vision_config": _PIXTRAL,
                "image_token_index": "[IMG]",
                "spatial_merge_size": 2,
            },
        },
    ),
}
