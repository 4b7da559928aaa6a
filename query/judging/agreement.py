"""How well raters agree: accuracy, Cohen's kappa, Spearman's rho and Krippendorff's alpha, with intervals.

Two comparisons are made. *Judge*: a judge's verdict against that of the people, which is the majority (half or more of
those who voted on the item; Spearman's rho compares with their share instead). *People*: each two people who voted on
the same item, counted once in each order, so that neither is the reference.

Intervals hold 95 % of 500 bootstrap draws of whole images, because tokens of one image are not independent. Alpha is
nominal, by the krippendorff package; ranks are scipy's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from latentbank.errors import LatentBankError, QueryError
from latentbank.progress import Progress, Silent
from latentbank.query.judging.votes import JUDGE, KINDS, Vote

DRAWS = 500
_SEED = 0
_MAJORITY = 0.5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval; all None where it is not defined, as with a single kind of vote."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """The agreement of one comparison.

    Attributes:
        study: what was shown; empty if the votes do not say.
        between: "judge" (judge and people) or "people" (people among themselves).
        model: the model; "all" for all of them.
        kind: what is agreed on: "any" (interpretable or not), or one of concrete, abstract and global.
        items: number of items compared.
        votes: number of people's votes on them.
        yes: share of the people's votes that say yes.
        accuracy, kappa, spearman, alpha: the statistics.
    """

    study: str
    between: Literal["judge", "people"]
    model: str
    kind: str
    items: int
    votes: int
    yes: float
    accuracy: Estimate
    kappa: Estimate
    spearman: Estimate
    alpha: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the agreement as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class Item:
    """The votes on one item: those of the people, and the judge's (None if there is none)."""

    study: str
    name: str
    model: str
    image: str
    people: tuple[Vote, ...]
    judge: Vote | None

    @property
    def share(self) -> float:
        """The share of the people who find it interpretable."""
        return float(np.mean([vote.interpretable for vote in self.people]))

    @property
    def disagrees(self) -> bool:
        """Whether the judge's verdict differs from the people's majority, or, without a judge, people differ."""
        if self.judge is None:
            return len({vote.interpretable for vote in self.people}) > 1
        return self.judge.interpretable != (self.share >= _MAJORITY)


def items_of(votes: Iterable[Vote], judge: str = JUDGE) -> list[Item]:
    """Return the items that people voted on, with all votes on each, in the order of the votes.

    Args:
        votes: the votes.
        judge: the rater who is the judge.
    """
    found: dict[tuple[str, str], list[Vote]] = defaultdict(list)
    for vote in votes:
        found[vote.study, vote.item].append(vote)
    items = []
    for (study, name), given in found.items():
        people = tuple(vote for vote in given if vote.rater != judge)
        verdict = next((vote for vote in given if vote.rater == judge), None)
        if people:
            items.append(Item(study, name, given[0].model, given[0].image, people, verdict))
    return items


def agreements(
    items: Sequence[Item], progress: Progress | None = None, *, draws: int = DRAWS
) -> list[Agreement]:
    """Return how well judge and people, and people among themselves, agree: in all, by kind and by model.

    Args:
        items: from `items_of`.
        progress: counts the comparisons.
        draws: number of bootstrap draws for the intervals; 0: no intervals.

    Raises:
        QueryError: no item has votes of two raters.
        LatentBankError: krippendorff or scipy is not installed.
    """
    progress = progress or Silent()
    groups = list(_groups(items))
    if not groups:
        raise QueryError("No item has votes of two raters, so nothing can be compared.")
    found = []
    for done, (study, between, model, kind, chosen) in enumerate(groups):
        progress.update(done, len(groups))
        found.append(_agreement(study, between, model, kind, chosen, draws))
    progress.update(len(groups), len(groups))
    return found


def _groups(
    items: Sequence[Item],
) -> Iterable[tuple[str, Literal["judge", "people"], str, str, list[Item]]]:
    """Iterate over what is compared: study, between whom, model, kind, and the items."""
    kinds = ("any", *KINDS) if any(vote.relations for item in items for vote in item.people) else ("any",)
    betweens: tuple[Literal["judge", "people"], ...] = ("judge", "people")
    for study in dict.fromkeys(item.study for item in items):
        for between in betweens:
            chosen = [item for item in items if item.study == study and _comparable(item, between)]
            if not chosen:
                continue
            for kind in kinds:
                yield study, between, "all", kind, chosen
            models = sorted({item.model for item in chosen})
            for model in models if len(models) > 1 else ():
                yield study, between, model, "any", [item for item in chosen if item.model == model]


def _comparable(item: Item, between: str) -> bool:
    return item.judge is not None if between == "judge" else len(item.people) > 1


