"""GLM-4.1V and later: as Qwen-VL, with an image processor of its own."""

from __future__ import annotations

from typing import Any

from tests.models.tiny_vlm import TEXT, Family
from tests.models.vision.oracle import Case

_TEXT: dict[str, Any] = {
    **TEXT,
    "max_position_embeddings": 65536,
    "head_dim": 8,
    "rope_parameters": {
        "rope_type": "default",
        "mrope_section": [1, 1, 2],
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
    },
}
_NAMES = ("image", "video", "begin_of_image", "end_of_image", "begin_of_video", "end_of_video")
_IDS = (
    "image_token_id",
    "video_token_id",
    "image_start_token_id",
    "image_end_token_id",
    "video_start_token_id",
    "video_end_token_id",
)
_VISION = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 14,
    "image_size": 336,
}
_MOE = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}


def _glm(
    classes: str,
    images: tuple[str, dict[str, Any]],
    text: dict[str, Any],
    processor: str = "Glm4vProcessor",
    model: str | None = None,
    **vision: Any,
) -> Case:
    return Case(
        Family(
            classes=classes,
            config={
                "text_config": {**_TEXT, **text},
                "vision_config": {**_VISION, **vision},
                **{key: f"<|{name}|>" for key, name in zip(_IDS, _NAMES, strict=True)},
            },
            images=images,
            processor_class=processor,
            model_class=model,
            tokens=tuple(f"<|{name}|>" for name in _NAMES),
            shown="<|begin_of_image|><|image|><|end_of_image|>",
        )
    )


_GLM4V = (
    "Glm4vImageProcessor",
    {"size": {"shortest_edge": 12544, "longest_edge": 9633792}, "patch_size": 14},
)
_GLM46V = (
    "Glm46VImageProcessor",
    {"size": {"shortest_edge": 12544, "longest_edge": 9633792}, "patch_size": 14},
)

CASES = {
    "glm4v": _glm("Glm4v", _GLM4V, {}),
    "glm4v_moe": _glm("Glm4vMoe", _GLM4V, _MOE),
    "glm_ocr": _glm("GlmOcr", _GLM46V, {}, "Glm46VProcessor"),
    "glm46v": _glm("Glm46V", _GLM46V, {"model_type": "glm4v_text"}, "Glm46VProcessor"),
    "glmga": _glm(
        "Glmga",
        ("GlmgaImageProcessor", {}),
        {"model_type": "glm4v_text"},
        "Glm46VProcessor",
        "Glm46VForConditionalGeneration",
    ),
}
