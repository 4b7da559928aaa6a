"""The oracle: whether each visual token sees the part of the image that its box names, and nothing else.

It asks the model, not the rules. A tiny random model of a family gets the real settings of the family's processor
(patch sizes, image sizes, pinpoints, limits) and is loaded as a user loads it. Attention in its vision tower gives
nothing, so a patch sees itself alone, and what a change of pixels moves is where a token looks:

* pixels inside a token's box move that token's state at layer 0, more than any other token's of its tile;
* pixels outside a token's box and a margin around it (resampling mixes neighbouring pixels) do not move it at all;
* boxes of a tile do not overlap, so none is too large.

Many boxes are changed in one image, and the forward pass stops before the LLM's first block.

To add a family, write a `Case` in the table `CASES` of a module in tests/models/oracles/: its `Family` as in
tests/models/tiny_vlm.py, with a tiny model and the processor's real settings, named by the model's type. Modules there
are found by themselves. Run it with

    python -m pytest tests/models/vision/test_oracle.py -k NAME -m ""
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from latentbank.models.language.layout import find_blocks
from latentbank.models.vision import processing
from latentbank.models.vision.vision_language import (
    VisionLanguageModel,
    VisualTokens,
    load_vision_language_model,
)
from tests.models.tiny_vlm import Family, save_tiny_vlm

SIZES = ((300, 1500), (512, 288), (640, 640), (1333, 800), (2600, 1900))
_PROBES = 12  # boxes changed in one image
_SILENT = 1e-4  # a state that moves less, relative to its norm, has not moved
_NOTHING = "oracle_nothing"
_OUTPUTS = ("out_proj", "o_proj", "proj", "projection_layer", "dense", "wo")


@dataclass(frozen=True)
class Case:
    """A family as the oracle asks it.

    Attributes:
        family: a tiny model with the real settings of the family's processor.
        margin: how far resampling mixes pixels beyond a box, as a share of the box's sides. A box may be wrong by no
            more than this.
        margins: other margins for some sizes of images, where the model mixes neighbouring tokens.
        reach: how far it mixes pixels at least, in pixels of the image; more where small images are enlarged.
        mixers: parts of the names of modules whose attention stays, such as a resampler of patches.
        pillow: whether there is an image processor that needs no torchvision.
        torchvision: whether there is one that needs it.
        together: whether a prompt may hold two images.
        sizes: sizes of images that the family takes.
        states: returns what to compare instead of layer 0, [tokens, width] for each image, where the encoder
            normalizes over the whole image or quantizes.
        alone: changes weights, beside those of attention, so that a patch sees itself alone, such as those of
            convolutions.
    """

    family: Family
    margin: float = 0.25
    margins: Mapping[tuple[int, int], float] = field(default_factory=dict)
    reach: float = 3.0
    mixers: tuple[str, ...] = ()
    pillow: bool = True
    torchvision: bool = True
    together: bool = True
    sizes: tuple[tuple[int, int], ...] = SIZES
    states: Callable[[VisionLanguageModel, Sequence[Image.Image]], list[Tensor]] | None = None
    alone: Callable[[PreTrainedModel], None] = lambda model: None

    @property
    def both(self) -> bool:
        """Whether Pillow and torchvision can process its images."""
        return self.pillow and self.torchvision


def cases() -> dict[str, Case]:
    """Return the cases of all tables in tests/models/oracles/ by the model's type."""
    package = importlib.import_module("tests.models.oracles")
    found: dict[str, Case] = {}
    for module in pkgutil.iter_modules(package.__path__):
        found |= importlib.import_module(f"{package.__name__}.{module.name}").CASES
    return found


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Let transformers process images with "torchvision" or, as if that were not installed, with "pillow"."""
    if name == "torchvision":
        yield
        return
    auto = "transformers.models.auto.image_processing_auto.is_torchvision_available"
    with (
        mock.patch(auto, return_value=False),
        mock.patch.object(processing, "is_torchvision_available", return_value=False),
    ):
        yield


def load(case: Case, directory: Path, deepest_layer: int | None = 0) -> VisionLanguageModel:
    """Return the case's model without attention in its vision tower, loaded as users load it."""
    if not directory.exists():
        save_tiny_vlm(directory, case.family, change=lambda model: _zero(model, case))
    vlm = load_vision_language_model(str(directory), device="cpu", deepest_layer=deepest_layer)
    kept = [module for _, module in _mixing(vlm.model, case)]
    llm = {id(block) for block in find_blocks(cast(PreTrainedModel, vlm.language.decoder))}
    kept += [part for module in vlm.model.modules() if id(module) in llm for part in module.modules()]
    configs = {id(module.config) for module in kept if hasattr(module, "config")}
    for module in vlm.model.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation") and id(config) not in configs:
            config._attn_implementation_internal = _NOTHING
        if type(module).__module__.startswith("timm.") and hasattr(module, "fused_attn"):
            # What _zero makes of it, at no cost.
            module.forward = lambda states, *_args, **_options: torch.zeros_like(states)
    return vlm


