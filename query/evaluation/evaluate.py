"""Evaluation: the share of patches of known scenes that each lens names, layer by layer.

Scoring is query/evaluation/scoring.py's; here models run, lenses read, and tables come together. Two controls stand
beside every figure: the same words scored against other scenes, and a projector with random weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from latentbank.bank.points import Neighbor
from latentbank.errors import ModelError, QueryError
from latentbank.progress import Progress, Silent
from latentbank.query.evaluation.scoring import Truth, truths_of
from latentbank.query.evaluation.tables import OBJECT, Evaluation, Tables, Weights
from latentbank.query.lenses.base import Lens, Queries
from latentbank.query.lenses.centring import Means, means_of

if TYPE_CHECKING:
    from latentbank.models.vision.vision_language import VisualModel, VisualTokens
    from latentbank.query.evaluation.labelled import LabelledImage

Floats = npt.NDArray[np.float32]

TOP_K = 5
SIZE = (224, 224)
"""Width and height of the demo's scenes in pixels."""
CONTROLLED = 100
"""Scenes that a projector of random weights is scored on, at most: next to nothing is told exactly enough by fewer."""
# Scenes in one forward pass, rows given to a lens at once.
_BATCH = 16
_ROWS = 2048
# Neighbors asked for, so that the first `TOP_K` distinct words are nearly always among them.
_DEPTH = 4 * TOP_K
# Visual layers of an LLM of 30 layers.
_LAYERS = (0, 2, 4, 8, 12, 16, 20, 24, 29)


def evaluation_layers(num_layers: int) -> list[int]:
    """Give the visual layers that are scored: 0, 2, 4, 8, 12, 16, 20, 24, 29 of 30, and alike in other LLMs."""
    return sorted({round(layer * num_layers / 30) for layer in _LAYERS})


@dataclass(frozen=True)
class Looked:
    """What a VLM makes of scenes: the `truths` of all patches that show a thing, and their hidden states.

    `states` maps each visual layer to float32 `[patches, hidden]`; `scenes` counts the scenes.
    """

    truths: tuple[Truth, ...]
    states: Mapping[int, Floats]
    scenes: int


def grid_of(model: VisualModel, size: tuple[int, int] = SIZE) -> tuple[int, int]:
    """Return rows and columns of the grid in which a VLM sees a labelled image.

    Args:
        model: the VLM.
        size: width and height of the image in pixels.

    Raises:
        ModelError: its visual tokens form no single grid over the image, so patches cannot be scored.
    """
    from PIL import Image

    (tokens,) = model.visual_tokens([Image.new("RGB", size, "white")], [0])
    places = _places(tokens)
    rows, columns = (int(axis[list(places.values())].max()) + 1 for axis in (tokens.rows, tokens.columns))
    if tokens.tiles.any() or len(places) != rows * columns:
        raise ModelError(
            f"{model.name} sees a scene in {int(tokens.tiles.max()) + 1} tiles and {len(tokens)} tokens, which form "
            "no single grid; scenes can be scored only with a VLM that has one."
        )
    return rows, columns


def _places(tokens: VisualTokens) -> dict[int, int]:
    """Give the token that each patch of the grid is, by the patch's number, row by row; a CLS token has none."""
    columns = int(tokens.columns.max()) + 1
    numbers = np.where(tokens.rows < 0, -1, tokens.rows * columns + tokens.columns).tolist()
    return {number: token for token, number in enumerate(numbers) if number >= 0}


def look(
    model: VisualModel,
    scenes: Sequence[LabelledImage],
    layers: Sequence[int],
    progress: Progress | None = None,
) -> Looked:
    """Run a VLM on scenes and keep the hidden states of the patches that show a thing.

    Args:
        model: the VLM.
        scenes: made for its grid (`grid_of`).
        layers: the visual layers.
        progress: told scenes done.

    Raises:
        ModelError: the scenes were made for another grid.
    """
    truths: list[Truth] = []
    kept: dict[int, list[Floats]] = {layer: [] for layer in layers}
    for number, (scene, tokens, order) in enumerate(_seen(model, scenes, layers, progress)):
        here = truths_of(scene, number)
        truths += here
        chosen = [order[truth.token] for truth in here]
        for layer in layers:
            kept[layer].append(tokens.states[layer][chosen].float().cpu().numpy())
    return Looked(tuple(truths), {layer: np.concatenate(parts) for layer, parts in kept.items()}, len(scenes))


