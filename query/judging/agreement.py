"""How well raters agree: accuracy, Cohen's kappa, Spearman's rho and Krippendorff's alpha, with intervals.

Two comparisons are made. *Judge*: a judge's verdict against that of the people, which is the majority (half or more of
those who voted on the item; Spearman's rho compares with their share instead). *People*: each two people who voted on
the same item, counted once in each order, so that neither is the reference.

Intervals hold 95 % of 500 bootstrap draws of whole images, because tokens of one image are not independent. Alpha is
nominal, by the krippendorff package; ranks are scipy's. Controls, whose words are not the token's own, are compared by
themselves.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from latentbank.errors import LatentBankError, QueryError
from latentbank.progress import Progress, Silent
from latentbank.query.judging.draws import MAJORITY, drawn_statistics, drawn_weights
from latentbank.query.judging.votes import JUDGE, KINDS, Vote
from latentbank.text import listed

DRAWS = 500

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
        control: "" for the tokens' own words, else what the words were.
        items: number of items compared.
        votes: number of people's votes on them.
        yes: share of the people's votes that say yes.
        accuracy, kappa, spearman, alpha: the statistics.
    """

    study: str
    between: Literal["judge", "people"]
    model: str
    kind: str
    control: str
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
    control: str
    people: tuple[Vote, ...]
    judge: Vote | None

    @property
    def share(self) -> float:
        """The share of the people who find it interpretable."""
        return float(np.mean([vote.interpretable for vote in self.people]))

    @property
    def words(self) -> tuple[str, ...]:
        """The words that were judged; none if no vote says them."""
        votes = (*self.people, *([self.judge] if self.judge else ()))
        return next((vote.words for vote in votes if vote.words), ())

    @property
    def disagreement(self) -> Literal["", "judge", "people"]:
        """Who differs: the judge from the people's majority, else people among themselves; empty if nobody does."""
        if self.judge is not None and self.judge.interpretable != (self.share >= MAJORITY):
            return "judge"
        return "people" if len({vote.interpretable for vote in self.people}) > 1 else ""


