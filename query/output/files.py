"""Where the files of readings go: one file for one image, or a folder with a file for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latentbank.errors import QueryError
from latentbank.query.reading.images import ImageSource
from latentbank.query.reading.reading import Reading

_SUFFIXES = {"html": (".html", ".htm"), "png": (".png",), "pdf": (".pdf",), "svg": (".svg",)}


@dataclass(frozen=True)
class Targets:
    """Files of each image's reading, by kind: a page (`html`) and figures (`png`, `pdf`, `svg`).

    A path that ends like its kind is the file of the only image; any other is a folder, in which each image has a file
    named after it.
    """

    paths: Mapping[str, Path]

    def check(self, images: int | None) -> None:
        """Refuse a single file for other than one image (None: nobody knows how many).

        Raises:
            QueryError: it does not fit; the message says what to name instead.
        """
        for kind, path in self.paths.items():
            if images != 1 and _is_file(kind, path):
                raise QueryError(f"--{kind} {path} is one file, but there may be more images; name a folder.")

    def write(self, image: ImageSource, reading: Reading) -> list[Path]:
        """Write the files of an image's reading, each whole or not at all.

        Raises:
            LatentBankError: a file cannot be written, or matplotlib, which figures need, is not installed.
        """
        written = []
        for kind, path in self.paths.items():
            file = path if _is_file(kind, path) else path / image.file_name(f".{kind}")
            if kind == "html":
                from latentbank.query.web.file import save_html

                written.append(save_html(reading, file))
            else:
                from latentbank.query.output.plots import save_plot

                written.append(save_plot(reading, file))
        return written


def _is_file(kind: str, path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES[kind]
