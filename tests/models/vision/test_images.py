"""Opening images: every image opens as viewers show it, or gives an error of one sentence."""

from __future__ import annotations

import io
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from latentbank.errors import ImageError
from latentbank.models.vision.images import MAX_PIXELS, open_image

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def two_halves(width: int = 40, height: int = 20) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    ImageDraw.Draw(image).rectangle((width // 2, 0, width, height), fill=BLUE)
    return image


def noise(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """An image that no format compresses well, so that truncating its file truncates pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def stored(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def near(pixel: Any, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return max(abs(int(a) - b) for a, b in zip(pixel, colour, strict=True)) <= tolerance


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_path_bytes_and_an_open_image_are_the_same(tmp_path: Path, format_: str) -> None:
    data = stored(two_halves(), format_)
    path = tmp_path / f"halves.{format_.lower()}"
    path.write_bytes(data)
    opened = [open_image(path), open_image(str(path)), open_image(data)]
    with Image.open(path) as image:
        opened.append(open_image(image))
    for image in opened:
        assert (image.mode, image.size) == ("RGB", (40, 20))
        assert near(image.getpixel((5, 10)), RED)
        assert near(image.getpixel((35, 10)), BLUE)


def test_what_is_given_is_not_changed() -> None:
    given = two_halves()
    opened = open_image(given)
    opened.putpixel((0, 0), WHITE)
    assert given.getpixel((0, 0)) == RED


# --- truncated, damaged, missing ------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, format_: str) -> None:
    data = stored(noise(), format_)
    path = tmp_path / "cut"
    for share in (0.0, 0.01, 0.05, 0.3, 0.5, 0.8, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ImageError, match="cut") as caught:
            open_image(path)
        assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_damaged_bytes_end_in_an_image_or_in_one_sentence(format_: str) -> None:
    data = stored(noise(seed=1), format_, **({"exif": rotated_exif(6)} if format_ != "BMP" else {}))
    chance = random.Random(format_)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(min(len(data), 400))] = chance.randrange(256)
        try:
            assert open_image(bytes(damaged)).mode == "RGB"
        except ImageError:
            refused += 1
    assert refused


def test_an_open_image_whose_file_is_cut_off_is_refused() -> None:
    data = stored(noise(), "JPEG")
    with (
        Image.open(io.BytesIO(data[: len(data) // 2])) as image,
        pytest.raises(ImageError, match="to its end"),
    ):
        open_image(image)


@pytest.mark.parametrize("name", ["nothing.png", "words.png", "empty.png", "folder.png"])
def test_files_that_are_not_images_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "words.png").write_text("This is no image.")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match=name):
        open_image(tmp_path / name)


# --- kinds of pixels ----------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_cmyk(format_: str) -> None:
    data = stored(two_halves().convert("CMYK"), format_)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    image = open_image(data)
    assert near(image.getpixel((5, 10)), RED)
    assert near(image.getpixel((35, 10)), BLUE)


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_16_bit_greys_keep_their_brightness(format_: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).round().astype(np.uint16), (8, 1))
    image = open_image(stored(Image.fromarray(ramp), format_))
    assert image.mode == "RGB"
    grey = np.asarray(image)
    assert (grey[..., 0] == grey[..., 1]).all()
    assert np.abs(grey[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_16_bit_colours() -> None:
    """Pillow reads such a PNG with 8 bits per channel but cannot write one, so the test writes it itself."""
    image = open_image(_png(2, 1, bits=16, colour=2, rows=[b"\xff\xff\0\0\0\0" + b"\0\0\0\0\xff\xff"]))
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [RED, BLUE]


@pytest.mark.parametrize(("top", "grey"), [(1.0, 0.5), (255.0, 127.5), (65535.0, 32767.5)])
def test_greys_as_floats(top: float, grey: float) -> None:
    values = np.array([[0.0, grey, top]], dtype=np.float32)
    image = np.asarray(open_image(stored(Image.fromarray(values), "TIFF")))
    assert np.abs(image[0, :, 0].astype(int) - [0, 127, 255]).max() <= 1


def test_greys_as_floats_that_are_no_numbers_are_black() -> None:
    values = np.array([[np.nan, 0.25, 1.0]], dtype=np.float32)
    image = np.asarray(open_image(Image.fromarray(values)))
    assert image[0, :, 0].tolist() == pytest.approx([0, 64, 255], abs=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "HSV", "LAB", "YCbCr"])
def test_other_modes(mode: str) -> None:
    source = Image.new("RGB", (8, 8), WHITE)
    given = source.convert(mode) if mode != "LAB" else Image.new("LAB", (8, 8), (255, 128, 128))
    assert near(open_image(given).getpixel((4, 4)), WHITE)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in (RED, BLUE)]
    for format_ in ("GIF", "WEBP", "PNG", "TIFF"):
        data = stored(frames[0], format_, save_all=True, append_images=frames[1:])
        assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
        assert near(open_image(data).getpixel((3, 3)), RED), format_
    with Image.open(io.BytesIO(stored(frames[0], "GIF", save_all=True, append_images=frames[1:]))) as gif:
        gif.seek(1)
        assert near(open_image(gif).getpixel((3, 3)), BLUE)  # an open image is used at its current frame


# --- rotation and transparency ------------------------------------------------------------------


def rotated_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_honoured(orientation: int, format_: str) -> None:
    """Each file is rotated so that a viewer that reads EXIF shows the same picture: a red top left corner."""
    picture = Image.new("RGB", (40, 24), BLUE)
    ImageDraw.Draw(picture).rectangle((0, 0, 19, 11), fill=RED)
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    turned = picture if back is None else picture.transpose(back)
    image = open_image(stored(turned, format_, exif=rotated_exif(orientation)))
    assert image.size == (40, 24)
    assert near(image.getpixel((4, 4)), RED, 40)
    assert all(near(image.getpixel(at), BLUE, 40) for at in ((35, 4), (4, 20), (35, 20)))


def test_damaged_exif_does_not_matter() -> None:
    whole = stored(two_halves(), "JPEG", exif=rotated_exif(6))
    at = whole.index(b"Exif\0\0") + 6
    for broken in (b"XX", b"MM\0\x2a\xff\xff\xff\xff", b"II\x2a\0\x08\0\0\0\xff\xff"):
        damaged = whole[:at] + broken + whole[at + len(broken) :]
        assert open_image(damaged).mode == "RGB"
    strange = open_image(stored(two_halves(), "JPEG", exif=rotated_exif(99)))
    assert strange.size == (40, 20)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "RGB", "webp"])
def test_transparency_shows_white(kind: str) -> None:
    clear = Image.new("RGBA", (8, 4), (10, 10, 10, 0))
    clear.paste((10, 10, 10, 255), (4, 0, 8, 4))
    if kind == "RGBA":
        data = stored(clear, "PNG")
    elif kind == "LA":
        data = stored(clear.convert("LA"), "PNG")
    elif kind == "P":
        data = stored(clear.quantize(4), "PNG")
    elif kind == "webp":
        data = stored(clear, "WEBP", lossless=True)
    else:  # one colour of an image without alpha declared transparent
        flat = Image.new("RGB", (8, 4), (1, 2, 3))
        flat.paste((10, 10, 10), (4, 0, 8, 4))
        data = stored(flat, "PNG", transparency=(1, 2, 3))
    image = open_image(data)
    assert image.getpixel((1, 1)) == WHITE
    assert near(image.getpixel((6, 1)), (10, 10, 10))


def test_half_transparency_is_mixed_with_white() -> None:
    image = open_image(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))
    assert near(image.getpixel((0, 0)), (127, 127, 127), 1)


# --- sizes --------------------------------------------------------------------------------------


def test_one_pixel() -> None:
    for format_ in ("PNG", "JPEG", "GIF", "WEBP"):
        image = open_image(stored(Image.new("RGB", (1, 1), RED), format_))
        assert image.size == (1, 1)
        assert near(image.getpixel((0, 0)), RED)


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_long_and_thin(size: tuple[int, int]) -> None:
    assert open_image(stored(Image.new("L", size, 7), "PNG")).size == size


def test_20000_by_20000_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    # The size comes from the header; if the image were decoded, the error would be about missing rows.
    path.write_bytes(_png(20_000, 20_000, bits=8, colour=2, rows=[]))
    with pytest.raises(ImageError, match=r"huge\.png has more than 178,956,970 pixels; make it smaller"):
        open_image(path)


def test_a_large_image_below_the_limit_opens_without_a_warning() -> None:
    """Pillow warns between half its limit and the limit; some programs turn warnings into errors."""
    data = stored(Image.new("1", (10_000, 9_000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(data).size == (10_000, 9_000)
    assert MAX_PIXELS < 10_000 * 9_000 * 2


def test_an_open_image_that_is_too_large_is_refused() -> None:
    """The size is checked before any pixel is read."""
    image = Image.open(io.BytesIO(_png(8, 8, bits=1, colour=0, rows=[])))
    image._size = (20_000, 20_000)  # type: ignore[attr-defined]  # Pillow itself would not open it
    with pytest.raises(ImageError, match=r"20000 x 20000 pixels, more than"):
        open_image(image)


def _png(width: int, height: int, bits: int, colour: int, rows: list[bytes]) -> bytes:
    """Return the bytes of a PNG: `colour` 0 is grey, 2 is RGB."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def arrays() -> dict[str, Any]:
    """The image of `two_halves` as arrays and tensors."""
    pixels = np.asarray(two_halves())
    tensor = torch.from_numpy(pixels.copy())
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return {
        "uint8": pixels,
        "int64": pixels.astype(np.int64),
        "channels first": np.moveaxis(pixels, -1, 0),
        "floats": pixels / 255,
        "float16": (pixels / 255).astype(np.float16),
        "with alpha": np.concatenate([pixels, alpha], axis=-1),
        "a tensor": tensor,
        "a tensor of floats, channels first": tensor.permute(2, 0, 1) / 255,
        "bfloat16 that needs gradients": (tensor / 255).bfloat16().requires_grad_(),
    }


@pytest.mark.parametrize("kind", arrays())
def test_arrays_and_tensors_are_images(kind: str) -> None:
    np.testing.assert_array_equal(np.asarray(open_image(arrays()[kind])), np.asarray(two_halves()))


def test_greys_as_arrays() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for given in (grey, grey[..., None], grey[None], grey / 255):
        np.testing.assert_array_equal(np.asarray(open_image(given))[..., 1], grey)
    assert near(open_image(np.ones((2, 2), dtype=bool)).getpixel((0, 0)), WHITE, 0)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (np.zeros((2, 5, 5, 3)), "An array of the shape [2, 5, 5, 3] is no image"),
        (np.zeros((5, 5, 2)), "An array of the shape [5, 5, 2] is no image"),
        (np.zeros((0, 5, 3)), "An array of the shape [0, 5, 3] is no image"),
        (7, "An array of the shape [] is no image"),
        (np.full((5, 5), "a"), "An array of <U1 is no image"),
        (np.full((5, 5, 3), 300), "from 300 to 300: give integers from 0 to 255"),
        (np.full((5, 5, 3), -1.5), "from -1.5 to -1.5: give integers"),
        (np.full((5, 5, 3), np.nan), "from nan to nan: give integers"),
        (np.full((5, 5, 3), 128.0), "or floats from 0 to 1, not what a processor has normalized"),
    ],
)
def test_arrays_that_are_no_image(given: Any, why: str) -> None:
    with pytest.raises(ImageError) as caught:
        open_image(given)
    assert why in str(caught.value)
