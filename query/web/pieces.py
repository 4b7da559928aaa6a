"""Lenses that read piece by piece: between pieces a job tells how far it is, and can end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from latentbank.bank.points import Neighbor
from latentbank.query.lenses.base import LatentLens, Lens
from latentbank.query.web.jobs import Job

_PIECE = 256  # hidden states that a lens is given at once


@dataclass(frozen=True)
class _Watched:
    lens: Lens
    job: Job

    @property
    def name(self) -> str:
        return self.lens.name

    def read(self, hidden_states: Any, top_k: int = 5) -> list[list[Neighbor]]:
        def piece(start: int, stop: int) -> list[list[Neighbor]]:
            return self.lens.read(hidden_states[start:stop], top_k)

        return _in_pieces(len(hidden_states), self.job, piece)


@dataclass(frozen=True)
class _WatchedLatent(LatentLens):
    """The same for a LatentLens, which must stay one: readings give it the means of a centred bank."""

    job: Job = field(default_factory=lambda: Job(""))

    def read(self, hidden_states: Any, top_k: int = 5) -> list[list[Neighbor]]:
        means: npt.NDArray[Any] | None = None if self.query_mean is None else np.asarray(self.query_mean)

        def piece(start: int, stop: int) -> list[list[Neighbor]]:
            mean = means if means is None or means.ndim == 1 else means[start:stop]
            return LatentLens.read(replace(self, query_mean=mean), hidden_states[start:stop], top_k)

        return _in_pieces(len(hidden_states), self.job, piece)


def watched(lens: Lens, job: Job) -> Lens:
    """Give the lens, reading piece by piece for `job`, whose `done` it moves on."""
    if isinstance(lens, LatentLens):
        return _WatchedLatent(**vars(lens), job=job)
    return _Watched(lens, job)


def _in_pieces(
    count: int, job: Job, read: Callable[[int, int], list[list[Neighbor]]]
) -> list[list[Neighbor]]:
    found: list[list[Neighbor]] = []
    for start in range(0, count, _PIECE):
        job.check()
        stop = min(count, start + _PIECE)
        found += read(start, stop)
        job.tell(done=job.done + stop - start)
    return found