def _seen(
    model: VisualModel, scenes: Sequence[LabelledImage], layers: Sequence[int], progress: Progress | None
) -> Iterator[tuple[LabelledImage, VisualTokens, dict[int, int]]]:
    """Give each scene with its visual tokens, and which token each patch of the grid is."""
    for at in range(0, len(scenes), _BATCH):
        part = scenes[at : at + _BATCH]
        seen = model.visual_tokens([scene.image for scene in part], layers)
        for scene, tokens in zip(part, seen, strict=True):
            places = _places(tokens)
            if any(len(thing.coverage) != len(places) for thing in scene.objects):
                raise ModelError(
                    f"The scenes were made for {len(scene.objects[0].coverage)} patches, {model.name} sees "
                    f"{len(places)}; make them for its grid."
                )
            yield scene, tokens, places
        (progress or Silent()).update(at + len(part), len(scenes))


def queries_of(lens: Lens, means: Means | None, layer: int, rows: Floats) -> Queries:
    """Return hidden states `[n, hidden]` of a visual layer as a lens is to read them.

    Where `means` are given, all lenses read them centred: a lens with a (centred) bank gets the mean with them, the
    others get them without it.
    """
    if means is None:
        return Queries(rows, layer, "visual")
    if lens.bank is not None:
        return Queries(rows, layer, "visual", means.at(layer))
    return Queries(means.centre(layer, rows), layer, "visual")


def read_patches(
    lens: Lens, means: Means | None, layer: int, rows: Floats
) -> tuple[list[list[Neighbor]], list[list[Neighbor]]]:
    """Read patches `[n, hidden]`: the first `TOP_K` neighbors of each, then the first with distinct words.

    Where `means` are given, the patches are read centred, and the lens is the one for that (`Lens.centred`).
    """
    lens = lens if means is None else lens.centred()
    plain: list[list[Neighbor]] = []
    distinct: list[list[Neighbor]] = []
    for at in range(0, len(rows), _ROWS):
        part = rows[at : at + _ROWS]
        found = lens.read(queries_of(lens, means, layer, part), _DEPTH)
        words = [_distinct(neighbors) for neighbors in found]
        # Nearly always there are enough; the few others are searched as deep as it takes.
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


