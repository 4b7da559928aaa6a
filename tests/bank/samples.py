"""Sample contexts, the stores that hold them, and a plain computation of their neighbors."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentbank.bank.bank import Bank
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.opening import create_bank
from latentbank.bank.points import Payload, context_id
from latentbank.bank.settings import Settings
from latentbank.bank.store.backends import backend
from latentbank.bank.store.base import Points, Record, Store

WIDTH = 32
WORDS = ("dog", "cat", "Dog", "fire", "truck", "snow")
COLOURS = ("red", "green", "blue")
HEAD = {
    "schema": 1,
    "bank": "bank",
    "model": "tiny/llama",
    "revision": None,
    "fingerprint": "f00d",
    "num_layers": 16,
    "hidden_size": WIDTH,
    "layers": [4, 8],
    "rotation_seed": 7,
    "quantization": "int8",
    "metric": "cosine",
    "means": {},
    "created": "2026-01-01T00:00:00+00:00",
    "version": "0.1.0",
}

Floats = npt.NDArray[np.float32]
# Starts a function of a test file in a process of its own; see the fixture `start`.
Start = Callable[..., "subprocess.Popen[str]"]


@dataclass(frozen=True)
class Place:
    """The place of a test's banks: its settings, and its kind (embedded, grpc or rest)."""

    kind: str
    settings: Settings

    def open(self, bank: str = "bank", **changes: Any) -> Store:
        """Open a store there, making its folder; `changes` are other settings."""
        return backend(self.settings.model_copy(update=changes)).open(bank, create=True)


def put_head(store: Store, head: Record) -> None:
    """Store a manifest's head, whatever there was."""
    store.change_head(lambda _: head)


def put_entry(store: Store, corpus: str, entry: Record | None) -> None:
    """Store a corpus's ledger entry, or remove it (None), whatever there was."""
    store.change_entry(corpus, lambda _: entry)


def payload(number: int, corpus: str = "animals") -> Payload:
    """The payload of sample context `number`: word, position and token repeat with different periods."""
    word = WORDS[number % len(WORDS)]
    caption = f"A {COLOURS[number % 3]} {word} beside the Fire Truck of house {number}."
    start = caption.index(word)
    return Payload(
        corpus=corpus,
        sentence=number // 5,
        position=1 + number % 5,
        token_id=100 + number % 17,
        token=f" {word}",
        word=word,
        caption=caption,
        start=start,
        end=start + len(word),
    )


def units(count: int, seed: int = 0, width: int = WIDTH) -> Floats:
    """Random vectors of length 1, [count, width] float32."""
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def ids(numbers: Sequence[int], corpus: str = "animals") -> list[str]:
    """The ids of sample contexts."""
    return [context_id(corpus, [number]) for number in numbers]


def points(count: int, corpus: str = "animals", first: int = 0, seed: int = 0, width: int = WIDTH) -> Points:
    """`count` sample contexts of a corpus, numbered from `first`."""
    numbers = range(first, first + count)
    return Points(
        ids(numbers, corpus), units(count, seed, width), [payload(number, corpus) for number in numbers]
    )


def nearest(vectors: Floats, queries: Floats, k: int) -> tuple[npt.NDArray[np.intp], Floats]:
    """For each query the rows of `vectors` with the highest cosines, best first, and those cosines."""
    lengths = np.linalg.norm(vectors, axis=1)[None] * np.linalg.norm(queries, axis=1)[:, None]
    cosines = queries @ vectors.T / lengths
    order = np.argsort(-cosines, axis=1)[:, :k]
    return order, np.take_along_axis(cosines, order, axis=1).astype(np.float32)


def sample_bank(place: Place, name: str = "bank", layers: Sequence[int] = (4, 8), **given: Any) -> Bank:
    """A bank of a model of 16 blocks; `given` are other arguments of `create_bank`."""
    arguments: dict[str, Any] = {
        "model": "tiny/llama",
        "fingerprint": "f00d",
        "num_layers": 16,
        "hidden_size": WIDTH,
        "layers": layers,
    }
    return create_bank(name, place.settings, **{**arguments, **given})


def fill(
    bank: Bank,
    count: int,
    corpus: str = "animals",
    states: Callable[[int], npt.ArrayLike] | None = None,
    complete: bool = True,
) -> dict[int, npt.NDArray[Any]]:
    """Put sample contexts into every layer and the corpus into the ledger, and return each layer's hidden states.

    `states` makes them, [count, hidden], for a layer.
    """
    given = states or (lambda layer: units(count, seed=layer, width=bank.hidden_size) * (layer + 0.5))
    numbers = range(count)
    stored: dict[int, npt.NDArray[Any]] = {}
    for layer in bank.layers:
        stored[layer] = np.asarray(given(layer))
        bank.add(layer, ids(numbers, corpus), stored[layer], [payload(n, corpus) for n in numbers])
    bank.commit()
    bank.record(entry(corpus, count, complete=complete))
    return stored


def entry(name: str, contexts: int, **given: Any) -> CorpusEntry:
    """A ledger entry."""
    arguments: dict[str, Any] = {
        "content_hash": "abc",
        "sentences": contexts // 5,
        "tokens": contexts * 2,
        "plan": {"bos": "tokenizer", "skip": 1, "contexts_per_token": 50},
        "complete": True,
    }
    return CorpusEntry(name=name, contexts=contexts, **{**arguments, **given})


def soon(holds: Callable[[], bool]) -> bool:
    """Return whether something comes true within a minute: other nodes of a cluster learn of a deletion late.

    Looks are counted, not seconds, so that there are as many on a machine that stops now and then.
    """
    for pause in (0.0, 0.0, 0.0, 0.05, 0.2, 0.7, *[1.0] * 60):
        time.sleep(pause)
        if holds():
            return True
    return False


def soon_raises(error: type[BaseException], match: str, call: Callable[[], object]) -> bool:
    """Return whether a call raises an error with a matching message within a minute."""

    def raises() -> bool:
        try:
            call()
        except error as caught:
            return re.search(match, str(caught)) is not None
        return False

    return soon(raises)


def next_line(child: subprocess.Popen[str]) -> str:
    """Return the next line that a child process prints; fail with its error output if there is none."""
    assert child.stdout is not None
    assert child.stderr is not None
    line = child.stdout.readline()
    assert line, child.stderr.read()
    return line.strip()


def is_one_sentence(error: BaseException) -> bool:
    """Return whether an error's message is a single sentence: one line, not long, with a full stop."""
    text = str(error)
    return text.endswith(".") and "\n" not in text and len(text) < 400
