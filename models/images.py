"""Images as people have them, opened the way a vision-language model should see them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from latentbank_errors import ImageError

# Pillow's own limit, past which a small file may be made to fill the memory (512 MiB in RGB here).
MAX_PIXELS = 178_956_970


def open_image(source: str | Path | bytes | Image.Image) -> Image.Image:
    """Open an image and bring it into RGB, 8 bits a channel.

    The EXIF rotation is honoured, transparency is composited on white, 16-bit greys are scaled to 8 bits, CMYK
    is converted, and of an animation the first frame is taken.

    Args:
        source: a path, a file's bytes, or an image that is open already.

    Raises:
        ImageError: it is missing, no image, cut off in the middle, or larger than `MAX_PIXELS`.
    """
    if isinstance(source, Image.Image):
        return _as_rgb(source, "The image")
    name = "The image" if isinstance(source, bytes) else f"The image {source}"
    try:
        with warnings.catch_warnings():
            # Between half its limit and the limit Pillow only warns; ours is the only limit.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return _as_rgb(image, name)
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist; check its path.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is no image that Pillow can read; use PNG, JPEG or WebP.") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels; make it smaller first.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow tells of broken files in all of these ways.
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{name} cannot be read to its end ({said}); replace the file.") from None


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}; make it smaller first."
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        # Pillow's own conversion cuts 16-bit greys off at 255.
        upright = upright.convert("I").point(lambda value: value / 257).convert("L")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return upright.convert("RGB")
