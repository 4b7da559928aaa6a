"""`latentbank annotate`: ask people what a judge is asked."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.options.pages import PageOptions
from latentbank.cli.options.questions import QuestionOptions
from latentbank.cli.serving import listen, require_web, serve

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.query.judging.questions import Question


def annotate(
    *,
    questions: QuestionOptions,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File of JSON lines for the answers; appended to.")
    ] = Path("annotations.jsonl"),
    page: PageOptions,
) -> None:
    """Ask people which words describe what a visual token sees, on a page. Ctrl-C ends it; run again, it goes on."""
    require_web()
    from latentbank.query.judging.annotations import Annotations
    from latentbank.query.web.annotate import create_annotation_app
    from latentbank.query.web.guard import Guard

    page.check()
    with ExitStack() as stack:
        listening = stack.enter_context(
            listen(page.host, page.port)
        )  # first: finding questions takes a while
        annotations = Annotations(output.expanduser())
        asked, images = questions.find()

        def open_image(question: Question) -> Image.Image:
            return images[question.subject.source].open()

        app = create_annotation_app(asked, annotations, open_image)
        print(f"{len(asked):,} questions; answers go to {annotations.path}.", file=sys.stderr)
        serve(Guard(app, page.token), listening)
