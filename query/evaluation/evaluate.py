"""Evaluation: the share of patches of labelled images that each lens names, layer by layer.

This module runs models and lenses; query/evaluation/scoring.py scores their words. Every score comes with two controls:
the same words scored against other images, and a projector with random weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentbank.bank.points import Neighbor
from latentbank.errors import QueryError
from latentbank.models.kinds import require_visual
from latentbank.progress import Progress, Silent
from latentbank.query.evaluation.patches import (
    Floats,
    LabelledPatches,
    WholeScenes,
    labelled_patches,
    object_means,
    whole_scenes,
)
from latentbank.query.evaluation.scoring import Verdict, judge_all
from latentbank.query.evaluation.silence import Heard, SilenceRow, has_words, read_whole, silence_rows
from latentbank.query.evaluation.tables import OBJECT, Evaluation, Tables, Weights
from latentbank.query.lenses.base import Lens, Queries, require_lenses
from latentbank.query.lenses.centring import Means
from latentbank.text import public_name
from latentbank.values import Layers, layers_of, real, whole

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.calibration.correction import Correction
    from latentbank.query.evaluation.labelled import LabelledImage
    from latentbank.query.silence.silence import Silence

TOP_K = 5
"""Neighbors, or distinct words, that are scored for each patch."""
CONTROLLED = 100
"""Images on which the projector with random weights is scored, at most.

