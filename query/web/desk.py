"""The desk: reads what the page asks, one thing after the other, with progress, and keeps the last readings."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from bank.bank import Bank, BankLayers
from bank.merge import Unique
from bank.points import Neighbor
from bank.where import Filter
from latentbank_errors import LatentBankError, QueryError
from query.images import ImageSource
from query.lenses import LatentLens, Lens
from query.named_lenses import LENSES, lenses_of
from query.reading import Reading, read_text
from query.visual import default_visual_layers, read_images
from query.web.data import page_json

if TYPE_CHECKING:
    from PIL import Image

    from models.language import LanguageModel
    from models.vision_language import VisualModel, VisualTokens

log = logging.getLogger(__name__)

WAITING = 32
"""Jobs that may wait; more are refused."""
_KEPT_READINGS = 64
_KEPT_IMAGES = 4  # whose visual tokens are kept, so that another filter needs no other forward pass
_KEPT_JOBS = 256
_PIECE = (
    256  # hidden states that a lens is given at once: between pieces a job tells its progress and can end
)


@dataclass(frozen=True)
class Ask:
    """What is to be read, and how: the bytes of an image, or a sentence; the rest as for `read_image`."""

    name: str
    image: bytes | None = None
    sentence: str = ""
    layers: tuple[int, ...] | None = None
    bank_layers: BankLayers = "mid"
    lenses: tuple[str, ...] = ("latent",)
    top_k: int = 5
    where: Filter | None = None
    unique: Unique | None = None

    def key(self) -> str:
        """What tells this from other asks: a digest."""
        rest = repr(replace(self, image=None)).encode("utf-8", "surrogateescape")
        return hashlib.blake2b((self.image or b"") + rest, digest_size=16).hexdigest()


@dataclass(frozen=True)
class Kept:
    """A reading as the page takes it: what it is of, and the JSON of `page_json`. A large image is not kept with it."""

    source: str
    data: str


State = Literal["waiting", "running", "done", "failed", "cancelled"]
OVER: tuple[State, ...] = ("done", "failed", "cancelled")
"""States in which nothing more changes."""


@dataclass
class Job:
    """One ask being answered.

    `version` grows with every change, `reading` is the answer's key, `error` says what went wrong.
    """

    id: str
    state: State = "waiting"
    what: str = "waiting for its turn"
    done: int = 0
    total: int = 0
    reading: str = ""
    error: str = ""
    version: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def tell(self, **changes: Any) -> None:
        """Change it, and let those see who look."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.version += 1

    @property
    def over(self) -> bool:
        """Whether nothing more will change."""
        return self.state in OVER

    def check(self) -> None:
        """End the work if nobody wants it any more."""
        if self.cancelled.is_set():
            raise _Cancelled


class _Cancelled(Exception):
    pass


class Desk:
    """A bank, the VLM over its LLM, and one thread that reads.

    Args:
        bank: open for as long as the desk is.
        model: of the bank's LLM.

    Raises:
        BankMismatch: the bank belongs to another model.
    """

    def __init__(self, bank: Bank, model: VisualModel) -> None:
        bank.require_model(model.name, model.fingerprint())
        self.bank, self.model = bank, model
        self._seen = _Remembering(model)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reading")
        self._guard = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._readings: OrderedDict[str, Kept] = OrderedDict()

    def about(self) -> dict[str, Any]:
        """Say what can be asked for, as JSON-ready data."""
        return {
            "bank": self.bank.name,
            "model": self.model.name,
            "num_layers": self.model.num_layers,
            "visual_layers": default_visual_layers(self.model.num_layers),
            "bank_layers": self.bank.layers,
            "corpora": sorted(self.bank.shown_corpora),
            "lenses": list(LENSES),
        }

    def ask(self, ask: Ask) -> Job:
        """Put an ask in the queue; one that was answered before is done at once.

        Raises:
            QueryError: too many wait already.
        """
        job, key = Job(secrets.token_urlsafe(12)), ask.key()
        with self._guard:
            if key in self._readings:
                self._readings.move_to_end(key)
                job.tell(state="done", reading=key)
            elif sum(not one.over for one in self._jobs.values()) > WAITING:
                raise QueryError("Too many readings are waiting; try again in a minute.")
            self._jobs[job.id] = job
            for old in [one for one in self._jobs.values() if one.over][
                : max(0, len(self._jobs) - _KEPT_JOBS)
            ]:
                del self._jobs[old.id]
        if not job.over:
            self._thread.submit(self._work, job, ask, key)
        return job

    def job(self, number: str) -> Job | None:
        """Give a job; None where there is none of that id."""
        with self._guard:
            return self._jobs.get(number)

    def reading(self, key: str) -> Kept | None:
        """Give one of the last readings; None where it is gone, or never was."""
        with self._guard:
            return self._readings.get(key)

    def close(self) -> None:
        """Cancel what runs and what waits, and wait for the thread."""
        with self._guard:
            for job in self._jobs.values():
                job.cancelled.set()
        self._thread.shutdown(wait=True)

    def _work(self, job: Job, ask: Ask, key: str) -> None:
        try:
            job.check()
            job.tell(state="running")
            reading = self._read_text(job, ask) if ask.image is None else self._read_image(job, ask)
            job.check()
            kept = Kept(reading.source, page_json(reading))
            with self._guard:
                self._readings[key] = kept
                while len(self._readings) > _KEPT_READINGS:
                    self._readings.popitem(last=False)
            job.tell(state="done", reading=key)
        except _Cancelled:
            job.tell(state="cancelled")
        except LatentBankError as error:
            job.tell(state="failed", error=str(error))
        except Exception as error:  # whoever waits must hear of it
            log.exception("a reading failed")
            job.tell(
                state="failed",
                error=f"The reading failed ({type(error).__name__}); the server's log says more.",
            )

    def _read_text(self, job: Job, ask: Ask) -> Reading:
        job.tell(what="reading the sentence")
        language: LanguageModel = self.model.language
        return read_text(
            self.bank,
            language,
            ask.sentence,
            ask.layers,
            bank_layers=ask.bank_layers,
            top_k=ask.top_k,
            where=ask.where,
            unique=ask.unique,
        )

    def _read_image(self, job: Job, ask: Ask) -> Reading:
        job.tell(what="looking at the image")
        assert ask.image is not None
        layers = ask.layers or tuple(default_visual_layers(self.model.num_layers))
        self.bank.choose_layers(ask.bank_layers)  # what is wrong shows before anything is computed
        lenses = [
            _watched(lens, job)
            for lens in lenses_of(ask.lenses, self.model, self.bank, ask.bank_layers, ask.where, ask.unique)
        ]
        source = ImageSource(ask.name, "", ask.image)
        self._seen.before = job.check
        (reading,) = read_images(self._seen, [source], lenses, layers, top_k=ask.top_k)
        return reading


