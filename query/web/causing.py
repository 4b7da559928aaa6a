"""What the tokens of a word do, asked from the page: they are ablated."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from latentbank.errors import QueryError
from latentbank.query.causes.cause import CauseOptions, cause
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lenses_of
from latentbank.query.web.jobs import JobProgress

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.calibration.correction import Correction
    from latentbank.query.web.jobs import CauseRequest, Job

DRAWS = 4
"""How often as many other tokens are drawn, at random and as near."""
ANSWER = 32
"""The largest number of tokens of the model's answer."""


def causes_json(
    bank: Bank, model: VisualModel, request: CauseRequest, correction: Correction | None, job: Job
) -> str:
    """Return `Causes.to_dict` as JSON: tokens are ablated by the mean of the image's other ones, or by attention.

    Raises:
        QueryError: no token shows the word.
        LayerNotFound: no block comes after the layer.
        ModelError: only part of the model is loaded, or it writes no answers.
        Cancelled: the job was cancelled.
    """
    reading = request.reading
    assert reading.image is not None
    job.update(what="letting the model answer")
    options = LensOptions(
        model, bank, reading.bank_layers, reading.where, reading.unique, correction=correction
    )
    lens = lenses_of(reading.lenses[:1], options)[0]
    how = CauseOptions(top_k=reading.top_k, draws=DRAWS, answer=ANSWER)
    given = model, reading.image, request.word, lens, [request.layer]
    try:
        found = cause(*given, how, JobProgress(job))
    except QueryError as error:
        if error.argument != "others":
            raise
        # All tokens show the word: nothing of the image is left to put in their place.
        found = cause(*given, replace(how, by=("attention",)), JobProgress(job))
    return json.dumps(found.to_dict() | {"source": reading.name}, ensure_ascii=False, allow_nan=False)