The control scores near zero, so fewer images suffice.
"""
_ROWS = 2048  # hidden states that a lens is given at once
_DEPTH = 4 * TOP_K  # neighbors asked for: the first `TOP_K` distinct words are nearly always among them
_LAYERS = (0, 2, 4, 8, 12, 16, 20, 24, 29)  # visual layers of an LLM of 30 layers


def evaluation_layers(num_layers: int) -> list[int]:
    """Return the visual layers that are scored: 0, 2, 4, 8, 12, 16, 20, 24, 29 of 30, and in proportion of others."""
    return sorted({round(layer * num_layers / 30) for layer in _LAYERS})


def evaluate(
    model: VisualModel,
    lenses: Sequence[Lens],
    scenes: Sequence[LabelledImage],
    layers: Layers | None = None,
    *,
    random: VisualModel | None = None,
    random_correction: Correction | None = None,
    calibration: Sequence[LabelledImage] = (),
    coverage: float = OBJECT,
    alone: Layers = (),
    silence: Silence | None = None,
    resamples: int = 1000,
    progress: Progress | None = None,
) -> Evaluation:
    """Score lenses on labelled images.

    Args:
        model: the VLM.
        lenses: the lenses to score, each with a name of its own. If the bank of one is centred, all lenses read centred
            hidden states.
        scenes: held-out labelled images, made for the VLM's grid (`grid_of`), at least two.
        layers: the visual layers; None: `evaluation_layers`.
        random: the same VLM with a projector of random weights, the second control, scored on the first `CONTROLLED`
            images; None: without this control.
        random_correction: corrects the lenses for that control, where they are corrected: computed from its own visual
            tokens. None: the control is read without correction.
        calibration: other labelled images, whose visual tokens give the means for a centred bank.
        coverage: the least share of an object patch that its object covers.
        alone: visual layers at which each bank layer is also searched alone.
        silence: which tokens fall silent; they name nothing. The controls are read without silence. None: none.
        resamples: resamples of the images for confidence intervals.
        progress: receives the number of images done, then that of layers and lenses.

    Raises:
        BankMismatch: the bank belongs to another LLM.
        QueryError: no layers or lenses, too few images, a bank or a filter without contexts, or a centred bank without
            calibration images.
        ModelError: the images were made for another grid.

    Examples:
        >>> import latentbank as lb
        >>> import numpy as np
        >>> from PIL import Image
        >>> from latentbank.query.evaluation.labelled import LabelledImage, LabelledObject
        >>> from latentbank.query.evaluation.patches import grid_of
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> image = Image.open("cat.jpg")
        >>> everywhere = np.ones(grid_of(vlm, image.size), np.float32).ravel()
        >>> cat = LabelledObject("cat", (0, 0, *image.size), everywhere)
        >>> lenses = lb.lenses_of(["logit"], lb.LensOptions(vlm))
        >>> scores = lb.evaluate(vlm, lenses, [LabelledImage(image, (cat,))] * 2, layers=[8])
    """
    chosen = layers_of(evaluation_layers(model.num_layers) if layers is None else layers)
    coverage, resamples = real(coverage, "coverage", 0, 1), whole(resamples, "resamples", 1)
    searching = _checked(model, lenses, chosen, calibration)
    bank = searching.bank if searching is not None else None
    centred = bank is not None and bank.metric == "centred"
    if centred:  # once, not at every layer
        lenses = [lens.centred() for lens in lenses]
    run = _Run(
        chosen,
        calibration if centred else (),
        layers_of(alone, "alone"),
        Tables(len(scenes), coverage, resamples),
        progress or Silent(),
        silence,
    )
    run.score("trained", model, lenses, scenes, coverage)
    if random is not None:
        controls = [lens.corrected(random_correction if lens.correction else None) for lens in lenses]
        run.score("random", random, controls, scenes[:CONTROLLED], coverage)
    asked = {
        "coverage": coverage,
        "scenes": len(scenes),
        "random_scenes": min(len(scenes), CONTROLLED) if random is not None else 0,
    }
    return _evaluation(run, lenses, {**_about(model, searching), **_corrected(lenses)}, asked)


def _evaluation(
    run: _Run, lenses: Sequence[Lens], known: dict[str, Any], asked: dict[str, Any]
) -> Evaluation:
    """Return the scores of a run, with what is `known` of model, bank and lenses and what was `asked`."""
    about = {
        **known,
        "fdr": None if run.silence is None else run.silence.fdr,
        "visual_layers": run.layers,
        "lenses": [lens.name for lens in lenses],
        "top_k": TOP_K,
        **asked,
        "calibration_scenes": len(run.calibration),
        **run.tables.counts,
    }
    rows = tuple(run.tables.rows(about["metric"]))
    return Evaluation(about, rows, tuple(run.tables.aligned), run.silence_rows(lenses))


def _checked(
    model: VisualModel, lenses: Sequence[Lens], layers: Sequence[int], calibration: Sequence[LabelledImage]
) -> Lens | None:
    """Return the first lens that searches a bank, if there is one; the errors are those of `evaluate`."""
    require_visual(model)
    require_lenses(lenses)
    if not layers or not lenses or len({lens.name for lens in lenses}) < len(lenses):
        raise QueryError("Name at least one visual layer, and each lens once.")
    searching = next((lens for lens in lenses if lens.bank is not None), None)
    bank = searching.bank if searching is not None else None
    if searching is not None and (nothing := searching.why_nothing()):
        raise QueryError(f"LatentLens has nothing to find: {nothing}")
    if bank is not None and bank.metric == "centred" and not calibration:
        raise QueryError("A centred bank needs the visual means: give calibration scenes.")
    for lens in lenses:
        lens.check(model)
        lens.check_layers(layers)
    return searching


def _about(model: VisualModel, searching: Lens | None) -> dict[str, Any]:
    """Return what an evaluation says of the model and of the bank that a lens searches."""
    bank = None if searching is None else searching.bank
    corpora = {} if bank is None else {name: entry.contexts for name, entry in bank.shown_corpora.items()}
    return {
        "model": public_name(model.name),
        "fingerprint": model.fingerprint(),
        "geometry": model.geometry,
        "bank": None if bank is None else bank.name,
        "corpora": corpora,
        "bank_layers": [] if searching is None else searching.searched_layers(),
        "metric": "cosine" if bank is None else bank.metric,
    }


def _corrected(lenses: Sequence[Lens]) -> dict[str, str]:
    """Return what an evaluation says of the correction: its mode, and from which pictures it was computed."""
    found = next((lens.correction for lens in lenses if lens.correction is not None), None)
    if found is None:
        return {"correction": "", "corrected_by": ""}
    return {"correction": found.mode, "corrected_by": found.calibration.kind}


@dataclass(frozen=True)
class _Run:
    """One evaluation: what is scored, and the tables that collect the scores; see `evaluate`."""

    layers: Sequence[int]
    calibration: Sequence[LabelledImage]  # none unless the bank is centred
    alone: Sequence[int]
    tables: Tables
    progress: Progress
    silence: Silence | None = None
    heard: dict[str, dict[int, Heard]] = field(
        default_factory=dict
    )  # by lens and layer; empty without silence
    whole: list[WholeScenes] = field(default_factory=list)  # one, if tokens may be silent

    def score(
        self,
        projector: Weights,
        model: VisualModel,
        lenses: Sequence[Lens],
        scenes: Sequence[LabelledImage],
        coverage: float,
    ) -> None:
        """Score all lenses at all layers with one of the two projectors."""
        self.progress.stage(f"looking ({projector} projector)", "scenes")
        silence = self.silence if projector == "trained" else None
        if silence is not None:
            self.whole.append(whole_scenes(model, scenes, self.layers, self.progress))
            patches = self.whole[0].labelled()
        else:
            patches = labelled_patches(model, scenes, self.layers, self.progress)
        means = object_means(model, self.calibration, self.layers, coverage) if self.calibration else None
        self.tables.require(projector, patches.truths)
        self.progress.stage(f"reading ({projector} projector)", "layers and lenses")
        pairs = [(layer, lens) for layer in self.layers for lens in lenses]
        searching = next((lens for lens in lenses if lens.bank is not None), None)
        for done, (layer, lens) in enumerate(pairs):
            self.progress.update(done, len(pairs))
            plain, distinct = read_patches(lens, means, layer, patches.states[layer])
            if silence is not None:
                self._hush(silence, lens, layer, plain, distinct)
            self.tables.add(projector, lens.name, layer, plain, distinct, patches.truths)
            if lens is searching:
                self._align(projector, lens, means, layer, patches, plain)

    def _hush(
        self,
        silence: Silence,
        lens: Lens,
        layer: int,
        plain: list[list[Neighbor]],
        distinct: list[list[Neighbor]],
    ) -> None:
        """Take the neighbors of silent patches from what was found for those that show an object."""
        scenes = self.whole[0]
        _, values = read_whole(lens, silence, layer, scenes.states[layer])
        words = [[neighbor.word for neighbor in plain[i]] for i in self.tables.object_patches(scenes.truths)]
        truths = [scenes.truths[i] for i in self.tables.object_patches(scenes.truths)]
        named = judge_all(words, truths) == Verdict.CONCRETE
        self.heard.setdefault(lens.name, {})[layer] = Heard(values, named)
        loud = has_words(values, silence.fdr)
        for found in (plain, distinct):
            for number, truth in enumerate(scenes.truths):
                if not loud[truth.scene, truth.token]:
                    found[number] = []

    def silence_rows(self, lenses: Sequence[Lens]) -> tuple[SilenceRow, ...]:
        """Return what silence left of the lenses' words; nothing if no token could be silent."""
        if self.silence is None:
            return ()
        of_lenses = [(lens, self.heard[lens.name]) for lens in lenses]
        tables, levels = self.tables, [self.silence.fdr]
        rows = [
            silence_rows(
                lens, heard, self.whole[0], levels, coverage=tables.coverage, resamples=tables.resamples
            )
            for lens, heard in of_lenses
        ]
        return tuple(itertools.chain.from_iterable(rows))

    def _align(
        self,
        projector: Weights,
        lens: Lens,
        means: Means | None,
        layer: int,
        patches: LabelledPatches,
        plain: list[list[Neighbor]],
    ) -> None:
        """Score each bank layer at a visual layer; `plain` are the neighbors from all of them."""
        rows = patches.states[layer][self.tables.object_patches(patches.truths)]
        for bank_layer in lens.searched_layers():
            single = None
            if layer in self.alone:
                single = _words_and_cosines(lens.at_bank_layer(bank_layer), means, layer, rows)
            self.tables.align(projector, layer, bank_layer, plain, single, patches.truths)


