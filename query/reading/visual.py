"""Reading images: every visual token of a VLM, at the layers asked for, through one lens or several."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.merge import Unique
from latentbank.bank.points import Neighbor
from latentbank.bank.where import Filter
from latentbank.errors import QueryError
from latentbank.query.lenses.base import Lens, Queries
from latentbank.query.lenses.centring import QueryMean, described, kept_means, resolve_mean
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.reading.images import Source
from latentbank.query.reading.norms import beyond_range
from latentbank.query.reading.pieces import read_in_pieces
from latentbank.query.reading.reading import Place, Reading, TokenReading
from latentbank.query.reading.visual_tokens import Broken, ImageTokens, image_tokens
from latentbank.values import Layers, layers_of, whole

if TYPE_CHECKING:
    import numpy.typing as npt

    from latentbank.models.vision.tokens import VisualModel, VisualTokens

BATCH = 8
"""Images in one forward pass."""


def default_visual_layers(num_layers: int) -> list[int]:
    """Return the visual layers that are read by default: the input, and an eighth, a quarter and half of the LLM."""
    return sorted({0, *(max(1, round(num_layers * eighths / 8)) for eighths in (1, 2, 4))})


def read_image(
    bank: Bank,
    model: VisualModel,
    image: Source,
    layers: Layers | None = None,
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
    """Read every visual token of one image against a bank, and through other lenses.

    Args:
        bank: a bank of the VLM's own language model.
        model: the VLM; its fingerprint is checked.
        image: a path, a file's bytes or an open image.
        layers: the visual layers; None: the input, an eighth, a quarter and half of the LLM's layers.
        bank_layers: "mid", "all", one bank layer or several.
        top_k: neighbors per token.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word".
        exact: compare with every context in full precision.
        prompt: the text beside the image; None: the model's own.
        query_mean: as for `read_images`.
        lenses: further lenses, such as a LogitLens.

    Raises:
        BankMismatch: the bank belongs to another model.
        ImageError: the image cannot be read.
        ModelError: a hidden state is not finite.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     reading = lb.read_image(bank, vlm, "cat.jpg", layers=[0, 8], bank_layers="all")
        >>> words = reading.grid(8)
    """
    if layers is None:
        layers = default_visual_layers(model.num_layers)
    latent = LatentLens(bank, bank_layers, where, unique, exact)
    (reading,) = read_images(
        model, [image], [latent, *lenses], layers, top_k=top_k, prompt=prompt, query_mean=query_mean
    )
    return reading


def read_images(
    model: VisualModel,
    images: Iterable[Source],
    lenses: Sequence[Lens],
    layers: Layers,
    *,
    top_k: int = 5,
    prompt: str | None = None,
    batch: int = BATCH,
    query_mean: QueryMean | None = None,
    broken: Broken | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Reading]:
    """Read many images, a batch at a time. Memory does not grow with their number.

    Each lens is called once per visual layer, with the visual tokens of all images of the batch.

    Args:
        model: the VLM.
        images: paths, bytes, open images or what `find_images` finds.
        lenses: the lenses to read through; a lens's bank must be of the VLM's own language model.
        layers: the visual layers.
        top_k: neighbors per token.
        prompt: the text beside the image; None: the model's own.
        batch: images in one forward pass.
        query_mean: for a centred bank, the mean that is subtracted from visual tokens: `Means` measured on many
            images, "batch" (each image's own at each layer), or an array `[hidden]`; None: the means kept with the
            VLM, else "batch". Lenses without a bank read visual tokens as they are.
        broken: called with the name of an image that cannot be read or that the model refuses, and the error; such an
            image is left out. None: the error is raised.
        warn: called once with a warning if visual norms are beyond what the model's dtype can hold; None: a Python
            warning is issued.

    Yields:
        A reading of each image through all lenses at all layers, in the images' order.

    Raises:
        BankMismatch: a lens's bank belongs to another model.
        QueryError: there is no lens or no layer.
        ImageError: an image cannot be read.
        ModelError: a hidden state is not finite.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     for reading in lb.read_images(vlm, lb.find_images(["photos"]), [lb.LatentLens(bank)], layers=[0, 8]):
        ...         path = lb.save_reading(reading, f"{reading.source}.png")
    """
    top_k, batch = whole(top_k, "top_k", 1), whole(batch, "batch", 1)
    chosen, query_mean = _checked(model, lenses, layers, query_mean)
    batches = image_tokens(model, images, chosen, prompt, batch, broken)
    choices = _Choices(lenses, top_k, prompt, query_mean, warn or _python_warning)
    return _read(model, batches, [chosen], choices)


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
    between: Callable[[int], None] | None = None,
) -> Iterator[Reading]:
    """Read one image layer by layer, so that the first layer can be shown before the last is read.

    The other arguments and the errors are those of `read_images`.

    Args:
        between: called between pieces of a layer, as `read_in_pieces` says; None: a layer is read at once.

    Yields:
        A reading of each visual layer alone, in the layers' order; `join_layers` joins them.
    """
    chosen, query_mean = _checked(model, lenses, layers, query_mean)
    found = image_tokens(model, [image], chosen, prompt, 1, None)
    choices = _Choices(lenses, top_k, prompt, query_mean, warn or _python_warning, between)
    return _read(model, found, [[layer] for layer in chosen], choices)


def join_layers(readings: Sequence[Reading]) -> Reading:
    """Return the readings that `read_layers` yields as one, equal to what `read_images` yields."""
    tokens = {
        lens: [token for reading in readings for token in reading.tokens if token.lens == lens]
        for lens in readings[0].lenses
    }
    return replace(
        readings[0],
        layers=tuple(layer for reading in readings for layer in reading.layers),
        tokens=tuple(token for of_lens in tokens.values() for token in of_lens),
    )


def _checked(
    model: VisualModel, lenses: Sequence[Lens], layers: Layers, query_mean: QueryMean | None
) -> tuple[list[int], QueryMean | None]:
    """Check lenses and layers; return each layer once, and the mean for a centred bank."""
    chosen = layers_of(layers)
    if not chosen or not lenses:
        raise QueryError(f"Name at least one {'lens' if chosen else 'visual layer'}.")
    if len({lens.name for lens in lenses}) != len(lenses):
        raise QueryError("Two lenses have the same name; read the images twice instead.")
    for lens in lenses:
        lens.check(model)
        if lens.bank is not None and lens.bank.metric == "centred" and query_mean is None:
            query_mean = kept_means(model) or "batch"
    return chosen, query_mean


@dataclass(frozen=True)
class _Choices:
    """What `read_images` and `read_layers` were asked for; see there."""

    lenses: Sequence[Lens]
    top_k: int
    prompt: str | None
    query_mean: QueryMean | None
    warn: Callable[[str], None]
    between: Callable[[int], None] | None = None

    def neighbors(self, lens: Lens, layer: int, batch: Sequence[VisualTokens]) -> Iterator[list[Neighbor]]:
        """Return the neighbors of each visual token of a batch's images, in order, at one layer by one lens."""
        states = torch.cat([tokens.states[layer] for tokens in batch])
        queries = Queries(states, layer, "visual", self._mean(lens, layer, batch))
        if self.between is not None:
            return iter(read_in_pieces(lens, queries, self.top_k, self.between))
        return iter(lens.read(queries, self.top_k))

    def _mean(
        self, lens: Lens, layer: int, batch: Sequence[VisualTokens]
    ) -> npt.NDArray[np.floating[Any]] | None:
        """Return the mean of each visual token as rows `[tokens, hidden]`; None unless the lens's bank is centred.

        Raises:
            QueryError: a mean was given and the bank is not centred.
        """
        if lens.bank is None:
            return None
        means = []
        for tokens in batch:
            states = tokens.states[layer]
            mean = resolve_mean(lens.bank, self.query_mean, layer, states)
            if mean is None:
                return None
            means.append(np.broadcast_to(mean, states.shape))
        return np.concatenate(means)


def _read(
    model: VisualModel,
    batches: Iterator[list[ImageTokens]],
    groups: Sequence[Sequence[int]],
    choices: _Choices,
) -> Iterator[Reading]:
    """Read the visual tokens of batches. The layers of a group become one reading of each image."""
    warned = False
    for part in batches:
        batch = [image.tokens for image in part]
        if not warned and (warning := beyond_range(model, batch)):
            warned = True
            choices.warn(warning)
        for layers in groups:
            found = {
                (lens.name, layer): choices.neighbors(lens, layer, batch)
                for lens in choices.lenses
                for layer in layers
            }
            for image in part:
                yield _reading(model, image, layers, found, choices)


def _reading(
    model: VisualModel,
    image: ImageTokens,
    layers: Sequence[int],
    found: Mapping[tuple[str, int], Iterator[list[Neighbor]]],
    choices: _Choices,
) -> Reading:
    """Return the reading of one image. Its neighbors come next in what each lens `found` at each layer."""
    tokens = image.tokens
    places = [
        Place(tile, row, column, None if math.isnan(left) else (left, top, right, bottom))
        for tile, row, column, (left, top, right, bottom) in zip(
            tokens.tiles.tolist(),
            tokens.rows.tolist(),
            tokens.columns.tolist(),
            tokens.boxes.tolist(),
            strict=True,
        )
    ]
    norms = {layer: tokens.norms(layer) for layer in layers}
    searching = next((lens for lens in choices.lenses if lens.bank is not None), None)
    bank = searching.bank if searching else None
    return Reading(
        source=image.name,
        bank=bank.name if bank else "",
        model=model.name,
        lenses=tuple(lens.name for lens in choices.lenses),
        bank_layers=tuple(searching.searched_layers()) if searching else (),
        layers=tuple(layers),
        tokens=tuple(
            TokenReading(
                index,
                _label(index, place),
                layer,
                float(norm),
                tuple(next(found[lens.name, layer])),
                lens.name,
                place,
            )
            for lens in choices.lenses
            for layer in layers
            for index, (place, norm) in enumerate(zip(places, norms[layer], strict=True))
        ),
        metric=bank.metric if bank else "cosine",
        query_mean=described(choices.query_mean) if bank else "",
        size=tokens.size,
        geometry=tokens.geometry or model.geometry,
        prompt=choices.prompt,
        image=image.image,
    )


def _label(index: int, place: Place) -> str:
    if place.row < 0:
        return str(index)
    at = f"{place.row},{place.column}"
    return f"{place.tile}:{at}" if place.tile else at


def _python_warning(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=3)