def items_of(votes: Iterable[Vote], judge: str | None = JUDGE) -> list[Item]:
    """Return the items that people voted on, with all votes on each, in the order of the votes.

    Args:
        votes: the votes.
        judge: the rater who is the judge; None: there is none.

    Raises:
        QueryError: two raters were shown other words for the same item.
    """
    found: dict[tuple[str, str], list[Vote]] = defaultdict(list)
    for vote in votes:
        found[vote.study, vote.item].append(vote)
    items = []
    for (study, name), given in found.items():
        if len(shown := {vote.words for vote in given if vote.words}) > 1:
            one, other = (listed(words) for words in sorted(shown)[:2])
            raise QueryError(
                f"The raters of {name} were shown other words ({one}; {other}), so their votes cannot be compared: ask "
                "them about the same readings."
            )
        people = tuple(vote for vote in given if vote.rater != judge)
        verdict = next((vote for vote in given if vote.rater == judge), None)
        if people:
            first = given[0]
            items.append(Item(study, name, first.model, first.image, first.control, people, verdict))
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
        LatentBankError: krippendorff is not installed.
    """
    progress = progress or Silent()
    groups = list(_groups(items))
    if not groups:
        raise QueryError("No item has votes of two raters, so nothing can be compared.")
    found = []
    for done, group in enumerate(groups):
        progress.update(done, len(groups))
        found.append(_agreement(group, draws))
    progress.update(len(groups), len(groups))
    return found


@dataclass(frozen=True)
class _Group:
    """What one comparison is about, and its items."""

    study: str
    between: Literal["judge", "people"]
    model: str
    kind: str
    control: str
    items: Sequence[Item]


def _groups(items: Sequence[Item]) -> Iterator[_Group]:
    """Iterate over what is compared: each study, of judge and people, in all and by model, by kind; then controls."""
    kinds = ("any", *KINDS) if any(vote.relations for item in items for vote in item.people) else ("any",)
    betweens: tuple[Literal["judge", "people"], ...] = ("judge", "people")
    for study, between in itertools.product(dict.fromkeys(item.study for item in items), betweens):
        chosen = [item for item in items if item.study == study and _comparable(item, between)]
        own = [item for item in chosen if not item.control]
        models = sorted({item.model for item in own})
        for model in ("all", *models) if len(models) > 1 else ("all",) if own else ():
            part = [item for item in own if model in ("all", item.model)]
            for kind in kinds:
                yield _Group(study, between, model, kind, "", part)
        for control in dict.fromkeys(item.control for item in chosen if item.control):
            part = [item for item in chosen if item.control == control]
            yield _Group(study, between, "all", "any", control, part)


def _comparable(item: Item, between: str) -> bool:
    return item.judge is not None if between == "judge" else len(item.people) > 1


@dataclass(frozen=True)
class _Compared:
    """The votes of one comparison as arrays.

    Attributes:
        shares: `[pairs]`, the share of yes that is compared: one person's vote, or the mean of all people's.
        votes: `[pairs]` (bool), the vote that it is compared with.
        counts: `[items, 2]`, how often no and yes were given to an item, for alpha.
        image_of_pair: `[pairs]`, the number of each pair's image.
        image_of_item: `[items]`, the number of each item's image.
    """

    shares: Floats
    votes: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.int64]
    image_of_pair: npt.NDArray[np.int64]
    image_of_item: npt.NDArray[np.int64]


def _agreement(group: _Group, draws: int) -> Agreement:
    items = group.items
    people = [np.array([_says(vote, group.kind) for vote in item.people], dtype=float) for item in items]
    compared = _compared(items, people, group.between, group.kind)
    whole = _statistics(compared.shares, compared.votes, compared.counts)
    images = len({item.image for item in items})
    drawn: Mapping[str, Floats] = {}
    if draws and images > 1:
        drawn = drawn_statistics(
            drawn_weights(images, draws),
            compared.image_of_pair,
            compared.shares,
            compared.votes,
            compared.image_of_item,
            compared.counts,
        )
    return Agreement(
        group.study,
        group.between,
        group.model,
        group.kind,
        group.control,
        items=len(items),
        votes=sum(map(len, people)),
        yes=float(np.concatenate(people).mean()),
        **{name: _estimate(value, drawn.get(name)) for name, value in whole.items()},
    )


def _compared(items: Sequence[Item], people: Sequence[Floats], between: str, kind: str) -> _Compared:
    pairs: list[tuple[int, float, bool]] = []
    counts: list[tuple[int, int]] = []
    numbers: dict[str, int] = {}
    for item, given in zip(items, people, strict=True):
        image = numbers.setdefault(item.image, len(numbers))
        if between == "judge":
            share, verdict = float(given.mean()), _says(item.judge, kind)
            pairs.append((image, share, verdict))
            yes = int(share >= MAJORITY) + int(verdict)
            counts.append((2 - yes, yes))
        else:
            pairs += [
                (image, float(a), bool(b)) for i, a in enumerate(given) for j, b in enumerate(given) if i != j
            ]
            counts.append((int((given == 0).sum()), int((given == 1).sum())))
    return _Compared(
        shares=np.array([share for _, share, _ in pairs]),
        votes=np.array([vote for _, _, vote in pairs]),
        counts=np.array(counts),
        image_of_pair=np.array([image for image, _, _ in pairs]),
        image_of_item=np.array([numbers[item.image] for item in items]),
    )


def _says(vote: Vote | None, kind: str) -> bool:
    assert vote is not None
    return vote.interpretable if kind == "any" else kind in vote.relations


def _statistics(
    shares: Floats, votes: npt.NDArray[np.bool_], counts: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return the statistics of pairs and items (see `_Compared`), NaN where they are not defined."""
    alpha, rankdata = _libraries()
    verdicts = shares >= MAJORITY
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


def _estimate(value: float, draws: Floats | None) -> Estimate:
    defined = draws[np.isfinite(draws)] if draws is not None else np.empty(0)
    if not np.isfinite(value):
        return Estimate(None, None, None)
    if not len(defined):
        return Estimate(value, None, None)
    low, high = np.quantile(defined, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
