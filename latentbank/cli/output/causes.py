"""What ablations changed, as tables (docs/json.md has the JSON)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from latentbank.cli.output.text import console, print_json
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.query.causes.results import Causes, Effect, Spread
    from latentbank.query.causes.writing import Writings

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


def show_writings(found: Writings, *, as_json: bool) -> None:
    """Print what the model says once contexts were written into visual tokens, or their directions removed."""
    if as_json:
        print_json(found.to_dict())
        return
    screen = console()
    screen.print(Text(f"{found.source} by {found.model}: {found.answer}"), soft_wrap=True)
    done = "written into" if found.act == "write" else "removed from"
    for layer in dict.fromkeys(row.layer for row in found.written):
        rows = [row for row in found.written if row.layer == layer]
        at = rows[0].bank_layer
        table = Table("contexts", "say it", "word", "a context", "the answer then", title_justify="left")
        other = "" if at == layer else " (another layer)"
        table.title = Text(
            f"visual layer {layer}, contexts of bank layer {at}{other} {done} tokens {listed(found.tokens)}"
        )
        for row in rows:
            kind = f"of '{found.word}'" if row.kind == "word" else "random"
            for number, (context, answer) in enumerate(zip(row.contexts, row.answers, strict=True)):
                head = (kind, f"{row.said:.0%}", _spread(row.word)) if number == 0 else ("", "", "")
                table.add_row(*head, Text(context), Text(answer), end_section=number == len(row.contexts) - 1)
        screen.print(table)
    said = f"as '{found.said}' in the answer" if found.said else "as the next word after the prompt"
    screen.print(
        Text(
            f"word: change of the log-probability of '{found.word}', {said}, {found.log_probability:.2f} unchanged"
        ),
        soft_wrap=True,
    )


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
