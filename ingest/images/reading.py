"""Which images an ingestion reads: those that the bank lacks, by the digests of their files."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.points import patch_ids
from latentbank.bank.where import WhereImage
from latentbank.errors import ImageError, LatentBankError
from latentbank.ingest.workers.shares import Share
from latentbank.models.vision.sources import ImageSource
from latentbank.progress import Progress

Broken = Callable[[str, LatentBankError], None]
"""A function that is called with the name of an image that cannot be read, and the error."""

# Points that are looked up at once.
_LOOKUP = 4096


@dataclass
class Known:
    """The whole images of a corpus that a bank holds: their digests and numbers of tokens by name.

    Attributes:
        images: by name; after a kill an image may be stored in two forms, an older one and the one that replaces it.
        digests: the name of each.
    """

    images: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, digest: str, tokens: int) -> None:
        """Add an image."""
        self.images.setdefault(name, []).append((digest, tokens))
        self.digests[digest] = name


def known_images(images: ImageBank, corpus: str, progress: Progress) -> Known:
    """Return what a bank holds of a corpus; images of which a kill has left only some tokens are left out.

    Args:
        images: the bank of images.
        corpus: name of the corpus.
        progress: counts the images that are compared, if they must be.
    """
    where = WhereImage(corpus=corpus)
    found = list(images.images(where))
    counts = {images.count(layer, where) for layer in images.layers}
    known = Known()
    if counts == {sum(image.tokens for image in found)}:
        for image in found:
            known.add(image.image, image.digest, image.tokens)
        return known
    progress.stage("looking for what is stored", "images")
    for number, image in enumerate(found):
        progress.update(number, len(found))
        ids = patch_ids(corpus, image.digest, image.tokens)
        if all(_holds(images, layer, ids) for layer in images.layers):
            known.add(image.image, image.digest, image.tokens)
    return known


def _holds(images: ImageBank, layer: int, ids: list[str]) -> bool:
    parts = (ids[at : at + _LOOKUP] for at in range(0, len(ids), _LOOKUP))
    return all(images.store.present(layer, part) == set(part) for part in parts)


@dataclass(frozen=True)
class Missing:
    """An image that is to be read, and its file's digest."""

    source: ImageSource
    digest: str


@dataclass
class Reader:
    """Goes through images and yields those that are to be encoded, one at a time.

    Attributes:
        known: what the bank holds of the corpus.
        broken: called with the name of an image that cannot be read, and the error.
        share: the images that this worker reads; None: all.
        seen: images that were looked at.
        found: images that the bank held before under their names.
        copies: images whose file is the same as another one's.
        failed: images that could not be read.
    """

    known: Known
    broken: Broken
    share: Share | None = None
    seen: int = 0
    found: int = 0
    copies: int = 0
    failed: int = 0
    _changed: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _right: set[str] = field(default_factory=set)  # digests that the bank holds under a name they have
    _other: dict[str, str] = field(default_factory=dict)  # digests under other names than the bank's
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def missing(self, images: Iterable[ImageSource]) -> Iterator[Missing]:
        """Yield the images that the bank lacks, each file once."""
        for number, image in enumerate(images):
            if self.share is not None and number % self.share.of != self.share.index:
                continue
            self.seen += 1
            self._names.add(image.name)
            try:
                digest = digest_of(image)
            except ImageError as error:
                self.fail(image.name, error)
                continue
            stored = self.known.images.get(image.name, [])
            older = [one for one in stored if one[0] != digest]
            if older:
                self._changed[image.name] = older
            if len(older) < len(stored):
                self.found += 1
                self._right.add(digest)
            elif digest in self.known.digests:
                self.copies += 1
                self._other[digest] = image.name
            else:
                self.known.digests[digest] = image.name
                self._right.add(digest)
                yield Missing(image, digest)

    def fail(self, name: str, error: LatentBankError) -> None:
        """Count an image that cannot be read; what the bank held of it before stays."""
        with self._guard:  # files are opened in another thread than the one that encodes
            self.failed += 1
            self._changed.pop(name, None)
            self.broken(name, error)

    @property
    def changed(self) -> int:
        """How many names had another file before."""
        return len(self._changed)

    def renamed(self) -> dict[str, str]:
        """Return the new names of images, by their digests, whose name in the bank is no longer theirs."""
        return {digest: name for digest, name in self._other.items() if digest not in self._right}

    def replaced(self) -> list[tuple[str, int]]:
        """Return the digests and numbers of tokens of files that are nowhere any more: others have their names."""
        here = self._right | self._other.keys()
        older = [one for images in self._changed.values() for one in images]
        return [(digest, tokens) for digest, tokens in older if digest not in here]

    def gone(self) -> int:
        """Return how many names the bank holds that were not among the images looked at."""
        moved = {self.known.digests[digest] for digest in self.renamed()}
        return len(self.known.images.keys() - self._names - moved)


def digest_of(image: ImageSource) -> str:
    """Return the digest of an image's file: 32 hex digits.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        if isinstance(image.data, Path):
            with image.data.open("rb") as file:
                return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return hashlib.blake2b(image.data, digest_size=16).hexdigest()
    except OSError as error:
        raise ImageError(f"{image.name} cannot be read ({error.strerror}); check the file.") from None
