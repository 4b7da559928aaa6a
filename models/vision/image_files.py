"""Image files: which formats are read, HEIC with pillow-heif, and images as text in base64."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from latentbank.errors import ImageError

SUFFIXES = {
    ".apng",
    ".avif",
    ".bmp",
    ".dib",
    ".gif",
    ".heic",
    ".heif",
    ".hif",
    ".j2k",
    ".jfif",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".jpx",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".psd",
    ".tga",
    ".tif",
    ".tiff",
    ".webp",
}
"""Suffixes of the files that are read from a folder. A file that is given by its path may have any suffix."""
UNREADABLE = {
    ".ai",
    ".arw",
    ".cr2",
    ".cr3",
    ".djvu",
    ".dng",
    ".emf",
    ".eps",
    ".exr",
    ".hdr",
    ".icns",
    ".ico",
    ".jxl",
    ".jxr",
    ".nef",
    ".orf",
    ".psb",
    ".raf",
    ".raw",
    ".rw2",
    ".svg",
    ".svgz",
    ".wmf",
    ".xcf",
}
"""Suffixes of image files that are not read: vector graphics, icons, cameras' raw data, formats that Pillow lacks."""
_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "TIFF",
    "BMP",
    "DIB",
    "AVIF",
    "HEIF",
    "JPEG2000",
    "PPM",
    "PSD",
    "TGA",
)
"""Formats that are read, by Pillow's names. Of the others, EPS and WMF start other programs, icons are decoded before
their size is known, and many are for instruments and games. TGA is last, as it has no mark of its own."""
_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_BASE64 = re.compile(r"\s*(?:data:image/[\w.+-]+;base64,)?([A-Za-z0-9+/_\s-]{64,}={0,2})\s*")
_SHORTEST_PATH_NOT_SHOWN = 200


def open_file(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """Open an image file, or the bytes of one, with Pillow; HEIC with pillow-heif. No pixel of it is decoded yet.

    Raises:
        ImageError: it is HEIC, and pillow-heif is not installed.
        UnidentifiedImageError: it is in no format that is read.
    """
    given = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return Image.open(given, formats=_formats())
    except UnidentifiedImageError:
        if _knows_heic() or not _is_heic(source):
            raise
    raise ImageError(
        f"{shown_name(source)} is in the format HEIC, which Pillow reads only with pillow-heif: install "
        "latentbank[vision]."
    )


def shown_name(source: object) -> str:
    """Return what messages call an image; only the beginning of what is too long for a path."""
    if not isinstance(source, str | os.PathLike):
        return "The image"
    name = str(source)
    return f"The image {name if len(name) <= _SHORTEST_PATH_NOT_SHOWN else name[:60] + '…'}"


def from_base64(text: str) -> bytes | None:
    """Return the bytes of an image that is given as base64, or as a data URI; None if the text is something else."""
    match = _BASE64.fullmatch(text)
    if match is None or os.path.exists(text):
        return None
    letters = re.sub(r"\s", "", match[1]).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except binascii.Error:
        return None
    return data if text.lstrip().startswith("data:") or _is_image(data) else None


def _is_image(data: bytes) -> bool:
    if _is_heic(data):
        return True
    try:
        with open_file(data):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # a broken image is one, and is named where it is opened
        return True


def _is_heic(source: str | os.PathLike[str] | bytes) -> bool:
    if isinstance(source, bytes):
        head = source[:12]
    else:
        with Path(source).open("rb") as file:
            head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that are read and that this Pillow knows."""
    _knows_heic()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@cache
def _knows_heic() -> bool:
    """Teach Pillow to read HEIC; return whether that is possible."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True
