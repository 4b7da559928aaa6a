"""Ways of ablating visual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from latentbank.errors import ImageError, QueryError
from latentbank.models.language.intervening import Intervention
from latentbank.text import listed

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from latentbank.models.vision.prompted import Prompted
    from latentbank.models.vision.tokens import VisualModel

Way = Literal["mean", "image", "attention"]
"""How tokens are ablated, from a layer on: "mean" puts the mean hidden state of visual tokens in their place, "image"
the tokens of another image at the same places, "attention" lets no other position attend to them."""
WAYS: tuple[Way, ...] = get_args(Way)


def ways_of(names: Sequence[str]) -> list[Way]:
    """Return ways by their names, each once.

    Raises:
        QueryError: there is no way of a name.
    """
    known: dict[str, Way] = {way: way for way in WAYS}
    for name in names:
        if name not in known:
            raise QueryError(
                f"There is no way of ablating '{name}'; there are {listed(WAYS)}.", argument="by"
            )
    return list(dict.fromkeys(known[name] for name in names))


@dataclass(frozen=True, eq=False)
class Source:
    """What takes the place of ablated tokens.

    Attributes:
        images: for each other image, the hidden states of its visual tokens by layer, `[tokens, hidden]`.
        means: the mean of all their visual tokens by layer, `[hidden]`; without other images None.
        own: the hidden states of the image's own visual tokens by layer.
    """

    images: tuple[Mapping[int, Tensor], ...]
    means: Mapping[int, Tensor] | None
    own: Mapping[int, Tensor]


def source_of(
    model: VisualModel, told: Prompted, others: Sequence[Image.Image], prompt: str | None
) -> Source:
    """Return what takes the place of ablated tokens of an image.

    Args:
        model: the VLM.
        told: the image in its prompt, with hidden states at all layers that are changed.
        others: other images, which are resized to the size of this one, so that their tokens have the same places.
        prompt: the text beside them; None: the model's own.

    Raises:
        ImageError: another image gives another number of visual tokens.
    """
    own = told.tokens.states
    layers = sorted(own)
    states: list[Mapping[int, Tensor]] = []
    for image in others:
        (tokens,) = model.visual_tokens([image.convert("RGB").resize(told.tokens.size)], layers, prompt)
        if len(tokens) != len(told.tokens):
            raise ImageError(
                f"Another image has {len(tokens)} visual tokens and this one {len(told.tokens)}; give images of its "
                "size."
            )
        states.append(tokens.states)
    means = None
    if states:
        means = {layer: torch.cat([found[layer] for found in states]).float().mean(0) for layer in layers}
    return Source(tuple(states), means, own)


def ablation(
    way: Way, told: Prompted, tokens: Sequence[int], layer: int, source: Source, draw: int = 0
) -> Intervention:
    """Return the intervention that ablates visual tokens from a layer on.

    Args:
        way: how.
        told: the image in its prompt.
        tokens: the numbers of the visual tokens, in the order of `told.tokens`.
        layer: the layer from which on.
        source: what takes their place. Without other images, "mean" takes the mean of the image's tokens that are not
            ablated.
        draw: number of the draw; "image" takes another image for each in turn.

    Raises:
        QueryError: all tokens of the image are ablated, and there are no other images whose mean could be taken.
    """
    numbers = np.array(tokens, np.int64)
    places = told.tokens.positions
    assert places is not None
    positions = tuple(places[numbers].tolist())
    if way == "attention":
        return Intervention(positions, layer, cut=True)
    if way == "image":
        other = source.images[draw % len(source.images)]
        return Intervention(
            positions, layer, change=lambda at, old: other[at][torch.from_numpy(numbers)].to(old)
        )
    if source.means is not None:
        means = source.means
        return Intervention(positions, layer, change=lambda at, old: means[at].to(old).expand_as(old))
    rest = torch.from_numpy(np.setdiff1d(np.arange(len(told.tokens)), numbers))
    if not len(rest):
        raise QueryError(
            "All visual tokens of the image are to be ablated, so there is no mean of others to take their place; name "
            "other images, or ablate them by attention.",
            argument="others",
        )

    def rest_mean(at: int, old: Tensor) -> Tensor:
        states = source.own[at]
        return states[rest.to(states.device)].float().mean(0).to(old).expand_as(old)

    return Intervention(positions, layer, change=rest_mean)
