"""Videos for vision-language models: their inputs, and where and when each visual token looks.

A video's tokens come in steps of time, each with a grid over the frame. A step is one frame, or several that the
encoder merges (Qwen's models merge two). In `VisualTokens` a step is a tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.video_utils import VideoMetadata

from latentbank.errors import ImageError, ModelError
from latentbank.models.vision.clips import Clip
from latentbank.models.vision.families.llava import _view
from latentbank.models.vision.geometry import Places, grid, join, patch_edges, unplaced, whole
from latentbank.text import first_line, listed

REQUEST = "Describe this video."


@dataclass(frozen=True)
class Steps:
    """The places of a video's positions in the sequence, and their times.

    Attributes:
        places: the places; a step of time is a tile.
        seconds: start and end of each position's step, [positions, 2] float32.
    """

    places: Places
    seconds: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Film:
    """A video and the model inputs made of it: the input of a rule."""

    clip: Clip
    config: Any
    processor: Any
    inputs: Mapping[str, Any]


def video_token(name: str, config: Any, processor: Any) -> tuple[int, str]:
    """Return the id that stands for a token of a video in the sequence, and the text that stands for a video.

    Raises:
        ModelError: the model takes no videos, there is no rule for it, or torchvision is not installed.
    """
    token = next(
        (
            value
            for key in ("video_token_id", "video_token_index")
            if isinstance(value := getattr(config, key, None), int)
        ),
        None,
    )
    if token is None or config.model_type not in RULES:
        raise ModelError(
            f"The videos of {name} cannot be read (its type is {config.model_type}); models of these types can: "
            f"{listed(RULES)}."
        )
    if getattr(processor, "video_processor", None) is None:
        raise ModelError(
            f"The video processor of {name} needs torchvision: pip install 'latentbank[vision]'."
        )
    return token, str(
        getattr(processor, "video_token", None) or processor.tokenizer.convert_ids_to_tokens(token)
    )


def clip_inputs(name: str, processor: Any, clip: Clip, text: str) -> Any:
    """Return a processor's output for one video and the text around it.

    Raises:
        ImageError: the processor cannot take the video.
    """
    start = processor.tokenizer.bos_token
    options = {"add_special_tokens": False} if start and text.startswith(start) else {}
    about = VideoMetadata(
        total_num_frames=clip.total, fps=clip.rate, duration=clip.end, frames_indices=list(clip.indices)
    )
    try:
        return processor(
            videos=[torch.from_numpy(clip.frames).permute(0, 3, 1, 2)],
            text=[text],
            text_kwargs=options,
            videos_kwargs={"video_metadata": [about], "do_sample_frames": False},
            return_tensors="pt",
        )
    except (ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError, OSError, KeyError) as error:
        wide, high = clip.size
        raise ImageError(
            f"The processor of {name} cannot take {len(clip.frames)} frames of {wide} x {high} pixels: "
            f"{first_line(error)[:200].rstrip('. ')}."
        ) from error


def steps_of(film: Film, count: int, name: str) -> Steps:
    """Return the places and times of a video's positions.

    Args:
        film: the video.
        count: the number of its positions in the sequence.
        name: the model's name.

    Raises:
        ModelError: the rule of the model's type gives another number of positions.
    """
    steps = RULES[film.config.model_type](film)
    if len(steps.places) != count:
        raise ModelError(
            f"The video has {count} tokens in {name}, but {len(steps.places)} by the rule for its type, so their "
            "places are not known: use the processor that belongs to the model."
        )
    return steps


def _merged(film: Film) -> Steps:
    """Return the steps of Qwen's models: frames stretched to a multiple of the patch size, merged in time and space."""
    times, high, wide = (int(n) for n in film.inputs["video_grid_thw"][0])
    merge = int(film.processor.video_processor.merge_size)
    merged = int(film.processor.video_processor.temporal_patch_size)
    last = len(film.clip.frames) - 1
    parts = [whole(film.clip.size, high // merge, wide // merge, tile=step) for step in range(times)]
    return _steps(
        film, parts, [(step * merged, min(step * merged + merged - 1, last)) for step in range(times)]
    )


def _pooled(film: Film) -> Steps:
    """Return the steps of LLaVA-OneVision: frames stretched to a square, pooled by two; a newline ends the video."""
    vision = film.config.vision_config
    patch, side = int(vision.patch_size), int(vision.image_size)
    edges = patch_edges(side, patch) / side
    count = len(edges) - 1
    pooled = np.interp(np.linspace(0, count, math.ceil(count / 2) + 1), np.arange(count + 1), edges)
    wide, high = film.clip.size
    frames = range(len(film.clip.frames))
    parts = [grid(film.clip.size, pooled * high, pooled * wide, tile=frame) for frame in frames]
    steps = _steps(film, parts, [(frame, frame) for frame in frames])
    newline = np.array([[0, film.clip.end]], np.float32)
    return Steps(join([steps.places, unplaced(1, film.clip.size)]), np.concatenate([steps.seconds, newline]))


def _cropped(film: Film) -> Steps:
    """Return the steps of Video-LLaVA: the middle of each frame, whose CLS comes first and has no place in the grid."""
    height, width = film.inputs["pixel_values_videos"].shape[-2:]
    patch = int(film.config.vision_config.patch_size)
    across, down = _view(film.processor.video_processor, film.clip.size, (width, height))
    view = _edges(down, height, patch), _edges(across, width, patch)
    parts = []
    for frame in range(len(film.clip.frames)):
        seen = grid(
            film.clip.size, np.array([down[0], down[1]]), np.array([across[0], across[1]]), tile=frame
        )
        outside = np.array([-1])
        cls = Places(seen.boxes, outside, outside, seen.tiles, seen.visual)
        parts.append(join([cls, grid(film.clip.size, *view, tile=frame)]))
    return _steps(film, parts, [(frame, frame) for frame in range(len(parts))])


def _edges(span: tuple[float, float], pixels: int, patch: int) -> npt.NDArray[np.float64]:
    start, stop = span
    return start + patch_edges(pixels, patch) * (stop - start) / pixels


def _steps(film: Film, parts: list[Places], frames: list[tuple[int, int]]) -> Steps:
    """Join the grids of the steps, each of which merges frames from a first to a last one."""
    spans = [film.clip.span(first, last) for first, last in frames]
    seconds = [
        np.tile(np.array(span, np.float32), (len(part), 1)) for part, span in zip(parts, spans, strict=True)
    ]
    return Steps(join(parts), np.concatenate(seconds))


RULES: Mapping[str, Callable[[Film], Steps]] = {
    "qwen2_vl": _merged,
    "qwen2_5_vl": _merged,
    "qwen3_vl": _merged,
    "qwen3_vl_moe": _merged,
    "llava_onevision": _pooled,
    "video_llava": _cropped,
}
