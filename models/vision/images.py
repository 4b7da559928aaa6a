"""Opening images in the form that vision-language models take."""

from __future__ import annotations

import os
import warnings
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from latentbank.errors import ImageError
from latentbank.models.vision.image_files import open_file, shown_name

# Pillow's own limit; beyond it a small file could fill the memory (512 MiB in RGB here).
MAX_PIXELS = 178_956_970
_CHANNELS = (1, 3, 4)


class Pixels(Protocol):
    """An array or a tensor of pixels."""

    @property
    def shape(self) -> Any:
        """Its sides."""

    @property
    def dtype(self) -> Any:
        """Of its numbers."""


Opened = str | os.PathLike[str] | bytes | Image.Image | Pixels
"""What `open_image` opens: a path, a file's bytes, an open image, or an array or tensor of pixels."""


def open_image(source: Opened) -> Image.Image:
    """Open an image and convert it to RGB with 8 bits per channel.

    The EXIF rotation is applied, transparency is composited on white, greys of 16 bits or floats are scaled to 8 bits,
    CMYK is converted, and the first frame of an animation is used.

    Args:
        source: a path, a file's bytes, an open image, or an array or tensor of integers from 0 to 255 or of floats from
            0 to 1: `[height, width]`, `[height, width, channels]` or `[channels, height, width]` with 1, 3 or 4
            channels.

    Raises:
        ImageError: the image is missing, no image, truncated, or larger than `MAX_PIXELS`; an array has another shape
            or other values.
    """
    name = shown_name(source)
    try:
        with warnings.catch_warnings():
            # Pillow warns between half its limit and the limit, and about metadata that does not matter here.
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                return _as_rgb(source, name)
            if not isinstance(source, str | os.PathLike | bytes):
                return _as_rgb(_of_array(source), name)
            with open_file(source) as image:
                return _as_rgb(image, name)
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist; check its path.") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder; name a file in it.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image in a format that is read; use PNG, JPEG or WebP.") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels; make it smaller first.") from None
    except MemoryError:
        raise ImageError(f"{name} needs more memory than there is; make it smaller first.") from None
    except ImageError:
        raise
    except Exception as error:
        # Pillow raises many kinds of errors for broken files: OSError, SyntaxError, ValueError, struct.error, ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{name} cannot be read to its end ({reason}); replace the file.") from None


def _of_array(source: Any) -> Image.Image:
    """Return an array or a tensor of pixels as an image."""
    if hasattr(source, "detach"):  # a tensor, on any device
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source
    pixels = np.asarray(source)
    if pixels.ndim == 3 and pixels.shape[0] in _CHANNELS and pixels.shape[-1] not in _CHANNELS:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if not pixels.size or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in _CHANNELS)):
        raise ImageError(
            f"An array of the shape {list(pixels.shape)} is no image: give [height, width, channels] or "
            "[channels, height, width], one image at a time."
        )
    if pixels.dtype.kind not in "buif":
        raise ImageError(
            f"An array of {pixels.dtype} is no image: give numbers from 0 to 255, or from 0 to 1."
        )
    top = 1.0 if pixels.dtype.kind in "bf" else 255.0
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= top):  # not a number is neither
        raise ImageError(
            f"The array's values are from {low:g} to {high:g}: give integers from 0 to 255 or floats from 0 to 1, not "
            "what a processor has normalized."
        )
    return Image.fromarray(np.round(pixels.astype(np.float32) * (255 / top)).astype(np.uint8))


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}; make it smaller first."
        )
    upright = _upright(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _as_grey(upright)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return upright.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Rotate an image as its EXIF says; an image with damaged EXIF stays as it is."""
    image.load()  # errors after this are not about the pixels
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _as_grey(image: Image.Image) -> Image.Image:
    """Scale greys of 16 bits, or floats up to 1, 255 or 65,535, to 8 bits; Pillow would clip them at 255."""
    floats = image.mode == "F"
    values = np.nan_to_num(np.asarray(image if floats else image.convert("I"), dtype=np.float32), posinf=0)
    top = values.max(initial=0)
    white = 65535 if not floats or top > 255 else 255 if top > 1 else 1
    return Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(np.uint8))
