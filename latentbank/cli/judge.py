"""`latentbank judge`: ask a model which tokens can be interpreted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbank.cli.options.common import GlobalOptions, JsonOption
from latentbank.cli.options.judging import EndpointOptions
from latentbank.cli.options.questions import QuestionOptions


def judge(
    ctx: typer.Context,
    *,
    questions: QuestionOptions,
    endpoint: EndpointOptions,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Parquet file for the verdicts and their cost.")
    ] = Path("verdicts.parquet"),
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say how many calls, tokens and how much money it takes; ask nothing."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a model which words describe what a visual token sees. Exits 1 if a question got no answer."""
    from latentbank.cli.output.judging import show_bill, show_verdicts
    from latentbank.progress import shown
    from latentbank.query.judging.answers import open_answers
    from latentbank.query.judging.judge import ask, bill
    from latentbank.query.judging.verdicts import save_verdicts

    asked_of, prices = endpoint.endpoint(ask=not dry_run), endpoint.prices()
    folder = endpoint.folder(GlobalOptions.of(ctx).settings())
    asked, images = questions.find()
    with open_answers(folder, asked_of.base_url, asked_of.model) as answers:
        if dry_run:
            with shown("counting", "questions") as progress:
                found = bill(asked, asked_of, images, answers, prices=prices, progress=progress)
            show_bill(found, as_json=as_json)
            return
        before = len(answers)
        with shown("judging", "questions") as progress:
            verdicts = ask(asked, asked_of, images, answers, prices=prices, progress=progress)
        new = len(answers) - before
    save_verdicts(output, verdicts)
    show_verdicts(verdicts, new, output, as_json=as_json)
    if any(verdict.state == "failed" for verdict in verdicts):
        raise typer.Exit(1)