def check(
    vlm: VisionLanguageModel,
    case: Case,
    sizes: Sequence[tuple[int, int]],
    seed: int = 0,
    inside: int = 3,
    outside: int = 2,
) -> None:
    """Check the tokens of images of `sizes` that share one prompt.

    Args:
        vlm: what `load` returned.
        case: its case.
        sizes: widths and heights.
        seed: of the images and of the tokens that are chosen.
        inside: how many times boxes are changed inside.
        outside: how many times all is changed but some boxes.

    Raises:
        AssertionError: a token does not see its box, or sees something else.
    """
    random = np.random.default_rng(seed)
    images = [picture(size, seed + number) for number, size in enumerate(sizes)]
    before = [_as_one(tokens) for tokens in vlm.visual_tokens(images, [0], _prompt(case, len(sizes)))]
    rounds = [
        [_probes(tokens, case, random, parts=number >= inside) for tokens in before]
        for number in range(inside + outside)
    ]
    changed = [
        [
            _inverted(image, tokens, probes, case, outside=number >= inside)
            for image, tokens, probes in zip(images, before, each, strict=True)
        ]
        for number, each in enumerate(rounds)
    ]
    flat = [image for each in changed for image, _ in each]
    if case.states is None:  # the unchanged images were read above
        states = [tokens.states[0] for tokens in before] + _states(vlm, case, flat, len(sizes))
    else:
        states = _states(vlm, case, [*images, *flat], len(sizes))
    for number, each in enumerate(rounds):
        for place, (tokens, probes) in enumerate(zip(before, each, strict=True)):
            base = states[place]
            now = states[(number + 1) * len(sizes) + place]
            moved = ((now - base).norm(dim=-1) / base.norm(dim=-1).mean()).numpy()
            if number >= inside:
                wrong = [probe for probe in probes if moved[probe] > _SILENT]
                assert not wrong, f"{_places(tokens, wrong)} see beyond their boxes: {moved[wrong][:3]}"
                assert moved.max() > _SILENT, "nothing moves at all"
            else:
                _check_inside(tokens, probes, changed[number][place][1], moved, case)


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Return an image of coarse strong colours, all of which change much when inverted."""
    generator = np.random.default_rng(seed)
    cells = generator.integers(0, 64, (12, 12, 3)) + 191 * generator.integers(0, 2, (12, 12, 3))
    return Image.fromarray(cells.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def _check_inside(
    tokens: VisualTokens, probes: Sequence[int], areas: np.ndarray, moved: np.ndarray, case: Case
) -> None:
    """Check what moved when `areas`, which lie inside the boxes of `probes`, were inverted."""
    seen = _seen(tokens, case)
    touched = [_overlap(seen, area) for area in areas]
    untouched = ~np.any(touched, axis=0)
    wrong = np.flatnonzero(untouched & (moved > _SILENT))
    assert not len(wrong), f"{_places(tokens, wrong)} see the boxes of {_places(tokens, probes)}"
    for probe, near in zip(probes, touched, strict=True):
        assert moved[probe] > _SILENT, f"{_places(tokens, [probe])} does not see its own box"
        if tokens.rows[probe] < 0:  # all tokens of a crop that is mixed see the same
            continue
        others = near & (tokens.tiles == tokens.tiles[probe])
        others[list(probes)] = False
        assert moved[others].max(initial=0) < moved[probe], (
            f"{_places(tokens, [int(np.flatnonzero(others)[moved[others].argmax()])])} sees the box of "
            f"{_places(tokens, [probe])} better"
        )


def _probes(tokens: VisualTokens, case: Case, random: np.random.Generator, parts: bool) -> list[int]:
    """Return some tokens of all tiles whose boxes, with their margins, do not overlap.

    Args:
        tokens: of one image.
        case: its case.
        random: chooses.
        parts: leave out tokens that see all of the image, as of a resampler: there is nothing outside of their boxes.
    """
    order = random.permutation(len(tokens))
    if parts:
        boxes = tokens.boxes[order]
        order = order[((boxes[:, 2:] - boxes[:, :2]) < 0.9 * np.array(tokens.size)).any(axis=1)]
    ranks = dict.fromkeys(set(tokens.tiles.tolist()), 0)
    rank = np.zeros(len(tokens))
    for token in order:
        rank[token] = ranks[int(tokens.tiles[token])]
        ranks[int(tokens.tiles[token])] += 1
    # The first of every tile come first, then the second of every tile.
    seen = _seen(tokens, case)
    chosen: list[int] = []
    for token in sorted(order.tolist(), key=lambda token: rank[token]):
        if not chosen or not _overlap(seen[chosen], seen[token]).any():
            chosen.append(token)
        if len(chosen) == _PROBES:
            break
    return chosen


def _inverted(
    image: Image.Image, tokens: VisualTokens, probes: Sequence[int], case: Case, outside: bool
) -> tuple[Image.Image, np.ndarray]:
    """Return the image inverted in the middle of the probes' boxes, or outside of all of them, and these areas."""
    boxes = tokens.boxes[list(probes)].astype(np.float64)
    if outside:
        areas = _seen(tokens, case)[list(probes)].astype(np.float64)
        low, high = np.floor(areas[:, :2]), np.ceil(areas[:, 2:])
    else:
        # Not so little that the token would not notice.
        least = 0.35 * (boxes[:, 2:] - boxes[:, :2])
        areas = _grown(boxes, -np.minimum(_margin(tokens, case)[list(probes)], least))
        low, high = np.ceil(areas[:, :2]), np.floor(areas[:, 2:])
        middle = np.floor(boxes.reshape(-1, 2, 2).mean(axis=1))
        low, high = np.where(low < high, low, middle), np.where(low < high, high, middle + 1)
    whole = np.array(image)
    areas = np.concatenate([np.maximum(low, 0), np.minimum(high, image.size)], axis=1)
    mask = np.zeros(whole.shape[:2], dtype=bool)
    for left, top, right, bottom in areas.astype(int):
        mask[top:bottom, left:right] = True
    mask ^= outside
    whole[mask] = 255 - whole[mask]
    return Image.fromarray(whole), areas


