"""Fill a bank in one call: open a corpus, plan it, and store its contexts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from latentbank.bank.bank import Bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.errors import CorpusError
from latentbank.ingest.corpus import Corpus, is_corpus_name, open_corpus
from latentbank.ingest.defaults import bank_name, plan_folder
from latentbank.ingest.job import JobReport, store_plan
from latentbank.ingest.plan import Plan, PlanSettings
from latentbank.ingest.planning import make_plan, plan_for
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress
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
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    bos: Literal["tokenizer", "always"] = "tokenizer",
    skip: int = 1,
    contexts_per_token: int = 50,
    max_tokens: int = 512,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Plan the contexts of a corpus: what `fill` would store, found with the tokenizer alone.

    Args:
        source: a path, a glob, the id of a hub dataset, or several of them; or a `Corpus`, such as
            `latentbank.ingest.corpus.corpus_from_sentences` returns. A list of strings always holds paths.
        model: the LLM.
        directory: where the plan is written; None: beside the embedded banks, where `fill` looks for the plan of the
            bank named by `bank`.
        name: the corpus's name; None: the name of the first file. A `Corpus` has its own name.
        bank: name of the bank that the plan is for, used if `directory` is None. None: the bank of the settings, or
            one with the last part of the LLM's name. For a bank with another name, `bank` must be given, so that
            `fill` finds the plan.
        column: the column that holds the sentences; None: it is found.
        config: configuration of a dataset.
        split: split of a dataset; None: "train".
        revision: revision of a hub dataset.
        limit: read at most this many sentences.
        bos: see `PlanSettings`, also for `skip`, `contexts_per_token` and `max_tokens`.
        skip: leading tokens of a sentence that are left out.
        contexts_per_token: at most this many contexts of one token id.
        max_tokens: longer sentences are cut.
        settings: where the embedded banks are, as for `create_bank`; None: read from the environment.
        progress: receives the count of sentences planned.

    Returns:
        The plan. It counts sentences, tokens and contexts, and can be given to `fill`.

    Raises:
        CorpusError: the corpus cannot be read, or gives no context at all.
        LatentBankError: the directory cannot be written.

    Examples:
        >>> import latentbank as lb
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> plan = lb.plan("captions.jsonl", model, bank="captions")
        >>> text = f"{plan.contexts:,} contexts of {plan.sentences:,} sentences"
    """
    corpus = _corpus(source, name, column, config, split, revision, limit)
    if directory is None:
        settings = settings or load_settings()
        directory = plan_folder(settings, bank or settings.bank or bank_name(model.name), corpus.name)
    chosen = PlanSettings(bos, skip, contexts_per_token, max_tokens)
    return make_plan(corpus, model, Path(directory), chosen, progress)


def fill(
    bank: Bank,
    source: Source | Plan,
    model: LanguageModel,
    *,
    name: str | None = None,
    directory: str | os.PathLike[str] | None = None,
    column: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    bos: Literal["tokenizer", "always"] = "tokenizer",
    skip: int = 1,
    contexts_per_token: int = 50,
    max_tokens: int = 512,
    replace: bool = False,
    batch: int | None = None,
    progress: Progress | None = None,
) -> JobReport:
    """Store the contexts of a corpus in a bank. Safe to interrupt: called again, it continues where it stopped.

    Args:
        bank: open for writing; made by `create_bank`.
        source: a path, a glob, the id of a hub dataset, or several of them; a `Corpus`, such as
            `latentbank.ingest.corpus.corpus_from_sentences` returns; or a `Plan`, for which the arguments from `name`
            to `max_tokens` are not used. A list of strings always holds paths.
        model: the LLM of the bank, loaded at least as deep as the bank's deepest layer.
        name: the corpus's name; None: the name of the first file. A `Corpus` has its own name.
        directory: folder of the plan; None: beside the embedded banks. A plan that is there and fits is used.
        column: the column that holds the sentences; None: it is found.
        config: configuration of a dataset.
        split: split of a dataset; None: "train".
        revision: revision of a hub dataset.
        limit: read at most this many sentences.
        bos: see `PlanSettings`, also for `skip`, `contexts_per_token` and `max_tokens`.
        skip: leading tokens of a sentence that are left out.
        contexts_per_token: at most this many contexts of one token id.
        max_tokens: longer sentences are cut.
        replace: replace the bank's corpus of the same name, once the new one is complete.
        batch: tokens in one forward pass; None: chosen by the device.
        progress: receives the counts of sentences planned, contexts stored and layers indexed.

    Returns:
        What the job did.

    Raises:
        BankMismatch: the bank or the plan belongs to another model.
        CorpusError: the corpus cannot be read, or the bank holds other sentences or settings under its name.
        ModelError: a hidden state is not finite.
        BankUnavailable: the store failed; what was stored is safe.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.ingest.corpus import corpus_from_sentences
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> two = corpus_from_sentences("two", ["A red kite.", "A dog on a beach."])
        >>> with lb.create_bank("captions", model, layers=[8, 16]) as bank:
        ...     report = lb.fill(bank, "captions.jsonl", model)
        ...     report = lb.fill(bank, two, model)
        >>> report.complete
        True
    """
    if isinstance(source, Plan):
        made = source
    else:
        corpus = _corpus(source, name, column, config, split, revision, limit)
        folder = plan_folder(bank.settings, bank.name, corpus.name) if directory is None else Path(directory)
        chosen = PlanSettings(bos, skip, contexts_per_token, max_tokens)
        if progress:
            progress.stage("planning", "sentences")
        made = plan_for(bank, corpus, model, folder, chosen, progress, replace=replace)
    if progress:
        progress.stage("ingesting", "contexts")
    return store_plan(bank, made, model, progress, batch=batch, replace=replace)


def _corpus(
    source: Source,
    name: str | None,
    column: str | None,
    config: str | None,
    split: str | None,
    revision: str | None,
    limit: int | None,
) -> Corpus:
    """Return the corpus that a source means; see `plan`."""
    if isinstance(source, Corpus):
        arguments = {
            "name": name,
            "column": column,
            "config": config,
            "split": split,
            "revision": revision,
            "limit": limit,
        }
        if unused := [argument for argument, value in arguments.items() if value is not None]:
            raise CorpusError(
                f"The source is the corpus {source.name}, which has settings of its own; leave out {listed(unused)}."
            )
        return source
    paths = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not paths:
        raise CorpusError("The corpus has no source; name files or a hub dataset.")
    stem = Path(paths[0]).name.split(".")[0]
    if name is None and not is_corpus_name(stem):
        raise CorpusError(
            f"The corpus has no name, and {stem!r} cannot be its name; give it one.", argument="name"
        )
    return open_corpus(
        name or stem, paths, column=column, config=config, split=split, revision=revision, limit=limit
    )
