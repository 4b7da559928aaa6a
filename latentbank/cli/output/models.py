"""Two models compared, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from latentbank.cli.output.text import console
from latentbank.query.reading.reading import excerpt

if TYPE_CHECKING:
    from latentbank.query.evaluation.experiments.models import ModelsCompared
    from latentbank.query.evaluation.scoring import Share


def show_models(compared: ModelsCompared) -> None:
    """Print how alike layers at the same depth are, and which words change most."""
    first, second = compared.banks
    random = {pair.layer: pair for pair in compared.random}
    table = Table(
        f"layer of {first}",
        f"of {second}",
        "neighbors in common",
        "CKA",
        *(["random weights: neighbors", "CKA"] if random else []),
        f"most alike in {second}",
        title=f"{first} beside {second}, % (95 %): {compared.contexts:,} contexts of {compared.words:,} words",
        title_justify="left",
        caption=f"neighbors: of a context's {compared.k} nearest contexts of other words; by chance "
        f"{100 * compared.chance:.2g} %. Of {compared.sampled:,} contexts looked for, both hold {compared.contexts:,}",
        caption_justify="left",
    )
    for layer, other in compared.depths:
        pair = compared.at(layer, other)
        best = max((one for one in compared.pairs if one.layer == layer), key=lambda one: one.cka.value)
        control = [_shown(random[layer].neighbors), _shown(random[layer].cka)] if random else []
        alike = f"{best.other} (CKA {100 * best.cka.value:.1f})"
        table.add_row(str(layer), str(other), _shown(pair.neighbors), _shown(pair.cka), *control, alike)
    screen = console()
    screen.print(table)
    screen.print(
        f"Mean difference of neighborhoods at the same depth: {100 * compared.difference:.4g} %.",
        highlight=False,
    )
    if compared.changed:
        screen.print(_words(compared))


def _words(compared: ModelsCompared) -> Table:
    first, second = compared.banks
    table = Table(
        "word",
        "contexts",
        "neighbors in common",
        "layers",
        "a context that changes",
        f"near it in {first}",
        f"in {second}",
        title="words that change most",
        title_justify="left",
    )
    for changed in compared.changed[:10]:
        table.add_row(
            Text(changed.word),
            str(changed.neighbors.of),
            _shown(changed.neighbors),
            str(changed.layer) if changed.layer == changed.other else f"{changed.layer}, {changed.other}",
            Text(excerpt(changed.example, 50)),
            Text(", ".join(changed.first)),
            Text(", ".join(changed.second)),
        )
    return table


def _shown(share: Share) -> str:
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"
