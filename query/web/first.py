"""What the page asks for at first, before anybody has chosen anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentbank.errors import LatentBankError
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lenses_of
from latentbank.query.reading.visual import default_visual_layers
from latentbank.query.silence.silence import open_silence

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.calibration.correction import Correction

FIRST_FDR = 0.05
"""The largest share of false words that the page asks for at first, where chance has been measured."""


def first_fdr(bank: Bank, model: VisualModel, correction: Correction | None) -> float:
    """Return the level at which tokens may be silent at first; 0 where chance is not measured: that takes minutes.

    It is measured by the first reading that asks for silence, and kept with the calibration.
    """
    try:
        silence = open_silence(bank, model, FIRST_FDR)
        (lens,) = lenses_of(["latent"], LensOptions(model, bank, "mid", None, None, correction=correction))
    except LatentBankError:
        return 0.0
    return FIRST_FDR if silence.is_measured(lens, default_visual_layers(model.num_layers)) else 0.0