@dataclass(frozen=True)
class _Compared:
    """The votes of one comparison as arrays.

    Attributes:
        shares: `[pairs]`, the share of yes that is compared: one person's vote, or the mean of all people's.
        votes: `[pairs]` (bool), the vote that it is compared with.
        counts: `[items, 2]`, how often no and yes were given to an item, for alpha.
        pairs_of: the pairs of each image.
        items_of: the items of each image.
    """

    shares: Floats
    votes: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.int64]
    pairs_of: Sequence[npt.NDArray[np.int64]]
    items_of: Sequence[npt.NDArray[np.int64]]


def _agreement(
    study: str, between: Literal["judge", "people"], model: str, kind: str, items: Sequence[Item], count: int
) -> Agreement:
    people = [np.array([_says(vote, kind) for vote in item.people], dtype=float) for item in items]
    compared = _compared(items, people, between, kind)
    whole = _statistics(compared.shares, compared.votes, compared.counts)
    random = np.random.default_rng(_SEED)
    images = len(compared.items_of)
    draws: dict[str, list[float]] = {name: [] for name in whole}
    for _ in range(count if images > 1 else 0):
        drawn = random.integers(images, size=images)
        pairs = np.concatenate([compared.pairs_of[image] for image in drawn])
        chosen = np.concatenate([compared.items_of[image] for image in drawn])
        found = _statistics(compared.shares[pairs], compared.votes[pairs], compared.counts[chosen])
        for name, value in found.items():
            draws[name].append(value)
    return Agreement(
        study,
        between,
        model,
        kind,
        items=len(items),
        votes=sum(map(len, people)),
        yes=float(np.concatenate(people).mean()),
        **{name: _estimate(value, draws[name]) for name, value in whole.items()},
    )


def _compared(items: Sequence[Item], people: Sequence[Floats], between: str, kind: str) -> _Compared:
    pairs: list[tuple[float, bool]] = []
    counts: list[tuple[int, int]] = []
    pairs_of: dict[str, list[int]] = defaultdict(list)
    items_of: dict[str, list[int]] = defaultdict(list)
    for index, (item, given) in enumerate(zip(items, people, strict=True)):
        if between == "judge":
            share, verdict = float(given.mean()), _says(item.judge, kind)
            new = [(share, verdict)]
            yes = int(share >= _MAJORITY) + int(verdict)
            counts.append((2 - yes, yes))
        else:
            new = [(a, bool(b)) for i, a in enumerate(given) for j, b in enumerate(given) if i != j]
            counts.append((int((given == 0).sum()), int((given == 1).sum())))
        items_of[item.image].append(index)
        pairs_of[item.image].extend(range(len(pairs), len(pairs) + len(new)))
        pairs += new
    return _Compared(
        shares=np.array([share for share, _ in pairs]),
        votes=np.array([vote for _, vote in pairs]),
        counts=np.array(counts),
        pairs_of=[np.array(rows) for rows in pairs_of.values()],
        items_of=[np.array(rows) for rows in items_of.values()],
    )


def _says(vote: Vote | None, kind: str) -> bool:
    assert vote is not None
    return vote.interpretable if kind == "any" else kind in vote.relations


def _statistics(
    shares: Floats, votes: npt.NDArray[np.bool_], counts: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return the statistics of pairs and items (see `_Compared`), NaN where they are not defined."""
    alpha, rankdata = _libraries()
    verdicts = shares >= _MAJORITY
    accuracy = float((verdicts == votes).mean())
    # The agreement that two raters with the same shares of yes would reach by chance.
    chance = verdicts.mean() * votes.mean() + (1 - verdicts.mean()) * (1 - votes.mean())
    both = bool(counts.sum(axis=0).all())
    varies = bool(np.ptp(shares) > 0 and votes.any() and not votes.all())
    undefined = float("nan")
    return {
        "accuracy": accuracy,
        "kappa": float((accuracy - chance) / (1 - chance)) if chance < 1 else undefined,
        "spearman": float(np.corrcoef(rankdata(shares), rankdata(votes))[0, 1]) if varies else undefined,
        "alpha": float(alpha(value_counts=counts, level_of_measurement="nominal")) if both else undefined,
    }


def _libraries() -> tuple[Any, Any]:
    """Return krippendorff's alpha and scipy's ranks."""
    try:
        from krippendorff import alpha
        from scipy.stats import rankdata
    except ImportError as error:
        raise LatentBankError(f"Agreement needs {error.name}: pip install 'latentbank[judge]'.") from None
    return alpha, rankdata


def _estimate(value: float, draws: Sequence[float]) -> Estimate:
    defined = np.array([draw for draw in draws if np.isfinite(draw)])
    if not np.isfinite(value):
        return Estimate(None, None, None)
    if not len(defined):
        return Estimate(value, None, None)
    low, high = np.quantile(defined, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