def queries_of(lens: Lens, means: Means | None, layer: int, rows: Floats) -> Queries:
    """Return hidden states `[n, hidden]` of a visual layer as a lens is to read them.

    If `means` are given, all lenses read them centred: a lens with a bank gets the mean beside them, as its bank
    subtracts it; for the others it is subtracted here.
    """
    if means is None:
        return Queries(rows, layer, "visual")
    if lens.bank is not None:
        return Queries(rows, layer, "visual", means.at(layer, units=lens.bank.manifest.unit_means))
    return Queries(means.centre(layer, rows), layer, "visual")


def read_patches(
    lens: Lens, means: Means | None, layer: int, rows: Floats
) -> tuple[list[list[Neighbor]], list[list[Neighbor]]]:
    """Read patches `[n, hidden]`, centred if `means` are given.

    Returns:
        The first `TOP_K` neighbors of each patch, and the first `TOP_K` with distinct words.
    """
    lens = lens if means is None else lens.centred()
    plain: list[list[Neighbor]] = []
    distinct: list[list[Neighbor]] = []
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        found = lens.read(queries_of(lens, means, layer, part), _DEPTH)
        words = [_distinct(neighbors) for neighbors in found]
        # There are nearly always enough; the few other patches are searched again, deeper.
        short = [i for i, row in enumerate(words) if len(row) < TOP_K]
        if short and (deeper := lens.distinct()) is not lens:
            queries = queries_of(lens, means, layer, part[short])
            for i, neighbors in zip(short, deeper.read(queries, TOP_K), strict=True):
                words[i] = neighbors
        plain += [neighbors[:TOP_K] for neighbors in found]
        distinct += words
    return plain, distinct


def _distinct(neighbors: Iterable[Neighbor]) -> list[Neighbor]:
    kept: dict[str, Neighbor] = {}
    for neighbor in neighbors:
        kept.setdefault(neighbor.word.casefold(), neighbor)
    return list(kept.values())[:TOP_K]


def _words_and_cosines(
    lens: Lens, means: Means | None, layer: int, rows: Floats
) -> list[tuple[list[str], float]]:
    """Return the words and the best cosine of each row; the neighbors themselves would take too much memory."""
    found = []
    for start in range(0, len(rows), _ROWS):
        for neighbors in lens.read(queries_of(lens, means, layer, rows[start : start + _ROWS]), TOP_K):
            best = neighbors[0].cosine if neighbors else math.nan
            found.append(([neighbor.word for neighbor in neighbors], best))
    return found
