"""A page of the items that raters disagree on, as one self-contained HTML file."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from latentbank.query.judging.agreement import Item
from latentbank.query.judging.votes import KINDS, Vote

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid #8884 }
td { overflow-wrap: anywhere }
ul { margin: 0; padding: 0; list-style: none }
@media (max-width: 40rem) {
  thead { display: none }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid #8884 }
  td { display: block; border: 0; padding: .1rem 0 }
  td::before { content: attr(data-title) ": "; font-weight: 600 }
}
"""
_COLUMNS = ("item", "people", "judge")


def disagreements_html(items: Iterable[Item]) -> str:
    """Return a page with every item whose raters disagree (see `Item.disagrees`), by study, with all votes on it."""
    items = list(items)
    chosen = [item for item in items if item.disagrees]
    parts = [f"<p>{len(chosen):,} of {len(items):,} items: the raters disagree.</p>"]
    for study in dict.fromkeys(item.study for item in chosen):
        rows = [item for item in chosen if item.study == study]
        parts.append(f"<h2>{html.escape(study or 'votes')}: {len(rows):,} items</h2>{_table(rows)}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Disagreements – latentbank</title><style>{_STYLE}</style></head>"
        f"<body><h1>Where raters disagree</h1>{''.join(parts)}</body></html>\n"
    )


def _table(items: Sequence[Item]) -> str:
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, items))}</tbody></table>"


def _row(item: Item) -> str:
    votes = "".join(f"<li>{html.escape(f'{vote.rater}: {_answer(vote)}')}</li>" for vote in item.people)
    judge = "–" if item.judge is None else html.escape(_answer(item.judge))
    cells = (html.escape(item.name), f"<ul>{votes}</ul>", judge)
    titled = [f'<td data-title="{name}">{cell}</td>' for name, cell in zip(_COLUMNS, cells, strict=True)]
    return f"<tr>{''.join(titled)}</tr>"


def _answer(vote: Vote) -> str:
    kinds = [kind for kind in KINDS if kind in vote.relations]
    return f"yes ({', '.join(kinds)})" if kinds else "yes" if vote.interpretable else "no"
