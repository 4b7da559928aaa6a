"""Opening sound: one channel, at the rate that a model takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentbank.errors import SoundError
from latentbank.models.media import open_media, pyav

RATE = 16_000
"""Samples per second that all models take whose sound can be read."""
_INSTEAD = f"samples at {RATE:,} per second"


@dataclass(frozen=True)
class Sound:
    """A sound of one channel.

    Attributes:
        name: its name for people.
        samples: from -1 to 1, [samples] float32, at `RATE`.
    """

    name: str
    samples: npt.NDArray[np.float32]

    @property
    def duration(self) -> float:
        """Its seconds."""
        return len(self.samples) / RATE


def open_sound(source: Any, rate: int | None = None) -> Sound:
    """Open a sound; several channels are mixed, and other rates are resampled.

    Args:
        source: an audio file (or the sound of a video file), or samples [samples] or [samples, channels], floats from
            -1 to 1 or 16-bit integers.
        rate: samples per second of an array; a file says it itself.

    Raises:
        SoundError: the sound cannot be read, is empty or not finite, or the rate is missing.
    """
    if isinstance(source, str | os.PathLike):
        if rate is not None:
            raise SoundError(f"{source} is a file, which says its rate itself: give none.", argument="rate")
        sound = Sound(os.fspath(source), _of_file(os.fspath(source)))
    else:
        sound = Sound("sound", _of_array(source, rate))
    if not len(sound.samples):
        raise SoundError(f"The sound {sound.name} is empty.")
    if not np.isfinite(sound.samples).all():
        raise SoundError(f"The sound {sound.name} holds values that are not finite.")
    return sound


def _of_array(source: Any, rate: int | None) -> npt.NDArray[np.float32]:
    if rate is None or rate < 1:
        raise SoundError(f"Samples need their rate, such as {RATE:,} per second.", argument="rate")
    samples = np.asarray(source)
    if (
        samples.ndim not in (1, 2)
        or samples.dtype.kind not in "fi"
        or (samples.ndim == 2 and samples.shape[1] > 16)
    ):
        raise SoundError(
            f"The sound is an array {list(samples.shape)} of {samples.dtype}; it must be [samples] or [samples, "
            "channels] of floats or 16-bit integers."
        )
    if samples.dtype.kind == "i":
        if samples.dtype != np.int16:
            raise SoundError(f"The sound is of {samples.dtype}; give floats from -1 to 1, or int16.")
        samples = samples.astype(np.float32) / 32768
    mono = (samples if samples.ndim == 1 else samples.mean(axis=1)).astype(np.float32)
    if rate == RATE or not len(mono):
        return mono
    av = pyav("Sound of another rate is resampled", _INSTEAD, SoundError)
    frame = av.AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
    frame.sample_rate = rate
    return _resampled(av, [frame])


def _of_file(path: str) -> npt.NDArray[np.float32]:
    av = pyav("Sound files are read", _INSTEAD, SoundError)
    with open_media(av, path, "audio", "WAV", SoundError) as (container, stream):
        return _resampled(av, container.decode(stream))


def _resampled(av: Any, frames: Any) -> npt.NDArray[np.float32]:
    """Return frames of sound as one channel at `RATE`."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    parts = [part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)]
    parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(parts).astype(np.float32) if parts else np.empty(0, np.float32)
