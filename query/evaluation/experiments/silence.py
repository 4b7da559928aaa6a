"""What silence costs and what it is worth: coverage against precision, on images with known contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latentbank.errors import QueryError
from latentbank.progress import Progress, Silent
from latentbank.query.evaluation.labelled import LabelledImage
from latentbank.query.evaluation.patches import whole_scenes
from latentbank.query.evaluation.silence import Heard, SilenceRow, hear, silence_rows
from latentbank.query.evaluation.tables import OBJECT, finite
from latentbank.query.silence.null_pictures import null_picture
from latentbank.query.silence.silence import Silence
from latentbank.text import public_name

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.calibration.correction import Correction
    from latentbank.query.lenses.base import Lens

LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Largest shares of false words that are compared; at 1 all tokens have words."""
CHANCE = 100
"""Images of shuffled pixels on which no word should be given, at most."""
_SEED = 1  # that of the nulls is another


@dataclass(frozen=True)
class SilenceScores:
    """The scores of all lenses, without and with correction.

    Attributes:
        about: what was scored, and how; JSON-ready.
        rows: the scores by lens, correction, level and visual layer.
    """

    about: Mapping[str, Any]
    rows: tuple[SilenceRow, ...]

    def of(self, lens: str, correction: str, layer: int | None = None) -> list[SilenceRow]:
        """Return the rows of a lens at a visual layer (None: all together), by level."""
        key = lens, correction, layer
        return [row for row in self.rows if (row.lens, row.correction, row.layer) == key]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready data (docs/json.md describes it). Shares of no patches are null."""
        data: dict[str, Any] = finite({**self.about, "rows": [row.to_dict() for row in self.rows]})
        return data


def score_silence(
    model: VisualModel,
    lenses: Sequence[Lens],
    scenes: Sequence[LabelledImage],
    layers: Sequence[int],
    correction: Correction,
    *,
    levels: Sequence[float] = LEVELS,
    coverage: float = OBJECT,
    progress: Progress | None = None,
) -> SilenceScores:
    """Score lenses without and with a correction, and what is left of their words at several levels.

    Args:
        model: the VLM.
        lenses: the lenses, without correction.
        scenes: held-out labelled images, made for the VLM's grid, at least two.
        layers: the visual layers.
        correction: of the lenses; its calibration has the nulls.
        levels: the levels.
        coverage: the least share of an object patch that its object covers.
        progress: receives the number of images done, then that of layers and lenses.

    Raises:
        QueryError: there are too few images, or a layer has no nulls.
    """
    if len(scenes) < 2:
        raise QueryError("Give at least two scenes.")
    progress = progress or Silent()
    silence = Silence(correction.calibration, 0.05)
    read = [one for lens in lenses for one in (lens, lens.corrected(correction))]
    silence.prepare(read, layers, progress)
    progress.stage("looking", "scenes")
    whole = whole_scenes(model, scenes, layers, progress)
    progress.stage("looking at shuffled pixels", "images")
    chance = whole_scenes(model, _shuffled(scenes[:CHANCE]), layers, progress)
    progress.stage("reading", "layers and lenses")
    rows: list[SilenceRow] = []
    for number, lens in enumerate(read):
        heard: dict[int, Heard] = {}
        for place, layer in enumerate(layers):
            progress.update(number * len(layers) + place, len(read) * len(layers))
            heard[layer] = hear(lens, silence, layer, whole, coverage, chance.states[layer])
        rows += silence_rows(lens, heard, whole, levels, coverage=coverage)
    searching = next((lens for lens in lenses if lens.bank is not None), None)
    about = {
        "model": public_name(model.name),
        "bank": "" if searching is None or searching.bank is None else searching.bank.name,
        "bank_layers": [] if searching is None else searching.searched_layers(),
        "visual_layers": list(layers),
        "correction": correction.mode,
        "nulls": {layer: len(silence.nulls(read[0], layer)) for layer in layers},
        "coverage": coverage,
        "scenes": len(scenes),
        "chance_images": len(chance.background),
        "background_patches": int(whole.background.sum()),
        "patches": sum(truth.coverage >= coverage for truth in whole.truths),
    }
    return SilenceScores(about, tuple(rows))


def _shuffled(scenes: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Return images of the shuffled pixels of scenes, with nothing in them."""
    return [
        LabelledImage(
            null_picture(scene.image, "shuffled pixels", np.random.default_rng([_SEED, number])), ()
        )
        for number, scene in enumerate(scenes)
    ]
