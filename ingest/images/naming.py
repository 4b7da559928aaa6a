"""Names of images in a bank: as the user sees them, and without paths of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from latentbank.errors import CorpusError, ImageError
from latentbank.ingest.naming import is_corpus_name, name_of_path
from latentbank.models.vision.sources import Images, ImageSource
from latentbank.text import as_unicode


@dataclass(frozen=True)
class NamedImages:
    """Images with the names that a bank stores; they can be iterated several times.

    Attributes:
        corpus: the name of the corpus of images.
        images: the images.
        roots: the folders and files that were given.
        total: how many there are; None: it is not known.
    """

    corpus: str
    images: Iterable[ImageSource]
    roots: tuple[Path, ...]
    total: int | None

    def __iter__(self) -> Iterator[ImageSource]:
        """Yield the images under their names.

        Raises:
            ImageError: two files would have the same name.
        """
        known: dict[str, str] = {}
        for image in self.images:
            name = image_name(image.name, self.roots)
            if isinstance(image.data, Path) and known.setdefault(name, image.key) != image.key:
                raise ImageError(
                    f"Two images would have the name {name}; ingest them as two corpora, or name a folder above both."
                )
            yield replace(image, name=name)


def named_images(
    images: Images, sources: Sequence[str | os.PathLike[str]], corpus: str | None
) -> NamedImages:
    """Return images with the names that a bank stores.

    Args:
        images: what `find_images` found for the sources.
        sources: what was given: files, globs, folders, datasets.
        corpus: name of the corpus; None: the first source's, as for a corpus of sentences.

    Raises:
        CorpusError: a corpus cannot have this name.
    """
    given = [os.path.expanduser(os.fspath(source)) for source in sources]
    if corpus is None:
        first = given[0]
        name = name_of_path(os.path.dirname(first) or os.curdir if "*" in os.path.basename(first) else first)
    elif is_corpus_name(corpus):
        name = corpus
    else:
        raise CorpusError(
            f"'{corpus}' cannot name a corpus: use 1 to 64 letters, digits, '.', '_' and '-', starting with a letter "
            "or a digit.",
            argument="name",
        )
    return NamedImages(name, images, tuple(Path(path) for path in given), images.total)


def image_name(name: str, roots: Iterable[Path] = ()) -> str:
    """Return the name that a bank stores for an image.

    That is its path as given if it is a relative one; else the path from the folder that was given, with its name.

    Args:
        name: the image's path as given, or a dataset's name and the row's number.
        roots: the folders and files that were given.
    """
    path = PurePath(name)
    if not path.is_absolute() and ".." not in path.parts:
        return as_unicode(path.as_posix())
    for root in roots:
        if path.is_relative_to(root) and path != PurePath(root):
            return as_unicode((PurePath(Path(root).resolve().name) / path.relative_to(root)).as_posix())
    return as_unicode(PurePath(*Path(name).resolve().parts[-2:]).as_posix().lstrip("/"))
