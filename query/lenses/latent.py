"""LatentLens: the nearest contexts of a bank."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from latentbank.bank.nothing import why_nothing
from latentbank.errors import QueryError
from latentbank.query.calibration.look import require_hubs
from latentbank.query.lenses.base import Lens, LensOptions, Queries
from latentbank.values import layers_of

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.layers import BankLayers
    from latentbank.bank.merge import Unique
    from latentbank.bank.points import Neighbor
    from latentbank.bank.where import Filter
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.calibration.correction import Correction


@dataclass(frozen=True)
class LatentLens(Lens):
    """Nearest contexts of a bank by cosine (arXiv 2602.00462).

    If the bank is centred, it subtracts `Queries.mean` from the queries; with a correction, the calibration's mean of
    visual tokens. Queries of visual tokens look at as many
    candidates in a large layer's graph as `Settings.ef_visual` says.

    Args:
        bank: what is searched.
        bank_layers: "mid", "all", "paper", one layer or several.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word"; None: all.
        exact: compare with every context in full precision.
        ef: candidates in a large layer's graph, as `Bank.search` takes it; None: the bank's setting for the kind of
            queries.
        correction: how the scores of the nearest contexts are corrected, by which they are then ranked; None: they are
            ranked by cosine. Text is never corrected.

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

    name = "latent"
    title = "LatentLens"
    score = "cosine"
    needs_bank = True
    rank = 0

    def __post_init__(self) -> None:
        """Keep the bank layers as plain numbers: they are read at each search."""
        if not isinstance(self.bank_layers, str):
            object.__setattr__(self, "bank_layers", tuple(layers_of(self.bank_layers, "bank_layers")))

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
        )

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        """Return the nearest contexts of each query, highest score first: cosine, or the corrected score.

        Raises:
            QueryError: wrong shape, a query that is zero or not finite, or a centred bank and queries without a mean.
                Also, with a correction, a visual layer that is not calibrated, or a context without numbers.
            LayerNotFound: a bank layer that the bank does not have.
        """
        states: Any = queries.states
        mean: Any = queries.mean
        ef = self.bank.settings.ef_visual if self.ef is None and queries.kind == "visual" else self.ef
        look = self.correction.look(queries.layer) if self.correction and queries.kind != "text" else None
        if look is not None and self.bank.metric == "centred":
            mean = look.calibration.references(look.layer).mean
        return self.bank.search(
            states,
            self.bank_layers,
            top_k,
            self.where,
            exact=self.exact,
            unique=self.unique,
            query_mean=mean,
            ef=ef,
            second_look=look,
        )

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
