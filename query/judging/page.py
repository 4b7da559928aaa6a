"""A page of the items that raters disagree on, as one self-contained HTML file."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from latentbank.query.judging.agreement import Item
from latentbank.query.judging.votes import KINDS, Vote
from latentbank.query.web.file import PAGE

_TITLES = {"judge": "the judge and the people's majority differ", "people": "people differ among themselves"}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def disagreements_html(items: Iterable[Item], pictures: Mapping[str, str] | None = None) -> str:
    """Return a page with every item whose raters disagree (see `Item.disagreement`), with all votes on it.

    Args:
        items: from `items_of`.
        pictures: from `pictures_of`; None: the page has no pictures.
    """
    items = list(items)
    chosen = [item for item in items if item.disagreement]
    parts = [f'<p class="about">{len(chosen):,} of {len(items):,} items: the raters disagree.</p>']
    for study in dict.fromkeys(item.study for item in chosen):
        for kind, title in _TITLES.items():
            own = [item for item in chosen if (item.study, item.disagreement) == (study, kind)]
            if own:
                heading = html.escape(f"{study or 'votes'}: {title} on {len(own):,} items")
                articles = [_article(item, (pictures or {}).get(item.name)) for item in own]
                parts.append(f"<h2>{heading}</h2>{''.join(articles)}")
    style = "".join((PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "disagreements.css"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Disagreements – latentbank</title><style>{style}</style></head>"
        f"<body><h1>Where raters disagree</h1><main>{''.join(parts)}</main></body></html>\n"
    )


def _article(item: Item, picture: str | None) -> str:
    name = html.escape(item.name)
    image = f'<img src="{picture}" alt="The image with a red box" loading="lazy">' if picture else ""
    raters = [*item.people, *([item.judge] if item.judge else [])]
    # A region that scrolls must be reachable by keyboard.
    return (
        f'<article><h3>{name}</h3>{image}<div class="votes" tabindex="0" role="region" aria-label="Votes on {name}">'
        f"{_table(item, raters)}</div></article>"
    )


def _table(item: Item, raters: Sequence[Vote]) -> str:
    """Return a table of the raters' answers: to each word where the votes have them, and in all."""
    head = "".join(f'<th scope="col">{html.escape(vote.rater)}</th>' for vote in raters)
    rows = []
    shown = next((vote.shown or vote.words for vote in raters if vote.shown), item.words)
    for at, word in enumerate(shown):
        cells = [vote.kinds[at] if len(vote.kinds) == len(shown) else "" for vote in raters]
        rows.append(_row(_marked(word), [cell.replace("+", ", ") or "–" for cell in cells]))
    rows.append(_row("<b>interpretable</b>", [_answer(vote) for vote in raters]))
    return f'<table><thead><tr><th scope="col">word</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _row(title: str, cells: Sequence[str]) -> str:
    return f"<tr><td>{title}</td>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


def _marked(shown: str) -> str:
    """Return what was shown as HTML; of a sentence the word between `**` is marked."""
    before, mark, rest = shown.partition("**")
    word, end, after = rest.partition("**")
    if not (mark and end and word):
        return html.escape(shown)
    return f"{html.escape(before)}<mark>{html.escape(word)}</mark>{html.escape(after)}"


def _answer(vote: Vote) -> str:
    kinds = [kind for kind in KINDS if kind in vote.relations]
    return f"yes ({', '.join(kinds)})" if kinds else "yes" if vote.interpretable else "no"
