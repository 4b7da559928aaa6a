"""The experiment on causes, as tables (docs/json.md has the JSON)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from latentbank.cli.output.scores import wide_console

if TYPE_CHECKING:
    from latentbank.query.evaluation.experiments.cause_tables import CauseTables
    from latentbank.query.evaluation.scoring import Share

_PAIRS = (("named", "random"), ("named", "near"), ("named, as many", "not named"))


def show_cause_tables(tables: CauseTables) -> None:
    """Print what ablating each group changed, the differences within scenes, and what writing contexts did."""
    screen, about = wide_console(), tables.about
    for way in dict.fromkeys(effect.way for effect in tables.effects):
        own = [effect for effect in tables.effects if effect.way == way]
        groups = list(dict.fromkeys(effect.group for effect in own))
        table = Table("from layer", *groups, title_justify="left")
        table.title = f"change of a thing's name, tokens ablated by {way}; nats (95 % over scenes)"
        for layer in dict.fromkeys(effect.layer for effect in own):
            found = [tables.effect(way, layer, group) for group in groups]
            table.add_row(_layer(layer), *(_interval(effect.word if effect else None) for effect in found))
        screen.print(table)
        table = Table(
            "from layer", *(f"{first} - {second}" for first, second in _PAIRS), title_justify="left"
        )
        table.title = f"differences within scenes, by {way}; nats (95 % over scenes), of scenes"
        for layer in dict.fromkeys(found.layer for found in tables.differences if found.way == way):
            cells = []
            for pair in _PAIRS:
                shares = [
                    found.word
                    for found in tables.differences
                    if (found.way, found.layer, (found.first, found.second)) == (way, layer, pair)
                ]
                cells.append(f"{_interval(shares[0])}, {shares[0].of}" if shares else "")
            table.add_row(_layer(layer), *cells)
        screen.print(table)
    if tables.written:
        table = Table(
            "",
            "layer",
            "bank layer",
            "context",
            "says it",
            "still says the thing",
            "word",
            title_justify="left",
        )
        table.title = "contexts written into a thing's tokens, or their direction removed; % and nats (95 %)"
        for row in tables.written:
            cells = [_percent(row.said), _percent(row.kept), _interval(row.word)]
            table.add_row(row.act, str(row.layer), str(row.bank_layer), row.kind, *cells)
        screen.print(table)
    screen.print(
        f"{about['model']} on {about['scenes']} scenes; its answer names a thing with an object patch in "
        f"{about['told']}.",
        highlight=False,
    )


def _layer(layer: int | None) -> str:
    return "all" if layer is None else str(layer)


def _interval(share: Share | None) -> str:
    return f"{share.value:.2f} ({share.low:.2f} to {share.high:.2f})" if share and share.of else ""


def _percent(share: Share) -> str:
    return f"{100 * share.value:.0f} ({100 * share.low:.0f} to {100 * share.high:.0f})" if share.of else ""
