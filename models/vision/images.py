"""Images as people have them, opened the way a vision-language model should see them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from latentbank.errors import ImageError

# Pillow's own limit, past which a small file may be made to fill the memory (512 MiB in RGB here).
MAX_PIXELS = 178_956_970


def open_image(source: str | Path | bytes | Image.Image) -> Image.Image:
    """Open an image and bring it into RGB, 8 bits a channel.

    The EXIF rotation is honoured, transparency is composited on white, greys of 16 bits or floats are scaled to
    8 bits, CMYK is converted, and of an animation the first frame is taken.

    Args:
        source: a path, a file's bytes, or an image that is open already.

    Raises:
        ImageError: it is missing, no image, cut off in the middle, or larger than `MAX_PIXELS`.
    """
    name = f"The image {source}" if isinstance(source, str | Path) else "The image"
    try:
        with warnings.catch_warnings():
            # Between half its limit and the limit Pillow only warns; ours is the only limit. It also warns of
            # metadata that does not matter here.
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                return _as_rgb(source, name)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return _as_rgb(image, name)
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist; check its path.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is no image that Pillow can read; use PNG, JPEG or WebP.") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels; make it smaller first.") from None
    except ImageError:
        raise
    except Exception as error:
        # Pillow tells of broken files in many ways: OSError, SyntaxError, ValueError, struct.error and others.
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{name} cannot be read to its end ({said}); replace the file.") from None


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
    """Turn an image as its EXIF says; one whose EXIF is damaged stays as it is."""
    image.load()  # what is wrong from here on is not the pixels
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _as_grey(image: Image.Image) -> Image.Image:
    """Scale greys of 16 bits, or of floats up to 1, 255 or 65,535, to 8 bits: Pillow cuts them off at 255."""
    floats = image.mode == "F"
    values = np.nan_to_num(np.asarray(image if floats else image.convert("I"), dtype=np.float32), posinf=0)
    top = values.max(initial=0)
    white = 65535 if not floats or top > 255 else 255 if top > 1 else 1
    return Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(np.uint8))
