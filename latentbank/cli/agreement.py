"""`latentbank agreement`: how well people and a judge agree."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from latentbank.cli.options.common import JsonOption
from latentbank.errors import LatentBankError


def agreement(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Files of votes: .csv, .jsonl as `annotate` writes them, .parquet as `judge` does."
        ),
    ],
    judge: Annotated[
        str | None,
        typer.Option(
            help="The rater who is the judge; by default 'judge', or the one of the .parquet files."
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="HTML file for the items that the raters disagree on.")
    ] = None,
    readings: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of readings that were asked about: draws the page's pictures; several times."
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Where the images are now: files, folders, globs, datasets; several times."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how well a judge agrees with people, and people with each other: accuracy, kappa, rho and alpha."""
    from latentbank.cli.output.agreement import show_agreements
    from latentbank.cli.output.text import print_json
    from latentbank.files import write_whole
    from latentbank.progress import shown
    from latentbank.query.judging.agreement import agreements, items_of
    from latentbank.query.judging.ballots import read_ballots
    from latentbank.query.judging.page import disagreements_html
    from latentbank.query.judging.pictures import pictures_of

    if readings and page is None:
        raise LatentBankError("Pictures are for the page: name its file (--page), or leave the readings out.")
    if images and not readings:
        raise LatentBankError(
            "The images alone do not say where the boxes are: name the readings (--readings)."
        )
    ballots = read_ballots(files, judge)
    items = items_of(ballots.votes, ballots.judge)
    with shown("comparing", "comparisons") as progress:
        found = agreements(items, progress)
    if page is not None:
        pictures = None
        if readings:
            with shown("drawing", "pictures") as progress:
                differing = [item for item in items if item.disagreement]
                pictures = pictures_of(differing, readings, images, progress) if differing else {}
        write_whole(page, disagreements_html(items, pictures).encode())
    if ballots.left_out:
        print(
            f"{ballots.left_out:,} verdicts of {ballots.judge} are left out: there was no answer, or it could not be "
            "read.",
            file=sys.stderr,
        )
    if as_json:
        print_json([row.to_dict() for row in found])
    else:
        show_agreements(found)
