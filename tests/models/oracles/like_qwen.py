"""Types of other makers whose images are cut as Qwen-VL's: stretched to a multiple of the patch size, then merged."""

from __future__ import annotations

from typing import Any

from tests.models.tiny_vlm import TEXT, Family
from tests.models.vision.oracle import Case

_TEXT: dict[str, Any] = {**TEXT, "max_position_embeddings": 65536, "head_dim": 8}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
_SIZES = {"hidden_size": 16, "intermediate_size": 24}
_LAYERS = {**_SIZES, "num_hidden_layers": 2, "num_attention_heads": 2}
_DEPTH = {**_SIZES, "depth": 2, "num_heads": 2}
_PAD = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_PAD_IDS: dict[str, Any] = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
_PAD_SHOWN = "<|vision_start|><|image_pad|><|vision_end|>"
_QWEN2_IMAGES = ("Qwen2VLImageProcessor", {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14})
_QWEN3_IMAGES = (
    "Qwen2VLImageProcessor",
    {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16},
)
_EXPERTS = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 2,
    "n_shared_experts": 1,
    "num_experts_per_tok": 1,
}
_LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
_INDEX = {"index_topk": 16, "index_head_dim": 8, "index_n_heads": 2}
_QWEN3_VISION = {**_DEPTH, "out_hidden_size": 32, "patch_size": 16, "num_position_embeddings": 2304}