def _margin(tokens: VisualTokens, case: Case) -> np.ndarray:
    """Return how far tokens see beyond the edges of their boxes, [tokens, 2] in pixels of the image.

    The largest box of a tile says it, because those at the image's edges may be cut.
    """
    sides = tokens.boxes[:, 2:] - tokens.boxes[:, :2]
    for tile in np.unique(tokens.tiles):
        sides[tokens.tiles == tile] = sides[tokens.tiles == tile].max(axis=0)
    return np.maximum(case.margins.get(tokens.size, case.margin) * sides, case.reach)


def _grown(boxes: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Return boxes with a margin, [boxes, 2], on every side; negative ones make them smaller."""
    return np.asarray(boxes + np.concatenate([-margin, margin], axis=1))


def _seen(tokens: VisualTokens, case: Case) -> np.ndarray:
    """Return what tokens may see: their boxes with margins, [tokens, 4]."""
    return _grown(tokens.boxes, _margin(tokens, case))


def _overlap(boxes: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return which boxes overlap an area, [boxes] bool."""
    return np.asarray((boxes[:, :2] < area[2:]).all(axis=1) & (boxes[:, 2:] > area[:2]).all(axis=1))


def _places(tokens: VisualTokens, which: Sequence[int] | np.ndarray) -> str:
    """Return tokens for people: tile, row, column and box of the first few."""
    return "; ".join(
        f"token {token} (tile {tokens.tiles[token]}, row {tokens.rows[token]}, column {tokens.columns[token]}, "
        f"box {tokens.boxes[token].round(1).tolist()})"
        for token in list(which)[:3]
    )


def _as_one(tokens: VisualTokens) -> VisualTokens:
    """Check that every token has a place, and that boxes of a tile do not overlap, and return the tokens."""
    assert len(tokens), "there are no visual tokens"
    assert np.isfinite(tokens.boxes).all(), tokens.geometry
    smaller = _grown(tokens.boxes, -0.1 * (tokens.boxes[:, 2:] - tokens.boxes[:, :2]))
    for token in np.linspace(0, len(tokens) - 1, 50).astype(int):
        others = (tokens.tiles == tokens.tiles[token]) & (tokens.rows >= 0)
        others[token] = False
        over = np.flatnonzero(others & _overlap(smaller, smaller[token]))
        assert not len(over), f"the boxes of {_places(tokens, [token, *over])} overlap"
    return tokens


def _prompt(case: Case, images: int) -> str | None:
    """Return the prompt of several images; None, for one, is the chat template's."""
    return None if images == 1 else " and ".join([case.family.shown] * images)


def _states(vlm: VisionLanguageModel, case: Case, images: list[Image.Image], together: int) -> list[Tensor]:
    """Return the states to compare, image by image; one prompt at a time, for the masks of large images grow fast."""
    found: list[Tensor] = []
    for start in range(0, len(images), together):
        prompt = images[start : start + together]
        if case.states is not None:
            found += case.states(vlm, prompt)
        else:
            found += [tokens.states[0] for tokens in vlm.visual_tokens(prompt, [0], _prompt(case, together))]
    return found


def _nothing(
    _module: nn.Module, query: Tensor, _key: Tensor, value: Tensor, *_args: Any, **_options: Any
) -> Any:
    """Attention that gives nothing; at no cost, however many patches there are."""
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


AttentionInterface.register(_NOTHING, _nothing)


def _mixing(model: PreTrainedModel, case: Case) -> list[tuple[str, nn.Module]]:
    return [
        (name, module) for name, module in model.named_modules() if any(part in name for part in case.mixers)
    ]


def _zero(model: PreTrainedModel, case: Case) -> None:
    """Zero the output of attention outside the LLM, for classes that do not ask transformers' interface for it."""
    left_out = {id(module) for module in model.get_decoder().modules()}
    left_out |= {id(module) for _, module in _mixing(model, case)}
    with torch.no_grad():
        for module in model.modules():
            kind = type(module).__name__.lower()
            if id(module) in left_out or not ("attention" in kind or "attn" in kind):
                continue
            for name in _OUTPUTS:
                for parameter in getattr(module, name, nn.Identity()).parameters():
                    parameter.zero_()
        case.alone(model)
