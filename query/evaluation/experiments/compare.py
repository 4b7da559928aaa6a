"""Comparisons: the same scenes scored with other banks, other corpora or other projectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.where import Where
from latentbank.errors import QueryError
from latentbank.progress import Progress
from latentbank.query.calibration.correction import Mode
from latentbank.query.evaluation.corrections import correction_for
from latentbank.query.evaluation.evaluate import evaluate, evaluation_layers
from latentbank.query.evaluation.scoring import Share
from latentbank.query.evaluation.tables import OBJECT, Evaluation
from latentbank.query.lenses.base import Lens
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.silence.silence import Silence

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.evaluation.labelled import LabelledImage

Compared = list[tuple[str, Evaluation]]


@dataclass(frozen=True)
class Line:
    """One lens in one evaluation: shares of object patches named.

    Attributes:
        label: the evaluation's name in the comparison.
        metric: the bank's.
        lens: the lens's name.
        mean: the mean over the visual layers.
        distinct: the same for distinct words.
        things: the share of objects named.
        best_layer: the visual layer with the highest share.
        best: its share.
        shuffled: the mean for shuffled images.
        random: the mean for the projector with random weights; None: it was not scored.
    """

    label: str
    metric: str
    lens: str
    mean: Share
    distinct: Share
    things: Share
    best_layer: int
    best: Share
    shuffled: Share
    random: Share | None

    def to_dict(self) -> dict[str, Any]:
        """Return the line as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class Setup:
    """What all evaluations of a comparison have in common; see `evaluate`.

    `correct` says how the lenses are corrected; None: they are not, unless they are made so. `fdr` is the largest share
    of false words, beyond which tokens are silent; None: none is.
    """

    scenes: Sequence[LabelledImage]
    layers: Sequence[int] | None = None
    calibration: Sequence[LabelledImage] = ()
    coverage: float = OBJECT
    progress: Progress | None = None
    correct: Mode | None = None
    fdr: float | None = None

    def run(
        self,
        model: VisualModel,
        lenses: Sequence[Lens],
        random: VisualModel | None,
        alone: Sequence[int] = (),
    ) -> Evaluation:
        """Evaluate lenses on the scenes.

        Raises:
            LatentBankError: as for `evaluate` and `correction_for`.
        """
        control = silence = None
        if self.correct is not None or self.fdr is not None:
            layers = evaluation_layers(model.num_layers) if self.layers is None else self.layers
            given = (lenses, self.calibration, layers, self.progress)
            correction = correction_for(self.correct or "both", model, *given)
            if self.fdr is not None:
                silence = Silence(correction.calibration, self.fdr)
            if self.correct is not None:
                control = None if random is None else correction_for(self.correct, random, *given)
                lenses = [lens.corrected(correction) for lens in lenses]
        return evaluate(
            model,
            lenses,
            self.scenes,
            self.layers,
            random=random,
            random_correction=control,
            calibration=self.calibration,
            coverage=self.coverage,
            alone=alone,
            silence=silence,
            progress=self.progress,
        )


def compare_metrics(
    setup: Setup,
    model: VisualModel,
    plain: Bank,
    centred: Bank,
    others: Sequence[Lens],
    bank_layers: BankLayers = "all",
    random: VisualModel | None = None,
) -> Compared:
    """Compare plain cosine with centring: all corpora with all lenses, then each corpus alone with LatentLens.

    Args:
        setup: what the evaluations have in common; it must have calibration images.
        model: the VLM.
        plain: a bank of plain cosine.
        centred: a centred bank of the same corpora.
        others: further lenses; beside the centred bank they read centred hidden states.
        bank_layers: the bank layers that are searched.
        random: the VLM with a projector of random weights.

    Raises:
        QueryError: the banks are not one of each kind, or hold different corpora.
    """
    if (plain.metric, centred.metric) != ("cosine", "centred"):
        raise QueryError(
            f"Give a bank of plain cosine and a centred bank: '{plain.name}' is {plain.metric}, '{centred.name}' is "
            f"{centred.metric}."
        )
    corpora = [
        {name: entry.contexts for name, entry in bank.shown_corpora.items()} for bank in (plain, centred)
    ]
    if corpora[0] != corpora[1]:
        raise QueryError(
            f"The banks '{plain.name}' and '{centred.name}' hold different corpora; fill both from the same corpora."
        )
    compared: Compared = []
    for bank in (plain, centred):
        lens = LatentLens(bank, bank_layers)
        compared.append((f"{bank.metric}, all corpora", setup.run(model, [lens, *others], random)))
        if len(corpora[0]) > 1:
            for corpus in corpora[0]:
                single = replace(lens, where=Where(corpus=corpus))
                compared.append((f"{bank.metric}, {corpus}", setup.run(model, [single], random)))
    return compared


