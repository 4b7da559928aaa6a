"""What a growth has read and taken so far, kept in a folder so that a killed run continues."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from latentbank.files import write_whole
from latentbank.ingest.growing.judge import Floats, Judge

FILE = "growth.npz"
"""Name of the file in the growth's folder."""


@dataclass(frozen=True)
class Taken:
    """A sentence's context that is nearer to an asking token than all others so far.

    Attributes:
        number: the number of the sentence in the stream, from 0.
        sentence: its text.
        word: the word of the context.
        layer: the bank layer in which it is so near.
        gain: by how much its score exceeds that of the token's best neighbor in the bank.
    """

    number: int
    sentence: str
    word: str
    layer: int
    gain: float


@dataclass
class State:
    """How far a growth is.

    Attributes:
        request: a hash of what was asked for; a state of another request is of no use.
        states: the hidden states of what was taken, by the number of the asking token, float32 `[asking, hidden]`.
        read: sentences read.
        contexts: contexts compared.
        computed: tokens that the LLM ran on.
        nearer: how often a context came nearer to a token than all before.
        seconds: time spent on it.
        digest: the running hash of the sentences read, which tells whether the stream is still the same.
        taken: what was taken, by the number of the asking token.
    """

    request: str
    states: Floats
    read: int = 0
    contexts: int = 0
    computed: int = 0
    nearer: int = 0
    seconds: float = 0.0
    digest: str = ""
    taken: dict[int, Taken] = field(default_factory=dict)

    @classmethod
    def empty(cls, request: str, judge: Judge, hidden_size: int) -> State:
        """Return the state before the first sentence."""
        return cls(request, np.zeros((judge.asking, hidden_size), np.float32))

    def gains(self, least: float) -> Floats:
        """Return what an asking token must gain to take another context, at least `least`: float32 `[asking]`."""
        found = np.full(len(self.states), least, np.float32)
        for token, taken in self.taken.items():
            found[token] = taken.gain
        return found

    def save(self, folder: Path) -> None:
        """Write the state whole.

        Raises:
            LatentBankError: it cannot be written.
        """
        counts = ("request", "read", "contexts", "computed", "nearer", "seconds", "digest")
        about = {name: getattr(self, name) for name in counts}
        about["taken"] = {token: vars(taken) for token, taken in self.taken.items()}
        tokens = sorted(self.taken)
        file = io.BytesIO()
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        np.savez(file, about=text, tokens=np.array(tokens, np.int64), states=self.states[tokens])
        write_whole(folder / FILE, file.getvalue())


def load_state(folder: Path, request: str, judge: Judge, hidden_size: int) -> State:
    """Return the state that a killed run left in a folder; an empty one if there is none of this request."""
    state = State.empty(request, judge, hidden_size)
    try:
        with np.load(folder / FILE, allow_pickle=False) as kept:
            about = json.loads(kept["about"].tobytes())
            if about.pop("request") != request:
                return state
            taken = {int(token): Taken(**entry) for token, entry in about.pop("taken").items()}
            state.states[kept["tokens"]] = kept["states"]
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return State.empty(request, judge, hidden_size)
    return State(request, state.states, taken=taken, **about)
