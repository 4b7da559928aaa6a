"""Readings of text, and of hidden states from anywhere, against a bank."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentbank.bank.bank import Bank
from latentbank.bank.kinds import require_bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.merge import Unique
from latentbank.bank.planning import Way
from latentbank.bank.search import as_floats
from latentbank.bank.where import Filter
from latentbank.bank.words import Words, tight
from latentbank.errors import QueryError
from latentbank.layers import require_layers
from latentbank.models.kinds import require_language
from latentbank.query.lenses.base import Kind, Lens, Queries, require_lenses
from latentbank.query.lenses.centring import QueryMean, described, resolve_mean
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.reading.reading import Reading, TokenKind, TokenReading
from latentbank.text import public_name
from latentbank.values import Layers, layers_of, names_of, whole

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel


def read_text(
    bank: Bank,
    model: LanguageModel,
    sentence: str,
    layers: Layers | None = None,
    *,
    token: str | None = None,
    bank_layers: BankLayers = "mid",
    top_k: int = 5,
    where: Filter | None = None,
    unique: Unique | None = None,
    exact: bool = False,
    search: Way | None = None,
    lenses: Sequence[Lens] = (),
) -> Reading:
    """Read every token of a sentence against a bank, and through other lenses.

    Args:
        bank: a bank of the same model.
        model: the LLM; it must be the bank's, as its digests say.
        sentence: the text.
        layers: the layers whose hidden states are read; None: the middle one of the bank's layers.
        token: read only tokens of this word, or tokens with this text (case is ignored).
        bank_layers: "mid", "all", "paper", one bank layer or several.
        top_k: neighbors per token.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word".
        exact: the older name of `search="exact"`.
        search: "auto", "graph" or "exact", as `Bank.search` takes it; None: the bank's setting.
        lenses: further lenses of the same LLM, such as a tuned lens.

    Returns:
        A reading of all real tokens. If the bank's corpora were planned with a BOS before every sentence, the sentence
        gets one too. The first token of a sentence has no context, so its neighbors mean little; a bank holds no such
        contexts.

    Raises:
        BankMismatch: the bank belongs to another model.
        LayerNotFound: a layer that the model or a lens does not have, or whose mean of text a centred bank does not
            know.
        QueryError: the sentence is empty, or has no such token; the bank is only a bank's name.
        ModelError: the model is a vision-language model, or only a model's name.

    Examples:
        >>> import latentbank as lb
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> with lb.open_bank("captions") as bank:
        ...     reading = lb.read_text(bank, model, "A dog sleeps on the porch.", layers=8, token="dog")
        >>> len(reading.tokens[0].neighbors)
        5
    """
    require_bank(bank)
    require_language(model)
    require_lenses(lenses)
    bank.require_model(model.name, model.identity())
    chosen = _layers_to_read(bank, layers)
    for lens in lenses:
        lens.check_layers(chosen)
    always_bos = planned_with_bos(bank)
    ids = model.encode(sentence, always_bos=always_bos)
    special = set(model.tokenizer.all_special_ids)
    texts = [str(model.tokenizer.decode([id_])) for id_ in ids]
    places = [i for i, id_ in enumerate(ids) if id_ not in special]
    if not places:
        raise QueryError("The sentence has no tokens; give some text.")
    if token is not None:
        spans = model.spans(sentence, always_bos=always_bos)
        places = _matching(sentence, texts, spans, places, token)
    states = model.hidden_states([ids], chosen)[0]
    return _read(
        LatentLens(bank, bank_layers, where, unique, exact, search=search),
        {layer: states[layer][places].float().cpu().numpy() for layer in chosen},
        labels=[texts[i] for i in places],
        indices=places,
        source=str(sentence),
        kind="text",
        top_k=top_k,
        query_mean="text" if bank.metric == "centred" else None,
        others=lenses,
    )


def read_hidden(
    bank: Bank,
    hidden_states: npt.ArrayLike | Mapping[int, npt.ArrayLike],
    *,
    labels: Sequence[str] | None = None,
    source: str = "hidden states",
    bank_layers: BankLayers = "mid",
    top_k: int = 5,
    where: Filter | None = None,
    unique: Unique | None = None,
    exact: bool = False,
    search: Way | None = None,
    query_mean: QueryMean | None = None,
) -> Reading:
    """Read hidden states from anywhere: soft prompts, speech, latent reasoning steps.

    Args:
        bank: a bank of the LLM that the hidden states live in.
        hidden_states: `[tokens, hidden]`, or a mapping from layer to such arrays of equal length.
        labels: what each token is called; None: its number.
        source: what all of them are called.
        bank_layers: as for `read_text`.
        top_k: neighbors per token.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word".
        exact: the older name of `search="exact"`.
        search: "auto", "graph" or "exact", as `Bank.search` takes it; None: the bank's setting.
        query_mean: for a centred bank, the mean that is subtracted from the hidden states: "text" (the bank's mean of
            text at their layer), "batch" (their own), `Means` measured on others of their kind, or an array `[hidden]`.

    Raises:
        LayerNotFound: the bank's LLM does not have a layer.
        QueryError: wrong shape, or a hidden state that is zero or not finite; a centred bank without
            `query_mean`, or another bank with it; the bank is only a bank's name.

    Examples:
        >>> import latentbank as lb
        >>> import numpy as np
        >>> hidden_states = np.load("hidden_states.npy")
        >>> with lb.open_bank("captions") as bank:
        ...     reading = lb.read_hidden(bank, hidden_states, bank_layers=[8], where=lb.Where(corpus="captions"))
        >>> len(reading.tokens) == len(hidden_states)
        True
    """
    require_bank(bank)
    given = hidden_states if isinstance(hidden_states, Mapping) else {-1: hidden_states}
    arrays = {whole(layer, "layer"): _rows(states) for layer, states in given.items()}
    if isinstance(hidden_states, Mapping):
        require_llm_layers(bank, arrays)
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise QueryError("Every layer needs hidden states of the same tokens, and at least one of them.")
    (count,) = lengths
    if labels is not None and len(labels) != count:
        raise QueryError(f"There are {len(labels)} labels for {count} tokens.")
    lens = LatentLens(bank, bank_layers, where, unique, exact, search=search)
    names = names_of(labels) if labels is not None else [str(i) for i in range(count)]
    return _read(lens, arrays, names, list(range(count)), str(source), "other", top_k, query_mean)


def require_llm_layers(bank: Bank, layers: Iterable[int]) -> None:
    """Check that the LLM of a bank has the layers that hidden states are said to come from.

    Raises:
        LayerNotFound: it lacks some.
    """
    require_layers(f"The LLM of the bank '{bank.name}'", layers, bank.manifest.num_layers)


def _read(
    lens: LatentLens,
    states: Mapping[int, npt.NDArray[Any]],
    labels: Sequence[str],
    indices: Sequence[int],
    source: str,
    kind: Kind,
    top_k: int,
    query_mean: QueryMean | None,
    others: Sequence[Lens] = (),
) -> Reading:
    tokens = []
    own: TokenKind = "text" if kind == "text" else "other"
    for each, (layer, rows) in itertools.product((lens, *others), states.items()):
        norms = np.linalg.norm(np.asarray(rows, dtype=np.float64), axis=-1)
        mean = resolve_mean(lens.bank, query_mean, layer, rows) if each is lens else None
        found = each.read(Queries(rows, layer if layer >= 0 else None, kind, mean), top_k)
        tokens += [
            TokenReading(index, label, layer, float(norm), tuple(neighbors), each.name, kind=own)
            for index, label, norm, neighbors in zip(indices, labels, norms, found, strict=True)
        ]
    return Reading(
        source=source,
        bank=lens.bank.name,
        model=public_name(lens.bank.manifest.model),
        lenses=(lens.name, *(other.name for other in others)),
        bank_layers=tuple(lens.searched_layers()),
        layers=tuple(states),
        tokens=tuple(tokens),
        metric=lens.bank.metric,
        query_mean=described(query_mean),
        note="" if all(token.neighbors for token in tokens) else lens.why_nothing(),
    )


def planned_with_bos(bank: Bank) -> bool:
    """Return whether every corpus of the bank has the model's BOS before its sentences."""
    planned = [entry.plan.get("bos") for entry in bank.corpora.values()]
    return bool(planned) and all(bos == "always" for bos in planned)


def _layers_to_read(bank: Bank, layers: Layers | None) -> list[int]:
    if layers is None:
        middle = bank.choose_layers("mid")
        return [middle[len(middle) // 2]]
    return layers_of(layers)


def _matching(
    sentence: str, texts: list[str], spans: list[tuple[int, int]], places: list[int], token: str
) -> list[int]:
    """Return those of `places` whose token or word is `token`.

    Raises:
        QueryError: there are none.
    """
    target = token.strip().casefold()
    words = Words(sentence)
    found = [
        i
        for i in places
        if target in (texts[i].strip().casefold(), words.at(*tight(sentence, *spans[i])).casefold())
    ]
    if not found:
        raise QueryError(
            f"The sentence has no token or word '{token}'; its tokens are {' '.join(repr(texts[i]) for i in places)}."
        )
    return found


def _rows(states: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        return np.atleast_2d(as_floats(states))
    except (TypeError, ValueError) as error:
        raise QueryError(f"Hidden states must be an array of numbers [tokens, hidden]: {error}.") from None
