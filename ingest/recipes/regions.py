"""The region descriptions of Visual Genome, a JSON document of a gigabyte, read image by image."""

from __future__ import annotations

import codecs
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Any, cast

from latentbank.errors import CorpusError
from latentbank.ingest.sources.lines import damaged, open_bytes

_BETWEEN = re.compile(r"[ \t\r\n,]*")
_CHUNK = 1 << 20  # bytes read at a time
_LONGEST = 64 << 20  # characters of the description of one image


def read_regions(path: str) -> Iterator[str | None]:
    """Yield the phrases of all regions, image by image; None for a region without one.

    Args:
        path: `region_descriptions.json`, also compressed (.gz, .zst) or in the .zip that it comes in. It is a list of
            images: `[{"id": 1, "regions": [{"region_id": 1382, "phrase": "the clock is green", ...}, ...]}, ...]`.

    Raises:
        CorpusError: the file is no such document, or breaks off.
    """
    for image in _elements(path):
        regions = image.get("regions") if isinstance(image, dict) else None
        if not isinstance(regions, list):
            raise _other(path)
        for region in regions:
            phrase = region.get("phrase") if isinstance(region, dict) else None
            yield phrase if isinstance(phrase, str) else None


def _elements(path: str) -> Iterator[Any]:
    """Yield the elements of a JSON document that is a list, reading a little at a time."""
    decode = json.JSONDecoder().raw_decode
    with ExitStack() as stack:
        chunks = _text(path, _opened(path, stack))
        text = next(chunks, "").lstrip()
        if not text.startswith("["):
            raise _other(path)
        at = 1
        while True:
            at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing as well
            if text.startswith("]", at):
                return
            try:
                element, at = decode(text, at)
            except ValueError:
                more = next(chunks, "")
                if not more or len(text) - at > _LONGEST:
                    raise damaged(path, "within the list of images") from None
                text, at = text[at:] + more, 0
                continue
            yield element


def _opened(path: str, stack: ExitStack) -> IO[bytes]:
    if not path.lower().endswith(".zip"):
        return cast("IO[bytes]", stack.enter_context(open_bytes(path)))
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
        inside = [name for name in archive.namelist() if name.lower().endswith(".json")]
        if len(inside) == 1:
            return stack.enter_context(archive.open(inside[0]))
    except (OSError, zipfile.BadZipFile) as error:
        raise CorpusError(f"{path} cannot be opened ({error}); check it.") from None
    raise CorpusError(f"{path} holds {len(inside)} JSON files; give the archive that holds one, or the file.")


def _text(path: str, file: IO[bytes]) -> Iterator[str]:
    """Yield the text of a file in pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read(_CHUNK):
            yield decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except (OSError, EOFError, zipfile.BadZipFile):
        raise damaged(path, "within the list of images") from None
    except UnicodeDecodeError:
        raise CorpusError(f"{path}: not valid UTF-8; fetch the file again.") from None


def _other(path: str) -> CorpusError:
    return CorpusError(
        f"{path} is no list of images with their regions; give Visual Genome's region_descriptions.json, or a text "
        "file with a phrase on each line."
    )
