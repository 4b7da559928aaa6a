"""Patches of labelled images: what is known of them, and their hidden states in a VLM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.errors import ModelError
from latentbank.progress import Progress, Silent
from latentbank.query.evaluation.scoring import Truth, truths_of
from latentbank.query.evaluation.tables import OBJECT
from latentbank.query.lenses.centring import Means, means_of

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel, VisualTokens
    from latentbank.query.evaluation.labelled import LabelledImage

Floats = npt.NDArray[np.float32]

SIZE = (224, 224)
"""Width and height of the demo's scenes in pixels."""
_BATCH = 16  # images in one forward pass


@dataclass(frozen=True)
class LabelledPatches:
    """The patches of labelled images that show an object.

    Attributes:
        truths: what is known of each patch.
        states: for each visual layer the patches' hidden states, float32 `[patches, hidden]`.
        images: the number of images.
    """

    truths: tuple[Truth, ...]
    states: Mapping[int, Floats]
    images: int


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
    places = token_of_patch(tokens)
    if not places:
        raise ModelError(
            f"The visual tokens of {model.name} have no place in a grid (boxes: {tokens.geometry or model.geometry}); "
            "scenes can be scored only with a VLM that has one."
        )
    rows, columns = (int(axis[list(places.values())].max()) + 1 for axis in (tokens.rows, tokens.columns))
    if tokens.tiles.any() or len(places) != rows * columns:
        raise ModelError(
            f"{model.name} sees a scene in {int(tokens.tiles.max()) + 1} tiles and {len(tokens)} tokens, which form "
            "no single grid; scenes can be scored only with a VLM that has one."
        )
    return rows, columns


def labelled_patches(
    model: VisualModel,
    scenes: Sequence[LabelledImage],
    layers: Sequence[int],
    progress: Progress | None = None,
) -> LabelledPatches:
    """Run a VLM on labelled images and return the patches that show an object.

    Args:
        model: the VLM.
        scenes: labelled images, made for its grid (`grid_of`).
        layers: the visual layers.
        progress: receives the number of images done.

    Raises:
        ModelError: the images were made for another grid.
    """
    truths: list[Truth] = []
    kept: dict[int, list[Floats]] = {layer: [] for layer in layers}
    for number, (scene, tokens) in enumerate(_visual_tokens(model, scenes, layers, progress)):
        of_scene = truths_of(scene, number)
        truths += of_scene
        token_of = token_of_patch(tokens)
        chosen = [token_of[truth.token] for truth in of_scene]
        for layer in layers:
            kept[layer].append(tokens.states[layer][chosen].float().cpu().numpy())
    states = {layer: np.concatenate(parts) for layer, parts in kept.items()}
    return LabelledPatches(tuple(truths), states, len(scenes))


@dataclass(frozen=True)
class WholeScenes:
    """All visual tokens of labelled images.

    Attributes:
        truths: what is known of each patch that shows an object.
        states: for each visual layer the hidden states of all patches, float32 `[images, patches, hidden]`.
        background: the patches that no object touches, `[images, patches]`.
    """

    truths: tuple[Truth, ...]
    states: Mapping[int, Floats]
    background: npt.NDArray[np.bool_]

    def labelled(self) -> LabelledPatches:
        """Return the patches that show an object."""
        images, places = [truth.scene for truth in self.truths], [truth.token for truth in self.truths]
        states = {layer: rows[images, places] for layer, rows in self.states.items()}
        return LabelledPatches(self.truths, states, len(self.background))


def whole_scenes(
    model: VisualModel,
    scenes: Sequence[LabelledImage],
    layers: Sequence[int],
    progress: Progress | None = None,
) -> WholeScenes:
    """Run a VLM on labelled images and return all patches; arguments and errors are those of `labelled_patches`."""
    truths: list[Truth] = []
    background = []
    kept: dict[int, list[Floats]] = {layer: [] for layer in layers}
    for number, (scene, tokens) in enumerate(_visual_tokens(model, scenes, layers, progress)):
        truths += truths_of(scene, number)
        token_of = token_of_patch(tokens)
        chosen = [token_of[patch] for patch in sorted(token_of)]
        covered = [thing.coverage for thing in scene.objects]
        background.append(np.sum(covered, axis=0) == 0 if covered else np.ones(len(chosen), np.bool_))
        for layer in layers:
            kept[layer].append(tokens.states[layer][chosen].float().cpu().numpy())
    states = {layer: np.stack(parts) for layer, parts in kept.items()}
    return WholeScenes(tuple(truths), states, np.stack(background))


def object_means(
    model: VisualModel,
    scenes: Sequence[LabelledImage],
    layers: Sequence[int],
    coverage: float = OBJECT,
    progress: Progress | None = None,
) -> Means:
    """Measure the mean at each layer of the visual tokens that show an object, to centre queries with.

    The mean of all tokens is a worse choice. Most tokens show background only; their hidden states are alike and longer
    than others, so that mean is nearly the background's, and objects do not contain it (docs/findings.md has the
    scores of both).

    Args:
        model: the VLM.
        scenes: labelled images other than those that will be read, made for the VLM's grid (`grid_of`).
        layers: the visual layers.
        coverage: the least share of a patch that its object must cover for the token to count.
        progress: receives the number of images done.

    Raises:
        QueryError: no token shows an object.
        ModelError: the images were made for another grid.
    """
    patches = labelled_patches(model, scenes, layers, progress)
    chosen = [number for number, truth in enumerate(patches.truths) if truth.coverage >= coverage]
    states = {layer: rows[chosen] for layer, rows in patches.states.items()}
    means = means_of([states] if chosen else [], "visual tokens that show a thing", model.language.identity())
    return replace(means, kind=f"{means.kind}, of {patches.images:,} scenes")


def _visual_tokens(
    model: VisualModel, scenes: Sequence[LabelledImage], layers: Sequence[int], progress: Progress | None
) -> Iterator[tuple[LabelledImage, VisualTokens]]:
    """Yield each labelled image with its visual tokens."""
    for start in range(0, len(scenes), _BATCH):
        part = scenes[start : start + _BATCH]
        found = model.visual_tokens([scene.image for scene in part], layers)
        for scene, tokens in zip(part, found, strict=True):
            count = len(token_of_patch(tokens))
            if any(len(shown.coverage) != count for shown in scene.objects):
                raise ModelError(
                    f"The scenes were made for {len(scene.objects[0].coverage)} patches, {model.name} sees "
                    f"{count}; make them for its grid."
                )
            yield scene, tokens
        (progress or Silent()).update(start + len(part), len(scenes))


def token_of_patch(tokens: VisualTokens) -> dict[int, int]:
    """Return the token of each patch of the grid; patches are numbered row by row. A CLS token has no patch."""
    columns = int(tokens.columns.max()) + 1
    numbers = np.where(tokens.rows < 0, -1, tokens.rows * columns + tokens.columns).tolist()
    return {number: token for token, number in enumerate(numbers) if number >= 0}
