"""Following a token of a sentence, or a visual token, through a model's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.merge import Unique
from latentbank.bank.planning import Way
from latentbank.bank.rotation import unit
from latentbank.bank.search import as_floats, prepared
from latentbank.bank.where import Filter
from latentbank.bank.words import tight
from latentbank.errors import QueryError
from latentbank.models.vision.sources import Source
from latentbank.progress import Progress, Silent
from latentbank.query.following.contexts import bank_mean, mean_told
from latentbank.query.following.followed import Followed, Step, Vector, drifts
from latentbank.query.lenses.base import Lens, Queries
from latentbank.query.lenses.centring import Means, QueryMean, kept_means, resolve_mean
from latentbank.query.reading.around import VISUAL_ALONE
from latentbank.query.reading.assembly import place_label, places_of
from latentbank.query.reading.text import planned_with_bos, read_text
from latentbank.query.reading.visual import checked
from latentbank.query.reading.visual_tokens import image_tokens
from latentbank.text import public_name
from latentbank.values import Layers, whole

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.tokens import VisualModel


def follow_text(
    bank: Bank,
    model: LanguageModel,
    sentence: str,
    token: str,
    layers: Layers | None = None,
    *,
    bank_layers: BankLayers = "all",
    top_k: int = 5,
    where: Filter | None = None,
    unique: Unique | None = "word",
    search: Way | None = None,
    lenses: Sequence[Lens] = (),
    progress: Progress | None = None,
) -> Followed:
    """Follow a token of a sentence through an LLM's layers.

    Args:
        bank: a bank of the same LLM.
        model: the LLM.
        sentence: the text.
        token: the word, of which the last token is followed, or a token; of several, the last one in the sentence.
        layers: the layers; None: the bank's.
        bank_layers: the bank layers that are searched at each of them.
        top_k: neighbors at each layer.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word".
        search: "auto", "graph" or "exact", as `Bank.search` takes it; None: the bank's setting.
        lenses: further lenses of the same LLM.
        progress: counts the layers whose mean is measured.

    Raises:
        LatentBankError: as for `read_text`.
    """
    reading = read_text(
        bank,
        model,
        sentence,
        bank.layers if layers is None else layers,
        token=token,
        bank_layers=bank_layers,
        top_k=top_k,
        where=where,
        unique=unique,
        search=search,
        lenses=lenses,
    )
    chosen = list(reading.layers)
    last = max(one.index for one in reading.tokens)
    bos = planned_with_bos(bank)
    states = model.hidden_states([model.encode(sentence, always_bos=bos)], chosen)[0]
    rows = [states[layer][last].float().cpu().numpy() for layer in chosen]
    found = {(one.layer, one.lens): one for one in reading.tokens if one.index == last}
    centred = _without_text_mean(bank, chosen, rows, progress or Silent())
    return Followed(
        kind="text",
        label=found[chosen[0], reading.lenses[0]].label,
        source=sentence,
        bank=bank.name,
        model=reading.model,
        lenses=reading.lenses,
        steps=tuple(
            Step(
                layer,
                drift,
                found[layer, reading.lenses[0]].norm,
                {lens: found[layer, lens].neighbors for lens in reading.lenses},
            )
            for layer, drift in zip(chosen, drifts(rows, centred), strict=True)
        ),
        means=mean_told(bank) if centred is not None else "",
        span=tight(sentence, *model.spans(sentence, always_bos=bos)[last]),
    )


def follow_visual(
    model: VisualModel,
    image: Source,
    place: str,
    lenses: Sequence[Lens],
    layers: Layers | None = None,
    *,
    top_k: int = 5,
    prompt: str | None = None,
    query_mean: QueryMean | None = None,
) -> Followed:
    """Follow a visual token through a VLM's layers.

    Args:
        model: the VLM, loaded as deep as the layers.
        image: a path, a file's bytes, an open image, or an array or tensor of pixels.
        place: the token's row and column, such as "3,4"; of another tile than the first, "1:3,4"; of a token outside
            all grids its number.
        lenses: the lenses to read through.
        layers: the visual layers; None: all, from the LLM's input on.
        top_k: neighbors at each layer.
        prompt: the text beside the image; None: the model's own.
        query_mean: for a centred bank, as for `read_images`.

    Raises:
        QueryError: the image has no such token.
        LatentBankError: as for `read_images`.
    """
    top_k = whole(top_k, "top_k", 1)
    everything = range(model.num_layers + 1) if layers is None else layers
    chosen, query_mean = checked(model, lenses, everything, query_mean, VISUAL_ALONE)
    ((found,),) = image_tokens(model, [image], chosen, prompt, 1, None)
    labels = [place_label(*pair) for pair in enumerate(places_of(found.tokens))]
    if place.replace(" ", "") not in labels:
        raise QueryError(f"{found.name} has no visual token {place}; it has {labels[0]} to {labels[-1]}.")
    number = labels.index(place.replace(" ", ""))
    states = {layer: as_floats(found.tokens.states[layer]) for layer in chosen}
    answers = {lens.name: _read(lens, states, number, query_mean, top_k) for lens in lenses}
    rows: list[Vector] = [states[layer][number] for layer in chosen]
    centred, told = _without_visual_mean(model, states, number)
    searching = next((lens.bank for lens in lenses if lens.bank is not None), None)
    return Followed(
        kind="visual",
        label=labels[number],
        source=public_name(found.name),
        bank=searching.name if searching else "",
        model=public_name(model.name),
        lenses=tuple(answers),
        steps=tuple(
            Step(layer, drift, float(np.linalg.norm(row)), {name: at[layer] for name, at in answers.items()})
            for layer, row, drift in zip(chosen, rows, drifts(rows, centred), strict=True)
        ),
        means=told,
        place=list(places_of(found.tokens))[number],
        size=found.tokens.size,
        image=found.image,
    )


def _read(
    lens: Lens, states: dict[int, Any], number: int, query_mean: QueryMean | None, top_k: int
) -> dict[int, Any]:
    """Return what a lens finds for one token at each layer."""
    parts = []
    for layer, rows in states.items():
        mean = None if lens.bank is None else resolve_mean(lens.bank, query_mean, layer, rows)
        parts.append(Queries(rows[[number]], layer, "visual", mean))
    found = lens.read_each(parts, top_k)
    return {layer: tuple(rows[0]) for layer, rows in zip(states, found, strict=True)}


def _without_text_mean(
    bank: Bank, layers: Sequence[int], rows: Sequence[Vector], progress: Progress
) -> list[Vector] | None:
    """Return hidden states without the mean of text at their layers; None if the bank lacks one of these layers."""
    if not set(layers) <= set(bank.layers):
        return None
    manifest, found = bank.manifest, list[Vector]()
    for number, (layer, row) in enumerate(zip(layers, rows, strict=True)):
        progress.update(number, len(layers))
        stored = prepared(manifest, row, "hidden states", manifest.mean(layer))[0]
        found.append(stored - bank_mean(bank, layer))
    return found


def _without_visual_mean(
    model: VisualModel, states: dict[int, Any], number: int
) -> tuple[list[Vector] | None, str]:
    """Return a token's directions without the mean of visual tokens: that kept with the VLM, else the image's own."""
    means = kept_means(model)
    if means is not None and means.units_by_layer.keys() >= states.keys():
        return _minus(states, number, means), f"of {means.kind}, at each layer"
    if len(next(iter(states.values()))) < 2:
        return None, ""
    own = {layer: unit(rows).mean(axis=0) for layer, rows in states.items()}
    return [unit(rows[number]) - own[layer] for layer, rows in states.items()], (
        "of the image's visual tokens, at each layer"
    )


def _minus(states: dict[int, Any], number: int, means: Means) -> list[Vector]:
    return [unit(rows[number]) - means.at(layer, units=True) for layer, rows in states.items()]
