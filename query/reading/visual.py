"""Reading images: every visual token of a VLM, at the layers asked for, through one lens or several."""

from __future__ import annotations

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
from latentbank.query.reading.visual_tokens import Broken, Seen, see

if TYPE_CHECKING:
    import numpy.typing as npt

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

    Each lens is called once per visual layer, with the visual tokens of all images of the batch.

    Args:
        model: the VLM.
        images: paths, bytes, open images or what `find_images` finds.
        lenses: what reads; a lens's bank must be of the VLM's own language model.
        layers: the visual layers.
        top_k: neighbors per token.
        prompt: the text beside the image; None: the model's own way.
        batch: images in one forward pass.
        query_mean: for a centred bank, the mean that is subtracted from visual tokens: `Means` measured on many
            images, "batch" (each image's own at each layer), or an array `[hidden]`; None: the means kept with the
            VLM, else "batch". Lenses without a bank read visual tokens as they are.
        broken: told the name of an image that cannot be read, or that the model refuses, and why; the others are read.
            None: raise.
        warn: told once if visual norms are beyond what the model's dtype holds; None: a Python warning.

    Yields:
        A reading of each image, in their order, through all lenses at all layers.

    Raises:
        BankMismatch: a lens's bank belongs to another model.
        QueryError: no lens, or no layer.
        ImageError: an image cannot be read.
        ModelError: a hidden state is not finite.
    """
    wanted, query_mean = _checked(model, lenses, layers, query_mean)
    if batch < 1:
        raise QueryError(f"The batch is {batch}; it must be at least 1 image.")
    batches = see(model, images, wanted, prompt, batch, broken)
    how = _How(lenses, top_k, prompt, query_mean, warn or _python_warning)
    return _read(model, batches, [wanted], how)


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
        A reading of each visual layer alone, in their order; `join_layers` makes them one.
    """
    wanted, query_mean = _checked(model, lenses, layers, query_mean)
    seen = see(model, [image], wanted, prompt, 1, None)
    alone = [[layer] for layer in wanted]
    how = _How(lenses, top_k, prompt, query_mean, warn or _python_warning, between)
    return _read(model, seen, alone, how)


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
        lens.check(model)
        if lens.bank is not None and lens.bank.metric == "centred" and query_mean is None:
            query_mean = kept_means(model) or "batch"
    return wanted, query_mean


@dataclass(frozen=True)
class _How:
    """How images are read: see `read_images` and `read_layers`."""

    lenses: Sequence[Lens]
    top_k: int
    prompt: str | None
    query_mean: QueryMean | None
    warn: Callable[[str], None]
    between: Callable[[int], None] | None = None

    def neighbors(self, lens: Lens, layer: int, batch: Sequence[VisualTokens]) -> Iterator[list[Neighbor]]:
        """Read a visual layer of all images of a batch through a lens: the neighbors of each visual token."""
        states = torch.cat([tokens.states[layer] for tokens in batch])
        queries = Queries(states, layer, "visual", self._mean(lens, layer, batch))
        if self.between is not None:
            return iter(read_in_pieces(lens, queries, self.top_k, self.between))
        return iter(lens.read(queries, self.top_k))

    def _mean(
        self, lens: Lens, layer: int, batch: Sequence[VisualTokens]
    ) -> npt.NDArray[np.floating[Any]] | None:
        """Return a row of mean for each visual token, `[tokens, hidden]`; None unless the lens's bank is centred.

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
    model: VisualModel, batches: Iterator[list[Seen]], together: Sequence[Sequence[int]], how: _How
) -> Iterator[Reading]:
    """Read the visual tokens of batches; those layers that are `together` become one reading of each image."""
    warned = False
    for part in batches:
        batch = [image.tokens for image in part]
        if not warned and (warning := beyond_range(model, batch)):
            warned = True
            how.warn(warning)
        for layers in together:
            found = {
                (lens.name, layer): how.neighbors(lens, layer, batch)
                for lens in how.lenses
                for layer in layers
            }
            for image in part:
                yield _reading(model, image, layers, found, how)


def _reading(
    model: VisualModel,
    seen: Seen,
    layers: Sequence[int],
    found: Mapping[tuple[str, int], Iterator[list[Neighbor]]],
    how: _How,
) -> Reading:
    """Return the reading of one image, whose neighbors come next in what each lens found at each layer."""
    tokens = seen.tokens
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
    searching = next((lens for lens in how.lenses if lens.bank is not None), None)
    bank = searching.bank if searching else None
    return Reading(
        source=seen.name,
        bank=bank.name if bank else "",
        model=model.name,
        lenses=tuple(lens.name for lens in how.lenses),
        bank_layers=tuple(searching.searched_layers()) if searching else (),
        layers=tuple(layers),
        tokens=tuple(
            TokenReading(
                index,
                _label(place),
                layer,
                float(norm),
                tuple(next(found[lens.name, layer])),
                lens.name,
                place,
            )
            for lens in how.lenses
            for layer in layers
            for index, (place, norm) in enumerate(zip(places, norms[layer], strict=True))
        ),
        metric=bank.metric if bank else "cosine",
        query_mean=described(how.query_mean) if bank else "",
        size=tokens.size,
        geometry=model.geometry,
        prompt=how.prompt,
        image=seen.image,
    )


def _label(place: Place) -> str:
    at = f"{place.row},{place.column}"
    return f"{place.tile}:{at}" if place.tile else at


def _python_warning(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=3)