def evaluate(
    model: VisualModel,
    lenses: Sequence[Lens],
    scenes: Sequence[LabelledImage],
    layers: Sequence[int] | None = None,
    *,
    random: VisualModel | None = None,
    calibration: Sequence[LabelledImage] = (),
    coverage: float = OBJECT,
    alone: Sequence[int] = (),
    resamples: int = 1000,
    progress: Progress | None = None,
) -> Evaluation:
    """Score lenses on scenes.

    Args:
        model: the VLM.
        lenses: what reads its visual tokens, each under its own name; a LatentLens's bank says whether all of them are
            centred.
        scenes: held out, made for the VLM's grid (`grid_of`), at least two.
        layers: the visual layers; None: `evaluation_layers`.
        random: the same VLM with a projector of random weights, the second control, on the first `CONTROLLED` scenes;
            None: without it.
        calibration: other scenes, whose visual tokens give the means for a centred bank.
        coverage: the share of a patch that its thing covers in an object patch.
        alone: visual layers at which every bank layer is searched alone, too.
        resamples: of the scenes, for confidence intervals.
        progress: told scenes looked at, then lenses and layers read.

    Raises:
        BankMismatch: the bank is another LLM's.
        QueryError: no layers or lenses, too few scenes, or a centred bank without calibration scenes.
        ModelError: the scenes were made for another grid.
    """
    progress = progress or Silent()
    wanted = list(dict.fromkeys(evaluation_layers(model.num_layers) if layers is None else layers))
    bank = next((lens.bank for lens in lenses if lens.bank is not None), None)
    metric = bank.metric if bank is not None else "cosine"
    if not wanted or not lenses or len({lens.name for lens in lenses}) < len(lenses):
        raise QueryError("Name at least one visual layer, and each lens once.")
    if metric == "centred" and not calibration:
        raise QueryError("A centred bank needs the visual means: give calibration scenes.")
    for lens in lenses:
        lens.check(model)
    if metric == "centred":  # once, not at every layer
        lenses = [lens.centred() for lens in lenses]
    tables = Tables(len(scenes), coverage, resamples)
    for projector, vlm in cast(
        "list[tuple[Weights, VisualModel | None]]", [("trained", model), ("random", random)]
    ):
        if vlm is None:
            continue
        progress.stage(f"looking ({projector} projector)", "scenes")
        looked = look(vlm, scenes[:CONTROLLED] if projector == "random" else scenes, wanted, progress)
        means = object_means(vlm, calibration, wanted, coverage) if metric == "centred" else None
        tables.require(projector, looked.truths)
        progress.stage(f"reading ({projector} projector)", "layers and lenses")
        for done, (layer, lens) in enumerate((layer, lens) for layer in wanted for lens in lenses):
            progress.update(done, len(wanted) * len(lenses))
            plain, distinct = read_patches(lens, means, layer, looked.states[layer])
            tables.add(projector, lens.name, layer, plain, distinct, looked.truths)
            chosen = tables.object_patches(looked.truths)
            for bank_layer in lens.searched_layers():
                single = None
                if layer in alone:
                    states = looked.states[layer][chosen]
                    single = _in_parts(lens.at_bank_layer(bank_layer), means, layer, states)
                tables.align(projector, layer, bank_layer, plain, single, looked.truths)
    about = {
        "model": model.name,
        "fingerprint": model.fingerprint(),
        "geometry": model.geometry,
        "bank": bank.name if bank is not None else None,
        "corpora": {name: entry.contexts for name, entry in bank.shown_corpora.items()}
        if bank is not None
        else {},
        "bank_layers": [layer for lens in lenses for layer in lens.searched_layers()],
        "metric": metric,
        "visual_layers": wanted,
        "lenses": [lens.name for lens in lenses],
        "top_k": TOP_K,
        "coverage": coverage,
        "scenes": len(scenes),
        "random_scenes": min(len(scenes), CONTROLLED) if random is not None else 0,
        "calibration_scenes": len(calibration) if metric == "centred" else 0,
        **tables.counts,
    }
    return Evaluation(about, tuple(tables.rows(metric)), tuple(tables.aligned))


def object_means(
    model: VisualModel,
    scenes: Sequence[LabelledImage],
    layers: Sequence[int],
    coverage: float = OBJECT,
    progress: Progress | None = None,
) -> Means:
    """Measure the mean at each layer of the visual tokens that show a thing: what queries of a centred bank go without.

    Not of all tokens: most show nothing but background, whose hidden states are alike and longer than others. A mean of
    all is nearly that of the background, and takes from a thing what it never had (docs/findings.md has the shares).

    Args:
        model: the VLM.
        scenes: other ones than those that will be read, made for the VLM's grid (`grid_of`).
        layers: the visual layers.
        coverage: the share of a patch that its thing covers in a token that counts.
        progress: told scenes done.

    Raises:
        QueryError: no token shows a thing.
        ModelError: the scenes were made for another grid.
    """
    looked = look(model, scenes, layers, progress)
    chosen = [number for number, truth in enumerate(looked.truths) if truth.coverage >= coverage]
    states = {layer: rows[chosen] for layer, rows in looked.states.items()}
    means = means_of([states] if chosen else [], "visual tokens that show a thing", model.fingerprint())
    return replace(means, kind=f"{means.kind}, of {looked.scenes:,} scenes")


def _in_parts(lens: Lens, means: Means | None, layer: int, rows: Floats) -> list[tuple[list[str], float]]:
    """Return words and best cosine of each row; neighbors themselves would fill the memory."""
    found = []
    for at in range(0, len(rows), _ROWS):
        for neighbors in lens.read(queries_of(lens, means, layer, rows[at : at + _ROWS]), TOP_K):
            best = neighbors[0].cosine if neighbors else math.nan
            found.append(([neighbor.word for neighbor in neighbors], best))
    return found
