"""The contract of lenses: the queries they read, the options they are made from, and their base class."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from latentbank.errors import LayerNotFound, QueryError
from latentbank.places import data_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    import numpy.typing as npt
    from torch import Tensor

    from latentbank.bank.bank import Bank
    from latentbank.bank.layers import BankLayers
    from latentbank.bank.merge import Unique
    from latentbank.bank.planning import Way
    from latentbank.bank.points import Neighbor
    from latentbank.bank.where import Filter
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.calibration.correction import Correction

log = logging.getLogger(__name__)

Kind = Literal["visual", "text", "other"]
ScoreName = Literal["cosine", "probability"]


@dataclass(frozen=True, eq=False)
class Queries:
    """Hidden states of one layer that a lens reads.

    Attributes:
        states: `[tokens, hidden]` in any float dtype: a tensor, an array, or what numpy can read.
        layer: the LLM layer they were taken from; None: not known.
        kind: what they come from: the visual tokens of images, the tokens of a text, or something else.
        mean: the mean of hidden states of their kind, `[hidden]`, or one for each row, `[tokens, hidden]`. A lens with
            a centred bank needs it; other lenses ignore it.
    """

    states: npt.ArrayLike | Tensor
    layer: int | None
    kind: Kind
    mean: npt.ArrayLike | Tensor | None = None

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.states)  # type: ignore[arg-type]  # every array has a length

    def __getitem__(self, rows: slice) -> Queries:
        """Return the queries of some rows, with their means."""
        states: Any = self.states
        mean: Any = self.mean
        own = mean is not None and len(getattr(mean, "shape", ())) == 2
        return replace(self, states=states[rows], mean=mean[rows] if own else mean)


@dataclass(frozen=True)
class LensOptions:
    """The choices from which a lens is made.

    Attributes:
        model: the VLM whose visual tokens are read. Its language model has the vocabulary and the embeddings.
        bank: an open bank of that language model; None: there is none.
        bank_layers: layers of the bank that are searched.
        where: a filter of the bank's contexts.
        unique: one neighbor per "context" or per "word"; None: all.
        exact: the older name of `search="exact"`.
        correction: how scores are corrected, by lenses that can; None: they are not.
        data_dir: the folder of embedded banks, in which lenses that are trained are kept as well; None: that of the
            bank, else that of the settings.
        search: "auto", "graph" or "exact", as `Bank.search` takes it; None: the bank's setting.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> options = lb.LensOptions(vlm, unique="word")
        >>> logit, embedding = lb.lenses_of(["logit", "embedding"], options)
    """

    model: VisualModel
    bank: Bank | None = None
    bank_layers: BankLayers = "all"
    where: Filter | None = None
    unique: Unique | None = None
    exact: bool = False
    correction: Correction | None = None
    data_dir: Path | None = None
    search: Way | None = None

    def folder(self) -> Path:
        """Return the folder in which trained lenses are kept."""
        if self.data_dir is None and self.bank is not None:
            return self.bank.settings.data_dir
        return data_folder(self.data_dir)


def require_lenses(lenses: object) -> None:
    """Check that lenses are a list or another collection of lenses, which may be empty.

    Raises:
        QueryError: they are one lens, or names of lenses.
    """
    if isinstance(lenses, Lens):
        raise QueryError(f"lenses is one lens, {lenses.name}; give a list of lenses.")
    names = [lenses] if isinstance(lenses, str) else lenses
    if not isinstance(names, Collection):
        raise QueryError(f"lenses is of type {type(lenses).__name__}; give a list of lenses.")
    for lens in names:
        if not isinstance(lens, Lens):
            given = f"the name '{lens}'" if isinstance(lens, str) else f"of type {type(lens).__name__}"
            raise QueryError(f"A lens is {given}; make lenses with lenses_of.")


_CLASSES: dict[str, type[Lens]] = {}


class Lens(ABC):
    """Base class of lenses, which find neighbors for hidden states.

    A subclass defines `name`, `title` and `score`, and the methods `make` and `read`. Defining it registers it, unless
    it is given `register=False`. `latentbank.query.lenses.registry` imports the lenses of this package and of installed
    packages. The other methods have defaults that suit a lens without a bank.

    Attributes:
        name: the name it is chosen by, such as "latent".
        title: the name that pages and figures show, such as "LatentLens".
        score: the kind of score its neighbors have.
        needs_bank: whether `make` needs a bank.
        needs_whole: whether it runs the LLM on to its end, so that no layer can be left out when the model is loaded.
        rank: its position in lists of lenses; lower comes first.
        bank: the bank that it searches; None: it searches none.
        correction: how its scores are corrected; None: they are not.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    score: ClassVar[ScoreName]
    needs_bank: ClassVar[bool] = False
    needs_whole: ClassVar[bool] = False
    rank: ClassVar[int] = 100
    bank: Bank | None = None
    correction: Correction | None = None

    def __init_subclass__(cls, *, register: bool = True, **given: Any) -> None:
        """Register a class that defines a name of its own.

        Raises:
            TypeError: it has no title or no valid score, or its name is that of another lens.
        """
        super().__init_subclass__(**given)
        if "name" not in cls.__dict__ or not register:
            return
        if not hasattr(cls, "title") or getattr(cls, "score", None) not in ("cosine", "probability"):
            raise TypeError(
                f"The lens {cls.__qualname__} must define its title, and its score: 'cosine' or 'probability'."
            )
        known = _CLASSES.get(cls.name)
        if known is not None and _is_own(cls) and not _is_own(known):
            log.warning(
                "The lens %s is not available: its name %r is that of latentbank's %s; rename it.",
                f"{known.__module__}.{known.__qualname__}",
                cls.name,
                cls.__qualname__,
            )
        elif known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise TypeError(
                f"The lens {cls.__qualname__} is named {cls.name!r} like {known.__module__}.{known.__qualname__}; "
                "choose another name."
            )
        _CLASSES[cls.name] = cls

    @classmethod
    @abstractmethod
    def make(cls, options: LensOptions) -> Self:
        """Return the lens that fits the options.

        Raises:
            QueryError: it needs a bank and there is none.
        """

    @abstractmethod
    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        """Return the neighbors of each query, highest score first.

        Readings of images call this once per visual layer, with the visual tokens of all images of a batch.

        Args:
            queries: hidden states of one layer.
            top_k: neighbors per query.
        """

    def read_each(self, parts: Sequence[Queries], top_k: int = 5) -> list[list[list[Neighbor]]]:
        """Return what `read` returns for queries of several layers, part by part.

        Args:
            parts: hidden states of one layer each.
            top_k: neighbors per query.
        """
        return [self.read(queries, top_k) for queries in parts]

    def check(self, model: VisualModel) -> None:  # noqa: B027 - a default, not a gap
        """Check, before anything is computed, that the lens can read hidden states of a model.

        Raises:
            BankMismatch: its bank belongs to another model.
            LayerNotFound: its bank does not have a layer that is to be searched.
        """

    def check_layers(self, layers: Sequence[int]) -> None:  # noqa: B027 - as above
        """Check, before anything is computed, that the lens can read hidden states of these layers.

        Raises:
            LayerNotFound: it cannot read a layer.
        """

    def version(self) -> str:
        """Return what tells the lens from others of its name for the same model, such as a digest of what was trained.

        A folder of readings holds those of one version alone. "" is enough for a lens that is made of the model.
        """
        return ""

    def searched_layers(self) -> list[int]:
        """Return the layers of its bank that are searched, ascending; none without a bank."""
        return []

    def why_nothing(self) -> str:
        """Return in a sentence why its bank has nothing to find; "" if it has, or without a bank."""
        return ""

    def at_bank_layer(self, layer: int) -> Lens:
        """Return the same lens searching one of its `searched_layers` alone.

        Raises:
            LayerNotFound: it searches no bank, or the bank does not have the layer.
        """
        raise LayerNotFound(f"{self.title} searches no bank, so it has no bank layer {layer}.")

    def distinct(self) -> Lens:
        """Return the same lens with one neighbor per word; itself if it cannot tell words apart."""
        return self

    def centred(self) -> Lens:
        """Return the same lens for centred hidden states: what it compares them with is centred too."""
        return self

    def corrected(self, correction: Correction | None) -> Lens:
        """Return the same lens with its scores corrected, None: with its own scores; itself if it cannot correct."""
        del correction
        return self


def _is_own(lens: type[Lens]) -> bool:
    """Return whether a lens is one of this package, whose names nobody else can take."""
    return lens.__module__.startswith("latentbank.query.lenses.")


def registered() -> Mapping[str, type[Lens]]:
    """Return the lens classes defined so far, by name; `registry.lens_classes` first imports those that exist."""
    return _CLASSES
