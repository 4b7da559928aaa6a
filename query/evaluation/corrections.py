"""Corrections for an evaluation: lenses are calibrated on other scenes than those that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentbank.bank.layers import BankLayers
from latentbank.errors import QueryError
from latentbank.progress import Progress
from latentbank.query.calibration.calibrate import calibrate
from latentbank.query.calibration.calibration import Calibration, load_calibration
from latentbank.query.calibration.correction import Correction, Mode
from latentbank.query.calibration.vocabulary import LENSES, calibrate_vocabulary

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.evaluation.labelled import LabelledImage
    from latentbank.query.lenses.base import Lens


def correction_for(
    mode: Mode,
    model: VisualModel,
    lenses: Sequence[Lens],
    scenes: Sequence[LabelledImage],
    layers: Sequence[int],
    progress: Progress | None = None,
) -> Correction:
    """Return the correction of a VLM's lenses for an evaluation.

    The calibration that is kept for the bank is used if it has all visual layers. Otherwise one is computed from the
    scenes, and kept.

    Args:
        mode: which corrections are made.
        model: the VLM.
        lenses: what will be scored; one of them must search a bank.
        scenes: other scenes than those that are scored.
        layers: the visual layers.
        progress: receives the pictures, then the contexts that are done.

    Raises:
        QueryError: no lens searches a bank, the bank is centred, or there are no scenes.
        LatentBankError: the calibration cannot be written.
    """
    searching = next((lens for lens in lenses if lens.bank is not None), None)
    if searching is None or searching.bank is None:
        raise QueryError(
            "A calibration is kept for a bank: name one, and score LatentLens as well.", argument="correct"
        )
    if searching.bank.metric == "centred":
        raise QueryError(
            f"The bank '{searching.bank.name}' is centred; its scores on scenes are those with means of things. Score "
            "corrections in a bank of plain cosine.",
            argument="correct",
        )
    calibration = _kept(searching.bank, model, layers)
    if calibration is None:
        if not scenes:
            raise QueryError("A correction needs calibration scenes; give some.", argument="calibration")
        images = [scene.image for scene in scenes]
        bank_layers: BankLayers = searching.searched_layers()
        calibrate(
            searching.bank, model, images, layers, bank_layers=bank_layers, what="scenes", progress=progress
        )
        calibration = load_calibration(searching.bank, model)
    read = [lens.name for lens in lenses if lens.name in LENSES]
    calibrate_vocabulary(calibration, model, layers, read, progress)
    return Correction(calibration, mode)


def _kept(bank: Bank, model: VisualModel, layers: Sequence[int]) -> Calibration | None:
    """Return the calibration that is kept, if it has all visual layers."""
    try:
        found = load_calibration(bank, model)
    except QueryError:
        return None
    return found if set(layers) <= set(found.visual_layers) else None
