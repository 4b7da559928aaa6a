"""A followed token as a table or JSON (docs/json.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from latentbank.cli.output.text import console, print_json
from latentbank.query.lenses.registry import title_of
from latentbank.query.output.grids import shorten

if TYPE_CHECKING:
    from latentbank.query.following.followed import Followed


def give_followed(followed: Followed, output: Path | None, as_json: bool) -> None:
    """Write a followed token's picture or page, if a file is named, and print its table or JSON.

    Raises:
        QueryError: the file has no suffix of a picture or page.
        LatentBankError: the file cannot be written, or matplotlib is not installed.
    """
    from latentbank.query.following.figure import save_followed

    if output is not None:
        save_followed(followed, output.expanduser())
    show_followed(followed, as_json=as_json)


def show_followed(followed: Followed, *, as_json: bool) -> None:
    """Print a followed token: at each layer its words, and the cosines of its drift."""
    if as_json:
        print_json(followed.to_dict())
        return
    several = len(followed.lenses) > 1
    norms = any(step.norm is not None for step in followed.steps)
    table = Table(
        "layer",
        *(["lens"] if several else []),
        "to the layer before",
        "to the first",
        *(["norm"] if norms else []),
        "nearest",
        title=Text(followed.title),
        title_justify="left",
        caption="cosines of its hidden state with itself at another layer"
        + (f"; in brackets without the mean {followed.means}" if followed.means else ""),
        caption_justify="left",
    )
    for step in followed.steps:
        drift = step.drift
        for number, lens in enumerate(followed.lenses):
            first = number == 0
            words = ", ".join(f"{shorten(one.word, 40)} {one.score:.2f}" for one in step.neighbors[lens])
            table.add_row(
                str(step.layer) if first else "",
                *([title_of(lens)] if several else []),
                _cosines(drift.previous, drift.centred_previous) if first else "",
                _cosines(drift.first, drift.centred_first) if first else "",
                *([f"{step.norm:,.4g}" if first and step.norm is not None else ""] if norms else []),
                Text(words),
                end_section=several and number == len(followed.lenses) - 1,
            )
    console().print(table)


def _cosines(plain: float | None, centred: float | None) -> str:
    """Return a cosine, with the centred one in brackets."""
    shown = [f"{plain:.3f}"] if plain is not None else []
    return " ".join([*shown, *([f"({centred:.3f})"] if centred is not None else [])])
