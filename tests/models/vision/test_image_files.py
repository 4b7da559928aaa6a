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
from latentbank.query.web.inputs import check_image

HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def _png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (12, 8), "red").save(data, "PNG")
    return data.getvalue()


def test_without_pillow_heif_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_knows_heic", lambda: False)
    monkeypatch.setattr(Image, "open", _no_format)
    path = tmp_path / "phone.jpg"  # as phones' exports are often named
    path.write_bytes(HEIC_HEAD)
    for source in (path, HEIC_HEAD):
        with pytest.raises(ImageError, match=r"is in the format HEIC, .* install latentbank\[vision\]"):
            open_image(source)
    with pytest.raises(ImageError, match="HEIC"):
        check_image(HEIC_HEAD)


def _no_format(*_: object) -> None:
    raise image_files.UnidentifiedImageError


def test_heic_is_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "phone.heic"
    heif.from_pillow(Image.new("RGB", (64, 48), "red")).save(path)
    for source in (path, path.read_bytes()):
        image = open_image(source)
        assert image.size == (64, 48)
        red, green, blue = image.getpixel((30, 20))
        assert red > 200 > 60 > max(green, blue)
    check_image(path.read_bytes())


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
