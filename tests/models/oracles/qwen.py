"""Types of the Qwen-VL kind: the image is stretched to a multiple of the patch size, then squares are merged."""

from __future__ import annotations

from typing import Any

from tests.models.tiny_vlm import TEXT, Family
from tests.models.vision.oracle import Case

_TEXT: dict[str, Any] = {**TEXT, "max_position_embeddings": 65536}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_PATCHES_14 = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
_PATCHES_16 = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
_QWEN2 = {**_PATCHES_14, "min_pixels": 3136, "max_pixels": 12845056}
_QWEN3 = {**_PATCHES_16, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}


def _qwen(classes: str, images: dict[str, Any], text: dict[str, Any], **vision: Any) -> Family:
    return Family(
        classes=classes,
        config={
            "text_config": {**_TEXT, "head_dim": 8, "rope_parameters": _MROPE, **text},
            "vision_config": {
                "patch_size": images["patch_size"],
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                **vision,
            },
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
        },
        images=("Qwen2VLImageProcessor", images),
        processor_class="Qwen3VLProcessor" if classes.startswith("Qwen3") else None,
        tokens=_TOKENS,
        shown="<|vision_start|><|image_pad|><|vision_end|>",
    )


_DEPTH = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32}
_WINDOWS = {**_DEPTH, "window_size": 112, "fullatt_block_indexes": [1]}
_LEARNED = {**_DEPTH, "num_position_embeddings": 2304}

_MOE = {"moe_intermediate_size": 16, "num_experts": 2, "num_experts_per_tok": 1}
_LINEAR = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
_AUDIO = {
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "output_dim": 32,
}
_OMNI_NAMES = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}


def _omni(classes: str, images: dict[str, Any], text: dict[str, Any], ids: str, **vision: Any) -> Case:
    """Return the part of an Omni model that reads."""
    return Case(
        Family(
            classes=classes,
            config_class=f"{classes}ThinkerConfig",
            model_class=f"{classes}ThinkerForConditionalGeneration",
            config={
                "text_config": {**_TEXT, "head_dim": 8, "rope_parameters": _MROPE, **text},
                "vision_config": {"patch_size": images["patch_size"], **vision},
                "audio_config": _AUDIO,
                "vision_start_token_id": "<|vision_bos|>",
                "audio_start_token_id": "<|audio_bos|>",
                f"image_token_{ids}": "<|IMAGE|>",
                f"audio_token_{ids}": "<|AUDIO|>",
                f"video_token_{ids}": "<|VIDEO|>",
            },
            images=("Qwen2VLImageProcessor", {**images, "feature_extractor_type": "WhisperFeatureExtractor"}),
            named=_OMNI_NAMES,
            tokens=(),
            shown="<|vision_bos|><|IMAGE|><|vision_eos|>",
        )
    )


CASES = {
    "qwen2_vl": Case(_qwen("Qwen2VL", _QWEN2, {}, depth=2, embed_dim=16, hidden_size=32, num_heads=2)),
    "qwen2_5_vl": Case(_qwen("Qwen2_5_VL", _QWEN2, {}, **_WINDOWS)),
    "qwen3_vl": Case(_qwen("Qwen3VL", _QWEN3, {}, **_LEARNED, deepstack_visual_indexes=[0, 1])),
    "qwen3_vl_moe": Case(_qwen("Qwen3VLMoe", _QWEN3, _MOE, **_LEARNED, deepstack_visual_indexes=[0, 1])),
    "qwen3_5": Case(_qwen("Qwen3_5", _QWEN3, _LINEAR, **_LEARNED)),
    "qwen3_5_moe": Case(
        _qwen("Qwen3_5Moe", _QWEN3, {**_LINEAR, **_MOE, "shared_expert_intermediate_size": 16}, **_LEARNED)
    ),
    "qwen2_5_omni_thinker": _omni("Qwen2_5Omni", _QWEN2, {}, "index", **_WINDOWS),
    "qwen3_omni_moe_thinker": _omni(
        "Qwen3OmniMoe", _QWEN3, _MOE, "id", **_LEARNED, deepstack_visual_indexes=[0, 1]
    ),
}
