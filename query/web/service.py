"""The service behind the page: it reads one request after the other and keeps the last readings."""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast, get_args

from latentbank.bank.bank import Bank
from latentbank.errors import LatentBankError, QueryError
from latentbank.models.vision.alone import LanguageAlone
from latentbank.models.vision.sources import ImageSource
from latentbank.query.calibration.calibration import load_calibration
from latentbank.query.calibration.correction import Correction, Mode
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lens_classes, lenses_of
from latentbank.query.reading.around import around_of
from latentbank.query.reading.reading import Reading
from latentbank.query.reading.states import read_states
from latentbank.query.reading.text import read_text
from latentbank.query.reading.visual import chosen_layers, default_visual_layers, join_layers, read_layers
from latentbank.query.silence.silence import open_silence
from latentbank.query.states.bodies import states_in
from latentbank.query.web.causing import causes_json
from latentbank.query.web.data import page_json, shrunk
from latentbank.query.web.first import first_fdr
from latentbank.query.web.galleries import Galleries
from latentbank.query.web.jobs import (
    Cancelled,
    CauseRequest,
    Job,
    JobProgress,
    ReadingRequest,
    StatesRequest,
    TooBusy,
    Wanted,
)
from latentbank.query.web.vlms import Load, Models
from latentbank.text import listed, public_name, without_paths

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.tokens import VisualModel

log = logging.getLogger(__name__)

WAITING = 32
"""Largest number of unfinished jobs; further requests are refused."""
SENTENCES_ALONE = "This page reads sentences alone: it has no vision-language model. Write a sentence."
"""What is said to those who send an image to a page without a VLM."""
WAITING_BYTES = 200_000_000
"""Largest size of their images altogether."""
MOST_STATES = 8192
"""Largest number of hidden states, tokens times layers, that another program may send at once."""
_KEPT_READINGS = 64
_KEPT_BYTES = 200_000_000
_KEPT_JOBS = 256


@dataclass(frozen=True)
class StoredReading:
    """A reading as the page takes it: the name of its source, and the JSON of `page_json`."""

    source: str
    data: str