class _Remembering:
    """A VLM that keeps the visual tokens of the last images."""

    def __init__(self, model: VisualModel) -> None:
        self._model = model
        self.name, self.revision, self.means_file = model.name, model.revision, model.means_file
        self.language, self.num_layers, self.hidden_size = model.language, model.num_layers, model.hidden_size
        self._fingerprint = model.fingerprint()
        self._kept: OrderedDict[tuple[Any, ...], VisualTokens] = OrderedDict()
        self.before: Callable[[], None] = lambda: None

    @property
    def geometry(self) -> str:
        return self._model.geometry

    def fingerprint(self) -> str:
        return self._fingerprint

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        self.before()
        found = []
        for image in images:
            pixels = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            key = (pixels, image.size, tuple(layers), prompt)
            if key not in self._kept:
                (self._kept[key],) = self._model.visual_tokens([image], layers, prompt)
            self._kept.move_to_end(key)
            found.append(self._kept[key])
        while len(self._kept) > _KEPT_IMAGES:
            self._kept.popitem(last=False)
        return found


Read = Callable[[Any, int], list[list[Neighbor]]]


@dataclass(frozen=True)
class _Watched:
    """A lens that reads piece by piece and tells its job how far it is."""

    lens: Lens
    job: Job

    @property
    def name(self) -> str:
        return self.lens.name

    def read(self, hidden_states: Any, top_k: int = 5) -> list[list[Neighbor]]:
        def piece(start: int, stop: int) -> list[list[Neighbor]]:
            return self.lens.read(hidden_states[start:stop], top_k)

        return _in_pieces(self.name, len(hidden_states), self.job, piece)


@dataclass(frozen=True)
class _WatchedLatent(LatentLens):
    """The same for a LatentLens, which must stay one: readings give it the means of a centred bank."""

    job: Job = field(default_factory=lambda: Job(""))

    def read(self, hidden_states: Any, top_k: int = 5) -> list[list[Neighbor]]:
        means: npt.NDArray[Any] | None = None if self.query_mean is None else np.asarray(self.query_mean)

        def piece(start: int, stop: int) -> list[list[Neighbor]]:
            mean = means if means is None or means.ndim == 1 else means[start:stop]
            return LatentLens.read(replace(self, query_mean=mean), hidden_states[start:stop], top_k)

        return _in_pieces(self.name, len(hidden_states), self.job, piece)


def _watched(lens: Lens, job: Job) -> Lens:
    if isinstance(lens, LatentLens):
        return _WatchedLatent(**vars(lens), job=job)
    return _Watched(lens, job)


def _in_pieces(
    name: str, count: int, job: Job, read: Callable[[int, int], list[list[Neighbor]]]
) -> list[list[Neighbor]]:
    found: list[list[Neighbor]] = []
    for start in range(0, count, _PIECE):
        job.check()
        job.tell(what=f"reading through the {name} lens", done=start, total=count)
        found += read(start, min(count, start + _PIECE))
    return found
