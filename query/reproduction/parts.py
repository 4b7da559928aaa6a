"""Parts of the report: what it is made from, its sections, and tables as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from latentbank.query.reproduction.measured import Measured
from latentbank.query.reproduction.plan import Plan
from latentbank.query.reproduction.stages import Done


@dataclass(frozen=True)
class Report:
    """What a report is made from.

    Attributes:
        plan: what was reproduced.
        rater: the judge's name.
        rows: the numbers measured here.
        published: the published numbers.
        stages: the stages.
        tagged: whether parts of speech were counted.
    """

    plan: Plan
    rater: str
    rows: tuple[Measured, ...]
    published: tuple[Measured, ...]
    stages: tuple[Done, ...]
    tagged: bool = True

    def of(self, figure: str, *, published: bool = False) -> list[Measured]:
        """Return the numbers of a figure: those measured here, or the published ones."""
        return [row for row in (self.published if published else self.rows) if row.figure == figure]


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        title: its heading.
        text: HTML of its paragraphs and tables.
        charts: its charts, each with a caption.
    """

    title: str
    text: str
    charts: tuple[tuple[str, str], ...] = ()


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], published: Iterable[Sequence[str]] = ()
) -> str:
    """Return a table as HTML; texts are escaped. Rows that were published are gray, below the others."""
    head = "".join(f'<th scope="col"{_left(column)}>{html.escape(column)}</th>' for column in columns)
    body = "".join(_row(columns, row, "") for row in rows)
    body += "".join(_row(columns, row, ' class="published"') for row in published)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(columns: Sequence[str], row: Sequence[str], attributes: str) -> str:
    cells = "".join(
        f'<td{_left(column)} data-title="{html.escape(column)}">{html.escape(cell)}</td>'
        for column, cell in zip(columns, row, strict=True)
    )
    return f"<tr{attributes}>{cells}</tr>"


def _left(column: str) -> str:
    return ' class="lens"' if column in ("lens", "tokens") else ""


def percent(row: Measured | None, *, interval: bool = True) -> str:
    """Return a share in percent with its interval; empty if there is none."""
    if row is None:
        return ""
    text = f"{100 * row.value:.1f}"
    if interval and row.low is not None and row.high is not None:
        text += f" ({100 * row.low:.1f} to {100 * row.high:.1f})"
    return text
