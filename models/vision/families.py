"""Where the visual tokens of each family of vision-language models are in the image.

Each function takes a `Picture` and repeats what the family's image processor and model do to sizes. It raises
`Unplaced` for settings it does not know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers.image_processing_utils import select_best_resolution
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from latentbank.models.vision.geometry import (
    Edges,
    Family,
    Picture,
    Places,
    Size,
    Unplaced,
    even,
    grid,
    join,
    unplaced,
    whole,
)


def find_family(config: Any) -> Family | None:
    """The rules for a model with this configuration, if there are any."""
    if config.model_type == "llava" and config.vision_config.model_type == "pixtral":
        return _pixtral
    return FAMILIES.get(config.model_type)


def _qwen(picture: Picture) -> Places:
    """The whole image, stretched to a multiple of the patch size; squares of patches are merged."""
    _, rows, columns = (int(n) for n in picture.inputs["image_grid_thw"][picture.index])
    merge = int(picture.processor.image_processor.merge_size)
    return whole(picture.size, rows // merge, columns // merge)


def _llava(picture: Picture) -> Places:
    """One view, whose shorter side is resized and whose longer side is cropped; or padded to a square first."""
    height, width = picture.inputs["pixel_values"].shape[-2:]
    patch = int(picture.config.vision_config.patch_size)
    (left, right), (top, bottom) = _view(picture.processor.image_processor, picture.size, (width, height))
    places = grid(
        picture.size,
        top + _patches(height, patch) * (bottom - top) / height,
        left + _patches(width, patch) * (right - left) / width,
    )
    leading = int(getattr(picture.processor, "num_additional_image_tokens", 0))
    leading -= picture.config.vision_feature_select_strategy == "default"
    if leading < 0:
        raise Unplaced
    return join([unplaced(leading, picture.size), places]) if leading else places


def _pixtral(picture: Picture) -> Places:
    """The whole image, stretched to a multiple of the patch size; break tokens have ids of their own."""
    step = int(picture.processor.patch_size * picture.processor.spatial_merge_size)
    rows, columns = (int(pixels) // step for pixels in picture.inputs["image_sizes"][picture.index])
    return whole(picture.size, rows, columns)


def _llava_next(picture: Picture) -> Places:
    """The whole image squeezed into a square, then a stitched view in which it keeps its shape, with newlines."""
    config = picture.config
    patch, side = int(config.vision_config.patch_size), int(config.vision_config.image_size)
    base = _squeezed(picture.size, side, patch)
    down, across = _stitched(picture)
    return join([base, grid(picture.size, down, across, tile=1, newlines=True)])


def _llava_onevision(picture: Picture) -> Places:
    """As LLaVA-NeXT, but a large stitched view is scaled down, and several images in a prompt get one square each."""
    config = picture.config
    patch, side = int(config.vision_config.patch_size), int(config.vision_config.image_size)
    if picture.together > 1:
        longer = max(picture.size)
        left, top = (-float((longer - length) // 2) for length in picture.size)
        edges = _patches(side, patch) * longer / side
        return join([grid(picture.size, top + edges, left + edges), unplaced(1, picture.size)])
    base = _squeezed(picture.size, side, patch)
    down, across = _stitched(picture)
    most = int(str(config.vision_aspect_ratio).removeprefix("anyres_max_"))
    ratio = math.sqrt((len(down) - 1) * (len(across) - 1) / (most * (side // patch) ** 2))
    if ratio > 1.1:
        down, across = (_fewer(edges, int((len(edges) - 1) // ratio)) for edges in (down, across))
    return join([base, grid(picture.size, down, across, tile=1, newlines=True)])


def _internvl(picture: Picture) -> Places:
    """Square crops of the stretched image, row by row, then the whole image; the whole alone if one crop is enough."""
    images = picture.processor.image_processor
    side = math.isqrt(int(picture.processor.image_seq_length))
    columns, rows = 1, 1
    if getattr(picture.processor, "images_kwargs", {}).get("crop_to_patches", True):
        tile = (int(images.size["height"]), int(images.size["width"]))
        columns, rows = get_optimal_tiled_canvas(
            picture.size[::-1], tile, int(images.min_patches), int(images.max_patches)
        )
    return _crops_then_whole(picture.size, rows, columns, side, math.prod((rows, columns)) > 1)


def _idefics3(picture: Picture) -> Places:
    """Square crops of the stretched image, row by row, then the whole image; the whole alone if it is small."""
    images = picture.processor.image_processor
    side = math.isqrt(int(picture.processor.image_seq_len))
    crop = int(images.max_image_size["longest_edge"])
    width, height = picture.size
    if images.do_resize:
        width, height = _longest(picture.size, int(images.size["longest_edge"]), even_sides=True)
        if max(width, height) > _IDEFICS3_LARGEST:
            width, height = _longest((width, height), _IDEFICS3_LARGEST)
    rows = columns = 1
    if images.do_image_splitting:
        # The longer side becomes a multiple of the crop, and the shorter one follows before it does.
        if width >= height:
            columns = math.ceil(width / crop)
            rows = math.ceil(int(columns * crop / (width / height)) / crop)
        else:
            rows = math.ceil(height / crop)
            columns = math.ceil(int(rows * crop * (width / height)) / crop)
    return _crops_then_whole(picture.size, rows, columns, side, rows * columns > 1)


def _paligemma(picture: Picture) -> Places:
    """The whole image, squeezed into a square."""
    side = math.isqrt(int(picture.processor.image_seq_length))
    return whole(picture.size, side, side)


def _gemma3(picture: Picture) -> Places:
    """The whole image squeezed into a square, then, if pan-and-scan is on, crops along its longer side."""
    side = math.isqrt(int(picture.config.mm_tokens_per_image))
    width, height = picture.size
    parts = [whole(picture.size, side, side)]
    crops = _pan_and_scan(picture)
    step = math.ceil(max(width, height) / max(crops, 1))
    for number in range(crops):
        along = even(number * step, min((number + 1) * step, max(width, height)), side)
        down, across = (even(0, height, side), along) if width >= height else (along, even(0, width, side))
        parts.append(grid(picture.size, down, across, tile=number + 1))
    return join(parts)


def _pan_and_scan(picture: Picture) -> int:
    """Into how many crops Gemma 3's processor cuts an image: about as many as its sides' ratio, if they are large."""
    # What the processor class sets goes before what the image processor's own file says.
    settings = {**dict(vars(picture.processor.image_processor)), **picture.processor.images_kwargs}
    long, short = max(picture.size), min(picture.size)
    if not settings["do_pan_and_scan"] or long / short < settings["pan_and_scan_min_ratio_to_activate"]:
        return 0
    smallest = settings["pan_and_scan_min_crop_size"]
    crops = min(math.floor(long / short + 0.5), long // smallest)
    crops = min(max(crops, 2), settings["pan_and_scan_max_num_crops"])
    return crops if min(math.ceil(long / crops), short) >= smallest else 0


def _molmo2(picture: Picture) -> Places:
    """The whole image squeezed into a square, then a stitched view of overlapping crops, stretched; patches are pooled
    by windows, of which those at the edges may be cut off."""
    grids = [[int(n) for n in row] for row in picture.inputs["image_grids"]]
    before = sum(a * b + c * d for a, b, c, d in grids[: picture.index])
    pooling = picture.inputs["image_token_pooling"][before:].cpu().numpy() >= 0
    high, wide = (int(n) for n in picture.processor.image_processor.pooling_size)
    parts = []
    rows, columns, *rest = grids[picture.index]
    for tile, (down, across) in enumerate([(rows, columns), tuple(rest)]):
        windows = pooling[: down * across].reshape(down, across, high, wide)
        pooling = pooling[down * across :]
        heights = windows.any(axis=(1, 3)).sum(axis=1)
        widths = windows.any(axis=(0, 2)).sum(axis=1)
        parts.append(
            grid(
                picture.size,
                _summed(heights) * picture.size[1],
                _summed(widths) * picture.size[0],
                tile,
            )
        )
    return join(parts)


FAMILIES: Mapping[str, Family] = {
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "qwen3_vl_moe": _qwen,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _idefics3,
    "paligemma": _paligemma,
    "gemma3": _gemma3,
    "mistral3": _pixtral,
    "molmo2": _molmo2,
}

# Idefics3's processor never makes a side longer than this.
_IDEFICS3_LARGEST = 4096


def _squeezed(size: Size, side: int, patch: int) -> Places:
    """The whole image squeezed into a square of `side` pixels, seen in patches."""
    edges = _patches(side, patch) / side
    return grid(size, edges * size[1], edges * size[0])


def _crops_then_whole(size: Size, rows: int, columns: int, side: int, cropped: bool) -> Places:
    """Tiles 1 and more, `rows` by `columns` equal parts of the image, then tile 0, all of `side` by `side` tokens."""
    down, across = even(0, size[1], rows), even(0, size[0], columns)
    parts = [
        grid(
            size,
            even(down[row], down[row + 1], side),
            even(across[column], across[column + 1], side),
            tile=1 + row * columns + column,
        )
        for row in range(rows * cropped)
        for column in range(columns)
    ]
    return join([*parts, whole(size, side, side)])


def _stitched(picture: Picture) -> tuple[Edges, Edges]:
    """Edges of the rows and of the columns of LLaVA-NeXT's stitched view, in pixels of the original image.

    The image is scaled to fit into the best of a few canvases and centred there. Each square of the canvas goes through
    the encoder alone; rows or columns of tokens that lie in the padding are dropped in pairs.
    """
    config = picture.config
    patch, side = int(config.vision_config.patch_size), int(config.vision_config.image_size)
    width, height = picture.size
    high, wide = select_best_resolution((height, width), config.image_grid_pinpoints)
    one = _patches(side, patch)
    down, across = (
        np.concatenate([[0.0], *(one[1:] + start for start in range(0, length, side))])
        for length in (high, wide)
    )
    scale_across, scale_down = wide / width, high / height
    if scale_across < scale_down:
        fitted = (wide, min(math.ceil(height * scale_across), high))
    else:
        fitted = (min(math.ceil(width * scale_down), wide), high)
    rows, columns = len(down) - 1, len(across) - 1
    if width / height > columns / rows:
        kept = int(round(height * (columns / width), 7))
        down = _without(down, (rows - kept) // 2)
    else:
        kept = int(round(width * (rows / height), 7))
        across = _without(across, (columns - kept) // 2)
    return (
        (down - (high - fitted[1]) // 2) * height / fitted[1],
        (across - (wide - fitted[0]) // 2) * width / fitted[0],
    )


def _without(edges: Edges, padding: int) -> Edges:
    """Edges without the first and the last `padding` parts."""
    return edges[padding : len(edges) - padding]


def _fewer(edges: Edges, count: int) -> Edges:
    """Edges of `count` parts that share the old parts out evenly among them."""
    old = np.arange(len(edges), dtype=np.float64)
    return np.interp(np.linspace(0, len(edges) - 1, count + 1), old, edges)


def _summed(lengths: Any) -> Edges:
    """Edges from 0 to 1 of parts of these lengths."""
    return np.concatenate([[0.0], np.cumsum(lengths) / lengths.sum()])


def _longest(size: Size, longest: int, even_sides: bool = False) -> Size:
    """A size whose longer side is `longest`; the shorter one is cut down to whole pixels, or made even after that."""
    width, height = size
    shape = width / height
    other = int(longest / shape if width >= height else longest * shape)
    other = max(other + (other % 2 if even_sides else 0), 1)
    return (longest, other) if width >= height else (other, longest)


def _patches(pixels: int, patch: int) -> Edges:
    """Edges of patches along a side of an encoder's input; the last takes along what no patch sees."""
    edges = np.arange(pixels // patch + 1, dtype=np.float64) * patch
    edges[-1] = pixels
    return edges


def _view(processor: Any, size: Size, seen: Size) -> tuple[tuple[float, float], tuple[float, float]]:
    """What an encoder's input of `seen` pixels shows: from where to where in the original image, first across and
    then down; beyond the image where there is padding.

    Follows the steps of transformers' plain image processors: to a square (LLaVA's with `do_pad`), resized, cropped.
    """
    now = size
    start = (0.0, 0.0)
    if processor.do_pad and "Llava" in type(processor).__name__:
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
    if now != seen:
        raise Unplaced
    across, down = ((s, s + f * n) for s, f, n in zip(start, scale, now, strict=True))
    return across, down


def _resized(wanted: Any, size: Size) -> Size:
    if wanted.get("shortest_edge") and not wanted.get("longest_edge"):
        short, long = sorted(size)
        longer = int(wanted["shortest_edge"] * long / short)
        pair = (int(wanted["shortest_edge"]), longer)
        return pair if size[0] <= size[1] else pair[::-1]
    if wanted.get("height") and wanted.get("width"):
        return int(wanted["width"]), int(wanted["height"])
    raise Unplaced
