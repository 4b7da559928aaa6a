"""Votes from files of any kind: of people, in CSV or JSON lines, and of judges, in Parquet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from latentbank.errors import QueryError
from latentbank.query.judging.verdicts import read_verdicts
from latentbank.query.judging.votes import JUDGE, Vote, read_votes
from latentbank.text import listed


@dataclass(frozen=True)
class Ballots:
    """The votes of people and of one judge.

    Attributes:
        votes: all of them.
        judge: the rater who is the judge; None: there is no judge.
        left_out: number of the judge's verdicts that are no votes, as there was no answer or it could not be read.
    """

    votes: tuple[Vote, ...]
    judge: str | None
    left_out: int


def read_ballots(paths: Iterable[Path], judge: str | None = None) -> Ballots:
    """Read votes from CSV files and JSON lines (see `read_votes`), and verdicts from Parquet files.

    Args:
        paths: the files.
        judge: the rater who is the judge; None: the rater "judge", or the only rater of the Parquet files.

    Raises:
        QueryError: a file cannot be read, there are no votes, or it is not clear who the judge is.
    """
    paths = list(paths)
    tables = [path for path in paths if path.suffix.lower() == ".parquet"]
    verdicts = read_verdicts(tables)
    judges = dict.fromkeys(verdict.rater for verdict in verdicts)
    files = [path for path in paths if path not in tables]
    people = read_votes(files) if files else []
    judge = judge if judge is not None else _found(judges, people)
    raters = dict.fromkeys([*judges, *(vote.rater for vote in people)])
    if judge is not None and judge not in raters:
        raise QueryError(f"There is no rater {judge}; there are {listed(raters)}.", argument="judge")
    # Other judges are no people.
    own = [verdict for verdict in verdicts if verdict.rater == judge]
    votes = {(vote.study, vote.item): vote for verdict in own if (vote := verdict.vote()) is not None}
    others = [vote for vote in people if vote.rater not in judges]
    left_out = sum(verdict.interpretable is None for verdict in own)
    return Ballots((*others, *votes.values()), judge, left_out)


def _found(judges: Iterable[str], people: Iterable[Vote]) -> str | None:
    """Return the judge whom nobody has named."""
    found = [*judges]
    if JUDGE in found or any(vote.rater == JUDGE for vote in people):
        return JUDGE
    if len(found) > 1:
        raise QueryError(f"There are verdicts of {listed(found)}; name the judge.", argument="judge")
    return found[0] if found else None