class ReadingService:
    """Reads images and sentences against a bank in one background thread, with progress.

    Args:
        bank: an open bank; it must stay open as long as the service is used.
        model: a VLM over the bank's LLM, or this LLM itself: then sentences alone can be read.
        others: further models that may be chosen, by name; each is loaded when it is first used.
        name: the name by which the first model is chosen; "": its own name.
        correct: which corrections lenses make that can; each VLM must be calibrated. None: none.

    Attributes:
        bank: the bank.
        reads_images: whether there is a VLM.
        galleries: searches the bank's images, in the same queue.

    Raises:
        BankMismatch: the bank belongs to another LLM than the first model's.
        QueryError: the first model is not calibrated, and there is a correction.
    """

    def __init__(
        self,
        bank: Bank,
        model: VisualModel | LanguageModel,
        others: Mapping[str, Load] | None = None,
        name: str = "",
        correct: Mode | None = None,
    ) -> None:
        self.bank, self._correct = bank, correct
        inner: LanguageModel | None = getattr(model, "language", None)
        self.reads_images = inner is not None
        self._language = inner or cast("LanguageModel", model)
        self._models: Models | None = None
        self._names: tuple[str, ...] = (name or public_name(model.name),)
        if self.reads_images:
            self._models = Models(bank, self._names[0], cast("VisualModel", model), others or {})
            self._names = self._models.names
            self._correction(cast("VisualModel", model), "")
        else:
            bank.require_model(self._language.name, self._language.identity())
        self._num_layers = model.num_layers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reading")
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._readings: OrderedDict[str, StoredReading] = OrderedDict()
        self.galleries = Galleries(
            bank,
            self._models,
            lambda image, key, work: self._queue(image, key, lambda job: StoredReading("", work(job))),
        )

    def about(self) -> dict[str, Any]:
        """Return what can be requested, as JSON-ready data. All models share the bank's LLM, and so its layers."""
        return {
            "bank": self.bank.name,
            "models": list(self._names),
            "images": self.reads_images,
            "num_layers": self._num_layers,
            "visual_layers": default_visual_layers(self._num_layers),
            "bank_layers": self.bank.layers,
            "corpora": sorted(self.bank.shown_corpora),
            "lenses": list(lens_classes()),
            "lens_titles": {name: lens.title for name, lens in lens_classes().items()},
            "corrections": self._corrections(),
            "correct": self._correct or "none",
            "fdr": self._fdr(),
            "gallery": self.galleries.models(),
        }

    def _fdr(self) -> float:
        if self._models is None:
            return 0.0
        return first_fdr(self.bank, self._models.first, self._correction(self._models.first, ""))

    def _corrections(self) -> list[str]:
        """Return the corrections that can be made: all of them if the first model is calibrated for the bank."""
        if self._models is None:
            return []
        try:
            load_calibration(self.bank, self._models.first)
        except LatentBankError:
            return []
        return ["hubs"] if self.bank.metric == "centred" else list(get_args(Mode))

    def submit(self, request: ReadingRequest) -> Job:
        """Put a request in the queue.

        Returns:
            Its job; a finished one if the same request was answered before over the same corpora.

        Raises:
            QueryError: there is no such model, or no model takes images.
            TooBusy: too many jobs are waiting, or their images are too large.
        """
        request = self._checked(request)
        key = request.key(self.bank.shown_corpora.values(), self.bank.version)
        return self._queue(request.image, key, lambda job: self._read(job, request))

    def submit_causes(self, request: CauseRequest) -> Job:
        """Put a request to ablate the tokens of a word in the queue.

        Returns:
            Its job. `reading` returns the JSON of `Causes.to_dict` by the job's `reading`.

        Raises:
            QueryError, TooBusy: as for `submit`.
        """
        request = replace(request, reading=self._checked(request.reading))
        key = request.key(self.bank.shown_corpora.values(), self.bank.version)
        return self._queue(request.reading.image, key, lambda job: self._causes(job, request))

    def _checked(self, request: ReadingRequest) -> ReadingRequest:
        """Return a request that names its model."""
        names = self._names
        if request.image is not None and not self.reads_images:
            raise QueryError(SENTENCES_ALONE)
        if request.model and request.model not in names:
            raise QueryError(
                f"There is no model '{request.model}' on this page; choose one of {listed(names)}."
            )
        return replace(request, model=request.model or names[0])

    def _queue(self, image: bytes | None, key: str, work: Callable[[Job], StoredReading]) -> Job:
        """Queue work whose result will be kept by a key; the job is finished at once if it is kept already."""
        job = Job(secrets.token_urlsafe(12), image=image)
        with self._lock:
            if key in self._readings:
                self._readings.move_to_end(key)
                job.update(state="done", reading=key, image=None)
            elif self._is_full(image):
                raise TooBusy("Too many readings are waiting; try again in a minute.")
            self._add(job)
        if not job.finished:
            self._thread.submit(self._run, job, key, work)
        return job

    def submit_states(self, request: StatesRequest) -> tuple[Job, Future[dict[str, Any]]]:
        """Put a request that brings hidden states in the queue.

        Returns:
            Its job, which can be cancelled, and the reading to come, as `Reading.to_dict` gives it.

        Raises:
            TooBusy: too many jobs are waiting, or what they brought is too large.
        """
        job = Job(secrets.token_urlsafe(12), image=request.body)
        with self._lock:
            if self._is_full(request.body):
                raise TooBusy("Too many readings are waiting; try again in a minute.")
            self._add(job)
        return job, self._thread.submit(self._read_states, job, request)

    def _add(self, job: Job) -> None:
        """Remember a job, and forget the oldest finished ones."""
        self._jobs[job.id] = job
        finished = [other for other in self._jobs.values() if other.finished]
        for old in finished[: max(0, len(self._jobs) - _KEPT_JOBS)]:
            del self._jobs[old.id]

    def _is_full(self, image: bytes | None) -> bool:
        """Return whether the jobs that wait are too many to take another one."""
        waiting = [job for job in self._jobs.values() if not job.finished]
        # Several jobs may have one image.
        images = {id(data): len(data) for data in (image, *(job.image for job in waiting)) if data}
        return len(waiting) > WAITING or sum(images.values()) > WAITING_BYTES

    def job(self, number: str) -> Job | None:
        """Return the job of an id; None if there is none."""
        with self._lock:
            return self._jobs.get(number)

    def reading(self, key: str) -> StoredReading | None:
        """Return one of the last readings; None if it is not kept any more, or never was."""
        with self._lock:
            return self._readings.get(key)

    def close(self) -> None:
        """Cancel all jobs and wait for the thread to end."""
        with self._lock:
            for job in self._jobs.values():
                job.cancelled.set()
        self._thread.shutdown(wait=True)

    def _run(self, job: Job, key: str, work: Callable[[Job], StoredReading]) -> None:
        """Do a job's work and keep the result; whatever happens, the job ends in a final state."""
        try:
            job.check()
            job.update(state="running")
            stored = work(job)
            with self._lock:
                self._readings[key] = stored
                while len(self._readings) > 1 and (
                    len(self._readings) > _KEPT_READINGS
                    or sum(len(other.data) for other in self._readings.values()) > _KEPT_BYTES
                ):
                    self._readings.popitem(last=False)
            job.update(state="done", reading=key)
        except Cancelled:
            job.update(state="cancelled")
        except LatentBankError as error:
            job.update(state="failed", error=without_paths(str(error)))
        except Exception as error:  # an unexpected error must end the job too, because clients wait for it
            log.exception("a reading failed")
            job.update(
                state="failed",
                error=f"The reading failed ({type(error).__name__}); the server's log says more.",
            )
        finally:
            job.parts, job.image = (), None  # the whole reading is stored, or no client waits for it

    def _read_states(self, job: Job, request: StatesRequest) -> dict[str, Any]:
        """Read hidden states; whatever happens, the job ends in a final state."""
        try:
            job.check()
            job.update(state="running", what="reading hidden states")
            states = states_in(request.body, request.source, request.layers, request.tensor)
            if (rows := len(states) * len(states.by_layer)) > MOST_STATES:
                raise QueryError(f"These are {rows:,} hidden states; send at most {MOST_STATES:,} at once.")
            model: Any = LanguageAlone(lambda: self._language)
            if self._models is not None:
                model = self._models.get(self._names[0], lambda text: job.update(what=text)).model
            options = LensOptions(model, self.bank, request.bank_layers, request.where, request.unique)
            lenses = lenses_of(request.lenses, options)
            reading = read_states(
                states, lenses, top_k=request.top_k, query_mean=request.query_mean, between=job.advance
            )
            job.update(state="done")
            return reading.to_dict()
        except Cancelled:
            job.update(state="cancelled")
            raise QueryError("The reading was cancelled.") from None
        finally:
            if not job.finished:
                job.update(state="failed", error="the request was refused")
            job.image = None

    def _correction(self, model: VisualModel, wanted: Wanted) -> Correction | None:
        """Return how lenses are corrected for a VLM; it is opened anew, as it may have been calibrated again."""
        mode = self._correct if wanted == "" else None if wanted == "none" else wanted
        return None if mode is None else Correction(load_calibration(self.bank, model), mode)

    def _read(self, job: Job, request: ReadingRequest) -> StoredReading:
        reading = self._read_text(job, request) if request.image is None else self._read_image(job, request)
        job.check()
        return StoredReading(reading.source, page_json(reading))

    def _causes(self, job: Job, request: CauseRequest) -> StoredReading:
        assert self._models is not None
        model = self._models.get(request.reading.model, lambda text: job.update(what=text)).model
        correction = self._correction(model, request.reading.correct)
        return StoredReading(request.reading.name, causes_json(self.bank, model, request, correction, job))

    def _read_text(self, job: Job, request: ReadingRequest) -> Reading:
        job.update(what="reading the sentence")
        return read_text(
            self.bank,
            self._language,
            request.sentence,
            request.layers,
            bank_layers=request.bank_layers,
            top_k=request.top_k,
            where=request.where,
            unique=request.unique,
        )

    def _read_image(self, job: Job, request: ReadingRequest) -> Reading:
        """Read an image layer by layer, and publish each layer as soon as it is read."""
        assert request.image is not None
        around = around_of(request.tokens, request.answer)
        layers = request.layers or tuple(chosen_layers(self._num_layers, self.bank, around))
        self.bank.choose_layers(request.bank_layers)  # wrong bank layers fail before anything is computed
        assert self._models is not None
        model = self._models.get(request.model, lambda text: job.update(what=text))
        job.check()
        writes = ", which writes an answer" if request.answer else ""
        job.update(what=f"running the model on the image{writes}")
        options = LensOptions(
            model.model,
            self.bank,
            request.bank_layers,
            request.where,
            request.unique,
            correction=self._correction(model.model, request.correct),
        )
        lenses = lenses_of(request.lenses, options)
        job.check()  # loading a lens may have taken long
        silence = None
        if request.fdr is not None:
            silence = open_silence(self.bank, model.model, request.fdr)
            job.update(what="reading images with nothing to see, once")
            silence.prepare(lenses, layers, JobProgress(job))
        found: list[Reading] = []
        for reading in read_layers(
            model,
            ImageSource(request.name, "", request.image),
            lenses,
            layers,
            top_k=request.top_k,
            between=job.advance,
            tokens=request.tokens,
            answer=request.answer,
            silence=silence,
        ):
            job.check()
            if reading.image is not None and not found:
                # Shrunk once, for this part and for the whole reading.
                reading = replace(reading, image=shrunk(reading.image))
            found.append(reading)
            tokens = len(reading.tokens)
            job.update(
                what=f"visual layer {reading.layers[0]} is read, {len(found)} of {len(layers)}",
                done=tokens * len(found),
                total=tokens * len(layers),
                parts=(*job.parts, _part(reading, len(found) - 1, layers)),
            )
        return join_layers(found)


def _part(reading: Reading, number: int, layers: tuple[int, ...]) -> str:
    """Return one layer's reading as JSON for page/parts.js; only the first part holds the image."""
    if number:
        reading = replace(reading, image=None)
    return f'{{"number":{number},"layers":{json.dumps(layers)},"reading":{page_json(reading)}}}'
