"""Requests of the page, and the jobs that answer them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from latentbank.bank.layers import BankLayers
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.merge import Unique
from latentbank.bank.where import Filter
from latentbank.errors import QueryError
from latentbank.progress import Silent
from latentbank.query.calibration.correction import Mode
from latentbank.query.reading.around import Which

Wanted = Mode | Literal["", "none"]
"""How a request wants scores to be corrected; "" leaves it to the service."""


@dataclass(frozen=True)
class ReadingRequest:
    """What to read, and how.

    Attributes:
        name: what the reading calls its source.
        image: bytes of an image file; None: `sentence` is read.
        sentence: the text to read if there is no image.
        model: one of the service's model names; "": the first of them.
        layers, bank_layers, lenses, top_k, where, unique, tokens, answer: as for `read_image`.
        correct: how the scores of visual tokens are corrected; "": as the service does.
        fdr: the largest share of the words given that may be false; None: all tokens have words.
    """

    name: str
    image: bytes | None = None
    sentence: str = ""
    model: str = ""
    layers: tuple[int, ...] | None = None
    bank_layers: BankLayers = "mid"
    lenses: tuple[str, ...] = ("latent",)
    top_k: int = 5
    where: Filter | None = None
    unique: Unique | None = None
    tokens: Which = "visual"
    answer: int = 0
    correct: Wanted = ""
    fdr: float | None = None

    def key(self, corpora: Iterable[CorpusEntry] = (), version: int = 1) -> str:
        """Return 32 hex digits that differ between requests, and between corpora for the same request.

        Args:
            corpora: those that readers of the bank see now.
            version: the version of the bank that is read now.
        """
        shown = sorted(
            (entry.name, entry.stored, entry.content_hash, sorted(entry.plan.items())) for entry in corpora
        )
        rest = repr((replace(self, image=None), shown, version)).encode("utf-8", "surrogateescape")
        return hashlib.blake2b((self.image or b"") + rest, digest_size=16).hexdigest()


@dataclass(frozen=True)
class CauseRequest:
    """Of which word's tokens it is asked what they do.

    Attributes:
        reading: the image, and how its tokens are read; the first of its lenses says which tokens show the word.
        word: the word.
        layer: the visual layer at which they show it, and from which on they are ablated.
    """

    reading: ReadingRequest
    word: str
    layer: int

    def key(self, corpora: Iterable[CorpusEntry] = (), version: int = 1) -> str:
        """Return 32 hex digits that differ between requests, as those of a `ReadingRequest` do."""
        rest = repr((self.reading.key(corpora, version), "causes", self.word, self.layer))
        return hashlib.blake2b(rest.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class GalleryRequest:
    """What all images of a bank are asked for: a word, a stored patch, or a patch of an image that is opened.

    Attributes:
        model: one of the service's model names, whose images are asked; "": the first of them.
        word: the word, or several that follow each other; "": a patch is asked for.
        like: the id of a stored patch; "": there is none.
        place: row, column and tile of a patch of `image`; None: there is none.
        image: bytes of an image file; empty: there is none.
        name: what the image is called.
    """

    model: str = ""
    word: str = ""
    like: str = ""
    place: tuple[int, int, int] | None = None
    image: bytes = b""
    name: str = ""

    def key(self, rest: Any) -> str:
        """Return 32 hex digits that differ between requests, and for other values of `rest`."""
        told = repr(("gallery", replace(self, image=b""), rest)).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(self.image + told, digest_size=16).hexdigest()


@dataclass(frozen=True)
class StatesRequest:
    """Which hidden states to read, and how.

    Attributes:
        body: a safetensors file, or JSON, as `states_in` takes them.
        source: what the reading calls them.
        layers, tensor: as for `states_in`.
        bank_layers, lenses, top_k, where, unique: as for `read_image`.
        query_mean: for a centred bank "text" or "batch", as for `read_hidden`.
    """

    body: bytes
    source: str = "request"
    layers: tuple[int, ...] | None = None
    tensor: str | None = None
    bank_layers: BankLayers = "mid"
    lenses: tuple[str, ...] = ("latent",)
    top_k: int = 5
    where: Filter | None = None
    unique: Unique | None = None
    query_mean: Literal["text", "batch"] | None = None


State = Literal["waiting", "running", "done", "failed", "cancelled"]
FINAL_STATES: tuple[State, ...] = ("done", "failed", "cancelled")
"""States after which a job does not change."""


class TooBusy(QueryError):
    """So much is waiting that a request is not taken now; it can be sent again."""


class Cancelled(Exception):
    """The client cancelled the job."""


@dataclass
class Job:
    """The work on one request.

    Attributes:
        id: names the job in addresses.
        state: how far it is.
        what: what it does now, for people.
        done: how many tokens are read.
        total: how many tokens there are to read; 0: not known yet.
        reading: the key of the finished reading.
        error: why the job failed.
        version: grows with every update.
        parts: while the job runs, the visual layers read so far, in the order in which they were read: JSON as
            page/parts.js takes it.
        cancelled: set in order to cancel the job.
        image: what is to be read, until the job is finished.
    """

    id: str
    state: State = "waiting"
    what: str = "waiting for its turn"
    done: int = 0
    total: int = 0
    reading: str = ""
    error: str = ""
    version: int = 0
    parts: tuple[str, ...] = ()
    cancelled: threading.Event = field(default_factory=threading.Event)
    image: bytes | None = None

    def update(self, **changes: Any) -> None:
        """Set attributes, and let those who follow the job know."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.version += 1

    @property
    def finished(self) -> bool:
        """Whether the job is in a state that does not change."""
        return self.state in FINAL_STATES

    def check(self) -> None:
        """Raise if the job was cancelled.

        Raises:
            Cancelled: it was.
        """
        if self.cancelled.is_set():
            raise Cancelled

    def advance(self, count: int) -> None:
        """Count `count` more hidden states as read.

        Raises:
            Cancelled: the job was cancelled.
        """
        self.check()
        if count:
            self.update(done=self.done + count)


class JobProgress(Silent):
    """Progress that is shown as a job's, and that ends when the job is cancelled."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def stage(self, what: str, unit: str) -> None:
        """Say what is done now; counting begins anew."""
        self._job.check()
        self._job.update(what=f"{what} ({unit})", done=0, total=0)

    def update(self, done: float, total: float | None = None) -> None:
        """Show how much is done."""
        self._job.check()
        self._job.update(done=int(done), total=int(total or 0))
