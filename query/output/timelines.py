"""Figures of readings of sound: the score of each token's best neighbor over time, with its word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentbank.query.lenses.registry import score_of, title_of
from latentbank.query.output.grids import correction_of, shorten

if TYPE_CHECKING:
    from latentbank.query.reading.reading import Reading, TokenReading

SIZE = (7.0, 2.2)
"""Width and height of a panel, in inches."""
_MOST_WORDS = 60


def is_sound(reading: Reading) -> bool:
    """Return whether a reading is that of a sound."""
    return reading.size is None and reading.duration is not None


def sound_tokens(reading: Reading, layer: int, lens: str | None = None) -> list[TokenReading]:
    """Return the token readings of a sound at one layer, without the text around it.

    Raises:
        LayerNotFound: the reading has no such layer.
        QueryError: it has no such lens.
    """
    return [token for token in reading.at(layer, lens) if token.kind == "audio"]


def draw_sound(
    axis: Any,
    reading: Reading,
    tokens: Sequence[TokenReading],
    layer: int,
    lens: str,
    *,
    words: bool,
    fonts: list[str],
) -> None:
    """Draw bars over time into a matplotlib axis, as high as the score of each token's best neighbor.

    Args:
        axis: the axis.
        reading: of a sound.
        tokens: what is drawn.
        layer: their layer.
        lens: their lens.
        words: write the best word above each bar; of many tokens, where it differs from the one before.
        fonts: the words' font families.
    """
    drawn = [(token, token.seconds) for token in tokens if token.neighbors and token.seconds is not None]
    made = correction_of(reading, [token for token, _ in drawn])
    starts = [span[0] for _, span in drawn]
    widths = [span[1] - span[0] for _, span in drawn]
    heights = [token.neighbors[0].score for token, _ in drawn]
    axis.bar(starts, heights, widths, align="edge", color="#21918c", edgecolor="white", linewidth=0.3)
    before = ""
    step = max(1, len(drawn) // _MOST_WORDS)
    for number, (token, (start, end)) in enumerate(drawn if words else []):
        word = shorten(token.neighbors[0].word, 24)
        if number % step == 0 and (len(drawn) <= _MOST_WORDS or word != before):
            axis.text(
                (start + end) / 2,
                max(0.0, heights[number]),
                f" {word}",
                rotation=90,
                fontsize=6,
                fontfamily=fonts,
                ha="center",
                va="bottom",
                parse_math=False,  # a word such as $x$ is not a formula
            )
            before = word
    top = max([*heights, 0.0]) or 1.0
    axis.set(
        xlim=(0, reading.duration),
        ylim=(min([*heights, 0.0]), top * (1.6 if words else 1.1)),
        xlabel="seconds",
        ylabel=f"best {'corrected score' if made else score_of(lens)}",
    )
    axis.set_title(f"{title_of(lens)}, layer {layer}" + (f", corrected: {made}" if made else ""), fontsize=9)
