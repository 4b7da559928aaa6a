"""Pictures with nothing to see: what a lens finds in them is chance.

Shuffled pixels alone are too easy a null: a lens finds more in a plain background than in them. So there are several
kinds: the pixels of a given picture in random order; a given picture with random phases, which keeps how its colors
vary and at which scales; fields of one color, slopes, noise, soft noise and regular patterns, in random colors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.float64]
"""Red, green and blue from 0 to 255, `[height, width, 3]`; they are clipped when they become a picture."""
Chance = np.random.Generator

COUNT = 180
"""Pictures with nothing to see that a VLM looks at."""
PIXELS = 2**21
"""The most pixels that such a picture has: random phases of more take gigabytes."""


def _shuffled_pixels(pixels: Pixels, chance: Chance) -> Pixels:
    flat = pixels.reshape(-1, 3)
    return flat[chance.permutation(len(flat))].reshape(pixels.shape)


def _shuffled_phases(pixels: Pixels, chance: Chance) -> Pixels:
    """Return a picture of the same spectrum; all colors get the same phases, so they stay together."""
    phases = np.angle(np.fft.fft2(chance.normal(size=pixels.shape[:2])))[..., None]
    mean = pixels.mean(axis=(0, 1))
    spectrum = np.fft.fft2(pixels - mean, axes=(0, 1)) * np.exp(1j * phases)
    shuffled: Pixels = np.fft.ifft2(spectrum, axes=(0, 1)).real + mean
    return shuffled


def _plain(pixels: Pixels, chance: Chance) -> Pixels:
    return np.broadcast_to(_color(chance), pixels.shape)


def _slope(pixels: Pixels, chance: Chance) -> Pixels:
    """Return a picture that changes from one color to another in some direction."""
    down, across = _places(pixels)
    angle = chance.uniform(0, 2 * np.pi)
    along = (across - 0.5) * np.cos(angle) + (down - 0.5) * np.sin(angle) + 0.5
    first, second = _color(chance), _color(chance)
    slope: Pixels = first + (second - first) * np.clip(along, 0, 1)[..., None]
    return slope


def _noise(pixels: Pixels, chance: Chance) -> Pixels:
    channels = 1 if chance.random() < 0.5 else 3
    return _color(chance) + chance.normal(0, chance.uniform(5, 60), (*pixels.shape[:2], channels))


def _soft_noise(pixels: Pixels, chance: Chance) -> Pixels:
    """Return noise that was blurred; the blur has a standard deviation of 1 to 18 % of the longer side."""
    height, width = pixels.shape[:2]
    blur = max(height, width) * np.exp(chance.uniform(np.log(0.01), np.log(0.18)))
    down, across = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    kept = np.exp(-2 * (np.pi * blur) ** 2 * (down**2 + across**2))[..., None]
    spectrum = np.fft.fft2(chance.normal(size=pixels.shape), axes=(0, 1)) * kept
    soft = np.fft.ifft2(spectrum, axes=(0, 1)).real
    noise: Pixels = _color(chance) + soft / np.maximum(soft.std(axis=(0, 1)), 1e-9) * chance.uniform(10, 60)
    return noise


def _stripes(pixels: Pixels, chance: Chance) -> Pixels:
    down, across = _steps(pixels, chance)
    angle = chance.uniform(0, np.pi) if chance.random() < 0.5 else chance.choice([0, np.pi / 2])
    return _two_colors((across * np.cos(angle) + down * np.sin(angle)) % 1 < 0.5, chance)


def _checks(pixels: Pixels, chance: Chance) -> Pixels:
    down, across = _steps(pixels, chance)
    return _two_colors((np.floor(down) + np.floor(across)) % 2 == 0, chance)


def _dots(pixels: Pixels, chance: Chance) -> Pixels:
    down, across = _steps(pixels, chance)
    across = across + (np.floor(down) % 2) / 2 if chance.random() < 0.5 else across
    distance = (down % 1 - 0.5) ** 2 + (across % 1 - 0.5) ** 2
    return _two_colors(distance < chance.uniform(0.12, 0.45) ** 2, chance)


KINDS: dict[str, Callable[[Pixels, Chance], Pixels]] = {
    "shuffled pixels": _shuffled_pixels,
    "shuffled phases": _shuffled_phases,
    "one color": _plain,
    "a slope": _slope,
    "noise": _noise,
    "soft noise": _soft_noise,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
}
"""What makes a picture of each kind: a function of the pixels of a picture, whose size it gets, and of chance."""


def null_pictures(
    pictures: Sequence[Image.Image], count: int = COUNT, kinds: Sequence[str] = tuple(KINDS), seed: int = 0
) -> Iterator[Image.Image]:
    """Yield pictures with nothing to see, of all kinds in turn; the same for the same arguments.

    Args:
        pictures: pictures like those that will be read, at least one; they give sizes, and to some kinds colors.
        count: the number of pictures.
        kinds: names of `KINDS`.
        seed: another one gives others.
    """
    for number in range(count):
        kind = kinds[number % len(kinds)]
        # Each kind is made of all pictures in turn.
        source = pictures[number // len(kinds) % len(pictures)]
        yield null_picture(source, kind, np.random.default_rng([seed, number]))


def within(picture: Image.Image, pixels: int) -> Image.Image:
    """Return a picture as it is, or shrunk in proportion if it has more than so many pixels."""
    if picture.width * picture.height <= pixels:
        return picture
    scale = (pixels / (picture.width * picture.height)) ** 0.5
    width = min(pixels, max(1, int(picture.width * scale)))
    return picture.resize((width, min(pixels // width, max(1, int(picture.height * scale)))))


def null_picture(picture: Image.Image, kind: str, chance: Chance) -> Image.Image:
    """Return a picture with nothing to see, of the size of a given one and of a kind of `KINDS`."""
    from PIL import Image

    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    return Image.fromarray(np.clip(KINDS[kind](pixels, chance), 0, 255).astype(np.uint8))


def _color(chance: Chance) -> Pixels:
    return chance.integers(0, 256, 3).astype(np.float64)


def _two_colors(first: npt.NDArray[np.bool_], chance: Chance) -> Pixels:
    """Return one color where `first` is true and another elsewhere: any other, or a lighter or darker one."""
    one = _color(chance)
    other = (
        _color(chance) if chance.random() < 0.5 else one + chance.choice([-1, 1]) * chance.integers(15, 70)
    )
    return np.where(first[..., None], one, other)


def _places(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """Return how far down and across each pixel is, from 0 to 1."""
    height, width = pixels.shape[:2]
    down, across = np.mgrid[:height, :width]
    return down / max(1, height - 1), across / max(1, width - 1)


def _steps(pixels: Pixels, chance: Chance) -> tuple[Pixels, Pixels]:
    """Return how far down and across each pixel is in steps of a pattern, each 4 to 30 % of the longer side."""
    height, width = pixels.shape[:2]
    step = max(2.0, max(height, width) * chance.uniform(0.04, 0.3))
    down, across = np.mgrid[:height, :width]
    shift = chance.uniform(0, 1, 2)
    return down / step + shift[0], across / step + shift[1]
