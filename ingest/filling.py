"""Fill a bank in one call: open a corpus, plan it, and store its contexts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from latentbank.bank.bank import Bank
from latentbank.bank.kinds import require_bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.errors import CorpusError, LatentBankError
from latentbank.ingest.corpus import Corpus, open_corpus
from latentbank.ingest.defaults import bank_name, plan_folder
from latentbank.ingest.job import JobReport, store_plan
from latentbank.ingest.plan import Plan, PlanSettings
from latentbank.ingest.planning import make_plan, plan_for
from latentbank.ingest.sources.base import Asked
from latentbank.models.kinds import require_language
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress, Silent
from latentbank.text import listed

Source = str | os.PathLike[str] | Corpus | Iterable[str | os.PathLike[str]]
"""What names a corpus: a file, a glob, a folder, the id of a hub dataset or several of them; or a `Corpus`."""


def plan(
    source: Source,
    model: LanguageModel,
    directory: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    bank: str | None = None,
    column: str | None = None,
    field: str | None = None,
    header: bool | None = None,
    format: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    bos: Literal["tokenizer", "always"] = "tokenizer",
    skip: int = 1,
    contexts_per_token: int = 50,
    max_tokens: int = 512,
    choice: PlanSettings | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Plan the contexts of a corpus: what `fill` would store, found with the tokenizer alone.

    Args:
        source: a path, a glob, a folder, the id of a hub dataset, or several of them; or a `Corpus`, such as
            `latentbank.ingest.corpus.corpus_from_sentences` returns. A list of strings always holds paths.
        model: the LLM.
        directory: where the plan is written; None: beside the embedded banks, where `fill` looks for the plan of the
            bank named by `bank`.
        name: the corpus's name; None: the first file's, with hyphens for what a name cannot hold. A `Corpus` has its
            own name.
        bank: name of the bank that the plan is for, used if `directory` is None. None: the bank of the settings, or
            one with the last part of the LLM's name. For a bank with another name, `bank` must be given, so that
            `fill` finds the plan.
        column: the column that holds the sentences, the same in all files; None: it is found.
        field: the list of records inside JSON documents, such as "annotations"; None: it is found.
        header: whether the first row of CSV files names the columns; None: it is found.
        format: "txt", "csv", "tsv", "jsonl", "json", "parquet" or "arrow", for standard input ("-") and for files whose
            names do not tell; None: by their names, and standard input is lines of text.
        config: configuration of a dataset.
        split: split of a folder or a dataset; None: "train".
        revision: revision of a hub dataset.
        limit: read at most this many sentences.
        bos: see `PlanSettings`, also for `skip`, `contexts_per_token` and `max_tokens`.
        skip: leading tokens of a sentence that are left out.
        contexts_per_token: at most this many contexts of one token id.
        max_tokens: longer sentences are cut.
        choice: how contexts are chosen, with all settings, instead of the four above.
        settings: where the embedded banks are, as for `create_bank`; None: read from the environment.
        progress: receives the count of sentences planned.

    Returns:
        The plan. It counts sentences, tokens and contexts, and can be given to `fill`.

    Raises:
        CorpusError: the corpus cannot be read, or gives no context at all.
        ModelError: the model is a vision-language model, or only a model's name.
        LatentBankError: the directory cannot be written.

    Examples:
        >>> import latentbank as lb
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> plan = lb.plan("captions.jsonl", model, bank="captions")
        >>> text = f"{plan.contexts:,} contexts of {plan.sentences:,} sentences"
    """
    require_language(model)
    corpus = _corpus(source, name, limit, Asked(column, field, header), format, (config, split, revision))
    if directory is None:
        settings = settings or load_settings()
        directory = plan_folder(settings, bank or settings.bank or bank_name(model.name), corpus.name)
    chosen = _chosen(choice, PlanSettings(bos, skip, contexts_per_token, max_tokens))
    return make_plan(corpus, model, Path(directory), chosen, progress)


