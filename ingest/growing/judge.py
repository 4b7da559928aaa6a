"""The contract between growing and what knows the visual tokens: which contexts are missing in a bank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


class Judge(Protocol):
    """Knows the visual tokens for which a bank has no near context; `query/growing` makes it.

    Half of them ask: contexts are taken for their sake. The other half, of other images, is held out: it confirms that
    what was taken helps.
    """

    @property
    def layers(self) -> Sequence[int]:
        """The bank layers at which contexts are compared, ascending."""

    @property
    def asking(self) -> int:
        """How many tokens ask."""

    @property
    def held_out(self) -> int:
        """How many tokens are held out."""

    @property
    def digest(self) -> str:
        """A hash of all that its answers depend on."""

    def nearest(
        self, states: Mapping[int, Floats], least: Floats
    ) -> tuple[Numbers, Numbers, Numbers, Floats]:
        """Return the asking tokens that gain, each with the context that it gains most by.

        Args:
            states: contexts' hidden states by bank layer, float32 `[contexts, hidden]`.
            least: each asking token's gain must exceed this, float32 `[asking]`.

        Returns:
            The tokens' numbers, the rows of their contexts, these contexts' bank layers, and the gains: `[n]` each.
        """

    def confirmed(self, states: Floats, layers: Sequence[int], least: float) -> tuple[Numbers, Floats]:
        """Return the held-out tokens' choice among contexts that were taken.

        Args:
            states: a hidden state of each context, float32 `[contexts, hidden]`.
            layers: the bank layer of each.
            least: a token must gain more than this.

        Returns:
            For each held-out token the context by which it gains most, or -1 if it gains too little by all, int64
            `[held_out]`; and what it gains, float32 `[held_out]`.
        """
