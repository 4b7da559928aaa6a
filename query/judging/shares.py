"""Shares of interpretable tokens by model, lens and visual layer, with intervals from a bootstrap over images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from latentbank.query.judging.agreement import DRAWS, Estimate
from latentbank.query.judging.verdicts import Verdict

_SEED = 0


@dataclass(frozen=True)
class Shares:
    """The verdicts of one rater on the tokens of one model, through one lens, at one layer.

    Attributes:
        study: "words" or "sentences".
        rater: who answered.
        model: the VLM.
        lens: the lens.
        layer: the visual layer; None: all layers together.
        control: "" for the tokens' own words, else what the words were.
        images: number of images.
        answered: number of answers that could be read; shares are of these.
        unreadable: number of answers that could not be read.
        failed: number of questions without an answer.
        interpretable: share with at least one word in any list.
        concrete, abstract, global_: share with at least one word in that list; a token can count in several.
    """

    study: str
    rater: str
    model: str
    lens: str
    layer: int | None
    control: str
    images: int
    answered: int
    unreadable: int
    failed: int
    interpretable: Estimate
    concrete: Estimate
    abstract: Estimate
    global_: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-ready data; `global_` is called `global`."""
        data = asdict(self)
        data["global"] = data.pop("global_")
        return data


def shares_of(verdicts: Iterable[Verdict], *, draws: int = DRAWS) -> list[Shares]:
    """Return the shares for each study, rater, model, lens and control: of each layer, then of all layers together.

    Intervals hold 95 % of the bootstrap draws of whole images, because tokens of one image are not independent.

    Args:
        verdicts: the verdicts.
        draws: number of bootstrap draws; 0: no intervals.
    """
    groups: dict[tuple[str, ...], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        subject = verdict.subject
        groups[verdict.study, verdict.rater, subject.model, subject.lens, subject.control].append(verdict)
    found = []
    for (study, rater, model, lens, control), own in groups.items():
        layers: list[int | None] = [*sorted({verdict.subject.layer for verdict in own})]
        for layer in [*layers, None] if len(layers) > 1 else layers:
            part = [one for one in own if layer is None or one.subject.layer == layer]
            found.append(_shares((study, rater, model, lens), layer, control, part, draws))
    return sorted(found, key=_order)


def _order(row: Shares) -> tuple[Any, ...]:
    """Sort by what is compared; a token's own words come before controls, and all layers after each."""
    last = row.layer if row.layer is not None else 10**9
    return row.study, row.rater, row.model, row.control, row.lens, last


def _shares(
    about: tuple[str, str, str, str], layer: int | None, control: str, part: Sequence[Verdict], draws: int
) -> Shares:
    answered = [verdict for verdict in part if verdict.state == "answered"]
    images = sorted({verdict.subject.image for verdict in answered})
    number = {image: at for at, image in enumerate(images)}
    # For each image the answers, and those with a word in any list and in each of the three.
    counts = np.zeros((len(images), 5))
    for verdict in answered:
        lists = (verdict.concrete, verdict.abstract, verdict.global_)
        counts[number[verdict.subject.image]] += (1, any(lists), *map(bool, lists))
    estimates = _estimates(counts, draws)
    return Shares(
        *about,
        layer,
        control,
        len({verdict.subject.image for verdict in part}),
        len(answered),
        sum(verdict.state == "unreadable" for verdict in part),
        sum(verdict.state == "failed" for verdict in part),
        *estimates,
    )


def _estimates(counts: np.ndarray[Any, np.dtype[np.float64]], draws: int) -> list[Estimate]:
    """Return the estimates of four shares from counts `[images, 5]`, the first column being the whole."""
    if not len(counts):
        return [Estimate(None, None, None)] * 4
    whole = counts.sum(axis=0)
    values = whole[1:] / whole[0]
    if len(counts) < 2 or not draws:
        return [Estimate(float(value), None, None) for value in values]
    random = np.random.default_rng(_SEED)
    drawn = random.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=draws) @ counts
    low, high = np.quantile(drawn[:, 1:] / drawn[:, :1], [0.025, 0.975], axis=0)
    return [Estimate(float(value), float(a), float(b)) for value, a, b in zip(values, low, high, strict=True)]
