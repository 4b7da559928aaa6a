"""What a corrected lens is given: a calibration, and which of its corrections are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

from latentbank.errors import QueryError
from latentbank.query.calibration.look import CorrectedLook
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.query.calibration.calibration import Calibration

Mode = Literal["hubs", "mean", "both"]
"""What is corrected: "hubs", that a context is near to all visual tokens; "mean", the offset between visual tokens and
text; or "both"."""


def checked_mode(text: str) -> Mode:
    """Return a correction by its name.

    Raises:
        QueryError: there is no such correction.
    """
    if text not in get_args(Mode):
        raise QueryError(
            f"There is no correction {text!r}; there are {listed(get_args(Mode))}.", argument="correct"
        )
    return cast("Mode", text)


@dataclass(frozen=True, eq=False)
class Correction:
    """How a lens corrects its scores.

    Attributes:
        calibration: what was measured of the VLM whose visual tokens are read.
        mode: which corrections are made.
    """

    calibration: Calibration
    mode: Mode = "both"

    def __post_init__(self) -> None:
        """Check the mode.

        Raises:
            QueryError: there is no such correction.
        """
        checked_mode(self.mode)

    def require(self, layers: Sequence[int]) -> None:
        """Check that visual layers are calibrated.

        Raises:
            QueryError: one is not; the message names those that are.
        """
        for layer in layers:
            self.calibration.require_layer(layer)

    def look(self, layer: int | None) -> CorrectedLook:
        """Return the second look at the contexts that a search finds for visual tokens of a layer.

        Raises:
            QueryError: the layer is not calibrated, or not known.
        """
        return CorrectedLook(self.calibration, self.mode, self.calibration.require_layer(layer))
