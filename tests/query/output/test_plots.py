"""Figures for papers: what is drawn, and in which formats."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager, pyplot
from matplotlib.figure import Figure
from PIL import Image

from latentbank.errors import LayerNotFound, QueryError
from latentbank.query.output import fonts
from latentbank.query.output.grids import grid_lines
from latentbank.query.output.pictures import draw_reading
from latentbank.query.output.plots import plot_reading, save_plot
from tests.query.web.readings import corrected, reading_of, told_reading


def test_an_axis_shows_the_words_of_its_layer_over_their_scores() -> None:
    reading = reading_of()
    axis = reading.plot(8, "logit")
    try:
        assert [text.get_text() for text in axis.texts] == [f"w8x{number}" for number in range(6)]
        assert axis.texts[4].get_position() == (30, 30)
        (frames,) = axis.collections
        assert np.allclose(frames.get_array(), [0.4 + number / 20 for number in range(6)])
        assert axis.get_title() == "LogitLens, visual layer 8"
        assert [other.get_ylabel() for other in axis.figure.axes if other is not axis] == ["best probability"]
        assert (axis.get_xlim(), axis.get_ylim()) == ((0, 60), (40, 0))
    finally:
        pyplot.close(axis.figure)


def test_figures_and_pictures_say_which_correction() -> None:
    reading = corrected(reading_of())
    axis = plot_reading(reading, 8, "latent", axis=Figure().subplots())
    assert axis.get_title() == "LatentLens, visual layer 8, corrected: both"
    assert [other.get_ylabel() for other in axis.figure.axes if other is not axis] == ["best corrected score"]
    assert "latent lens, visual layer 8, corrected: both" in grid_lines(reading)
    # A lens that cannot correct is not said to.
    mixed = replace(reading, tokens=(*reading.at(8, "latent"), *reading_of().at(8, "logit")), layers=(8,))
    assert "logit lens, visual layer 8" in grid_lines(mixed)
    assert (
        draw_reading(reading, 8).tobytes() != draw_reading(replace(reading, correction="hubs"), 8).tobytes()
    )


def test_it_draws_into_a_given_axis_and_only_what_is_requested() -> None:
    given = Figure().subplots()
    assert plot_reading(reading_of(), axis=given, words=False, heat=False) is given
    assert not given.texts
    assert given.collections[0].get_array() is None
    assert len(given.figure.axes) == 1
    assert not pyplot.get_fignums()


def test_the_answer_stands_below_with_its_words() -> None:
    axis = plot_reading(told_reading(), 8, axis=Figure().subplots())
    assert axis.get_xlabel() == "A→same  w8→same  x3→same  .→same"
    assert not plot_reading(told_reading(), 8, axis=Figure().subplots(), words=False).get_xlabel()


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_figures_have_a_row_for_each_layer_and_a_column_for_each_lens(
    tmp_path: Path, suffix: str, start: bytes
) -> None:
    reading = reading_of(captions=("$\\frac$",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = save_plot(reading, tmp_path / f"figure{suffix}")
    data = path.read_bytes()
    assert data.startswith(start)
    if suffix == ".png":
        both = Image.open(path).size
        alone = Image.open(save_plot(reading, tmp_path / "one.png", layers=[0], lenses=["latent"])).size
        assert both == (alone[0] * 2, alone[1] * 2)
    assert save_plot(reading, tmp_path / f"again{suffix}").read_bytes() == data


def test_words_like_formulas_are_words(tmp_path: Path) -> None:
    reading = reading_of(lenses=("latent",), layers=(0,))
    first = reading.tokens[0]
    for word in ("$\\frac{$", "犬", "\n", "a_very_long_word_that_does_not_fit"):
        named = replace(first.neighbors[0], word=word)
        other = replace(reading, tokens=(replace(first, neighbors=(named,)),))
        assert save_plot(other, tmp_path / "figure.svg").stat().st_size > 1000


@pytest.fixture
def no_fonts_known() -> Iterator[None]:
    """Look for fonts anew, in the test and after it."""

    def forget() -> None:
        fonts._installed.cache_clear()
        fonts._told.clear()

    forget()
    yield
    forget()


def test_characters_that_no_font_has_are_named_once(
    tmp_path: Path, no_fonts_known: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = [font for font in font_manager.fontManager.ttflist if font.name in ("DejaVu Sans", "STIXGeneral")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", found)
    reading = reading_of(lenses=("latent",), layers=(0,))
    tokens = [
        replace(token, neighbors=(replace(token.neighbors[0], word="日本語の文章です犬"),))
        for token in reading.tokens
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for suffix in (".png", ".pdf", ".svg"):
            save_plot(replace(reading, tokens=tuple(tokens)), tmp_path / f"figure{suffix}")
    assert caplog.messages == [
        "No installed font has the characters す, で, の, 文, 日 and 4 others: figures show boxes instead. Install one "
        "that has them, such as Noto Sans CJK."
    ]


def test_any_installed_font_that_has_the_characters_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    plain, other = known["DejaVu Sans"], known["STIXGeneral"]
    monkeypatch.setattr(
        fonts, "_installed", lambda: {"DejaVu Sans": plain, "Broken": __file__, "Other": other}
    )
    only_there = min(fonts._characters(other) - fonts._characters(plain))
    assert fonts.fonts_for("dog") == ["DejaVu Sans"]
    assert fonts.fonts_for(f"dog {only_there}\n") == ["DejaVu Sans", "Other"]
    assert not caplog.messages


def test_what_cannot_be_drawn_says_so(tmp_path: Path) -> None:
    reading = reading_of()
    with pytest.raises(QueryError, match="has no suffix of a figure"):
        save_plot(reading, tmp_path / "figure.gif")
    with pytest.raises(LayerNotFound, match="no layer 3"):
        reading.plot(3)
    with pytest.raises(QueryError, match="no tile 4; it has 0"):
        reading.plot(tile=4)
    with pytest.raises(QueryError, match="Only a reading that holds its image"):
        reading_of(image=False).plot()
    assert not pyplot.get_fignums()
