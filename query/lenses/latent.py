"""LatentLens: the nearest contexts of a bank."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from latentbank.bank.kinds import require_bank
from latentbank.bank.nothing import why_nothing
from latentbank.bank.planning import way_of
from latentbank.bank.search import as_floats
from latentbank.errors import QueryError
from latentbank.query.calibration.look import CorrectedLook, looks_of, require_hubs
from latentbank.query.lenses.base import Lens, LensOptions, Queries
from latentbank.values import layers_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from latentbank.bank.bank import Bank
    from latentbank.bank.layers import BankLayers
    from latentbank.bank.merge import Unique
    from latentbank.bank.planning import Way
    from latentbank.bank.points import Neighbor
    from latentbank.bank.where import Filter
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.calibration.correction import Correction


# Queries of several layers that are searched for together: enough to share what a scan reads, not much memory. With a
# correction fewer, as ten times as many contexts are looked at.
_TOGETHER, _CORRECTED_TOGETHER = 4096, 512


@dataclass(frozen=True)
class LatentLens(Lens):
    """Nearest contexts of a bank by cosine (arXiv 2602.00462).

    If the bank is centred, it subtracts `Queries.mean` from the queries; with a correction, the calibration's mean of
    visual tokens. The bank is told which queries are visual tokens: they lose their way in a large layer's graph sooner
    than text.

    Args:
        bank: what is searched.
        bank_layers: "mid", "all", "paper", one layer or several.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word"; None: all.
        exact: the older name of `search="exact"`.
        ef: candidates in a large layer's graph, as `Bank.search` takes it; None: what suits the kind of queries.
        correction: how the scores of the nearest contexts are corrected, by which they are then ranked; None: they are
            ranked by cosine. Text is never corrected.
        search: "auto", "graph" or "exact", as `Bank.search` takes it; None: the bank's setting.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     lens = lb.LatentLens(bank, bank_layers="all", unique="word")
        ...     (reading,) = lb.read_images(vlm, ["cat.jpg"], [lens], layers=[8])
    """

    bank: Bank = field()  # without field(), dataclasses takes the base class's None for a default
    bank_layers: BankLayers = "mid"
    where: Filter | None = None
    unique: Unique | None = None
    exact: bool = False
    ef: int | None = None
    correction: Correction | None = None
    search: Way | None = None

    name = "latent"
    title = "LatentLens"
    score = "cosine"
    needs_bank = True
    rank = 0

    def __post_init__(self) -> None:
        """Keep the bank layers as plain numbers: they are read at each search.

        Raises:
            QueryError: the bank is only a bank's name, or a choice has no such value.
            LayerNotFound: the bank layers are not whole numbers.
        """
        require_bank(self.bank)
        if not isinstance(self.bank_layers, str):
            object.__setattr__(self, "bank_layers", tuple(layers_of(self.bank_layers, "bank_layers")))
        way_of(self.search, exact=self.exact)

    @classmethod
    def make(cls, options: LensOptions) -> LatentLens:
        """Return the lens over the bank of the options.

        Raises:
            QueryError: there is no bank.
        """
        if options.bank is None:
            raise QueryError("LatentLens needs a bank; open one.")
        return cls(
            options.bank,
            options.bank_layers,
            options.where,
            options.unique,
            options.exact,
            correction=options.correction,
            search=options.search,
        )

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        """Return the nearest contexts of each query, highest score first: cosine, or the corrected score.

        Raises:
            QueryError: wrong shape, a query that is zero or not finite, or a centred bank and queries without a mean.
                Also, with a correction, a visual layer that is not calibrated, or a context without numbers.
            LayerNotFound: a bank layer that the bank does not have.
        """
        return self._search([queries], _visual_layer(queries), top_k)

    def read_each(self, parts: Sequence[Queries], top_k: int = 5) -> list[list[list[Neighbor]]]:
        """Return what `read` returns for queries of several layers; see `Lens.read_each`.

        They are one search: a scan then reads each bank layer once for all of them.
        """
        visual = [_visual_layer(queries) for queries in parts]
        if len(parts) < 2 or None in visual:
            return super().read_each(parts, top_k)
        most = _TOGETHER if self.correction is None else _CORRECTED_TOGETHER
        found: list[list[list[Neighbor]]] = []
        for start, stop in _together([len(queries) for queries in parts], most):
            some = parts[start:stop]
            layers = [
                layer
                for layer, queries in zip(visual[start:stop], some, strict=True)
                for _ in range(len(queries))
            ]
            rows = iter(self._search(some, cast("list[int]", layers), top_k))
            found += [list(itertools.islice(rows, len(queries))) for queries in some]
        return found

    def _search(
        self, parts: Sequence[Queries], visual_layer: int | list[int] | None, top_k: int
    ) -> list[list[Neighbor]]:
        looks = [self._look(queries) for queries in parts]
        means = [self._mean(queries, look) for queries, look in zip(parts, looks, strict=True)]
        states, mean = cast("npt.ArrayLike", parts[0].states), means[0]
        if len(parts) > 1:
            states = np.concatenate([as_floats(queries.states) for queries in parts])
            mean = _rows_of_means(means, parts)
        return self.bank.search(
            states,
            self.bank_layers,
            top_k,
            self.where,
            exact=self.exact,
            unique=self.unique,
            query_mean=mean,
            ef=self.ef,
            second_look=looks_of(looks, [len(queries) for queries in parts]),
            search=self.search,
            visual_layer=visual_layer,
        )

    def _look(self, queries: Queries) -> CorrectedLook | None:
        """Return the second look at what queries find; None: they are not corrected."""
        if self.correction is None or queries.kind == "text":
            return None
        return self.correction.look(queries.layer)

    def _mean(self, queries: Queries, look: CorrectedLook | None) -> npt.ArrayLike | None:
        """Return the mean that is subtracted from queries; None: nothing is."""
        if look is not None and self.bank.metric == "centred":
            return look.calibration.references(look.layer).mean
        return cast("npt.ArrayLike | None", queries.mean)

    def check(self, model: VisualModel) -> None:
        """Check that the bank is of the VLM's language model and has the layers to search.

        Raises:
            BankMismatch: the bank belongs to another model, or the calibration is of another VLM or for another bank.
            QueryError: means are to be corrected in a centred bank.
            LayerNotFound: a bank layer that the bank does not have.
        """
        if self.correction is not None:
            self.correction.calibration.require(model, self.bank)
            require_hubs(self.correction.mode, self.bank.manifest)
        self.bank.require_model(model.name, model.language.identity())
        self.searched_layers()

    def searched_layers(self) -> list[int]:
        """Return the bank layers that are searched, ascending.

        Raises:
            LayerNotFound: a bank layer that the bank does not have.
        """
        return self.bank.choose_layers(self.bank_layers)

    def why_nothing(self) -> str:
        """Return in a sentence why the bank has nothing to find; "" if it has."""
        return why_nothing(self.bank, self.where)

    def at_bank_layer(self, layer: int) -> LatentLens:
        """Return the same lens searching one bank layer."""
        return replace(self, bank_layers=layer)

    def distinct(self) -> LatentLens:
        """Return the same lens with one neighbor per word."""
        return replace(self, unique="word")

    def corrected(self, correction: Correction | None) -> LatentLens:
        """Return the same lens with its scores corrected; None: with plain cosines."""
        return replace(self, correction=correction)


def _visual_layer(queries: Queries) -> int | None:
    """Return the visual layer of queries, -1 if it is not known; None: they are no visual tokens."""
    if queries.kind != "visual":
        return None
    return -1 if queries.layer is None else queries.layer


def _rows_of_means(
    means: Sequence[npt.ArrayLike | None], parts: Sequence[Queries]
) -> npt.NDArray[Any] | None:
    """Return the mean of each query, `[queries, hidden]`; None unless all parts have one."""
    rows = []
    for mean, queries in zip(means, parts, strict=True):
        if mean is None:
            return None
        known = as_floats(mean)
        rows.append(np.broadcast_to(known, (len(queries), known.shape[-1])))
    return np.concatenate(rows)


def _together(lengths: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of groups of parts, `most` rows at most, or one part."""
    start = rows = 0
    for at, length in enumerate(lengths):
        if at > start and rows + length > most:
            yield start, at
            start, rows = at, 0
        rows += length
    if lengths:
        yield start, len(lengths)