def compare_corpora(
    setup: Setup,
    model: VisualModel,
    bank: Bank,
    bank_layers: BankLayers = "all",
    random: VisualModel | None = None,
    names: Sequence[str] | None = None,
) -> Compared:
    """Compare a bank's corpora, each searched alone; `names` are those to compare, None: all.

    Raises:
        QueryError: there are fewer than two.
    """
    corpora = list(bank.shown_corpora if names is None else names)
    if len(corpora) < 2:
        raise QueryError(
            f"The bank '{bank.name}' holds {len(corpora)} corpus; a comparison needs two of about the same size."
        )
    return [
        (corpus, setup.run(model, [LatentLens(bank, bank_layers, Where(corpus=corpus))], random))
        for corpus in corpora
    ]


def compare_projectors(
    setup: Setup,
    models: Mapping[str, tuple[VisualModel, VisualModel | None]],
    bank: Bank,
    others: Sequence[Lens],
    bank_layers: BankLayers,
) -> Compared:
    """Compare VLMs that differ in their projector. At visual layer 0, each bank layer is also searched alone.

    `models` maps a label to the VLM, and to the same VLM with a projector of random weights or None.
    """
    lens = LatentLens(bank, bank_layers)
    return [
        (label, setup.run(model, [lens, *others], random, alone=[0]))
        for label, (model, random) in models.items()
    ]


def compare_corrections(
    setup: Setup,
    model: VisualModel,
    lenses: Sequence[Lens],
    random: VisualModel | None = None,
    modes: Sequence[Mode] = get_args(Mode),
) -> Compared:
    """Compare lenses without and with each correction.

    At the first visual layer, each bank layer is also searched alone: whether the mid-layer leap remains.

    Args:
        setup: what the evaluations have in common; it must have calibration images, unless the VLM is calibrated.
        model: the VLM.
        lenses: LatentLens over a bank of plain cosine, and others.
        random: the VLM with a projector of random weights.
        modes: the corrections.

    Raises:
        LatentBankError: as for `correction_for`.
    """
    layers = evaluation_layers(model.num_layers) if setup.layers is None else setup.layers
    return [
        (mode or "none", replace(setup, correct=mode).run(model, lenses, random, alone=layers[:1]))
        for mode in (None, *modes)
    ]


def lines(compared: Compared) -> list[Line]:
    """Return a line for each lens of each evaluation."""
    found = []
    for label, evaluation in compared:
        for lens in evaluation.about["lenses"]:
            rows = [
                (layer, evaluation.row(lens, layer).concrete) for layer in evaluation.about["visual_layers"]
            ]
            best_layer, best = max(rows, key=lambda entry: entry[1].value)
            mean = evaluation.row(lens)
            has_random = any(row.projector == "random" for row in evaluation.rows)
            found.append(
                Line(
                    label=label,
                    metric=mean.metric,
                    lens=lens,
                    mean=mean.concrete,
                    distinct=evaluation.row(lens, distinct=True).concrete,
                    things=mean.things,
                    best_layer=best_layer,
                    best=best,
                    shuffled=evaluation.row(lens, images="shuffled").concrete,
                    random=evaluation.row(lens, projector="random").concrete if has_random else None,
                )
            )
    return found
