"""How much interventions change the log-probability of each token of an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.models.language.intervening import NOTHING, Intervention

if TYPE_CHECKING:
    from torch import Tensor

    from latentbank.models.language.unembedding import Unembedding
    from latentbank.models.vision.prompted import Prompted

Floats64 = npt.NDArray[np.float64]

_LOGITS = 128  # hidden states that are unembedded at once


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores answers to one image's prompt, always with the same number of rows in a forward pass.

    A batch with interventions is compared row by row with a batch of the same size in which the same interventions have
    no position. Both take the same way through the model, so an ablation of nothing changes nothing, to the last bit.

    Attributes:
        prompted: the image in its prompt.
        unembedding: the model's.
        batch: rows in one forward pass.
        done: called with the number of rows done.
    """

    prompted: Prompted
    unembedding: Unembedding
    batch: int = 16
    done: Callable[[int], object] = int  # which does nothing
    _plain: dict[tuple[tuple[int, ...], bool], Floats64] = field(default_factory=dict)

    def plain(self, answer: Sequence[int], cut: bool = False) -> Floats64:
        """Return the log-probabilities of an answer's tokens in a batch without changes, `[batch, answer]`.

        Args:
            answer: the ids.
            cut: whether attention's masks are written out, as in batches in which attention is cut.
        """
        key = (tuple(answer), cut)
        if key not in self._plain:
            nothing = Intervention(cut=True) if cut else NOTHING
            self._plain[key] = self._scored(answer, [nothing] * self.batch)
        return self._plain[key]

    def changes(self, answer: Sequence[int], rows: Sequence[Intervention]) -> Floats64:
        """Return the change of each token's log-probability by each intervention, `[rows, answer]`, in nats."""
        changes = np.empty((len(rows), len(answer)))
        for cut in (False, True):
            own = [number for number, row in enumerate(rows) if row.cut == cut]
            for start in range(0, len(own), self.batch):
                part = own[start : start + self.batch]
                filled = [rows[number] for number in part]
                filled += [filled[0].of_nothing()] * (self.batch - len(part))
                scored = self._scored(answer, filled) - self.plain(answer, cut)
                changes[part] = scored[: len(part)]
                self.done(len(part))
        return changes

    def _scored(self, answer: Sequence[int], rows: Sequence[Intervention]) -> Floats64:
        import torch

        states = self.prompted.states(answer, rows)
        ids = torch.tensor(list(answer)).repeat(len(rows))
        parts: list[Tensor] = []
        for start in range(0, len(ids), _LOGITS):
            logits = self.unembedding.logits(states.flatten(0, 1)[start : start + _LOGITS]).float()
            own = ids[start : start + _LOGITS, None].to(logits.device)
            parts.append((logits.gather(1, own)[:, 0] - logits.logsumexp(dim=1)).cpu())
        found: Floats64 = torch.cat(parts).double().reshape(len(rows), len(answer)).numpy()
        return found
