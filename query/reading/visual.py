"""Reading images: every visual token of a VLM, at the layers asked for, through one lens or several."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.merge import Unique
from latentbank.bank.points import Neighbor
from latentbank.bank.where import Filter
from latentbank.errors import QueryError
from latentbank.query.lenses.base import LatentLens, Lens
from latentbank.query.lenses.centring import QueryMean, described, kept_means, resolve_mean
from latentbank.query.reading.images import Source
from latentbank.query.reading.norms import beyond_range
from latentbank.query.reading.reading import Place, Reading, TokenReading
from latentbank.query.reading.visual_tokens import Broken, Seen, see

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.models.vision.vision_language import VisualModel, VisualTokens

BATCH = 8
"""Images in one forward pass."""


def default_visual_layers(num_layers: int) -> list[int]:
    """Give the visual layers that are read when none are named: the input, an eighth, a quarter and half of the LLM."""
    return sorted({0, *(max(1, round(num_layers * eighths / 8)) for eighths in (1, 2, 4))})


def read_image(
    bank: Bank,
    model: VisualModel,
    image: Source,
    layers: Sequence[int] | int | None = None,
    *,
    bank_layers: BankLayers = "mid",
    top_k: int = 5,
    where: Filter | None = None,
    unique: Unique | None = None,
    exact: bool = False,
    prompt: str | None = None,
    query_mean: QueryMean | None = None,
    lenses: Sequence[Lens] = (),
) -> Reading:
    """Read every visual token of one image against a bank, and through other lenses beside it.

    Args:
        bank: of the VLM's own language model.
        model: the VLM; its fingerprint is checked.
        image: a path, a file's bytes or an open image.
        layers: the visual layers; None: the input, an eighth, a quarter and half of the LLM's layers.
        bank_layers: "mid", "all", one bank layer or several.
        top_k: neighbors per token.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word".
        exact: compare with every context in full precision.
        prompt: the text beside the image; None: the model's own way.
        query_mean: as for `read_images`.
        lenses: further lenses, such as LogitLens and EmbeddingLens.

    Raises:
        BankMismatch: the bank belongs to another model.
        ImageError: the image cannot be read.
        ModelError: a hidden state is not finite.
    """
    if layers is None:
        layers = default_visual_layers(model.num_layers)
    latent = LatentLens(bank, bank_layers, where, unique, exact)
    chosen = [layers] if isinstance(layers, int) else layers
    (reading,) = read_images(
        model, [image], [latent, *lenses], chosen, top_k=top_k, prompt=prompt, query_mean=query_mean
    )
    return reading


def read_images(
    model: VisualModel,
    images: Iterable[Source],
    lenses: Sequence[Lens],
    layers: Sequence[int],
    *,
    top_k: int = 5,
    prompt: str | None = None,
    batch: int = BATCH,
    query_mean: QueryMean | None = None,
    broken: Broken | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Reading]:
    """Read many images, a batch at a time; memory does not grow with their number.

    The visual tokens of a batch, all its images and layers together, are given to each lens in one call.

    Args:
        model: the VLM.
        images: paths, bytes, open images or what `find_images` finds.
        lenses: what reads; the bank of a LatentLens must be of the VLM's own language model.
        layers: the visual layers.
        top_k: neighbors per token.
        prompt: the text beside the image; None: the model's own way.
        batch: images in one forward pass.
        query_mean: for a centred bank, the mean that LatentLens takes from visual tokens: `Means` measured on many
            images, or "batch", each image's own at each layer; None: the means kept with the VLM, else "batch". A
            LatentLens that has a mean of its own keeps it; other lenses take none.
        broken: told the name of an image that cannot be read, or that the model refuses, and why; the others are read.
            None: raise.
        warn: told once if visual norms are beyond what the model's dtype holds; None: a Python warning.

    Yields:
        A reading of each image, in their order, through all lenses at all layers.

    Raises:
        BankMismatch: a LatentLens's bank belongs to another model.
        QueryError: no lens, or no layer.
        ImageError: an image cannot be read.
        ModelError: a hidden state is not finite.
    """
    wanted, query_mean = _checked(model, lenses, layers, query_mean)
    if batch < 1:
        raise QueryError(f"The batch is {batch}; it must be at least 1 image.")
    batches = see(model, images, wanted, prompt, batch, broken)
    return _read(model, batches, lenses, [wanted], top_k, prompt, query_mean, warn or _python_warning)


def read_layers(
    model: VisualModel,
    image: Source,
    lenses: Sequence[Lens],
    layers: Sequence[int],
    *,
    top_k: int = 5,
    prompt: str | None = None,
    query_mean: QueryMean | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Reading]:
    """Read one image layer by layer, for who wants to see the first before the last is read.

    Arguments and errors are those of `read_images`.

    Yields:
        A reading of each visual layer alone, in their order; `join_layers` makes them one.
    """
    wanted, query_mean = _checked(model, lenses, layers, query_mean)
    seen = see(model, [image], wanted, prompt, 1, None)
    alone = [[layer] for layer in wanted]
    return _read(model, seen, lenses, alone, top_k, prompt, query_mean, warn or _python_warning)


def join_layers(readings: Sequence[Reading]) -> Reading:
    """Make one reading of those that `read_layers` gives: the one that `read_images` gives."""
    tokens = {
        lens: [token for one in readings for token in one.tokens if token.lens == lens]
        for lens in readings[0].lenses
    }
    return replace(
        readings[0],
        layers=tuple(layer for one in readings for layer in one.layers),
        tokens=tuple(token for of_lens in tokens.values() for token in of_lens),
    )


def _checked(
    model: VisualModel, lenses: Sequence[Lens], layers: Sequence[int], query_mean: QueryMean | None
) -> tuple[list[int], QueryMean | None]:
    """Check what an image is to be read by; give the layers, each once, and the mean that a centred bank takes."""
    wanted = list(dict.fromkeys(layers))
    if not wanted or not lenses:
        raise QueryError(f"Name at least one {'lens' if wanted else 'visual layer'}.")
    if len({lens.name for lens in lenses}) != len(lenses):
        raise QueryError("Two lenses have the same name; read the images twice instead.")
    for lens in lenses:
        if isinstance(lens, LatentLens):
            lens.bank.require_model(model.name, model.fingerprint())
            lens.bank.choose_layers(lens.bank_layers)
            if lens.bank.metric == "centred" and lens.query_mean is None and query_mean is None:
                query_mean = kept_means(model) or "batch"
    return wanted, query_mean


def _read(
    model: VisualModel,
    batches: Iterator[list[Seen]],
    lenses: Sequence[Lens],
    together: Sequence[Sequence[int]],
    top_k: int,
    prompt: str | None,
    query_mean: QueryMean | None,
    warn: Callable[[str], None],
) -> Iterator[Reading]:
    """Read what was seen; those layers that are `together` become one reading of each image."""
    warned = False
    for part in batches:
        seen = [one.tokens for one in part]
        if not warned and (said := beyond_range(model, seen)):
            warned = True
            warn(said)
        for layers in together:
            rows = torch.cat([tokens.states[layer] for tokens in seen for layer in layers])
            found = {
                lens.name: iter(_for_visual_tokens(lens, query_mean, seen, layers).read(rows, top_k))
                for lens in lenses
            }
            for one in part:
                yield _reading(
                    model, one.name, one.image, one.tokens, lenses, layers, found, prompt, query_mean
                )


def _for_visual_tokens(
    lens: Lens, query_mean: QueryMean | None, seen: Sequence[VisualTokens], layers: Sequence[int]
) -> Lens:
    """Tell a LatentLens that it reads visual tokens, and where its bank is centred the mean of each row it is given."""
    if not isinstance(lens, LatentLens):
        return lens
    lens = lens.for_visual_tokens()
    if lens.query_mean is not None:
        return lens
    means = []
    for tokens in seen:
        for layer in layers:
            states = tokens.states[layer]
            mean = resolve_mean(lens.bank, query_mean, layer, states)
            if mean is None:  # a bank of plain cosine
                return lens
            means.append(np.broadcast_to(mean, states.shape))
    return replace(lens, query_mean=np.concatenate(means))


def _reading(
    model: VisualModel,
    name: str,
    image: Image.Image,
    tokens: VisualTokens,
    lenses: Sequence[Lens],
    layers: Sequence[int],
    found: dict[str, Iterator[list[Neighbor]]],
    prompt: str | None,
    query_mean: QueryMean | None,
) -> Reading:
    """Make the reading of one image, whose neighbors are the next that each lens found: layer by layer, in order."""
    places = [
        Place(tile, row, column, (left, top, right, bottom))
        for tile, row, column, (left, top, right, bottom) in zip(
            tokens.tiles.tolist(),
            tokens.rows.tolist(),
            tokens.columns.tolist(),
            tokens.boxes.tolist(),
            strict=True,
        )
    ]
    norms = {layer: tokens.norms(layer) for layer in layers}
    bank = next((lens for lens in lenses if isinstance(lens, LatentLens)), None)
    return Reading(
        source=name,
        bank=bank.bank.name if bank else "",
        model=model.name,
        lenses=tuple(lens.name for lens in lenses),
        bank_layers=tuple(bank.bank.choose_layers(bank.bank_layers)) if bank else (),
        layers=tuple(layers),
        tokens=tuple(
            TokenReading(
                index, _label(place), layer, float(norm), tuple(next(found[lens.name])), lens.name, place
            )
            for lens in lenses
            for layer in layers
            for index, (place, norm) in enumerate(zip(places, norms[layer], strict=True))
        ),
        metric=bank.bank.metric if bank else "cosine",
        query_mean=_described(bank, query_mean),
        size=tokens.size,
        geometry=model.geometry,
        prompt=prompt,
        image=image,
    )


def _described(lens: LatentLens | None, query_mean: QueryMean | None) -> str:
    """Say which mean a LatentLens took: its own comes before one that was given for all."""
    if lens is None:
        return ""
    return described(query_mean if lens.query_mean is None else lens.query_mean)


def _label(place: Place) -> str:
    at = f"{place.row},{place.column}"
    return f"{place.tile}:{at}" if place.tile else at


def _python_warning(said: str) -> None:
    warnings.warn(said, RuntimeWarning, stacklevel=3)
