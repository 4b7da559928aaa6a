"""What ablations changed, as tables (docs/json.md has the JSON)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from latentbank.cli.output.text import console
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.query.causes.results import Causes, Effect, Spread

_BY = {
    "mean": "by the mean of visual tokens",
    "image": "by another image's tokens at the same places",
    "attention": "by cutting attention to them",
}
_GROUP = {"showing": "tokens that show it", "random": "as many at random", "near": "as many as near"}


def show_causes(found: Causes) -> None:
    """Print what ablating tokens changed: a table for each way, a line for each layer."""
    screen = console()
    screen.print(Text(f"{found.source} by {found.model}: {found.answer}"), soft_wrap=True)
    said = (
        f"says it as '{found.said}'"
        if found.said
        else "does not say it: scored as the next word after the prompt"
    )
    screen.print(
        Text(f"'{found.word}': the answer {said}, log-probability {found.log_probability:.2f}"),
        soft_wrap=True,
    )
    for way in dict.fromkeys(effect.way for effect in found.effects):
        table = Table(
            "from layer",
            "ablated",
            "tokens",
            "word",
            "other words",
            "lowered most",
            "p",
            title=f"change of log-probability, tokens ablated {_BY[way]}",
            title_justify="left",
            caption="Mean, and the middle 95 % of the draws. p: share of random draws that lower the word as much.",
            caption_justify="left",
        )
        for effect in found.effects:
            if effect.way != way:
                continue
            first = effect.group == "showing"
            table.add_row(
                str(effect.layer) if first else "",
                _GROUP[effect.group],
                f"{effect.count} of {found.visual_tokens}" if first else "",
                _spread(effect.word),
                _spread(effect.others),
                _lowest(found, effect),
                "" if effect.p_value is None else f"{effect.p_value:.2f}",
                end_section=effect.group == "near",
            )
        screen.print(table)
    lens = f"{found.lens} lens" + (f", bank {found.bank}" if found.bank else "")
    tokens = "; ".join(f"{layer}: {listed(numbers)}" for layer, numbers in found.showing.items() if numbers)
    screen.print(Text(f"tokens by layer ({lens}): {tokens}"), soft_wrap=True)
    screen.print(Text(f"an ablation of nothing changes {found.nothing:g}"), soft_wrap=True)


def _lowest(found: Causes, effect: Effect) -> str:
    """Return the other word of the answer that is lowered most, with its change."""
    changes = [
        (change, word.text)
        for change, word in zip(effect.by_word, found.words, strict=False)
        if word.text != found.said
    ]
    return "{1} {0:.2f}".format(*min(changes)) if changes else ""


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.low == spread.high:
        return f"{spread.mean:.2f}"
    return f"{spread.mean:.2f} ({spread.low:.2f} to {spread.high:.2f})"
