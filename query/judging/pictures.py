"""The pictures of items, drawn again from the readings that they are about."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentbank.errors import QueryError
from latentbank.progress import Progress, Silent
from latentbank.query.judging.sources import images_named
from latentbank.query.judging.views import outline, picture, view_of
from latentbank.query.output.stored import open_stored, read_head, stored_files
from latentbank.query.web.data import image_uri

if TYPE_CHECKING:
    from latentbank.query.judging.agreement import Item

_PLACE = re.compile(r"r(\d+)c(\d+)-")  # as `Subject.item` writes it
_SIDE = 320  # pixels of the longer side


def pictures_of(
    items: Iterable[Item],
    folders: Iterable[str | os.PathLike[str]],
    images: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Return the picture with the red box of each item, as a data URI by the item's name.

    Items that are not about these readings have no picture.

    Args:
        items: the items.
        folders: folders of the readings that were asked about.
        images: where the images are now, as for `sources_of`.
        progress: receives the number of pictures drawn.

    Raises:
        QueryError: none of the items is about these readings, or a folder holds none.
        ImageError: an image is not there, or cannot be read.
    """
    progress = progress or Silent()
    readings = _readings(folders)
    places = {}
    for item in items:
        model, image, patch = [*item.name.split("/"), "", ""][:3]
        if (place := _PLACE.match(patch)) and (path := readings.get((model, image))):
            places[item.name] = path, (int(place[1]), int(place[2]))
    if not places:
        raise QueryError("None of the items is about these readings.", argument="readings")
    sources = images_named([str(read_head(path)["source"]) for path, _ in places.values()], images)
    found: dict[str, str] = {}
    drawn: dict[tuple[Path, tuple[int, int]], str] = {}
    for done, (name, (path, centre)) in enumerate(places.items()):
        progress.update(done, len(places))
        if (path, centre) not in drawn:
            reading = open_stored(path)
            cells = reading.grid()
            if centre not in cells:
                continue
            wide, high = reading.head["size"]
            view = view_of(cells, (wide, high))
            shown = picture(sources[reading.source].open(), view, outline(cells, centre))
            drawn[path, centre] = image_uri(shown, _SIDE)
        found[name] = drawn[path, centre]
    progress.update(len(places), len(places))
    return found


def _readings(folders: Iterable[str | os.PathLike[str]]) -> dict[tuple[str, str], Path]:
    """Return the files of readings by the first two parts of their items' names."""
    return {
        (str(read_head(path)["model"]).replace("/", "--"), path.stem): path
        for folder in folders
        for path in stored_files(folder)
    }
