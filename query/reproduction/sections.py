"""The sections of the report, one for each figure that was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean

import numpy as np

from latentbank.query.lenses.registry import title_of
from latentbank.query.reproduction import charts
from latentbank.query.reproduction.measured import FIGURES, Measured
from latentbank.query.reproduction.parts import Report, Section, percent, table

_NINE = {f"{llm}-{encoder}" for llm in ("olmo", "llama", "qwen") for encoder in ("vit", "dino", "siglip")}
_EXAMPLE = "olmo-vit"
_LENSES = ("latent", "logit", "embedding")
_CONTROLS = ("other image", "random projector")
_VISUAL = "visual layer"


def sections_of(report: Report) -> list[Section]:
    """Return the sections of all figures that were measured, in their order."""
    makers: dict[str, Callable[[Report], Section]] = {
        "shares": _shares,
        "pass": _first_word,
        "corpus": _corpus,
        "alignment": _alignment,
        "norms": _norms,
        "drift": _drift,
        "cosines": _cosines,
        "speech": _speech,
    }
    return [makers[figure](report) for figure in FIGURES if report.of(figure)]


def _shares(report: Report) -> Section:
    rows, known = report.of("shares"), report.of("shares", published=True)
    lines = []
    for model in _names(rows):
        for lens in _lenses(rows, model):
            kinds = ("any", "concrete", "abstract", "global", *(f"any, {control}" for control in _CONTROLS))
            cells = [_find(rows, model, lens, kind) for kind in kinds]
            shown = [percent(cells[0]), *(percent(cell, interval=False) for cell in cells[1:])]
            lines.append((model, title_of(lens), *shown))
    lenses = _lenses(known, _EXAMPLE)
    gray = [
        (
            "average of 15 models",
            title_of(lens),
            percent(_find(known, "average of 15 models", lens)),
            *[""] * 5,
        )
        for lens in lenses
    ]
    gray += [
        (model, "LatentLens", percent(_find(known, model, "latent")), *[""] * 5)
        for model in (_EXAMPLE, "olmo-vit, linear")
    ]
    columns = ["model", "lens", "interpretable, %", "concrete", "abstract", "global"]
    columns += [f"control: {control}" for control in ("another image", "random projector")]
    models = [
        model for model in _names(known) if model in _NINE or not model.startswith(("average", "olmo-vit,"))
    ]
    every = [(model, *(percent(_find(known, model, lens)) for lens in _LENSES)) for model in models]
    text = (
        "<p>Shares of visual tokens for which a lens finds at least one true word, mean over the visual layers. A "
        "token can count in several kinds. The controls say what is found in noise.</p>"
        + table(columns, lines, gray)
        + "<p class=note>The authors' linear connector is as interpretable as their SwiGLU (72.1 against 72.3 %)."
        "</p><details><summary>All fifteen published models</summary>"
        + table(("model", "LatentLens, %", "LogitLens, %", "EmbeddingLens, %"), every)
        + "</details>"
    )
    drawn = []
    for lens in _lenses(rows, _names(rows)[0]):
        own = {model: _by_layer(rows, model, lens) for model in _names(rows)}
        others = {model: _by_layer(known, model, lens) for model in sorted(_NINE)}
        bands = {model: _band(rows, model, lens) for model in _names(rows)}
        chart = charts.lines(own, others, x=_VISUAL, y="interpretable, %", bands=bands, unit=100)
        drawn.append(
            (f"{title_of(lens)}: share by visual layer, and the nine connectors of the paper", chart)
        )
    return Section(FIGURES["shares"], text, tuple(drawn))


def _first_word(report: Report) -> Section:
    rows, known = report.of("pass"), report.of("pass", published=True)
    counts = sorted({int(row.at or 0) for row in rows}, reverse=True)
    lines = [
        (model, title_of(lens), *(percent(_find(rows, model, lens, at=count)) for count in counts))
        for model in _names(rows)
        for lens in _lenses(rows, model)
    ]
    gray = []
    for lens in _LENSES:
        firsts = [row for row in known if row.lens == lens]
        fives = [_find(report.of("shares", published=True), row.model, lens) for row in firsts]
        means = {1: fmean(row.value for row in firsts), 5: fmean(row.value for row in fives if row)}
        shares = [f"{100 * means[count]:.1f}" if count in means else "" for count in counts]
        gray.append(("mean of three pairs", title_of(lens), *shares))
    text = "<p>How much of the share is left if the judge sees only the first word.</p>" + table(
        ("model", "lens", *(f"{count} words, %" if count > 1 else "1 word, %" for count in counts)),
        lines,
        gray,
    )
    return Section(FIGURES["pass"], text)


def _corpus(report: Report) -> Section:
    rows = [row for row in report.of("corpus") if row.kind == "any"]
    known = report.of("corpus", published=True)
    sizes = sorted({row.at for row in (*rows, *known) if row.at is not None})
    mean = {size: [row.value for row in known if row.at == size] for size in sizes}
    gray = [
        (model, *(percent(_find(known, model, "latent", at=size)) for size in sizes))
        for model in _names(known)
    ]
    gray.append(
        ("mean of the three", *(f"{100 * fmean(mean[size]):.1f}" if mean[size] else "" for size in sizes))
    )
    lines = [
        (model, *(percent(_find(rows, model, "latent", at=size)) for size in sizes)) for model in _names(rows)
    ]
    banks = [row for row in report.of("bank") if row.model in _names(rows)]
    contexts = [
        (
            f"{row.model}, contexts in a layer",
            *(f"{row.value:,.0f}" if row.at == size else "" for size in sizes),
        )
        for row in banks
    ]
    text = (
        "<p>LatentLens with the first part of the corpus alone. (The authors draw a part of the contexts instead, and "
        "average over the layers 0, 8, 16 and 31.)</p>"
        + table(("model", *(f"{size:g} %" for size in sizes)), [*lines, *_joined(contexts)], gray)
    )
    own = {model: _along(rows, model) for model in _names(rows)}
    others = {model: _along(known, model) for model in _names(known)}
    chart = charts.lines(own, others, x="share of the corpus, %", y="interpretable, %", log_x=True, unit=100)
    return Section(FIGURES["corpus"], text, (("Share by size of the corpus", chart),))


def _alignment(report: Report) -> Section:
    rows, known = report.of("alignment"), report.of("alignment", published=True)
    lines = [(model, _peak(rows, model)) for model in _names(rows)]
    gray = [(model, _peak(known, model)) for model in _names(known)]
    text = (
        "<p>Of the five nearest neighbors, those of LatentLens and EmbeddingLens together, the share that each bank "
        "layer has. Bank layer 0 is the input embeddings, which have no context. In the paper, the neighbors at visual "
        "layer 0 lie in middle layers: the mid-layer leap.</p>"
        + table(("model", "at visual layer 0 most are from bank layer"), lines)
        + "<details><summary>The published models</summary>"
        + table(("model", "at visual layer 0 most are from bank layer"), gray)
        + "</details>"
    )
    drawn = []
    for source, names in ((rows, _names(rows)), (known, [_EXAMPLE])):
        bank_layers = sorted({int(row.at or 0) for row in source if row.model in names})
        for model in names:
            own = [row for row in source if row.model == model]
            layers = sorted({row.layer or 0 for row in own})
            values = np.zeros((len(layers), len(bank_layers)))
            for row in own:
                values[layers.index(row.layer or 0), bank_layers.index(int(row.at or 0))] = row.value
            chart = charts.heat_map(values, layers, bank_layers, x="bank layer", y=_VISUAL)
            drawn.append(
                (f"{model}{' (published)' if source is known else ''}: share of neighbors, %", chart)
            )
    return Section(FIGURES["alignment"], text, tuple(drawn))


def _norms(report: Report) -> Section:
    return _token_section(
        report,
        "norms",
        ("visual, median", "text, median"),
        "median norm",
        "<p>Median L2 norm of visual tokens and of text at each layer.</p>",
        log_y=True,
    )


def _drift(report: Report) -> Section:
    return _token_section(
        report,
        "drift",
        ("visual", "text"),
        "cosine to layer 0",
        "<p>Mean cosine of a token's hidden state to its own at the LLM's input. Text here is plain sentences; the "
        "authors measure it beside an image.</p>",
        log_y=False,
    )


def _token_section(
    report: Report, figure: str, kinds: tuple[str, str], y: str, text: str, *, log_y: bool
) -> Section:
    rows, known = report.of(figure), report.of(figure, published=True)
    lines: list[Sequence[str]] = []
    gray: list[Sequence[str]] = []
    for source, found in ((rows, lines), (known, gray)):
        for model in _names(source):
            for kind in kinds:
                at, values = _by_layer(source, model, "", kind)
                chosen = [0, len(at) // 2, len(at) - 1]
                found.append(
                    (model, kind.split(",")[0], *(f"{_short(values[i])} at layer {at[i]:g}" for i in chosen))
                )
    columns = ("model", "tokens", "first layer", "middle", "last")
    text += table(columns, lines) + "<details><summary>The published models</summary>"
    text += table(columns, gray) + "</details>"
    drawn = []
    for kind in kinds:
        own = {model: _by_layer(rows, model, "", kind) for model in _names(rows)}
        others = {model: _by_layer(known, model, "", kind) for model in _names(known)}
        name = "visual tokens" if kind.startswith("visual") else "text"
        drawn.append(
            (f"{y[0].upper()}{y[1:]}, {name}", charts.lines(own, others, x="layer", y=y, log_y=log_y))
        )
    return Section(FIGURES[figure], text, tuple(drawn))


def _cosines(report: Report) -> Section:
    rows, known = report.of("cosines"), report.of("cosines", published=True)
    layers = sorted({row.layer for row in (*rows, *known) if row.layer is not None})
    medians = [
        [
            (model, *(_number(_find(source, model, "latent", "median", layer=layer)) for layer in layers))
            for model in _names(source)
        ]
        for source in (rows, known)
    ]
    text = (
        "<p>Median cosine of the nearest neighbor of LatentLens, by visual layer, over all visual tokens.</p>"
        + table(("model", *(f"layer {layer}" for layer in layers)), *medians)
    )
    drawn = []
    for layer in sorted({row.layer for row in rows if row.layer is not None}):
        own, others = (
            {model: _histogram(source, model, layer) for model in _names(source)} for source in (rows, known)
        )
        filled = {model: line for model, line in others.items() if line[0]}
        chart = charts.lines(own, filled, x="cosine", y="tokens, %", unit=100)
        drawn.append((f"Cosines at visual layer {layer}", chart))
    return Section(FIGURES["cosines"], text, tuple(drawn))


def _speech(report: Report) -> Section:
    rows, known = report.of("speech"), report.of("speech", published=True)
    kinds = sorted(
        {row.kind for row in rows}, key=lambda kind: -fmean([row.value for row in rows if row.kind == kind])
    )
    everything = list(dict.fromkeys([*kinds, *(row.kind for row in known)]))
    lines = [
        (model, *(f"{100 * _mean_of(rows, model, kind):.1f}" for kind in everything))
        for model in _names(rows)
    ]
    gray = [
        (model, *(percent(_find(known, model, "latent", kind)) for kind in everything))
        for model in _names(known)
    ]
    text = "<p>Parts of speech of the neighbors' words, mean over the visual layers, %.</p>"
    text += table(("model", *everything), lines, gray)
    drawn = []
    for model in _names(rows):
        layers = sorted({row.layer for row in rows if row.model == model and row.layer is not None})
        shares = {
            kind: [_value(_find(rows, model, "latent", kind, layer=layer)) for layer in layers]
            for kind in kinds
        }
        chart = charts.stacked(layers, shares, x=_VISUAL, y="words, %")
        drawn.append((f"{model}: parts of speech by visual layer", chart))
    return Section(FIGURES["speech"], text, tuple(drawn))


def _names(rows: Iterable[Measured]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def _lenses(rows: Iterable[Measured], model: str) -> list[str]:
    found = dict.fromkeys(row.lens for row in rows if row.model == model)
    return sorted(found, key=lambda lens: _LENSES.index(lens) if lens in _LENSES else len(_LENSES))


def _find(
    rows: Iterable[Measured],
    model: str,
    lens: str,
    kind: str = "any",
    *,
    layer: int | None = None,
    at: float | None = None,
) -> Measured | None:
    key = (model, lens, kind, layer)
    return next(
        (r for r in rows if (r.model, r.lens, r.kind, r.layer) == key and (at is None or r.at == at)), None
    )


def _by_layer(rows: Iterable[Measured], model: str, lens: str, kind: str = "any") -> charts.Line:
    key = (model, lens, kind)
    own = [row for row in rows if (row.model, row.lens, row.kind) == key and row.layer is not None]
    own.sort(key=lambda row: row.layer or 0)
    return [float(row.layer or 0) for row in own], [row.value for row in own]


def _band(rows: Iterable[Measured], model: str, lens: str) -> charts.Line:
    key = (model, lens, "any")
    own = [row for row in rows if (row.model, row.lens, row.kind) == key and row.layer is not None]
    own.sort(key=lambda row: row.layer or 0)
    return [_end(row.low, row.value) for row in own], [_end(row.high, row.value) for row in own]


def _end(end: float | None, value: float) -> float:
    return value if end is None else end


def _along(rows: Iterable[Measured], model: str) -> charts.Line:
    own = sorted((row.at or 0.0, row.value) for row in rows if row.model == model)
    return [at for at, _ in own], [value for _, value in own]


def _histogram(rows: Iterable[Measured], model: str, layer: int) -> charts.Line:
    key = (model, "bin", layer)
    own = sorted((row.at or 0.0, row.value) for row in rows if (row.model, row.kind, row.layer) == key)
    return [at + 1 / 60 for at, _ in own], [value for _, value in own]


def _peak(rows: Iterable[Measured], model: str) -> str:
    own = [row for row in rows if row.model == model and row.layer == 0]
    if not own:
        return ""
    best = max(own, key=lambda row: row.value)
    return f"{best.at:g} ({100 * best.value:.0f} %)"


def _mean_of(rows: Sequence[Measured], model: str, kind: str) -> float:
    layers = {row.layer for row in rows if row.model == model}
    return sum(row.value for row in rows if (row.model, row.kind) == (model, kind)) / len(layers)


def _value(row: Measured | None) -> float:
    return 0.0 if row is None else row.value


def _number(row: Measured | None) -> str:
    return "" if row is None else f"{row.value:.3f}"


def _short(value: float) -> str:
    return (
        f"{round(value, 2) + 0.0:.2f}" if abs(value) < 10 else f"{value:,.0f}"
    )  # + 0.0: no minus before a zero


def _joined(rows: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Yield rows of the same name as one, with each cell from the row that has it."""
    for name in dict.fromkeys(row[0] for row in rows):
        same = [row for row in rows if row[0] == name]
        yield [max(cells, key=len) for cells in zip(*same, strict=True)]
