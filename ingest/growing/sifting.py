"""Sifting: a stream is read past once, and for each asking token the nearest context so far is taken.

Memory holds a chunk of the stream and one sentence for each asking token, however long the stream is.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from latentbank.bank.rotation import unit
from latentbank.errors import CorpusError
from latentbank.ingest.choosing import Chooser
from latentbank.ingest.corpus import Corpus, Counts, read_sentences
from latentbank.ingest.encode import Encoded, encode
from latentbank.ingest.growing.judge import Judge
from latentbank.ingest.growing.state import State, Taken
from latentbank.ingest.plan import PlanSettings
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress

CHUNK = 1024
"""Sentences that are read, sorted and encoded at once; as often the state is saved."""
_ALL = 2**31  # places of each token: in a chunk every context is compared


def sift(
    stream: Corpus,
    model: LanguageModel,
    judge: Judge,
    state: State,
    folder: Path,
    choice: PlanSettings,
    least: float,
    progress: Progress,
    *,
    total: int | None = None,
    batch: int | None = None,
    seconds: float | None = None,
) -> bool:
    """Read a stream on from where the state is, and take what is nearer to the asking tokens.

    Args:
        stream: the sentences.
        model: the LLM, loaded as deep as the judge's deepest layer.
        judge: knows the tokens that ask.
        state: what was read and taken before; updated, and saved after each chunk.
        folder: where the state is saved.
        choice: how contexts are chosen; all contexts of a chunk are compared.
        least: what a token must gain at least.
        progress: counts sentences.
        total: how many sentences the stream has, where that is known.
        batch: tokens in one forward pass; None: chosen by the device.
        seconds: stop after the first chunk that ends later; None: read to the end.

    Returns:
        Whether the stream was read to its end.

    Raises:
        CorpusError: the stream cannot be read, or begins otherwise than it did when the state was saved.
        ModelError: a hidden state is not finite.
    """
    counts = Counts()
    sentences = _after(read_sentences(stream, counts), state, stream.name)
    settings = replace(choice, contexts_per_token=_ALL, sampling="first", seed=0, split_position=0)
    began = time.monotonic()
    while chunk := list(islice(sentences, CHUNK)):
        started = time.monotonic()
        chooser = Chooser(stream.name, model, settings, range(state.read, state.read + len(chunk)))
        planned = sorted(chooser.choose(chunk), key=lambda sentence: sentence.token_ids)
        for encoded in encode(model, stream.name, planned, judge.layers, batch=batch):
            _take(encoded, judge, state, least)
        state.digest = _chained(state.digest, chunk)
        state.read += len(chunk)
        state.seconds += time.monotonic() - started
        state.save(folder)
        progress.note(f"{len(_numbers(state)):,} sentences taken")
        progress.update(state.read, total)
        if seconds is not None and time.monotonic() - began > seconds:
            return False
    return True


def _numbers(state: State) -> set[int]:
    """Return the numbers of the sentences that are taken."""
    return {taken.number for taken in state.taken.values()}


def _after(sentences: Iterator[str], state: State, name: str) -> Iterator[str]:
    """Return the sentences that a state has not read.

    Raises:
        CorpusError: those that it has read are others now.
    """
    digest, left = "", state.read
    while left:
        chunk = list(islice(sentences, min(CHUNK, left)))
        if not chunk:
            break
        digest = _chained(digest, chunk)
        left -= len(chunk)
    if left or digest != state.digest:
        raise CorpusError(
            f"The stream '{name}' begins with other sentences than when the run was stopped; give the same stream, or "
            "another name for what grows.",
            argument="name",
        )
    return sentences


def _chained(digest: str, chunk: Sequence[str]) -> str:
    """Return a hash of what was hashed before and a chunk."""
    text = "\0".join([digest, *chunk])  # no sentence holds a NUL
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _take(encoded: Encoded, judge: Judge, state: State, least: float) -> None:
    """Take those of the contexts that are nearer to an asking token than what it has."""
    state.contexts += len(encoded.ids)
    state.computed += encoded.computed
    found = judge.nearest(encoded.states, state.gains(least))
    for token, context, layer, gain in zip(*(column.tolist() for column in found), strict=True):
        payload = encoded.payloads[context]
        state.taken[token] = Taken(payload["sentence"], payload["caption"], payload["word"], layer, gain)
        state.states[token] = unit(encoded.states[layer][context])
        state.nearer += 1
