"""Reference tokens: a sample of a VLM's visual tokens at each layer, against which a lens's scores are corrected."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentbank.bank.rotation import unit
from latentbank.bank.search import as_floats
from latentbank.errors import QueryError
from latentbank.models.vision.sources import Source
from latentbank.query.lenses.centring import Means, means_of
from latentbank.query.reading.visual_tokens import Broken, image_tokens

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.models.vision.tokens import VisualModel

Floats = npt.NDArray[np.float32]

MOST = 4096
"""Reference tokens of a layer, at most: more of them change little, and computing takes in proportion longer."""
_LARGEST = 50
_PER_ROOT = 0.8


def nearest_of(tokens: int) -> int:
    """Return over how many of the nearest a mean is taken, for this number of reference tokens.

    50 for the 3,920 tokens of 80 scenes; fewer, by the square root, for fewer tokens.
    """
    return max(1, min(_LARGEST, round(_PER_ROOT * math.sqrt(tokens))))


@dataclass(frozen=True)
class ReferenceTokens:
    """The reference tokens of one visual layer.

    Attributes:
        states: hidden states as the LLM gave them, float32 `[tokens, hidden]`.
        mean: the mean of their unit vectors, weighted by inverse density (`density_mean`), float32 `[hidden]`.
    """

    states: Floats
    mean: Floats

    @property
    def nearest(self) -> int:
        """Over how many of the nearest a mean is taken."""
        return nearest_of(len(self.states))


@dataclass(frozen=True)
class References:
    """The reference tokens of a VLM.

    Attributes:
        kind: what they are, for people, such as "visual tokens of 80 scenes".
        pictures: a digest of each picture (`picture_digest`).
        by_layer: the tokens by visual layer.
        means: the means of all visual tokens of the pictures, as `measure_means` measures them.
    """

    kind: str
    pictures: tuple[str, ...]
    by_layer: Mapping[int, ReferenceTokens]
    means: Means


def picture_digest(image: Image.Image) -> str:
    """Return 32 hex digits that tell a picture by its pixels."""
    return hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).hexdigest()


def density_mean(units: Floats, nearest: int) -> Floats:
    """Return the mean of unit vectors `[n, hidden]`, weighted by inverse density.

    A vector's weight is (1 − mean cosine to the `nearest` nearest, itself among them)²: many tokens of background look
    alike, and would otherwise be most of the mean.
    """
    weights = np.empty(len(units), np.float64)
    step = 1024
    for start in range(0, len(units), step):
        cosines = units[start : start + step] @ units.T
        weights[start : start + step] = (1.0 - mean_of_largest(cosines, nearest).astype(np.float64)) ** 2
    if not weights.sum() > 0:  # all are the same
        weights[:] = 1.0
    mean: Floats = (weights @ units / weights.sum()).astype(np.float32)
    return mean


def mean_of_largest(numbers: Floats, count: int) -> Floats:
    """Return the mean of the `count` largest numbers of each row (of all, if there are fewer), float32 `[rows]`."""
    import torch

    rows = torch.from_numpy(numbers)
    found: Floats = rows.topk(min(count, rows.shape[1]), dim=1, sorted=False).values.mean(1).numpy()
    return found


@dataclass
class _Sample:
    """A random sample of visual tokens, the same tokens at each layer, while their number is not known."""

    most: int
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    keys: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    states: dict[int, list[Floats]] = field(default_factory=dict)

    def add(self, states: Mapping[int, Any]) -> None:
        """Add the tokens of a picture."""
        arrays = {layer: as_floats(rows).astype(np.float32) for layer, rows in states.items()}
        self.keys = np.concatenate([self.keys, self.chance.random(len(next(iter(arrays.values()))))])
        for layer, rows in arrays.items():
            self.states.setdefault(layer, []).append(rows)
        if len(self.keys) > 2 * self.most:
            self.cut()

    def cut(self) -> None:
        """Keep at most `most` tokens: those with the smallest of their random keys, in their order."""
        kept = np.sort(np.argsort(self.keys, kind="stable")[: self.most])
        self.states = {layer: [np.concatenate(parts)[kept]] for layer, parts in self.states.items()}
        self.keys = self.keys[kept]


def measure_references(
    model: VisualModel,
    images: Iterable[Source],
    layers: Iterable[int],
    *,
    what: str = "images",
    prompt: str | None = None,
    batch: int = 8,
    broken: Broken | None = None,
    most: int = MOST,
) -> References:
    """Run a VLM on pictures and keep a sample of their visual tokens.

    Args:
        model: the VLM.
        images: pictures like those that will be read, but others.
        layers: the visual layers.
        what: what the pictures are, for people.
        prompt: the text beside the picture; None: the model's own.
        batch: pictures in one forward pass.
        broken: as for `read_images`.
        most: tokens of a layer that are kept, at most; they are drawn from those of all pictures.

    Raises:
        QueryError: there are no pictures, or no layers.
        ImageError: a picture cannot be read, and `broken` is None.
        ModelError: a hidden state is not finite.
    """
    chosen = list(layers)
    if not chosen:
        raise QueryError("Name at least one layer.")
    sample, pictures = _Sample(most), list[str]()

    def states() -> Iterator[Mapping[int, Any]]:
        for part in image_tokens(model, images, chosen, prompt, batch, broken):
            for image in part:
                if image.image is not None:
                    pictures.append(picture_digest(image.image))
                sample.add(image.tokens.states)
                yield image.tokens.states

    means = means_of(states(), "visual tokens", model.language.identity())
    sample.cut()
    kind = f"visual tokens of {len(pictures):,} {what}"
    by_layer = {layer: _reference_tokens(rows) for layer, (rows,) in sample.states.items()}
    return References(kind, tuple(pictures), by_layer, replace(means, kind=kind))


def _reference_tokens(states: Floats) -> ReferenceTokens:
    return ReferenceTokens(states, density_mean(unit(states), nearest_of(len(states))))
