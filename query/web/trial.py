"""Trying strangers' images in another process, which has little memory and time.

A small file can name sizes, strips, tiles or scans that take gigabytes or hours, in each format in another way, and the
size in its header may be untrue. An image that can be opened within limits in the other process can be opened here.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from PIL import Image

import latentbank
from latentbank.errors import ImageError, LatentBankError
from latentbank.models.vision.image_files import open_file
from latentbank.models.vision.images import open_image

MOST_PIXELS = 40_000_000
"""Largest number of pixels of an uploaded image."""
SECONDS = 20.0
"""How long an image may take to be opened."""
_HERE = str(Path(latentbank.__file__).parent.parent)
# Beside what the process takes anyway. 40 MB and 28 bytes a pixel were the most that any format took.
_BYTES = 96 << 20
_BYTES_PER_PIXEL = 40
# libwebp reserves room for two canvases before their size can be asked for, and does not use it then.
_LARGEST_WEBP = 8 * 16_383**2
_UNUSUAL = "The image takes more memory or time than its size explains; save it anew with another program."


def check_image(data: bytes) -> None:
    """Check that data is an image of a bearable size, and that it can be opened with bearable effort.

    Raises:
        ImageError: it is no image, has more than `MOST_PIXELS` pixels, cannot be read to its end, or takes more memory
            or time than an image of its size should.
    """
    if sys.executable and not getattr(sys, "frozen", False):
        _trial().check(data)
    else:  # a program without Python's own executable can start no other process
        check_header(data)


def check_header(data: bytes) -> int:
    """Return how many pixels an image's header names; nothing is decoded.

    Raises:
        ImageError: it is no image, or has more than `MOST_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, and about sizes that are refused below
            with open_file(data) as image:
                pixels = image.width * image.height
    except ImageError:
        raise
    except Image.DecompressionBombError:
        pixels = 2 * MOST_PIXELS
    except MemoryError:
        raise ImageError(_UNUSUAL) from None
    except Exception:
        raise ImageError(
            "This file is not an image in a format that is read; use PNG, JPEG or WebP."
        ) from None
    if pixels > MOST_PIXELS:
        raise ImageError(
            f"The image has more than {MOST_PIXELS // 1_000_000} million pixels; make it smaller."
        )
    return pixels


class _Trial:
    """The other process. It is started when it is first needed, and anew after it was stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def check(self, data: bytes) -> None:
        """Open an image there.

        Raises:
            ImageError: it cannot be opened within the limits.
        """
        with self._lock:
            answer = self._answer(data)
            if answer is None:  # the process has ended, perhaps before it got this image
                answer = self._answer(data)
        if answer is None or answer:
            raise ImageError(answer or _UNUSUAL)

    def _answer(self, data: bytes) -> str | None:
        process = self._process = self._process or _start()
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(SECONDS, stop)
        timer.start()
        try:
            answer = _ask(process, data)
        finally:
            timer.cancel()
        if answer is None:
            self._stop()
        return _UNUSUAL if answer is None and late.is_set() else answer

    def close(self) -> None:
        """Stop the process."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            self._process = None


@cache
def _trial() -> _Trial:
    """Return the process that tries images for all pages of this one."""
    trial = _Trial()
    atexit.register(trial.close)
    return trial


def _start() -> subprocess.Popen[bytes]:
    # What this process can import, the other one can.
    paths = [_HERE, *(entry for entry in sys.path if isinstance(entry, str) and entry)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MALLOC_ARENA_MAX": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _ask(process: subprocess.Popen[bytes], data: bytes) -> str | None:
    """Return why an image cannot be opened, "" if it can, and None if the process gave no answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(len(data).to_bytes(8, "big"))
        process.stdin.write(data)
        process.stdin.flush()
        answer = process.stdout.readline()
    except OSError:
        return None
    return str(json.loads(answer)) if answer.endswith(b"\n") else None


def _serve(images: IO[bytes], answers: IO[bytes]) -> None:
    """Answer for one image after the other, until there are no more."""
    while length := images.read(8):
        answer = _tried(images.read(int.from_bytes(length, "big")))
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _tried(data: bytes) -> str:
    try:
        _limit_memory(4 * len(data) + (_LARGEST_WEBP if data[8:12] == b"WEBP" else 0))
        pixels = check_header(data)
        _limit_memory(4 * len(data) + pixels * _BYTES_PER_PIXEL)
        open_image(data).close()
    except LatentBankError as error:
        return str(error)
    except MemoryError:
        return _UNUSUAL
    return ""


def _limit_memory(more: int) -> None:
    """Let this process take `more` bytes and what any image needs; only Linux says how much it has."""
    try:
        import resource

        size = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + _BYTES + more, most))


def _prepare() -> None:
    """Load all formats before memory is limited, and leave Ctrl-C to the page."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(ImportError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each thread reserves memory of its own
    with suppress(ImageError):
        check_header(b"")


if __name__ == "__main__":
    _prepare()
    _answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    _serve(sys.stdin.buffer, _answers)