def _padded(
    classes: str,
    text: dict[str, Any],
    vision: dict[str, Any],
    images: tuple[str, dict[str, Any]] = _QWEN3_IMAGES,
    processor: str | None = None,
    start: bool = False,
    **top: Any,
) -> Family:
    """Return a family whose image token is <|image_pad|>."""
    marks = {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return Family(
        classes=classes,
        config={
            "text_config": {**_TEXT, **text},
            "vision_config": vision,
            **_PAD_IDS,
            **(marks if start else {}),
            **top,
        },
        images=images,
        processor_class=processor,
        tokens=_PAD,
        shown=_PAD_SHOWN,
    )


CASES = {
    "exaone4_5": Case(
        _padded(
            "Exaone4_5_",
            {"model_type": "exaone4", "sliding_window": None, "layer_types": ["full_attention"] * 4},
            {**_DEPTH, "out_hidden_size": 32, "num_key_value_heads": 1, "fullatt_block_indexes": [1]},
            _QWEN2_IMAGES,
        )
    ),
    "video_llama_3": Case(
        _padded(
            "VideoLlama3",
            {"model_type": "qwen2"},
            {**_LAYERS, "patch_size": 14},
            ("VideoLlama3ImageProcessor", {"patch_size": 14, "merge_size": 1}),
        )
    ),
    "cosmos3_omni": Case(
        _padded(
            "Cosmos3Omni",
            {"model_type": "qwen3_vl_text", "rope_parameters": _MROPE},
            {"model_type": "qwen3_vl_vision", **_QWEN3_VISION, "deepstack_visual_indexes": [0, 1]},
            processor="Qwen3VLProcessor",
            start=True,
        )
    ),
    "cosmos3_edge": Case(
        _padded(
            "Cosmos3Edge",
            {"rope_parameters": _MROPE},
            {**_LAYERS, "patch_size": 16},
            ("Cosmos3EdgeImageProcessor", {}),
            start=True,
            projector_hidden_size=24,
        )
    ),
    "hyperclovax_vision_v2": Case(
        _padded(
            "HyperCLOVAXVisionV2",
            {"model_type": "hyperclovax"},
            {
                "model_type": "qwen2_5_vl_vision",
                **_DEPTH,
                "out_hidden_size": 32,
                "fullatt_block_indexes": [1],
            },
            _QWEN2_IMAGES,
        )
    ),
    "lfm3_vl": Case(
        _padded(
            "Lfm3Vl",
            {"model_type": "lfm3"},
            {**_LAYERS, "patch_size": 16, "num_key_value_heads": 1, "layer_types": ["full_attention"] * 2},
            start=True,
            projector_hidden_size=24,
        )
    ),
    "kimi_k25": Case(
        Family(
            classes="Kimi_K25",
            config={
                "text_config": {"model_type": "deepseek_v3", **_TEXT, **_LATENT, **_EXPERTS, "n_group": 1},
                "vision_config": {**_LAYERS, "patch_size": 14},
                "projection_hidden_size": 16,
                "image_token_id": "<|media_pad|>",
            },
            images=("Kimi_K25ImageProcessor", {}),
            named={"image_token": "<|media_pad|>", "video_token": "<|video|>"},
            tokens=(),
            shown="<|media_pad|>",
        ),
        pillow=False,
    ),
    "cohere_compass": Case(
        Family(
            classes="CohereCompass",
            config={
                "text_config": {**_TEXT, "rope_parameters": {"full_attention": _MROPE}},
                "vision_config": {**_QWEN3_VISION, "deepstack_visual_indexes": [0, 1]},
                "image_token_id": "<|IMAGE_PAD|>",
                "video_token_id": "<|VIDEO_PAD|>",
                "vision_start_token_id": "<|VISION_START|>",
                "vision_end_token_id": "<|VISION_END|>",
            },
            images=("CohereCompassImageProcessor", {"patch_size": 16}),
            tokens=("<|IMAGE_PAD|>", "<|VIDEO_PAD|>", "<|VISION_START|>", "<|VISION_END|>"),
            shown="<|VISION_START|><|IMAGE_PAD|><|VISION_END|>",
        )
    ),
    "ernie4_5_vl_moe": Case(
        Family(
            classes="Ernie4_5_VLMoe",
            config={
                "text_config": {
                    **_TEXT,
                    "rope_parameters": _MROPE,
                    "moe_intermediate_size": [16, 16],
                    "moe_num_experts": 2,
                    "moe_k": 1,
                },
                "vision_config": _DEPTH,
                "image_token_id": "<|IMAGE_PLACEHOLDER|>",
                "video_token_id": "<|VIDEO_PLACEHOLDER|>",
            },
            images=("Ernie4_5_VLMoeImageProcessor", {"draw_on_frames": False}),
            named={
                "image_token": "<|IMAGE_PLACEHOLDER|>",
                "image_start_token": "<|IMAGE_START|>",
                "image_end_token": "<|IMAGE_END|>",
                "video_token": "<|VIDEO_PLACEHOLDER|>",
                "video_start_token": "<|VIDEO_START|>",
                "video_end_token": "<|VIDEO_END|>",
            },
            tokens=(),
            shown="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        )
    ),
    "paddleocr_vl": Case(
        Family(
            classes="PaddleOCRVL",
            config={
                "text_config": {**_TEXT, "rope_parameters": _MROPE},
                "vision_config": _LAYERS,
                "image_token_id": "<|IMAGE_PLACEHOLDER|>",
            },
            images=("PaddleOCRVLImageProcessor", {}),
            named={"image_token": "<|IMAGE_PLACEHOLDER|>"},
            tokens=(),
            shown="<|IMAGE_PLACEHOLDER|>",
        )
    ),
    "minimax_m3_vl": Case(
        Family(
            classes="MiniMaxM3VL",
            model_class="MiniMaxM3SparseForConditionalGeneration",
            config={
                "text_config": {
                    **_TEXT,
                    "dense_intermediate_size": 16,
                    "shared_intermediate_size": 16,
                    "num_local_experts": 2,
                    "num_experts_per_tok": 1,
                    "rotary_dim": 4,
                    "index_n_heads": 2,
                    "index_head_dim": 8,
                },
                "vision_config": _LAYERS,
                "image_token_index": "]<]image[>[",
                "video_token_index": "]<]video[>[",
                "projector_hidden_size": 24,
            },
            images=("MiniMaxM3VLImageProcessor", {}),
            tokens=("]<]image[>[", "]<]video[>[", "]<]start of image[>[", "]<]end of image[>["),
            shown="]<]image[>[",
        ),
        pillow=False,
    ),
    "muse_glimmer": Case(
        Family(
            classes="MuseGlimmer",
            config={
                "text_config": _TEXT,
                "vision_config": {**_LAYERS, "patch_size": 14},
                "image_token_id": "<|patch|>",
                "out_hidden_size": 64,
                "projector_hidden_size": 24,
            },
            images=("MuseGlimmerImageProcessor", {}),
            tokens=("<|patch|>", "<|image_start|>", "<|image_end|>", "<|video|>"),
            shown="<|patch|>",
        ),
        pillow=False,
    ),
    "muse_spark": Case(
        Family(
            classes="MuseSpark",
            config={
                "text_config": {
                    **_TEXT,
                    "moe_intermediate_size": 16,
                    "moe_hidden_size": 32,
                    "num_local_experts": 2,
                    "num_experts_per_tok": 1,
                },
                "vision_config": {**_LAYERS, "patch_size": 14},
                "audio_config": {
                    "hidden_sizes": [8] * 4,
                    "depths": [1] * 4,
                    "out_hidden_size": 32,
                },
                "image_token_id": "<|patch|>",
                "audio_token_id": "<|audio|>",
                "out_hidden_size": 64,
                "projector_hidden_size": 24,
            },
            images=("MuseGlimmerImageProcessor", {}),
            tokens=("<|patch|>", "<|image_start|>", "<|image_end|>", "<|video|>", "<|audio|>"),
            shown="<|patch|>",
        ),
        pillow=False,
    ),
    "dots3_note": Case(
        Family(
            classes="Dots3Note",
            config={
                "text_config": {
                    **{k: v for k, v in _TEXT.items() if k != "head_dim"},
                    **_EXPERTS,
                    **_LATENT,
                    **_INDEX,
                    "shared_experts_intermediate_size": 16,
                },
                "vision_config": {
                    **_LAYERS,
                    "mlp_layer_types": ["dense", "dense"],
                    "adapter_in_dim": 16,
                    "adapter_out_dim": 32,
                },
                "audio_config": {
                    **_LAYERS,
                    "downsample_hidden_size": 8,
                    "adapter_input_size": 16,
                    "adapter_out_dim": 32,
                },
                "image_token_id": "<|imgpad|>",
                "video_token_id": "<|video_pad|>",
                "audio_token_id": "<|audio_comp_pad|>",
            },
            images=("Qwen2VLImageProcessor", {**_QWEN2_IMAGES[1], "temporal_patch_size": 1}),
            tokens=("<|imgpad|>", "<|video_pad|>", "<|audio_comp_pad|>"),
            shown="<|imgpad|>",
        )
    ),
    "inkling2": Case(
        Family(
            classes="Inkling2",
            config={
                "text_config": {
                    **_TEXT,
                    "moe_intermediate_size": 16,
                    "n_routed_experts": 2,
                    "num_experts_per_tok": 1,
                    "swa_num_attention_heads": 4,
                    "swa_num_key_value_heads": 2,
                    "swa_head_dim": 8,
                    "d_rel": 4,
                },
                "vision_config": {**_LAYERS, "projection_hidden_dim": 24, "text_hidden_size": 32},
                "image_token_id": "<|unused_200054|>",
            },
            images=("Inkling2ImageProcessor", {}),
            tokens=("<|unused_200054|>",),
            shown="<|unused_200054|>",
        ),
        pillow=False,
    ),
    "hunyuan_vl": Case(
        Family(
            classes="HunYuanVL",
            config={
                "text_config": {
                    **_TEXT,
                    "rope_parameters": {**_MROPE, "mrope_section": [1, 1, 1, 1]},
                },
                "vision_config": {**_LAYERS, "out_hidden_size": 32, "text_hidden_size": 32},
                "image_token_id": "<image>",
                "im_start_id": "<im_start>",
                "im_end_id": "<im_end>",
                "im_newline_id": "<im_newline>",
            },
            images=("HunYuanVLImageProcessor", {}),
            named={
                "image_token": "<image>",
                "image_start_token": "<im_start>",
                "image_end_token": "<im_end>",
            },
            tokens=("<im_newline>",),
            shown="<im_start><image><im_end>",
        )
    ),
}
