"""Readings and norms, as tables, grids of words or JSON (docs/json.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from latentbank.cli.output.text import console, print_json
from latentbank.text import count_text, listed

if TYPE_CHECKING:
    from latentbank.query.reading.norms import Norms
    from latentbank.query.reading.reading import Reading


def show_reading(reading: Reading, *, as_json: bool = False, title: str | None = None) -> None:
    """Print a reading: each token with its neighbors, the token marked in each caption."""
    if as_json:
        print_json(reading.to_dict())
        return
    from latentbank.query.lenses.registry import score_of
    from latentbank.query.reading.reading import excerpt

    several = len(reading.lenses) > 1
    scores = {score_of(lens) for lens in reading.lenses}
    against = (
        f", bank {reading.bank}, bank layers {listed(reading.bank_layers)}" if reading.bank_layers else ""
    )
    table = Table(
        "token",
        "layer",
        *(["lens"] if several else []),
        next(iter(scores)) if len(scores) == 1 else "score",
        "bank layer",
        "neighbor",
        "caption",
        title=Text(title or reading.source),
        title_justify="left",
        caption=f"{reading.lens} lens{against}"
        + (f", {reading.metric} by {reading.query_mean}" if reading.query_mean else "")
        + (f", corrected: {reading.correction}" if reading.correction else ""),
        caption_justify="left",
    )
    for token in reading.tokens:
        if token.silent:
            table.add_row(
                token.label.strip(), str(token.layer), *([token.lens] if several else []), end_section=True
            )
        for rank, neighbor in enumerate(token.neighbors):
            table.add_row(
                Text(token.label.strip() if rank == 0 else "", style="bold"),
                str(token.layer) if rank == 0 and token.layer >= 0 else "",
                *([token.lens if rank == 0 else ""] if several else []),
                f"{neighbor.cosine if neighbor.probability is None else neighbor.probability:.3f}",
                str(neighbor.bank_layer) if neighbor.bank_layer >= 0 else "",
                Text(neighbor.word),
                _marked(excerpt(neighbor, 60, "\0", "\0")),
                end_section=rank == len(token.neighbors) - 1,
            )
    screen = console()
    if table.rows or not reading.note:
        screen.print(table)
    for line in (reading.note, silence_line(reading)):
        if line:
            screen.print(line, highlight=False, markup=False)


def _marked(text: str) -> Text:
    before, token, after = text.split("\0")
    marked = Text(before)
    marked.append(token, style="bold reverse")
    marked.append(after)
    return marked


def silence_line(reading: Reading) -> str:
    """Return in a sentence how many tokens are silent and why; "" if none could be."""
    if reading.fdr is None:
        return ""
    tried = [token for token in reading.tokens if token.p_value is not None]
    silent = sum(token.silent for token in tried)
    return (
        f"{silent:,} of {len(tried):,} tokens are silent: what is found for them is no more than chance (at most "
        f"{reading.fdr:.3g} of the words given may be false)."
    )


def show_grids(reading: Reading) -> None:
    """Print an image's reading as grids of the best words."""
    from latentbank.query.output.grids import grid_lines

    screen = console()
    screen.print(reading.title(), style="bold", highlight=False, markup=False)
    for line in grid_lines(reading, screen.width):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    for line in (reading.note, silence_line(reading)):
        if line:
            screen.print(line, highlight=False, markup=False)
    found = "boxes" if reading.size is not None else "seconds"
    screen.print(f"{found}: {reading.geometry}", style="dim", highlight=False, markup=False)


def show_norms(norms: Norms, *, as_json: bool) -> None:
    """Print the norms of visual tokens beside those of text, layer by layer."""
    if as_json:
        print_json(norms.to_dict())
        return
    table = Table(
        "layer",
        "visual",
        "5 % to 95 %",
        "largest",
        "text",
        "5 % to 95 %",
        "ratio",
        title=f"{norms.model}: norms of the visual tokens of {count_text(norms.images, 'image')} beside text, "
        f"in {norms.dtype}",
        title_justify="left",
        caption="medians; ratio: visual to text",
        caption_justify="left",
    )
    for layer in norms.layers:
        visual, text = layer.visual, layer.text
        table.add_row(
            str(layer.layer),
            f"{visual.median:,.4g}",
            f"{visual.low:,.4g} to {visual.high:,.4g}",
            f"{visual.largest:,.4g}",
            f"{text.median:,.4g}",
            f"{text.low:,.4g} to {text.high:,.4g}",
            f"{layer.ratio:.2f}",
        )
    console().print(table)
