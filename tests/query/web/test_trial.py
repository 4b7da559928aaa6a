"""Images that take more than their size explains: each format has its own way, and none takes the page with it."""

from __future__ import annotations

import base64
import io
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from latentbank.errors import ImageError
from latentbank.query.web import trial
from latentbank.query.web.trial import check_image

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
# An AVIF file of 8000 x 8000 black pixels, which takes seconds to encode.
BLACK = (
    "eNpjYGBQSCupLEgsy0xjAAIQnZuZZpibmZjm62joBBR6nZtaksgAAYoZKTlFUDZDQWZyCQMa4CvILMkFsxiBWC4zJz8ZxHEB8Rkh"
    "oozCDAxM34FsjczMvDS4WikgJ5UJykssMzB0zs/JB9uVlVlQVACkvTMLkvOBtEhmcUEqxDp5BwhmECjIrMgEiTBzcHAAKZ7EMkPn"
    "RnkekJBwcn5OUV5yTgXQZF4GtgagkHhmQS7MT0CHsTAyNbMAXfU/NyWxRIiBi1v+s139528dHBkmCkZPWSX4v7e3it7////R+QMM"
    "DFHnT2ken2Jz8nJB7P59UzoysrcsvPP84go1H7aEFps1u75/nda+5OqaL6199qe9F3J/CZoyd527iLWDkdm8t5eL5/D4F1msufOw"
    "znD6oZTXU5L4glarf4z90GImfo5tbbzIUDU7jAizb0pLCFwPMZebwXlnS825OdXc12y1txzryPJuNfZ3Mg1o7/ndfc+A9btlxKqt"
    "c91OT+L85dh/iXZujmsYqmbTJqgXAADDnrfI"
)
REFUSED = "takes more memory or time than|cannot be read to its end|needs more memory than"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[trial._Trial]:
    """A trial of this test's own."""
    made = trial._Trial()
    monkeypatch.setattr(trial, "_trial", lambda: made)
    yield made
    made.close()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def tiff(tags: list[tuple[int, int, int, int]], values: bytes) -> bytes:
    """A TIFF file of tags (number, type, count, value); their values begin at byte 8."""
    values += b"\0" * (len(values) % 2)
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(values))
        + values
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def huge_tile() -> bytes:
    """16 x 16 pixels in a tile of 600 million."""
    packer = zlib.compressobj(1)
    zeros = bytes(6_000_000)
    first, second = (packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    tile = first + 99 * second
    sizes = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    return tiff(
        [*sizes, (322, 4, 1, 30_000), (323, 4, 1, 20_000), (324, 4, 1, 8), (325, 4, 1, len(tile))], tile
    )


def many_strips() -> bytes:
    """One column of a million rows, each a strip."""
    rows = 1_000_000
    sizes = [(256, 4, 1, 1), (257, 4, 1, rows), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    return tiff([*sizes, (273, 4, rows, 8), (277, 3, 1, 1), (278, 3, 1, 1)], struct.pack("<I", 8) * rows)


def untrue_size() -> bytes:
    """An AVIF file of 64 million pixels that says it has 256."""
    data = zlib.decompress(base64.b64decode(BLACK))
    at = data.index(b"ispe") + 8
    assert struct.unpack_from(">II", data, at) == (8000, 8000)
    return data[:at] + struct.pack(">II", 16, 16) + data[at + 8 :]


@linux
@pytest.mark.parametrize("make", [huge_tile, many_strips, untrue_size])
def test_a_small_file_that_takes_much_memory_is_refused(
    make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SECONDS", 2.0)  # the strips fill it before memory
    data = make()
    assert len(data) < 5_000_000
    with pytest.raises(ImageError, match=REFUSED):
        check_image(data)


@pytest.mark.parametrize(("kind", "options"), [("WEBP", {"lossless": True}), ("TIFF", {})])
def test_a_large_photo_is_taken(kind: str, options: dict[str, object]) -> None:
    check_image(encoded(Image.new("RGB", (5000, 4000), "red"), kind, **options))


def test_a_larger_one_is_named_so() -> None:
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "method": 0})):
        data = encoded(Image.new("1" if kind == "PNG" else "RGB", (8000, 5100)), kind, **options)
        with pytest.raises(ImageError, match="more than 40 million pixels"):
            check_image(data)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_only_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), (number, 0, 0)) for number in range(200)]
    check_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_an_image_that_takes_too_long_is_refused_and_the_next_one_is_taken(
    own: trial._Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = encoded(Image.new("RGB", (64, 64)), "JPEG")
    start = trial._start

    def stopped() -> subprocess.Popen[bytes]:
        process = start()
        process.send_signal(signal.SIGSTOP)  # before it gets the image, which it will never open
        return process

    with monkeypatch.context() as patch:
        patch.setattr(trial, "_start", stopped)
        patch.setattr(trial, "SECONDS", 0.05)
        with pytest.raises(ImageError, match="takes more memory or time than its size explains"):
            check_image(photo)
    check_image(photo)
    process = own._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)  # as by a kernel that needs memory, or a decoder's crash
    process.wait()
    check_image(photo)


def test_the_reason_is_that_of_the_reader() -> None:
    cut = encoded(Image.effect_noise((64, 64), 50), "PNG")[:2000]
    with pytest.raises(ImageError, match=r"cannot be read to its end .*; replace the file"):
        check_image(cut)
    for data in (b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(ImageError, match="not an image in a format that is read"):
            check_image(data)
