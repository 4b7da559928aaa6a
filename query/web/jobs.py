"""What is asked of the desk, and how far the answer is."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from latentbank.bank.layers import BankLayers
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.merge import Unique
from latentbank.bank.where import Filter


@dataclass(frozen=True)
class Ask:
    """What is to be read, and how: the bytes of an image, or a sentence; the rest as for `read_image`.

    `model` is one of the desk's names; "": its first.
    """

    name: str
    image: bytes | None = None
    sentence: str = ""
    model: str = ""
    layers: tuple[int, ...] | None = None
    bank_layers: BankLayers = "mid"
    lenses: tuple[str, ...] = ("latent",)
    top_k: int = 5
    where: Filter | None = None
    unique: Unique | None = None

    def key(self, corpora: Iterable[CorpusEntry] = (), version: int = 1) -> str:
        """Give a digest that tells this from other asks, and from the same one over other corpora.

        Args:
            corpora: those that readers of the bank are shown now.
            version: the bank's, that is read now.
        """
        shown = sorted((one.name, one.stored, one.content_hash, sorted(one.plan.items())) for one in corpora)
        rest = repr((replace(self, image=None), shown, version)).encode("utf-8", "surrogateescape")
        return hashlib.blake2b((self.image or b"") + rest, digest_size=16).hexdigest()


State = Literal["waiting", "running", "done", "failed", "cancelled"]
OVER: tuple[State, ...] = ("done", "failed", "cancelled")
"""States in which nothing more changes."""


class Cancelled(Exception):
    """Nobody wants the answer any more."""


@dataclass
class Job:
    """One ask being answered.

    `version` grows with every change, `reading` is the answer's key, `error` says what went wrong. `parts` are, while
    it runs, the visual layers read so far: JSON as page/parts.js takes it, in the order in which they were read.
    """

    id: str
    state: State = "waiting"
    what: str = "waiting for its turn"
    done: int = 0
    total: int = 0
    reading: str = ""
    error: str = ""
    version: int = 0
    parts: tuple[str, ...] = ()
    cancelled: threading.Event = field(default_factory=threading.Event)

    def tell(self, **changes: Any) -> None:
        """Change it, and let those see who look."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.version += 1

    @property
    def over(self) -> bool:
        """Whether nothing more will change."""
        return self.state in OVER

    def check(self) -> None:
        """End the work if nobody wants it any more.

        Raises:
            Cancelled: nobody does.
        """
        if self.cancelled.is_set():
            raise Cancelled

    def advance(self, count: int) -> None:
        """Count `count` more hidden states as read, unless nobody wants the answer any more.

        Raises:
            Cancelled: nobody does.
        """
        self.check()
        if count:
            self.tell(done=self.done + count)
