"""Image files: HEIC with and without pillow-heif, and images in base64."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from latentbank.errors import ImageError
from latentbank.models.vision import image_files
from latentbank.models.vision.image_files import from_base64, shown_name
from latentbank.models.vision.images import open_image
from latentbank.query.web.trial import check_header

HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def _png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (12, 8), "red").save(data, "PNG")
    return data.getvalue()


def test_without_pillow_heif_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_knows_heic", lambda: False)
    monkeypatch.setattr(image_files, "_formats", lambda: ("JPEG", "PNG"))
    path = tmp_path / "phone.jpg"  # as phones' exports are often named
    path.write_bytes(HEIC_HEAD)
    for source in (path, HEIC_HEAD):
        with pytest.raises(ImageError, match=r"is in the format HEIC, .* install latentbank\[vision\]"):
            open_image(source)
    with pytest.raises(ImageError, match="HEIC"):
        check_header(HEIC_HEAD)


def test_heic_is_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "phone.heic"
    heif.from_pillow(Image.new("RGB", (64, 48), "red")).save(path)
    for source in (path, path.read_bytes()):
        image = open_image(source)
        assert image.size == (64, 48)
        red, green, blue = image.getpixel((30, 20))
        assert red > 200 > 60 > max(green, blue)
    check_header(path.read_bytes())


def test_images_in_base64_are_told_from_paths_and_other_text(tmp_path: Path) -> None:
    data = _png()
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    for given in (text, lines, f"data:image/png;base64,{text}", text.rstrip("=")):
        assert from_base64(given) == data
    assert from_base64(base64.urlsafe_b64encode(HEIC_HEAD * 2).decode()) == HEIC_HEAD * 2
    for other in ("cat.png", "photos/" * 20 + "cat.png", "A" * 500, "a sentence, not an image. " * 9, ""):
        assert from_base64(other) is None


def test_a_message_does_not_repeat_what_is_too_long_for_a_path() -> None:
    assert shown_name("photos/cat.png") == "The image photos/cat.png"
    assert shown_name(b"\x89PNG") == "The image"
    with pytest.raises(ImageError) as caught:
        open_image("A" * 100_000)
    assert len(str(caught.value)) < 200


# --- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["EPS", "ICO", "ICNS", "PDF", "WMF", "DDS", "SGI", "PCX", "XBM"])
def test_formats_that_are_not_read_are_not_even_begun(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EPS and WMF start other programs, an ICO holds a whole image, and all have parsers of their own."""
    for program in ("gs", "gswin64c"):
        made = tmp_path / program
        made.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        made.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    data = _file_of(kind)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(ImageError, match="not an image in a format that is read; use PNG"):
            open_image(source)
    with pytest.raises(ImageError, match="not an image in a format that is read"):
        check_header(data)
    assert from_base64(base64.b64encode(data).decode()) is None
    assert not (tmp_path / "started").exists()


def _file_of(kind: str) -> bytes:
    if kind == "WMF":
        return b"\xd7\xcd\xc6\x9a\x00\x00" + bytes(16) + b"\x01\x00\t\x00" + bytes(100)
    data = io.BytesIO()
    image = Image.new("1" if kind == "XBM" else "RGB", (32, 32))
    image.save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM", "TGA", "MPO"]
)
def test_formats_that_are_read(kind: str) -> None:
    if kind not in Image.SAVE:
        Image.init()
    data = io.BytesIO()
    red = Image.new("RGB", (32, 24), "red")
    red.save(data, kind, **({"save_all": True, "append_images": [red]} if kind == "MPO" else {}))
    assert check_header(data.getvalue()) == 32 * 24
    pixel = open_image(data.getvalue()).getpixel((5, 5))
    assert isinstance(pixel, tuple)
    assert pixel[0] > 240 > 20 > max(pixel[1:])
