"""The desk: reads what the page asks, one thing after the other, with progress, and keeps the last readings."""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from latentbank.bank.bank import Bank
from latentbank.errors import LatentBankError, QueryError
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lens_classes, lenses_of
from latentbank.query.reading.images import ImageSource
from latentbank.query.reading.reading import Reading
from latentbank.query.reading.text import read_text
from latentbank.query.reading.visual import default_visual_layers, join_layers, read_layers
from latentbank.query.web.data import page_json, shrunk
from latentbank.query.web.jobs import Ask, Cancelled, Job
from latentbank.query.web.vlms import Load, Models

if TYPE_CHECKING:
    from latentbank.models.vision.vision_language import VisualModel

log = logging.getLogger(__name__)

WAITING = 32
"""Jobs that may wait; more are refused."""
_KEPT_READINGS = 64
_KEPT_JOBS = 256


@dataclass(frozen=True)
class Kept:
    """A reading as the page takes it: what it is of, and the JSON of `page_json`. A large image is not kept with it."""

    source: str
    data: str


class Desk:
    """A bank, VLMs over its LLM, and one thread that reads.

    Args:
        bank: open for as long as the desk is.
        model: of the bank's LLM.
        others: further models that may be chosen, by name; each is loaded when it is first used.
        name: what people choose the first model by; "": its own name.

    Raises:
        BankMismatch: the bank belongs to another model than the first.
    """

    def __init__(
        self, bank: Bank, model: VisualModel, others: Mapping[str, Load] | None = None, name: str = ""
    ) -> None:
        self.bank = bank
        self._models = Models(bank, name or model.name, model, others or {})
        self._language, self._num_layers = model.language, model.num_layers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reading")
        self._guard = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._readings: OrderedDict[str, Kept] = OrderedDict()

    def about(self) -> dict[str, Any]:
        """Say what can be asked for, as JSON-ready data. All models have the bank's LLM, so layers are the same."""
        return {
            "bank": self.bank.name,
            "models": list(self._models.names),
            "num_layers": self._num_layers,
            "visual_layers": default_visual_layers(self._num_layers),
            "bank_layers": self.bank.layers,
            "corpora": sorted(self.bank.shown_corpora),
            "lenses": list(lens_classes()),
            "lens_titles": {name: lens.title for name, lens in lens_classes().items()},
        }

    def ask(self, ask: Ask) -> Job:
        """Put an ask in the queue; one that was answered before, over the same corpora, is done at once.

        Raises:
            QueryError: too many wait already; there is no such model.
        """
        names = self._models.names
        if ask.model and ask.model not in names:
            raise QueryError(f"There is no model '{ask.model}' on this page; there are {', '.join(names)}.")
        ask = replace(ask, model=ask.model or names[0])
        shown = self.bank.shown_corpora.values()
        job, key = Job(secrets.token_urlsafe(12)), ask.key(shown, self.bank.version)
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
        except Cancelled:
            job.tell(state="cancelled")
        except LatentBankError as error:
            job.tell(state="failed", error=str(error))
        except Exception as error:  # whoever waits must hear of it
            log.exception("a reading failed")
            job.tell(
                state="failed",
                error=f"The reading failed ({type(error).__name__}); the server's log says more.",
            )
        finally:
            job.parts = ()  # the whole is there, or nobody wants it

    def _read_text(self, job: Job, ask: Ask) -> Reading:
        job.tell(what="reading the sentence")
        return read_text(
            self.bank,
            self._language,
            ask.sentence,
            ask.layers,
            bank_layers=ask.bank_layers,
            top_k=ask.top_k,
            where=ask.where,
            unique=ask.unique,
        )

    def _read_image(self, job: Job, ask: Ask) -> Reading:
        """Read an image layer by layer, and tell each layer as soon as it is read."""
        assert ask.image is not None
        layers = ask.layers or tuple(default_visual_layers(self._num_layers))
        self.bank.choose_layers(ask.bank_layers)  # what is wrong shows before anything is computed
        model = self._models.get(ask.model, lambda text: job.tell(what=text))
        job.check()
        job.tell(what="looking at the image")
        options = LensOptions(model.model, self.bank, ask.bank_layers, ask.where, ask.unique)
        lenses = lenses_of(ask.lenses, options)
        job.check()  # loading a lens may have taken long
        found: list[Reading] = []
        for reading in read_layers(
            model,
            ImageSource(ask.name, "", ask.image),
            lenses,
            layers,
            top_k=ask.top_k,
            between=job.advance,
        ):
            job.check()
            if reading.image is not None and not found:
                reading = replace(
                    reading, image=shrunk(reading.image)
                )  # once, for this part and for the whole
            found.append(reading)
            tokens = len(reading.tokens)
            job.tell(
                what=f"visual layer {reading.layers[0]} is read, {len(found)} of {len(layers)}",
                done=tokens * len(found),
                total=tokens * len(layers),
                parts=(*job.parts, _part(reading, len(found) - 1, layers)),
            )
        return join_layers(found)


def _part(reading: Reading, number: int, layers: tuple[int, ...]) -> str:
    """Give one layer's reading as page/parts.js takes it; the first brings the image."""
    if number:
        reading = replace(reading, image=None)
    return f'{{"number":{number},"layers":{json.dumps(layers)},"reading":{page_json(reading)}}}'
