"""Qwen-VL and the many types that were built like it."""

from __future__ import annotations

from latentbank.models.vision.geometry import Picture, Places, whole
from latentbank.models.vision.registry import Family


def _places(picture: Picture) -> Places:
    """Return one tile: the whole image is stretched to a multiple of the patch size, then squares are merged."""
    _, rows, columns = (int(n) for n in picture.inputs["image_grid_thw"][picture.index])
    merge = int(picture.processor.image_processor.merge_size)
    return whole(picture.size, rows // merge, columns // merge)


FAMILY = Family(
    "Qwen-VL",
    (
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen2_5_omni_thinker",
        "qwen3_omni_moe_thinker",
        "qwen3_5",
        "qwen3_5_moe",
        "glm4v",
        "glm4v_moe",
        "glm46v",
        "glm_ocr",
        "glmga",
        "cohere_compass",
        "cosmos3_edge",
        "cosmos3_omni",
        "dots3_note",
        "ernie4_5_vl_moe",
        "exaone4_5",
        "hyperclovax_vision_v2",
        "lfm3_vl",
        "minimax_m3_vl",
        "muse_glimmer",
        "muse_spark",
        "paddleocr_vl",
        "video_llama_3",
    ),
    _places,
)
