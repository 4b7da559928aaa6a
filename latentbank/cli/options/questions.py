"""Options that choose questions about readings, for people and for a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.grouping import named_otherwise
from latentbank.cli.options.common import VisualLayersOption, numbers

if TYPE_CHECKING:
    from latentbank.models.vision.sources import ImageSource
    from latentbank.query.judging.questions import Question


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """The readings that are asked about, and how questions are chosen from them."""

    readings: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of readings of images, from `query image --parquet`; one of each model."
        ),
    ]
    images: Annotated[
        list[str] | None,
        typer.Option(help="Where the images are now: files, folders, globs, datasets; several times."),
    ] = None
    sentences: Annotated[
        bool, typer.Option("--sentences", help="Ask about sentences with a word marked, not about words.")
    ] = False
    lens: Annotated[
        str | None, typer.Option(help="Lenses asked about, with commas; default: all of the readings.")
    ] = None
    visual_layers: VisualLayersOption = None
    limit: Annotated[int, typer.Option(help="Images of each model at most.")] = 100
    seed: Annotated[int, typer.Option(help="Seed of the images, boxes and controls.")] = 0
    controls: Annotated[
        float, typer.Option(help="Share of the images that also get a control, from 0 to 1.")
    ] = 0.2
    random_projector: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of readings of the same images behind a random projector, for controls; several times."
        ),
    ] = None

    def find(self) -> tuple[Sequence[Question], dict[str, ImageSource]]:
        """Return the questions, and their images by the names in the readings.

        Raises:
            QueryError: there is nothing to ask.
            ImageError: an image is not there.
        """
        from latentbank.progress import shown
        from latentbank.query.judging.questions import find_questions
        from latentbank.query.judging.sources import sources_of
        from latentbank.query.lenses.registry import lens_names

        with named_otherwise(folders="readings"), shown("choosing questions", "images") as progress:
            questions = find_questions(
                self.readings,
                study="sentences" if self.sentences else "words",
                images=self.limit,
                lenses=None if self.lens is None else lens_names(self.lens),
                layers=numbers(self.visual_layers),
                seed=self.seed,
                controls=self.controls,
                random_projector=self.random_projector or (),
                progress=progress,
            )
        return questions.asked, sources_of(questions.asked, self.images)