def fill(
    bank: Bank,
    source: Source | Plan,
    model: LanguageModel,
    *,
    name: str | None = None,
    directory: str | os.PathLike[str] | None = None,
    column: str | None = None,
    field: str | None = None,
    header: bool | None = None,
    format: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    bos: Literal["tokenizer", "always"] = "tokenizer",
    skip: int = 1,
    contexts_per_token: int = 50,
    max_tokens: int = 512,
    choice: PlanSettings | None = None,
    replace: bool = False,
    batch: int | None = None,
    progress: Progress | None = None,
) -> JobReport:
    """Store the contexts of a corpus in a bank. Safe to interrupt: called again, it continues where it stopped.

    Args:
        bank: open for writing; made by `create_bank`.
        source: as for `plan`; or a `Plan`, which has the settings from `name` to `max_tokens` of its own.
        model: the LLM of the bank, loaded at least as deep as the bank's deepest layer.
        name: the corpus's name; None: the first file's. See `plan`.
        directory: folder of the plan; None: beside the embedded banks. A plan that is there and fits is used.
        column: the column that holds the sentences, the same in all files; None: it is found.
        field: the list of records inside JSON documents, such as "annotations"; None: it is found.
        header: whether the first row of CSV files names the columns; None: it is found.
        format: the format of all files; None: by their names. See `plan`.
        config: configuration of a dataset.
        split: split of a folder or a dataset; None: "train".
        revision: revision of a hub dataset.
        limit: read at most this many sentences.
        bos: see `PlanSettings`, also for `skip`, `contexts_per_token` and `max_tokens`.
        skip: leading tokens of a sentence that are left out.
        contexts_per_token: at most this many contexts of one token id.
        max_tokens: longer sentences are cut.
        choice: how contexts are chosen, with all settings, instead of the four above.
        replace: replace the bank's corpus of the same name, once the new one is complete.
        batch: tokens in one forward pass; None: chosen by the device.
        progress: receives the counts of sentences planned, contexts stored and layers indexed.

    Returns:
        What the job did.

    Raises:
        BankMismatch: the bank or the plan belongs to another model.
        CorpusError: the corpus cannot be read, or the bank holds other sentences or settings under its name.
        ModelError: a hidden state is not finite, or the model is a vision-language model or only a model's name.
        BankUnavailable: the store failed; what was stored is safe.
        QueryError: the bank is only a bank's name.

    Examples:
        >>> import latentbank as lb
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> with lb.create_bank("captions", model, layers=[8, 16]) as bank:
        ...     report = lb.fill(bank, "captions.jsonl", model)
    """
    require_bank(bank)
    require_language(model)
    progress = progress or Silent()
    asked, dataset = Asked(column, field, header), (config, split, revision)
    if isinstance(source, Plan):
        made, given = source, {"name": name, "directory": directory}
        _refuse(f"plan of {source.corpus}", given, limit, asked, format, dataset)
    else:
        corpus = _corpus(source, name, limit, asked, format, dataset)
        folder = plan_folder(bank.settings, bank.name, corpus.name) if directory is None else Path(directory)
        chosen = _chosen(choice, PlanSettings(bos, skip, contexts_per_token, max_tokens))
        progress.stage("planning", "sentences")
        made = plan_for(bank, corpus, model, folder, chosen, progress, replace=replace)
    progress.stage("ingesting", "contexts")
    return store_plan(bank, made, model, progress, batch=batch, replace=replace)


def _chosen(choice: PlanSettings | None, single: PlanSettings) -> PlanSettings:
    """Return how contexts are chosen: `choice`, or the single settings.

    Raises:
        LatentBankError: both are given.
    """
    if choice is not None and single != PlanSettings():
        raise LatentBankError(
            "choice holds all settings of the plan; give bos, skip, contexts_per_token and max_tokens in it."
        )
    return choice or single


_Dataset = tuple[str | None, str | None, str | None]  # configuration, split and revision


def _corpus(
    source: Source,
    name: str | None,
    limit: int | None,
    asked: Asked,
    format_: str | None,
    dataset: _Dataset,
) -> Corpus:
    """Return the corpus that a source means; see `plan`."""
    if isinstance(source, Corpus):
        _refuse(f"corpus {source.name}", {"name": name}, limit, asked, format_, dataset)
        return source
    paths = [source] if isinstance(source, str | os.PathLike) else list(source)
    return open_corpus(name, paths, **_arguments(limit, asked, format_, dataset))


def _arguments(limit: int | None, asked: Asked, format_: str | None, dataset: _Dataset) -> dict[str, Any]:
    """Return the arguments of `open_corpus`."""
    given = dict(zip(("config", "split", "revision"), dataset, strict=True))
    return {**asdict(asked), "format": format_, **given, "limit": limit}


def _refuse(
    what: str,
    others: dict[str, Any],
    limit: int | None,
    asked: Asked,
    format_: str | None,
    dataset: _Dataset,
) -> None:
    """Raise a CorpusError if an argument is given beside a corpus or a plan, which have settings of their own."""
    given = {**others, **_arguments(limit, asked, format_, dataset)}
    if unused := [key for key, value in given.items() if value is not None]:
        raise CorpusError(
            f"The source is the {what}, which has settings of its own; leave out {listed(unused)}."
        )
