"""Growing a bank: sentences of a stream that come nearer to what the bank lacks become a corpus of their own."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentbank.bank.bank import Bank
from latentbank.files import write_whole
from latentbank.ingest.corpus import Corpus, corpus_from_sentences
from latentbank.ingest.growing.judge import Judge
from latentbank.ingest.growing.sifting import sift
from latentbank.ingest.growing.state import State, load_state
from latentbank.ingest.job import JobReport, store_plan
from latentbank.ingest.plan import PlanSettings
from latentbank.ingest.planning import make_plan
from latentbank.locks import alone_in
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress, Silent
from latentbank.values import real

LEAST = 0.01
"""What a token must gain at least: scores run from about -1 to 2."""
SENTENCES = "sentences.jsonl"
"""Name of the file with the sentences that were taken, in the growth's folder."""


@dataclass(frozen=True)
class Sentence:
    """A sentence that was taken from the stream.

    Attributes:
        number: its number in the stream, from 0; also the `sentence` of its contexts' payloads.
        sentence: its text.
        words: the words of the contexts that it was taken for.
        asking: how many asking tokens it is the nearest to.
        held_out: how many held-out tokens it is the nearest to.
        kept: whether it was kept.
    """

    number: int
    sentence: str
    words: tuple[str, ...]
    asking: int
    held_out: int
    kept: bool


@dataclass(frozen=True)
class GrowthReport:
    """What a growth did.

    Attributes:
        corpus: name of the corpus that holds the sentences that were kept.
        stream: name of the stream.
        asking: visual tokens that asked.
        held_out: visual tokens that were held out.
        read: sentences read.
        contexts: contexts compared.
        nearer: how often a context came nearer to an asking token than all before.
        answered: asking tokens that gained.
        confirmed: held-out tokens that gain by what was kept.
        gain: mean gain of these.
        taken: sentences taken for asking tokens.
        kept: those of them that were kept, because held-out tokens gain.
        dropped: the others.
        seconds: spent on reading and comparing, by all runs together.
        tokens_per_second: tokens that the LLM ran on, a second of these.
        job: what was stored; None: nothing was kept, or it was a dry run.
        file: where the sentences taken are listed.
    """

    corpus: str
    stream: str
    asking: int
    held_out: int
    read: int
    contexts: int
    nearer: int
    answered: int
    confirmed: int
    gain: float
    taken: int
    kept: int
    dropped: int
    seconds: float
    tokens_per_second: float
    job: JobReport | None
    file: str


def growth_folder(bank: Bank, corpus: str) -> Path:
    """Return the folder where a growth keeps what it has read and taken, beside the embedded banks."""
    return bank.settings.data_dir / ".growing" / bank.name / corpus


