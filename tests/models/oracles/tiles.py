"""Types that see an image in crops, most of them with a view of the whole image beside."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tests.models.tiny_vlm import TEXT, VIT, Family
from tests.models.vision.oracle import Case

LONG: dict[str, Any] = {**TEXT, "max_position_embeddings": 65536}
LLAMA: dict[str, Any] = {"text_config": {"model_type": "llama", **LONG}}
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def siglip(side: int, patch: int) -> dict[str, Any]:
    """Return the configuration of a tiny SigLIP encoder."""
    return {"model_type": "siglip_vision_model", **VIT, "image_size": side, "patch_size": patch}


def keep_patches_apart(model: PreTrainedModel) -> None:
    """Let convolutions of 3 x 3 see one pixel, or two by two where they halve the sides, so that none overlap."""
    with torch.no_grad():
        for module in model.modules():
            if not isinstance(module, nn.Conv2d) or module.kernel_size != (3, 3):
                continue
            halves = slice(1, 3) if module.padding == (1, 1) else slice(0, 2)
            kept = slice(1, 2) if module.stride == (1, 1) else halves
            weight = torch.zeros_like(module.weight)
            weight[..., kept, kept] = module.weight[..., kept, kept]
            module.weight.copy_(weight)


CASES = {
    "llava_next_video": Case(
        Family(
            classes="LlavaNextVideo",
            config={
                **LLAMA,
                "vision_config": {
                    "model_type": "clip_vision_model",
                    **VIT,
                    "image_size": 336,
                    "patch_size": 14,
                },
                "image_token_index": "<image>",
                "video_token_index": "<video>",
                "image_grid_pinpoints": _PINPOINTS,
            },
            images=(
                "LlavaNextImageProcessor",
                {
                    "size": {"shortest_edge": 336},
                    "crop_size": {"height": 336, "width": 336},
                    "image_grid_pinpoints": _PINPOINTS,
                },
            ),
            processor={
                "patch_size": 14,
                "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1,
                "video_processor": {"video_processor_type": "LlavaNextVideoVideoProcessor"},
            },
            tokens=("<image>", "<video>"),
        )
    ),
    "lfm2_vl": Case(
        Family(
            classes="Lfm2Vl",
            config={
                "text_config": {
                    "model_type": "lfm2",
                    **LONG,
                    "layer_types": ["conv", "full_attention"] * 2,
                    "block_auto_adjust_ff_dim": False,
                },
                "vision_config": {
                    "model_type": "siglip2_vision_model",
                    **VIT,
                    "patch_size": 16,
                    "num_patches": 256,
                },
                "image_token_id": "<image>",
                "projector_hidden_size": 24,
            },
            images=("Lfm2VlImageProcessor", {}),
            named={
                "image_token": "<image>",
                "image_start_token": "<|image_start|>",
                "image_end_token": "<|image_end|>",
                "image_thumbnail_token": "<|img_thumbnail|>",
            },
            tokens=(),
        ),
        pillow=False,
    ),
    "aya_vision": Case(
        Family(
            classes="AyaVision",
            config={
                "text_config": {"model_type": "cohere2", **LONG},
                "vision_config": siglip(364, 14),
                "image_token_index": "<|IMG_PATCH|>",
                "alignment_intermediate_size": 24,
            },
            images=(
                "GotOcr2ImageProcessor",
                {"size": {"height": 364, "width": 364}, "min_patches": 1, "max_patches": 12},
            ),
            processor={"patch_size": 14, "downsample_factor": 2, "img_size": 364},
            tokens=("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"),
        )
    ),
    "cohere2_vision": Case(
        Family(
            classes="Cohere2Vision",
            config={
                "text_config": {"model_type": "cohere2", **LONG},
                "vision_config": siglip(512, 16),
                "image_token_id": "<|IMG_PATCH|>",
                "alignment_intermediate_size": 24,
            },
            images=(
                "Cohere2VisionImageProcessor",
                {"size": {"height": 512, "width": 512}, "max_patches": 12},
            ),
            named={
                "image_token": "<|IMG_PATCH|>",
                "boi_token": "<|START_OF_IMG|>",
                "eoi_token": "<|END_OF_IMG|>",
                "img_line_break_token": "<|IMG_LINE_BREAK|>",
            },
            tokens=(),
            shown="<|IMG_PATCH|>",
        ),
        pillow=False,
    ),
    "ovis2": Case(
        Family(
            classes="Ovis2",
            config={
                "text_config": {"model_type": "qwen2", **LONG},
                "vision_config": {
                    **VIT,
                    "image_size": 448,
                    "patch_size": 14,
                    "hidden_stride": 2,
                    "vocab_size": 64,
                    "num_visual_indicator_tokens": 5,
                },
                "hidden_size": 32,
                "image_token_id": "<IMG_ATOM>",
                "visual_indicator_token_ids": [],
            },
            images=(
                "Ovis2ImageProcessor",
                {"size": {"height": 448, "width": 448}, "crop_to_patches": True, "max_patches": 9},
            ),
            processor={"image_seq_length": 256},
            tokens=(
                "<image>",
                "<IMG_ATOM>",
                "<IMG_START>",
                "<IMG_GRID>",
                "<IMG_COL>",
                "<IMG_ROW>",
                "<IMG_END>",
            ),
        )
    ),
    "llama4": Case(
        Family(
            classes="Llama4",
            config={
                "text_config": {
                    **LONG,
                    "intermediate_size_mlp": 48,
                    "head_dim": 8,
                    "num_local_experts": 2,
                    "attention_chunk_size": 8192,
                },
                "vision_config": {
                    **VIT,
                    "image_size": 336,
                    "patch_size": 14,
                    "intermediate_size": 64,
                    "vision_output_dim": 32,
                    "projector_input_dim": 32,
                    "projector_output_dim": 32,
                },
                "image_token_index": "<|patch|>",
                "boi_token_index": "<|image_start|>",
                "eoi_token_index": "<|image_end|>",
            },
            images=("Llama4ImageProcessor", {"size": {"height": 336, "width": 336}, "max_patches": 16}),
            processor={"patch_size": 14, "pixel_shuffle_ratio": 0.5},
            tokens=(
                "<|image|>",
                "<|patch|>",
                "<|image_start|>",
                "<|image_end|>",
                "<|tile_x_separator|>",
                "<|tile_y_separator|>",
            ),
            shown="<|image|>",
        ),
        pillow=False,
    ),
    "got_ocr2": Case(
        Family(
            classes="GotOcr2",
            config={
                "text_config": {"model_type": "qwen2", **LONG},
                "vision_config": {
                    **VIT,
                    "image_size": 1024,
                    "patch_size": 16,
                    "output_channels": 8,
                    "num_hidden_layers": 1,
                    "mlp_dim": 24,
                    "global_attn_indexes": [],
                },
                "image_token_index": "<imgpad>",
                "image_seq_length": 256,
            },
            images=("GotOcr2ImageProcessor", {"size": {"height": 1024, "width": 1024}}),
            tokens=("<imgpad>", "<img>", "</img>"),
            shown="<img><imgpad></img>",
        ),
        alone=keep_patches_apart,
    ),
    "perception_lm": Case(
        Family(
            classes="PerceptionLM",
            config={
                **LLAMA,
                "vision_config": {
                    "architecture": "vit_pe_core_large_patch14_336",
                    "do_pooling": False,
                    "model_args": {
                        "depth": 2,
                        "embed_dim": 16,
                        "num_heads": 2,
                        "img_size": [448, 448],
                        "ref_feat_shape": [32, 32],
                        "global_pool": "",
                        "use_post_transformer_norm": False,
                        "init_values": 0.1,
                    },
                },
                "projector_pooling_ratio": 2,
                "vision_use_cls_token": True,
                "image_token_id": "<|image|>",
                "video_token_id": "<|video|>",
            },
            images=("PerceptionLMImageProcessor", {"tile_size": 448, "max_num_tiles": 36}),
            processor={
                "patch_size": 14,
                "pooling_ratio": 2,
                "video_processor": {"video_processor_type": "PerceptionLMVideoProcessor"},
            },
            named={"image_token": "<|image|>", "video_token": "<|video|>"},
            tokens=(),
            shown="<|image|>",
        ),
        pillow=False,
        together=False,  # its processor takes several images only if they have as many tiles
    ),
    "phi4_multimodal": Case(
        Family(
            classes="Phi4Multimodal",
            config={
                **LONG,
                "vision_config": {
                    **VIT,
                    "image_size": 448,
                    "patch_size": 14,
                    "crop_size": 448,
                    "image_token_id": "<|image|>",
                },
                "audio_config": {
                    "hidden_size": 16,
                    "intermediate_size": 16,
                    "num_blocks": 1,
                    "num_attention_heads": 2,
                    "ext_pw_out_channel": 16,
                    "depthwise_separable_out_channel": 16,
                    "nemo_conv_channels": 16,
                    "audio_token_id": "<|audio|>",
                },
            },
            images=("Phi4MultimodalImageProcessor", {}),
            processor={"audio_processor": {"feature_extractor_type": "Phi4MultimodalFeatureExtractor"}},
            named={"image_token": "<|image|>", "audio_token": "<|audio|>"},
            tokens=(),
            shown="<|image|>",
            model_class="Phi4MultimodalForCausalLM",
            text_key="",
        ),
        pillow=False,
    ),
}
