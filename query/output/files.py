"""Files of image readings: one file for one image, or a folder with a file for each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latentbank.errors import QueryError
from latentbank.models.vision.sources import ImageSource
from latentbank.query.reading.reading import Reading

_SUFFIXES = {"html": (".html", ".htm"), "png": (".png",), "pdf": (".pdf",), "svg": (".svg",)}


@dataclass(frozen=True)
class OutputFiles:
    """Paths to which readings of images are written.

    Attributes:
        paths: by kind, which is `html` (a page) or `png`, `pdf`, `svg` (a figure). A path with the kind's suffix is the
            file of the only image. Any other path is a folder, in which each image has a file named after it.
    """

    paths: Mapping[str, Path]

    def check(self, images: int | None) -> None:
        """Check that no path is a single file unless there is exactly one image.

        Args:
            images: the number of images; None: not known.

        Raises:
            QueryError: a single file is named for several images.
        """
        for kind, path in self.paths.items():
            if images != 1 and _is_file(kind, path):
                raise QueryError(
                    f"{path} is one file, but there may be more images; name a folder.", argument=kind
                )

    def paths_of(self, image: ImageSource) -> dict[str, Path]:
        """Return the file of an image for each kind."""
        return {
            kind: path if _is_file(kind, path) else path / image.file_name(f".{kind}")
            for kind, path in self.paths.items()
        }

    def write(self, image: ImageSource, reading: Reading) -> list[Path]:
        """Write the files of an image's reading, each whole or not at all.

        Returns:
            The files that were written.

        Raises:
            LatentBankError: a file cannot be written, or a figure is requested and matplotlib is not installed.
        """
        written = []
        for kind, file in self.paths_of(image).items():
            if kind == "html":
                from latentbank.query.web.file import save_html

                written.append(save_html(reading, file))
            else:
                from latentbank.query.output.plots import save_plot

                written.append(save_plot(reading, file))
        return written


def _is_file(kind: str, path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES[kind]
