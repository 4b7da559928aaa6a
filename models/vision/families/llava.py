"""LLaVA 1.5, ViP-LLaVA and Video-LLaVA."""

from __future__ import annotations

from typing import Any

from latentbank.models.vision.geometry import (
    Picture,
    Places,
    Size,
    Unplaced,
    grid,
    join,
    patch_edges,
    unplaced,
)
from latentbank.models.vision.registry import Family

Span = tuple[float, float]


def _places(picture: Picture) -> Places:
    """Return one tile.

    Either the shorter side is resized and the longer side cropped, or the image is padded to a square first.
    """
    pixels = picture.inputs.get("pixel_values", picture.inputs.get("pixel_values_images"))
    if pixels is None:
        raise Unplaced
    height, width = pixels.shape[-2:]
    places = seen(picture, (width, height), int(picture.config.vision_config.patch_size))
    leading = int(getattr(picture.processor, "num_additional_image_tokens", 0))
    leading -= getattr(picture.config, "vision_feature_select_strategy", "default") == "default"
    if leading < 0:
        raise Unplaced
    return join([unplaced(leading, picture.size), places]) if leading else places


def seen(picture: Picture, input_size: Size, patch: int) -> Places:
    """Return one tile of patches of what transformers' plain image processors leave of an image.

    Args:
        picture: the image.
        input_size: width and height of the encoder's input.
        patch: side of a patch in pixels of the encoder's input.

    Raises:
        Unplaced: the processor's steps do not end at `input_size`.
    """
    width, height = input_size
    (left, right), (top, bottom) = _view(picture.processor.image_processor, picture.size, input_size)
    return grid(
        picture.size,
        top + patch_edges(height, patch) * (bottom - top) / height,
        left + patch_edges(width, patch) * (right - left) / width,
    )


def _view(processor: Any, size: Size, input_size: Size) -> tuple[Span, Span]:
    """Return which part of the original image the encoder's input shows: from left to right, and from top to bottom.

    The part reaches beyond the image where there is padding. This follows the steps of transformers' plain image
    processors: pad to a square (LLaVA's own with `do_pad`), resize, crop.

    Args:
        processor: the image processor.
        size: width and height of the original image.
        input_size: width and height of the encoder's input.

    Raises:
        Unplaced: the steps do not end at `input_size`.
    """
    now = size
    start = (0.0, 0.0)
    if getattr(processor, "do_pad", False) and "Llava" in type(processor).__name__:
        side = max(size)
        start = (-float((side - size[0]) // 2), -float((side - size[1]) // 2))
        now = (side, side)
    scale = (1.0, 1.0)
    if processor.do_resize:
        resized = _resized(processor.size, now)
        scale = (now[0] / resized[0], now[1] / resized[1])
        now = resized
    if processor.do_center_crop:
        crop = (int(processor.crop_size["width"]), int(processor.crop_size["height"]))
        start = (
            start[0] + (now[0] - crop[0]) // 2 * scale[0],
            start[1] + (now[1] - crop[1]) // 2 * scale[1],
        )
        now = crop
    if now != input_size:
        raise Unplaced
    across, down = ((s, s + f * n) for s, f, n in zip(start, scale, now, strict=True))
    return across, down


def _resized(target: Any, size: Size) -> Size:
    """Return the size after resizing by an image processor's `size` setting."""
    if target.get("shortest_edge") and not target.get("longest_edge"):
        short, long = sorted(size)
        longer = int(target["shortest_edge"] * long / short)
        pair = (int(target["shortest_edge"]), longer)
        return pair if size[0] <= size[1] else pair[::-1]
    if target.get("height") and target.get("width"):
        return int(target["width"]), int(target["height"])
    raise Unplaced


FAMILY = Family("LLaVA", ("llava", "vipllava", "video_llava"), _places)
