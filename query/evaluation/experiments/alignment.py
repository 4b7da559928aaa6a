"""Which bank layer fits which visual layer: where similarity peaks, and where the share of named patches peaks.

The layer of the nearest neighbor shows no alignment: the neighbors of a random projector's visual tokens lie in the
same layers, due to the geometry of the space. The share that a bank layer names alone does show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentbank.progress import Progress
from latentbank.query.evaluation.evaluate import evaluate, evaluation_layers
from latentbank.query.evaluation.tables import OBJECT, Aligned, Evaluation, Weights
from latentbank.query.lenses.latent import LatentLens

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.calibration.correction import Correction
    from latentbank.query.evaluation.labelled import LabelledImage


@dataclass(frozen=True)
class Peak:
    """The best bank layers at one visual layer.

    Attributes:
        projector: "random" for the control of random weights.
        visual_layer: the visual layer.
        nearest: the bank layer with the highest mean cosine of the nearest neighbor.
        most_named: the bank layer that names the largest share of patches.
        most_first: the bank layer in which the nearest neighbor of all lies most often.
        named: the entry of `most_named`.
    """

    projector: Weights
    visual_layer: int
    nearest: int
    most_named: int
    most_first: int
    named: Aligned


def align(
    model: VisualModel,
    lens: LatentLens,
    scenes: Sequence[LabelledImage],
    layers: Sequence[int] | None = None,
    *,
    random: VisualModel | None = None,
    random_correction: Correction | None = None,
    calibration: Sequence[LabelledImage] = (),
    coverage: float = OBJECT,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every bank layer alone at every visual layer; see `evaluate` for the arguments.

    Raises:
        LatentBankError: as for `evaluate`.
    """
    chosen = evaluation_layers(model.num_layers) if layers is None else layers
    return evaluate(
        model,
        [lens],
        scenes,
        chosen,
        random=random,
        random_correction=random_correction,
        calibration=calibration,
        coverage=coverage,
        alone=chosen,
        progress=progress,
    )


def peaks(evaluation: Evaluation) -> list[Peak]:
    """Return the best bank layers at each visual layer where bank layers were searched alone."""
    groups: dict[tuple[Weights, int], list[tuple[Aligned, float, float]]] = {}
    for aligned in evaluation.alignment:
        if aligned.named is not None and aligned.cosine is not None:
            group = groups.setdefault((aligned.projector, aligned.visual_layer), [])
            group.append((aligned, aligned.cosine, aligned.named.value))
    return [
        Peak(
            projector=projector,
            visual_layer=layer,
            nearest=max(group, key=lambda entry: entry[1])[0].bank_layer,
            most_named=max(group, key=lambda entry: entry[2])[0].bank_layer,
            most_first=max(group, key=lambda entry: entry[0].first)[0].bank_layer,
            named=max(group, key=lambda entry: entry[2])[0],
        )
        for (projector, layer), group in groups.items()
    ]
