"""The page of questions: a FastAPI app that shows them to people, and keeps their answers.

Nothing that it sends names a question's model, image, lens, layer or control. All annotators have the same order, which
is random, so that those who stop early have answered the same questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import JSONResponse, Response

from latentbank.errors import LatentBankError, QueryError
from latentbank.query.judging.annotations import Annotations
from latentbank.query.judging.views import crop, jpeg, picture
from latentbank.query.web.common import handle_errors, serve_files
from latentbank.text import without_paths

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.query.judging.questions import Candidate, Question

_KEPT = 64  # questions whose pictures are kept
Name = Annotated[str, Query(max_length=200)]
Kinds = Annotated[str, Query(max_length=2000, description="one for each word, with commas; empty for none")]


def create_annotation_app(
    questions: Sequence[Question], annotations: Annotations, open_image: Callable[[Question], Image.Image]
) -> FastAPI:
    """Return the app of the page of questions; it must be wrapped in a `Guard`.

    Args:
        questions: from `find_questions`.
        annotations: where answers are kept, and those of earlier sittings.
        open_image: opens a question's image.
    """
    shuffled = sorted(questions, key=lambda question: question.id)  # a digest
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    handle_errors(app)
    serve_files(app, "annotate.html")
    _serve_questions(app, shuffled, annotations)
    _serve_pictures(app, shuffled, open_image)
    _take_answers(app, shuffled, annotations)
    return app


def _serve_questions(app: FastAPI, questions: Sequence[Question], annotations: Annotations) -> None:
    @app.get("/api/annotators")
    def annotator(name: Name) -> dict[str, Any]:
        rater = annotations.name_of(name)
        given = annotations.of(rater)
        answered = [number for number, question in enumerate(questions) if question.id in given]
        return {"name": rater, "questions": len(questions), "answered": answered}

    @app.get("/api/questions/{number}")
    def question(number: int, rater: Name) -> dict[str, Any]:
        chosen = _at(questions, number)
        given = annotations.of(annotations.name_of(rater)).get(chosen.id)
        return {
            "shown": [_shown(candidate) for candidate in chosen.candidates],
            "size": list(chosen.view.size),
            "kinds": given,
        }


def _serve_pictures(
    app: FastAPI, questions: Sequence[Question], open_image: Callable[[Question], Image.Image]
) -> None:
    @lru_cache(maxsize=_KEPT)
    def drawn(number: int) -> dict[str, bytes]:
        chosen = _at(questions, number)
        image = open_image(chosen)
        return {
            "whole": jpeg(picture(image, chosen.view, chosen.box)),
            "crop": jpeg(crop(image, chosen.view, chosen.box)),
        }

    @app.get("/api/questions/{number}/{part}")
    def part_of(number: int, part: str) -> Response:
        if part not in ("whole", "crop"):
            raise HTTPException(404, "There is no such picture.")
        return Response(drawn(number)[part], media_type="image/jpeg")


def _take_answers(app: FastAPI, questions: Sequence[Question], annotations: Annotations) -> None:
    @app.post("/api/answers", status_code=201)
    def take(rater: Name, question: int, kinds: Kinds) -> Response:
        chosen = _at(questions, question)
        given = kinds.split(",")
        try:
            annotations.save(chosen, annotations.name_of(rater), given)
        except QueryError:
            raise
        except LatentBankError as error:
            raise HTTPException(507, without_paths(str(error))) from None
        return JSONResponse({"kinds": given}, 201)


def _at(questions: Sequence[Question], number: int) -> Question:
    if not 0 <= number < len(questions):
        raise HTTPException(404, "There is no such question.")
    return questions[number]


def _shown(candidate: Candidate) -> tuple[str, str, str]:
    """Return what stands before a word, the word, and what stands after it."""
    sentence, start, end = candidate.sentence, candidate.start, candidate.end
    if not 0 <= start < end:
        return "", sentence or candidate.word, ""
    return sentence[:start], sentence[start:end], sentence[end:]
