"""Scores of lenses: printed as tables or JSON, and written to a folder as JSON and figures."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from latentbank.files import write_whole
from latentbank.text import as_unicode, listed

if TYPE_CHECKING:
    from latentbank.cli.options.scenes import ResultOptions
    from latentbank.query.evaluation.experiments.compare import Compared, Line
    from latentbank.query.evaluation.experiments.league import League
    from latentbank.query.evaluation.scoring import Share
    from latentbank.query.evaluation.tables import Evaluation, Row

_WIDE = 180


def write_scores(
    data: Mapping[str, Any], folder: Path | None, name: str, draw: Callable[[Path], object]
) -> None:
    """Write JSON and figures to a folder; do nothing without a folder.

    Raises:
        LatentBankError: a file cannot be written, or matplotlib is not installed.
    """
    if folder is None:
        return
    text = as_unicode(json.dumps(data, ensure_ascii=False, indent=1))
    write_whole(folder / f"{name}.json", f"{text}\n".encode())
    draw(folder)


def show_evaluation(evaluation: Evaluation) -> None:
    """Print an evaluation: shares by layer with both controls, by kind of word and by coverage."""
    about = evaluation.about
    console = wide_console()
    layers = about["visual_layers"]
    for distinct in (False, True):
        table = Table(
            "lens",
            "control",
            *(f"L{layer}" for layer in layers),
            "mean (95 %)",
            "things",
            title=f"object patches named by one of the first {about['top_k']} "
            f"{'distinct words' if distinct else 'neighbors'}, %",
            title_justify="left",
        )
        for mean in _means(evaluation, distinct):
            rows = [_row(evaluation, mean, layer) for layer in layers]
            shares = [_percent(row.concrete) for row in rows]
            table.add_row(mean.lens, _control(mean), *shares, _interval(mean.concrete), _percent(mean.things))
        console.print(table)
    table = Table("lens", "control", "concrete", "global", "attribute", "any of them", title_justify="left")
    table.title = "kinds of words among the first neighbors, mean over the visual layers, % of object patches"
    for mean in _means(evaluation, False):
        kinds = (mean.concrete, mean.global_, mean.attribute, mean.interpretable)
        table.add_row(mean.lens, _control(mean), *map(_percent, kinds))
    console.print(table)
    groups = [f"{low:.0%} to {high:.0%}" for low, high, _ in evaluation.rows[0].by_coverage]
    table = Table("lens", "control", *groups, title_justify="left")
    table.title = "patches named, by the share that their object covers, mean over the visual layers, %"
    for mean in _means(evaluation, False):
        table.add_row(mean.lens, _control(mean), *(_percent(share) for _, _, share in mean.by_coverage))
    console.print(table)
    if any(pair.named for pair in evaluation.alignment):
        show_alignment(evaluation)
    ratio = _over_baselines(evaluation)
    console.print(
        f"{about['model']} on {about['scenes']} scenes: {about['things']:,} things, {about['patches']:,} patches "
        f"of which they cover {about['coverage']:.0%} or more; metric {about['metric']}{_corrected(about)}."
        + (f" LatentLens names {ratio:.1f} times as many as the better baseline." if ratio else ""),
        highlight=False,
    )


def _corrected(about: Mapping[str, Any]) -> str:
    """Return what a line says of the correction."""
    if not about["correction"]:
        return ""
    return f", corrected: {about['correction']}, by {about['corrected_by']}"


def show_alignment(evaluation: Evaluation) -> None:
    """Print the share that each bank layer alone names at each visual layer, and where similarity peaks."""
    from latentbank.query.evaluation.experiments.alignment import peaks

    bank_layers = list(dict.fromkeys(pair.bank_layer for pair in evaluation.alignment))
    named = {
        (pair.projector, pair.visual_layer, pair.bank_layer): pair
        for pair in evaluation.alignment
        if pair.named is not None
    }
    table = Table(
        "visual layer",
        "projector",
        *(f"bank L{layer}" for layer in bank_layers),
        "most named",
        "nearest",
        "most often first",
        title=f"object patches that each bank layer alone names, %{_corrected(evaluation.about)}",
        title_justify="left",
    )
    for peak in peaks(evaluation):
        key = (peak.projector, peak.visual_layer)
        shares = [named[*key, layer].named for layer in bank_layers]
        table.add_row(
            str(peak.visual_layer),
            peak.projector,
            *(_percent(share) if share else "" for share in shares),
            *(f"bank L{layer}" for layer in (peak.most_named, peak.nearest, peak.most_first)),
        )
    wide_console().print(table)


def show_compared(
    compared: Compared,
    results: ResultOptions,
    name: str,
    *,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Print a comparison, a line for each lens, and write it to a folder if one is given.

    Args:
        compared: evaluations with labels.
        results: where it goes.
        name: name of the JSON and the figure, without ending.
        more: further entries of the JSON.
    """
    from latentbank.query.evaluation.experiments.compare import lines
    from latentbank.query.evaluation.figures import draw_compared

    summary = lines(compared)
    data = {
        **(more or {}),
        "summary": [line.to_dict() for line in summary],
        "evaluations": [{"label": label, **evaluation.to_dict()} for label, evaluation in compared],
    }
    results.give(
        data,
        name,
        lambda where: draw_compared(compared, where / f"{name}.png"),
        lambda: _show_compared(compared, summary),
    )


