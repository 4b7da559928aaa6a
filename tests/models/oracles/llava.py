"""LLaVA 1.5, LLaVA-NeXT and LLaVA-OneVision with the sizes of their 7B models."""

from __future__ import annotations

from typing import Any

from tests.models.tiny_vlm import TEXT, VIT, Family
from tests.models.vision.oracle import Case

_TEXT: dict[str, Any] = {**TEXT, "max_position_embeddings": 65536}
_LLAMA = {"model_type": "llama", **_TEXT}
_CLIP = {"model_type": "clip_vision_model", **VIT, "image_size": 336, "patch_size": 14}
_SIGLIP = {"model_type": "siglip_vision_model", **VIT, "image_size": 384, "patch_size": 14}
_WITH_CLS = {
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
_CROPPED = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
_PADDED = {**_CROPPED, "do_pad": True}
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_MANY_PINPOINTS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]


def _llava(images: tuple[str, dict[str, Any]]) -> Family:
    return Family(
        classes="Llava",
        config={"text_config": _LLAMA, "vision_config": _CLIP, "image_token_id": "<image>"},
        images=images,
        processor=_WITH_CLS,
    )


CASES = {
    "llava": Case(_llava(("CLIPImageProcessor", _CROPPED))),
    "llava, padded": Case(_llava(("LlavaImageProcessor", _PADDED))),
    "llava_next": Case(
        Family(
            classes="LlavaNext",
            config={
                "text_config": _LLAMA,
                "vision_config": _CLIP,
                "image_token_id": "<image>",
                "image_grid_pinpoints": _PINPOINTS,
            },
            images=("LlavaNextImageProcessor", {**_CROPPED, "image_grid_pinpoints": _PINPOINTS}),
            processor=_WITH_CLS,
        )
    ),
    "llava_onevision": Case(
        Family(
            classes="LlavaOnevision",
            config={
                "text_config": {"model_type": "qwen2", **_TEXT},
                "vision_config": _SIGLIP,
                "image_token_id": "<image>",
                "video_token_id": "<video>",
                "image_grid_pinpoints": _MANY_PINPOINTS,
                "vision_aspect_ratio": "anyres_max_9",
            },
            images=(
                "LlavaOnevisionImageProcessor",
                {"size": {"height": 384, "width": 384}, "image_grid_pinpoints": _MANY_PINPOINTS},
            ),
            processor={
                "num_image_tokens": 729,
                "vision_feature_select_strategy": "full",
                "vision_aspect_ratio": "anyres_max_9",
            },
            tokens=("<image>", "<video>"),
        ),
        # The stitched view of a large image has too many tokens and is scaled down: each is mixed from its neighbours.
        margins={(2600, 1900): 1.0},
    ),
}
