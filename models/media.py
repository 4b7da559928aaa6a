"""Opening video and sound files with PyAV: only files of known formats, which name no others."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from latentbank.errors import LatentBankError
from latentbank.text import first_line

_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dv,eac3,flac,flv,gif,m4v,matroska,webm,mov,mp4,mp3,mpeg,mpegts,mpegvideo,mxf,nut,"
    "ogg,tta,w64,wav,wv"
)
"""Formats that are read, by FFmpeg's names. Not among them are playlists (HLS, DASH, concat) and SDP, which name other
files, and devices."""
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
_CALLED = {"video": "video", "audio": "sound"}


def pyav(why: str, instead: str, error: type[LatentBankError]) -> Any:
    """Return PyAV's module.

    Args:
        why: what is read by PyAV.
        instead: what can be given without it.
        error: what is raised.

    Raises:
        LatentBankError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise error(f"{why} by PyAV: pip install 'latentbank[vision]', or give {instead}.") from None
    return av


@contextmanager
def open_media(
    av: Any, path: str, kind: Literal["video", "audio"], better: str, error: type[LatentBankError]
) -> Iterator[tuple[Any, Any]]:
    """Open a file, and yield its container and the first stream of a kind; errors in the block are the file's, too.

    Args:
        av: PyAV's module.
        path: of the file.
        kind: of the stream.
        better: a format to convert the file to if it cannot be read.
        error: what is raised.

    Raises:
        LatentBankError: the file is missing, in no format that is read, broken, or has no such stream.
    """
    called = _CALLED[kind]
    file = os.path.expanduser(path)
    if not os.path.exists(file):
        raise error(f"The {called} {path} does not exist; check its path.")
    try:
        # Without "file:", a name such as "concat:a" or "http:b" would be an address.
        with av.open(f"file:{file}", options=_OPTIONS) as container:
            streams = getattr(container.streams, kind)
            if not streams:
                raise error(f"The file {path} holds no {called}.")
            yield container, streams[0]
    except LatentBankError:
        raise
    except Exception as failure:  # FFmpeg's errors are of many kinds
        reason = getattr(failure, "strerror", None) or first_line(failure)[:120]
        if getattr(failure, "errno", None) == errno.EINVAL:  # not on the list
            reason = "it is a list of other files, or in a format that is not read"
        raise error(f"The {called} {path} cannot be read ({reason}); convert it to {better}.") from None
