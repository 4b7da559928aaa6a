"""`latentbank agreement`: how well people and a judge agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbank.cli.options.common import JsonOption


def agreement(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Files of votes: .csv, .jsonl as a file of annotations, or .parquet as a judge's."
        ),
    ],
    judge: Annotated[
        str | None,
        typer.Option(help="The rater who is the judge; by default that of the .parquet file, else 'judge'."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="HTML file for the items that the raters disagree on.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how well a judge agrees with people, and people with each other: accuracy, kappa, rho and alpha."""
    from latentbank.cli.output.agreement import show_agreements
    from latentbank.cli.output.text import print_json
    from latentbank.files import write_whole
    from latentbank.progress import shown
    from latentbank.query.judging.agreement import agreements, items_of
    from latentbank.query.judging.page import disagreements_html
    from latentbank.query.judging.votes import judge_in, read_votes

    items = items_of(read_votes(files), judge or judge_in(files))
    with shown("comparing", "comparisons") as progress:
        found = agreements(items, progress)
    if page is not None:
        write_whole(page, disagreements_html(items).encode())
    if as_json:
        print_json([row.to_dict() for row in found])
    else:
        show_agreements(found)
