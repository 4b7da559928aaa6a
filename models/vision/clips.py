"""Opening videos: some of their frames, evenly spread, with their times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from latentbank.errors import ImageError
from latentbank.models.media import open_media, pyav
from latentbank.models.vision.images import MAX_PIXELS, open_image

FRAMES = 8
"""Frames that are taken from a video if no other number is given."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


@dataclass(frozen=True)
class Clip:
    """Frames of a video, in their order.

    Attributes:
        name: the video's name for people.
        frames: [frames, height, width, 3] uint8, RGB.
        starts: the second at which each frame begins to be seen, [frames] float64. A frame stands for the time until
            the next one.
        end: the second at which the video ends.
        indices: the number of each frame among all frames of the video.
        total: the number of all frames of the video.
    """

    name: str
    frames: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.float64]
    end: float
    indices: tuple[int, ...]
    total: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame in pixels."""
        return int(self.frames.shape[2]), int(self.frames.shape[1])

    @property
    def rate(self) -> float:
        """All frames of the video per second, on average."""
        return self.total / max(self.end, 1e-9)

    def images(self) -> list[Image.Image]:
        """Return the frames as images."""
        return [Image.fromarray(frame) for frame in self.frames]

    def span(self, first: int, last: int) -> tuple[float, float]:
        """Return the seconds from the start of frame `first` to the end of frame `last`."""
        after = last + 1
        return float(self.starts[first]), float(self.starts[after] if after < len(self.starts) else self.end)


def open_clip(source: Any, frames: int = FRAMES, frame_rate: float | None = None) -> Clip:
    """Open a video and take frames from it: the first of each of `frames` equal parts.

    Args:
        source: a video file, a folder of images in the order of their names, a sequence of images or their paths, or an
            array [frames, height, width, 3] of 8 bits.
        frames: how many frames are taken; a shorter video has fewer.
        frame_rate: frames per second of a source that is no file; None: 1. A file says it itself.

    Raises:
        ImageError: the video cannot be read, has no frames, or has frames of different sizes; a number is not positive.
    """
    if frames < 1 or (frame_rate is not None and not frame_rate > 0):
        raise ImageError("A video is read with at least 1 frame, and with more than 0 frames per second.")
    if isinstance(source, str | os.PathLike) and not os.path.isdir(source):
        if frame_rate is not None:
            raise ImageError(f"{source} is a file, which says its frame rate itself: give none.")
        return _of_file(os.fspath(source), frames)
    name, found = _given(source)
    chosen = _chosen(len(found), frames, name)
    pixels = [np.asarray(open_image(found[index])) for index in chosen]
    rate = frame_rate or 1.0
    return _clip(name, pixels, [index / rate for index in chosen], len(found) / rate, chosen, len(found))


def _given(source: Any) -> tuple[str, Sequence[Any]]:
    """Return the name and the frames of a video that is no file."""
    if isinstance(source, str | os.PathLike):
        files = sorted(path for path in Path(source).iterdir() if path.suffix.lower() in _SUFFIXES)
        return os.fspath(source), files
    if hasattr(source, "shape"):
        pixels = np.asarray(source)
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
            raise ImageError(
                f"The video is an array {list(pixels.shape)} of {pixels.dtype}; it must be [frames, height, width, 3] "
                "of uint8."
            )
        return "video", [Image.fromarray(frame) for frame in pixels]
    if isinstance(source, Iterable):
        return "video", list(source)
    raise ImageError(f"A video cannot be read from {type(source).__name__}; give a file, a folder or frames.")


def _of_file(path: str, frames: int) -> Clip:
    av = pyav("Video files are read", "the frames as images", ImageError)
    times, step = _times(av, path)
    chosen = _chosen(len(times), frames, path)
    wanted = set(chosen)
    with open_media(av, path, "video", "MP4", ImageError) as (container, stream):
        pixels = [
            frame.to_ndarray(format="rgb24")
            for number, frame in enumerate(container.decode(stream))
            if number in wanted
        ]
    starts = [times[index] - times[0] for index in chosen]
    return _clip(path, pixels, starts, times[-1] - times[0] + step, chosen, len(times))


def _times(av: Any, path: str) -> tuple[list[float], float]:
    """Return the time of each frame in seconds, and how long the last one is shown. What a file says may be wrong."""
    with open_media(av, path, "video", "MP4", ImageError) as (container, stream):
        if stream.width * stream.height > MAX_PIXELS:
            raise ImageError(
                f"{path} has frames of {stream.width} x {stream.height} pixels; make them smaller."
            )
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 1)
        times = [
            number / rate if frame.time is None else float(frame.time)
            for number, frame in enumerate(container.decode(stream))
        ]
    return times, 1 / rate


def _chosen(total: int, frames: int, name: str) -> tuple[int, ...]:
    if not total:
        raise ImageError(f"The video {name} has no frames.")
    count = min(frames, total)
    return tuple(part * total // count for part in range(count))


def _clip(
    name: str,
    pixels: Sequence[npt.NDArray[Any]],
    starts: Sequence[float],
    end: float,
    indices: tuple[int, ...],
    total: int,
) -> Clip:
    sizes = sorted({f"{frame.shape[1]} x {frame.shape[0]}" for frame in pixels})
    if len(sizes) > 1:
        raise ImageError(
            f"The frames of {name} have different sizes ({', '.join(sizes[:3])}): give one size."
        )
    return Clip(name, np.stack(pixels).astype(np.uint8), np.asarray(starts, np.float64), end, indices, total)