def _show_compared(compared: Compared, summary: Sequence[Line]) -> None:
    """Print a line for each lens of each evaluation, and bank layers searched alone."""
    random = any(line.random for line in summary)
    table = Table(
        "",
        "lens",
        "metric",
        "mean (95 %)",
        "best layer",
        "distinct words",
        "things",
        "shuffled images",
        *(["random projector"] if random else []),
        title="object patches named, %",
        title_justify="left",
    )
    for line in summary:
        table.add_row(
            line.label,
            line.lens,
            line.metric,
            _interval(line.mean),
            f"{_percent(line.best)} at L{line.best_layer}",
            _percent(line.distinct),
            _percent(line.things),
            _percent(line.shuffled),
            *([_percent(line.random) if line.random else ""] if random else []),
        )
    wide_console().print(table)
    for label, evaluation in compared:
        if any(pair.named for pair in evaluation.alignment):
            wide_console().print(f"\n{label}:", highlight=False)
            show_alignment(evaluation)


def show_league(league: League) -> None:
    """Print lenses side by side: shares by layer, at equal depth of words, with both controls, and what each costs."""
    from latentbank.query.evaluation.experiments.league import COSTED

    layers = league.evaluation.about["visual_layers"]
    console = wide_console()
    table = Table(
        "lens",
        *(f"L{layer}" for layer in layers),
        "mean (95 %)",
        "distinct words",
        "things",
        "shuffled images",
        "random projector",
        title="object patches named, %",
        title_justify="left",
    )
    for line in league.lines:
        shares = [_percent(league.evaluation.row(line.lens, layer).concrete) for layer in layers]
        rest = (line.distinct, line.things, line.shuffled)
        table.add_row(
            line.lens,
            *shares,
            _interval(line.mean),
            _interval(rest[0]),
            *map(_percent, rest[1:]),
            _percent(line.random) if line.random else "",
        )
    console.print(table)
    table = Table("lens", "seconds", "processor seconds", "peak memory, MB", title_justify="left")
    table.title = f"what {COSTED:,} tokens of layer {league.costs[0].layer} cost"
    for cost in league.costs:
        peak = "" if cost.peak is None else f"{cost.peak / 1e6:,.0f}"
        table.add_row(cost.lens, f"{cost.seconds:.2f}", f"{cost.processor:.2f}", peak)
    console.print(table)


def show_cards(cards: Mapping[str, Mapping[str, Any]]) -> None:
    """Print how projectors were trained, from their cards."""
    table = Table("", "kind", "rows of data", "steps", "loss", "validation loss", title_justify="left")
    table.title = "how the projectors were trained"
    for label, card in cards.items():
        training = card.get("training", {})
        losses = [
            "" if training.get(name) is None else f"{training[name]:.2f}"
            for name in ("loss", "validation_loss")
        ]
        table.add_row(
            label,
            str(card.get("projector", {}).get("kind", "")),
            " + ".join(f"{part['rows']:,}" for part in card.get("data", ())),
            f"{training['steps']:,}" if "steps" in training else "",
            *losses,
        )
    wide_console().print(table)


def wide_console() -> Console:
    """Return a console as wide as the terminal; in a file or a pipe, as wide as the widest of these tables."""
    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=_WIDE)


def _means(evaluation: Evaluation, distinct: bool) -> Sequence[Row]:
    return [row for row in evaluation.rows if row.layer is None and row.distinct == distinct]


def _row(evaluation: Evaluation, like: Row, layer: int) -> Row:
    return evaluation.row(
        like.lens, layer, projector=like.projector, images=like.images, distinct=like.distinct
    )


def _control(row: Row) -> str:
    parts = ["random projector"] if row.projector == "random" else []
    parts += ["shuffled images"] if row.images == "shuffled" else []
    return listed(parts)


def _over_baselines(evaluation: Evaluation) -> float | None:
    means = {row.lens: row.concrete.value for row in _means(evaluation, False) if not _control(row)}
    best = max((value for lens, value in means.items() if lens != "latent"), default=0.0)
    return means["latent"] / best if best and "latent" in means else None


def _percent(share: Share) -> str:
    return f"{100 * share.value:.1f}" if share.of else ""


def _interval(share: Share) -> str:
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})" if share.of else ""
