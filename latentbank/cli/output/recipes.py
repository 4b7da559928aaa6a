"""Recipes and what their cleaning did, as tables or JSON (docs/json.md)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from latentbank.cli.output.text import print_facts, print_json
from latentbank.text import count_text, listed

if TYPE_CHECKING:
    from latentbank.ingest.recipes.preparing import Prepared
    from latentbank.ingest.recipes.table import Recipe


def show_recipes(*, as_json: bool) -> None:
    """Print all recipes: what they are, where their files come from, and their licences."""
    from latentbank.ingest.recipes.table import RECIPES

    if as_json:
        data = [{**_described(recipe), "choice": asdict(recipe.choice)} for recipe in RECIPES.values()]
        print_json({"recipes": data})
        return
    for recipe in RECIPES.values():
        print_facts(
            [
                (recipe.name, recipe.about),
                ("from", recipe.source),
                ("licence", recipe.licence),
                ("contexts", listed(f"{name}={value}" for name, value in recipe.choice.to_dict().items())),
                ("", ""),
            ]
        )


def cleaning_data(ready: Prepared) -> dict[str, Any]:
    """Return a recipe and what its cleaning did, for JSON."""
    return {**_described(ready.recipe), "cleaned": asdict(ready.cleaned)}


def show_cleaning(ready: Prepared) -> None:
    """Print a recipe and what its cleaning did on standard error, where it stands beside JSON."""
    counts = ready.cleaned
    left_out = [
        f"{count:,} {what}"
        for what, count in (
            ("empty", counts.empty),
            ("headings, entries of lists and short pieces", counts.fragments),
            ("repeated", counts.duplicates),
        )
        if count
    ]
    facts = [
        ("recipe", f"{ready.recipe.name}: {ready.recipe.about}"),
        ("licence", ready.recipe.licence),
        ("cleaned", f"{count_text(counts.sentences, 'sentence')} of {count_text(counts.records, 'record')}"),
    ]
    if left_out:
        facts.append(("left out", "; ".join(left_out)))
    print_facts(facts, error=True)


def _described(recipe: Recipe) -> dict[str, str]:
    return {"name": recipe.name, "about": recipe.about, "source": recipe.source, "licence": recipe.licence}
