"""The images of questions, found by the names that their readings have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from latentbank.errors import ImageError
from latentbank.query.judging.questions import Question
from latentbank.query.reading.images import ImageSource, find_images


def sources_of(questions: Iterable[Question], images: Sequence[str] | None = None) -> dict[str, ImageSource]:
    """Return the image of each question by its name in the reading (`Subject.source`).

    Args:
        questions: the questions.
        images: files, folders, globs, `.parquet` files or hub datasets that hold them, as they were given to be read; a
            file may since have been moved to another folder. None: the readings' own paths.

    Raises:
        ImageError: an image is not there.
    """
    names = list(dict.fromkeys(question.subject.source for question in questions))
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
    """Return the images with these names, else the files with the same last part of their path."""
    wanted = set(names)
    found: dict[str, ImageSource] = {}
    files: dict[str, ImageSource] = {}
    for image in given:
        if image.name in wanted:
            found[image.name] = image
        elif isinstance(image.data, Path):
            files.setdefault(image.data.name, image)
        if len(found) == len(wanted):
            break
    for name in names:
        if name not in found and Path(name).name in files:
            found[name] = files[Path(name).name]
    return found
