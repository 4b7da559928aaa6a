"""The images of one command: which are skipped, which fail, and where their readings go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from latentbank.cli.grouping import message_of
from latentbank.cli.output.text import json_list
from latentbank.errors import ImageError, LatentBankError
from latentbank.text import count_text, public_name

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.layers import BankLayers
    from latentbank.hub import Listing
    from latentbank.models.vision.sources import Images, ImageSource
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.output.files import OutputFiles
    from latentbank.query.output.parquet import ReadingFolder
    from latentbank.query.reading.reading import Reading


class ImageJob:
    """The images of one command.

    Attributes:
        ctx: the command's context, for the options that messages name.
        images: the images.
        as_json: print JSON instead of grids of words.
        pictures: folder of PNG files, or None.
        files: pages and figures to write, or None.
        folder: folder of Parquet files; images that have a file there are skipped.
        pushed_to: the repository on the hub that the folder is pushed to at the end, or None.
        read: images read so far.
        found: images skipped because the folder has them.
        failed: images that could not be read.
    """

    def __init__(
        self,
        ctx: typer.Context,
        images: Images,
        *,
        as_json: bool = False,
        pictures: Path | None = None,
        files: OutputFiles | None = None,
    ) -> None:
        self.ctx = ctx
        self.images = images
        self.as_json = as_json
        self.pictures = pictures
        self.files = files
        self.folder: ReadingFolder | None = None
        self.pushed_to: Listing | None = None
        self.read = self.found = self.failed = 0
        self._sources: dict[str, ImageSource] = {}

    def broken(self, name: str, error: LatentBankError) -> None:
        """Count an image that cannot be read and print why; raise the error if it is the only image."""
        self._sources.pop(name, None)
        if self.images.total == 1:
            raise error
        self.failed += 1
        print(f"skipped: {message_of(error, self.ctx)}", file=sys.stderr)

    def counted(self) -> Iterator[ImageSource]:
        """Yield the images while progress is shown."""
        from latentbank.progress import shown

        with shown("measuring", "images") as progress:
            for number, image in enumerate(self.images):
                progress.update(number, self.images.total)
                yield image

    def run(self, read: Callable[[Iterable[ImageSource]], Iterator[Reading]]) -> None:
        """Read the images that are not done yet, and write or print each reading at once.

        Raises:
            ImageError: no image could be read.
            typer.Exit: some images could not be read.
        """
        from latentbank.progress import Silent, shown

        to_screen = self.folder is None and not self.as_json
        with (
            json_list() if self.as_json else nullcontext(self._show) as show,
            nullcontext(Silent()) if to_screen else shown("reading", "images") as progress,
        ):
            for reading in read(self._pending()):
                self._put(reading, show)
                self.read += 1
                progress.update(self.found + self.failed + self.read, self.images.total)
            if not self.read + self.found:
                raise ImageError("None of the images could be read; the lines above say why.")
        if self.folder is not None:
            before = (
                f", {self.found:,} {'was' if self.found == 1 else 'were'} there before" if self.found else ""
            )
            print(f"Read {count_text(self.read, 'image')} into {self.folder.folder}{before}.")
            self._push(self.folder.folder)
        if self.failed:
            print(f"{count_text(self.failed, 'image')} could not be read.", file=sys.stderr)
            raise typer.Exit(1)

    def _push(self, folder: Path) -> None:
        """Push the folder of readings to the hub, if that was asked for."""
        if self.pushed_to is None:
            return
        from latentbank.progress import shown
        from latentbank.query.output.push import push_readings

        with shown("uploading", "MiB") as progress:
            pushed = push_readings(folder, self.pushed_to, progress)
        print(
            f"They are in {pushed.url} ({'private' if pushed.private else 'public'}), commit {pushed.commit[:12]}."
        )

    def _put(self, reading: Reading, show: Callable[[Any], None]) -> None:
        """Write the files of a reading, and show it if no folder is filled."""
        image = self._sources.pop(reading.source)
        if self.pictures is not None:
            from latentbank.query.output.pictures import save_reading

            save_reading(reading, self.pictures / image.file_name(".png"))
        if self.files is not None:
            self.files.write(image, reading)
        if self.folder is not None:
            self.folder.write(image, reading)  # written last: it marks the image as done
        else:
            show(reading.to_dict() if self.as_json else reading)

    def _show(self, reading: Reading) -> None:
        from latentbank.cli.output.readings import show_grids

        show_grids(reading)

    def _pending(self) -> Iterator[ImageSource]:
        for image in self.images:
            if self.folder is not None and self.folder.path(image).exists():
                self.found += 1
                continue
            self._sources[image.name] = image
            yield image


def reading_folder(
    path: Path, vlm: VisualModel, bank: Bank | None, bank_layers: BankLayers, choice: Mapping[str, Any]
) -> ReadingFolder:
    """Open the folder of --parquet, with everything that its readings depend on."""
    from latentbank.models.vision.checks import dtype_name
    from latentbank.query.output.parquet import ReadingFolder

    settings: dict[str, Any] = {
        "model": public_name(vlm.name),
        "revision": vlm.revision,
        "fingerprint": vlm.fingerprint(),
        "weights": vlm.language.identity().up_to(max(choice["visual_layers"])),
        "dtype": dtype_name(vlm.language.dtype),
        **choice,
    }
    if bank is not None:
        settings |= {
            "bank": bank.name,
            "metric": bank.metric,
            "bank_layers": bank.choose_layers(bank_layers),
            "corpora": {entry.name: entry.content_hash for entry in bank.shown_corpora.values()},
        }
    return ReadingFolder(path, settings)
