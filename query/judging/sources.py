"""The images of questions, found by the names that their readings have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from latentbank.errors import ImageError
from latentbank.models.vision.sources import ImageSource, find_images
from latentbank.query.judging.questions import Question


def sources_of(questions: Iterable[Question], images: Sequence[str] | None = None) -> dict[str, ImageSource]:
    """Return the image of each question by its name in the reading (`Subject.source`).

    Args:
        questions: the questions.
        images: files, folders, globs, `.parquet` files or hub datasets that hold them, as they were given to be read; a
            file may since have been moved to another folder. None: the readings' own paths.

    Raises:
        ImageError: an image is not there, or several files could be it.
    """
    return images_named([question.subject.source for question in questions], images)


def images_named(names: Iterable[str], images: Sequence[str] | None = None) -> dict[str, ImageSource]:
    """Return the images of these names, as `sources_of`."""
    names = list(dict.fromkeys(names))
    if images is None:
        found = {name: ImageSource(name, name, Path(name)) for name in names if Path(name).is_file()}
    else:
        found = _among(names, find_images(images))
    if missing := [name for name in names if name not in found]:
        raise ImageError(
            f"The image {missing[0]} is not there ({len(missing):,} of {len(names):,} are missing); name the files, "
            "folders or datasets that were read.",
            argument="images",
        )
    return found


def _among(names: Sequence[str], given: Iterable[ImageSource]) -> dict[str, ImageSource]:
    """Return the images with these names, else the only files with the same last part of their path."""
    wanted = set(names)
    found: dict[str, ImageSource] = {}
    files: dict[str, list[ImageSource]] = defaultdict(list)
    for image in given:
        if image.name in wanted:
            found[image.name] = image
        elif isinstance(image.data, Path):
            files[image.data.name].append(image)
        if len(found) == len(wanted):
            break
    for name in wanted - found.keys():
        same = files.get(Path(name).name, [])
        if len(same) > 1:
            raise ImageError(f"{len(same):,} files could be the image {name}; name the folder that was read.")
        if same:
            found[name] = same[0]
    return found