def grow(
    bank: Bank,
    stream: Corpus,
    model: LanguageModel,
    judge: Judge,
    *,
    name: str | None = None,
    directory: str | os.PathLike[str] | None = None,
    choice: PlanSettings | None = None,
    least: float = LEAST,
    replace: bool = False,
    dry_run: bool = False,
    batch: int | None = None,
    total: int | None = None,
    progress: Progress | None = None,
) -> GrowthReport:
    """Read a stream past once and store those sentences by which visual tokens gain that ask for them.

    Of all contexts, each asking token takes the one that is nearest to it, if that is nearer than its best neighbor in
    the bank. Then each held-out token chooses among what was taken in the same way, and the sentences that no held-out
    token chooses are dropped. The others become a corpus of their own: its contexts have the numbers of the sentences
    in the stream, and it can be dropped alone.

    A killed run, called again with the same arguments, continues after the last chunk of the stream.

    Args:
        bank: open for writing.
        stream: where sentences come from; read once, in order.
        model: the LLM of the bank, loaded as deep as the bank's deepest layer.
        judge: knows the visual tokens; made by `latentbank.query.growing.asking.find_missing`.
        name: name of the corpus; None: that of the stream.
        directory: where it is kept what was read and taken; None: beside the embedded banks.
        choice: how contexts are chosen.
        least: what a token must gain at least in score.
        replace: replace the bank's corpus of the same name.
        dry_run: read, compare and list the sentences, and store nothing. The same call without it stores what was
            found, and does not read the stream again.
        batch: tokens in one forward pass; None: chosen by the device.
        total: how many sentences the stream has, where that is known.
        progress: counts sentences read, then contexts stored.

    Raises:
        BankMismatch: the bank belongs to another model.
        CorpusError: the stream cannot be read, or the bank holds other sentences under the name.
        ModelError: a hidden state is not finite.
    """
    progress, least = progress or Silent(), real(least, "least", 0)
    bank.require_model(model.name, model.identity())
    name, choice = name or stream.name, choice or PlanSettings()
    folder = growth_folder(bank, name) if directory is None else Path(directory)
    with alone_in(folder, f"grows the corpus {name} in {folder}"):
        request = _request(bank, name, stream, judge, choice, least)
        state = load_state(folder, request, judge, model.hidden_size)
        progress.stage("reading", "sentences")
        sift(stream, model, judge, state, folder, choice, least, progress, total=total, batch=batch)
        sentences, gains = confirm(state, judge, least)
        lines = (json.dumps(vars(sentence), ensure_ascii=False) for sentence in sentences)
        write_whole(folder / SENTENCES, "".join(f"{line}\n" for line in lines).encode())
        job = None
        kept = [sentence for sentence in sentences if sentence.kept]
        if kept and not dry_run:
            texts, numbers = [one.sentence for one in kept], [one.number for one in kept]
            progress.stage("planning", "sentences")
            chosen = corpus_from_sentences(name, texts, numbers)
            plan = make_plan(chosen, model, folder / "plan", choice, progress)
            progress.stage("storing", "contexts")
            job = store_plan(bank, plan, model, progress, batch=batch, replace=replace)
    return _report(name, stream, judge, state, sentences, gains, job, folder)


def _report(
    name: str,
    stream: Corpus,
    judge: Judge,
    state: State,
    sentences: Sequence[Sentence],
    gains: Sequence[float],
    job: JobReport | None,
    folder: Path,
) -> GrowthReport:
    kept = sum(sentence.kept for sentence in sentences)
    return GrowthReport(
        corpus=name,
        stream=stream.name,
        asking=judge.asking,
        held_out=judge.held_out,
        read=state.read,
        contexts=state.contexts,
        nearer=state.nearer,
        answered=len(state.taken),
        confirmed=len(gains),
        gain=float(np.mean(gains)) if len(gains) else 0.0,
        taken=len(sentences),
        kept=kept,
        dropped=len(sentences) - kept,
        seconds=state.seconds,
        tokens_per_second=state.computed / max(state.seconds, 1e-9),
        job=job,
        file=str(folder / SENTENCES),
    )


def confirm(state: State, judge: Judge, least: float) -> tuple[list[Sentence], list[float]]:
    """Return the sentences that were taken, in the stream's order, and what held-out tokens gain by those kept."""
    tokens = sorted(state.taken)
    taken = [state.taken[token] for token in tokens]
    rows, gains = judge.confirmed(state.states[tokens], [one.layer for one in taken], least)
    asking = Counter(one.number for one in taken)
    held_out = Counter(taken[row].number for row in rows.tolist() if row >= 0)
    words: dict[int, dict[str, None]] = {}
    for one in taken:
        words.setdefault(one.number, {})[one.word] = None
    texts = {one.number: one.sentence for one in taken}
    sentences = [
        Sentence(
            number, texts[number], tuple(words[number]), asking[number], held_out[number], number in held_out
        )
        for number in sorted(texts)
    ]
    return sentences, gains[rows >= 0].tolist()


def _request(bank: Bank, name: str, stream: Corpus, judge: Judge, choice: PlanSettings, least: float) -> str:
    """Return a hash of what a growth depends on, but for the stream's sentences."""
    others = [(entry.name, entry.content_hash) for entry in bank.shown_corpora.values() if entry.name != name]
    tokens = (judge.digest, judge.asking, judge.held_out, list(judge.layers))
    about = (sorted(others), stream.name, tokens, choice.to_dict(), least)
    return hashlib.blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()
