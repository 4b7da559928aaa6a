"""Which bank layer fits which visual layer: where similarity peaks, and where the share of named patches does.

In which layer the nearest neighbor lies proves nothing: a random projector's neighbors lie in the same layers, which is
the geometry of the space. What a single bank layer names does show where visual tokens align.
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
    from latentbank.models.vision.vision_language import VisualModel
    from latentbank.query.evaluation.labelled import LabelledImage


@dataclass(frozen=True)
class Peak:
    """Where the bank layers peak at one visual layer.

    `nearest` by the mean cosine of the nearest neighbor, `most_named` by the share of patches named (`named` is its
    entry), `most_first` by how often the nearest neighbor of all lies there.
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
    calibration: Sequence[LabelledImage] = (),
    coverage: float = OBJECT,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every bank layer alone at every visual layer; see `evaluate` for the arguments.

    Raises:
        LatentBankError: as `evaluate`.
    """
    wanted = evaluation_layers(model.num_layers) if layers is None else layers
    return evaluate(
        model,
        [lens],
        scenes,
        wanted,
        random=random,
        calibration=calibration,
        coverage=coverage,
        alone=wanted,
        progress=progress,
    )


def peaks(evaluation: Evaluation) -> list[Peak]:
    """Give where each visual layer's bank layers peak, of those that were searched alone."""
    groups: dict[tuple[Weights, int], list[tuple[Aligned, float, float]]] = {}
    for one in evaluation.alignment:
        if one.named is not None and one.cosine is not None:
            group = groups.setdefault((one.projector, one.visual_layer), [])
            group.append((one, one.cosine, one.named.value))
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
