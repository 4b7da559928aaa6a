"""Options that name a corpus, and those of its plan."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.options.common import ConfigOption, SplitOption
from latentbank.errors import LatentBankError
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings
    from latentbank.ingest.corpus import Corpus
    from latentbank.ingest.plan import PlanSettings
    from latentbank.ingest.recipes.preparing import Prepared
    from latentbank.ingest.workers.shares import Share

NameOption = Annotated[
    str | None, typer.Option("--name", "-n", help="Name of the corpus; by default the file's.")
]


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """A corpus of files, of standard input or of a hub dataset."""

    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, globs, folders, - for standard input, or a hub dataset.", show_default=False
        ),
    ] = None
    name: NameOption = None
    column: Annotated[
        str | None,
        typer.Option(
            help="Column that holds the sentences, the same in all files; by default it is detected."
        ),
    ] = None
    field: Annotated[
        str | None,
        typer.Option(help="List of records inside JSON documents, such as annotations; by default detected."),
    ] = None
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="Whether the first row of CSV files names the columns; by default it is detected.",
        ),
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            help="txt, csv, tsv, jsonl, json, parquet or arrow; by default by the files' names, txt for standard input."
        ),
    ] = None
    config: ConfigOption = None
    split: SplitOption = None
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most this many sentences.")] = None

    def refuse_beside_a_plan(self) -> None:
        """Check that no option says how a corpus is read, where a plan is stored that was made before.

        Raises:
            LatentBankError: one does.
        """
        given = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "sources"}
        options = [
            f"--no-{name}" if value is False else f"--{name}"
            for name, value in given.items()
            if value is not None
        ]
        if options:
            raise LatentBankError(f"The plan says which corpus is stored; leave out {listed(options)}.")

    def open(self) -> Corpus:
        """Open the corpus and read its first sentence; without a name it gets the first file's.

        Raises:
            LatentBankError: no source is named, or it cannot be opened or read.
        """
        from latentbank.ingest.corpus import check_readable, open_corpus

        if not self.sources:
            raise LatentBankError("Name a corpus: files, a folder, a hub dataset, or - for standard input.")
        corpus = open_corpus(
            self.name,
            self.sources,
            column=self.column,
            field=self.field,
            header=self.header,
            format=self.format,
            config=self.config,
            split=self.split,
            limit=self.limit,
        )
        check_readable(corpus)
        return corpus


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """A well-known corpus."""

    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="visual-genome, wikipedia, pixmo-cap or concepts; none: list them.",
            show_default=False,
        ),
    ] = None
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Its files, or a hub dataset; by default the recipe's own dataset.", show_default=False
        ),
    ] = None
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Name of the corpus; by default the recipe's.")
    ] = None
    column: Annotated[
        str | None, typer.Option(help="Column that holds the text; by default the recipe's.")
    ] = None
    config: ConfigOption = None
    split: SplitOption = None
    revision_of_corpus: Annotated[
        str | None, typer.Option("--corpus-revision", help="Revision of a hub dataset.")
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Take at most this many sentences; by default as the recipe says."),
    ] = None

    def prepared(self, settings: Settings) -> Prepared:
        """Clean the corpus, or go on with it."""
        from latentbank.ingest.recipes.preparing import prepare
        from latentbank.progress import shown

        with shown("cleaning", "sentences") as progress:
            return prepare(
                self.recipe or "",
                self.sources or (),
                corpus=self.name,
                column=self.column,
                config=self.config,
                split=self.split,
                revision=self.revision_of_corpus,
                limit=self.limit,
                settings=settings,
                progress=progress,
            )


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """A plan's folder and settings."""

    plan: Annotated[
        Path | None, typer.Option("--plan", help="Folder of the plan; by default beside the banks.")
    ] = None
    bos: Annotated[
        str | None,
        typer.Option(
            help="tokenizer: as the tokenizer does (the default); always: BOS before each sentence.",
            show_default=False,
        ),
    ] = None
    skip: Annotated[
        int | None, typer.Option(min=0, help="Leading tokens of a sentence that are left out; by default 1.")
    ] = None
    contexts_per_token: Annotated[
        int | None,
        typer.Option(
            "--contexts-per-token",
            min=1,
            help="Store at most this many contexts of one token; by default 50.",
        ),
    ] = None
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Cut sentences after this many tokens; by default 512.")
    ] = None
    sampling: Annotated[
        str | None,
        typer.Option(
            help="Which contexts of a token: first, those that come first (the default); reservoir, a random sample."
        ),
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of --sampling reservoir; by default 0.")] = (
        None
    )
    first_position: Annotated[
        int | None,
        typer.Option(
            "--first-position", min=0, help="Leave out tokens before this position; BOS counts, from 0."
        ),
    ] = None
    split_position: Annotated[
        int | None,
        typer.Option(
            "--split-position",
            min=0,
            help="With --sampling reservoir: tokens from this position on have a reservoir of their own.",
        ),
    ] = None

    def settings(self, recipe: PlanSettings | None = None) -> PlanSettings:
        """Return the plan settings that the ledger keeps: those given, else a recipe's or the default ones."""
        from latentbank.ingest.plan import PlanSettings

        names = {entry.name for entry in fields(PlanSettings)}
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(recipe or PlanSettings(), **given)


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """Who stores a plan: this process, one worker of several, or Ray."""

    shard: Annotated[
        str | None,
        typer.Option(help="Store only this share of the plan, such as 0/4, the first of four."),
    ] = None
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            help="Store all shares of the plan with Ray: local (this machine), auto (its cluster) or "
            "ray://HOST:10001.",
        ),
    ] = None
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --ray: how many workers; by default one for each GPU.")
    ] = None
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace the corpus of the same name, once the new one is complete."),
    ] = False
    batch: Annotated[
        int | None, typer.Option(min=1, help="Tokens in one forward pass; the default depends on the device.")
    ] = None

    def share(self) -> Share | None:
        """Return the share that --shard names; None: the whole plan.

        Raises:
            LatentBankError: it is not a share, or --ray, --shard and --workers do not go together.
        """
        from latentbank.ingest.workers.shares import parse_share

        if self.shard and self.ray:
            raise LatentBankError("Ray's workers share the plan among them: leave --shard out, or --ray.")
        if self.workers is not None and not self.ray:
            raise LatentBankError("--workers is for the workers of Ray: give --ray too, or leave it out.")
        return parse_share(self.shard) if self.shard else None
