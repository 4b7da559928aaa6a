"""The page of a reading as people use it: pointer, keys, views, addresses; in light and dark, wide and narrow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from latentbank.query.reading.reading import Place
from latentbank.query.web.file import save_html
from tests.browser.conftest import BrowserWindow, cards
from tests.query.web.readings import film_reading, reading_of, sound_reading, told_reading


def test_a_file_from_disk_shows_neighbors_of_what_is_pointed_at(window: BrowserWindow, saved: Path) -> None:
    page = window.page
    page.goto(saved.as_uri())
    expect(page.locator("figcaption")).to_have_text(
        [f"{name}, visual layer 0" for name in ("LatentLens", "LogitLens", "EmbeddingLens")]
    )
    assert all(page.locator("[data-lens=latent] .word").all_text_contents())
    page.locator("[data-lens=latent] [data-token='4']").hover()
    assert cards(page) == ["row 1, column 1"]
    first = page.locator(".card li").first
    word = page.locator("[data-lens=latent] [data-token='4']").get_attribute("aria-label")
    assert word is not None
    shown = first.locator("b").inner_text()
    assert f" {shown}, cosine {first.locator('.score').inner_text()}, bank layer " in word
    assert first.locator("mark").inner_text().strip() in first.locator(".caption").inner_text()
    assert page.locator(".card li").count() == 3 * 8
    page.locator("[data-lens=logit] [data-token='0']").hover()
    assert cards(page) == ["row 0, column 0"]
    window.check(saved.as_uri())


def test_every_step_works_by_keys(window: BrowserWindow, saved: Path) -> None:
    page = window.page
    page.goto(saved.as_uri())
    page.locator("[data-lens=latent] [data-token='0']").focus()
    for key, at in (
        ("ArrowRight", "row 0, column 1"),
        ("ArrowDown", "row 1, column 1"),
        ("End", "row 1, column 2"),
        ("Home", "row 1, column 0"),
        ("ArrowDown", "row 1, column 0"),
        ("ArrowUp", "row 0, column 0"),
    ):
        page.keyboard.press(key)
        assert cards(page) == [at], key
    page.keyboard.press("Enter")
    expect(page.locator("[role=status]")).to_have_text("row 0, column 0 pinned")
    page.keyboard.press("PageDown")
    expect(page.locator("figcaption").first).to_have_text("LatentLens, visual layer 2")
    assert cards(page) == ["row 0, column 0"]
    page.keyboard.press("ArrowRight")  # the focus is where it was
    page.keyboard.press(" ")
    assert cards(page) == ["row 0, column 0", "row 0, column 1"]
    assert page.locator("[data-lens=latent] [aria-selected=true]").count() == 2
    page.keyboard.press("Escape")
    assert page.locator("[aria-selected=true]").count() == 0
    window.check(saved.as_uri())


def test_pins_stay_while_layers_change_and_two_are_compared(window: BrowserWindow, saved: Path) -> None:
    page = window.page
    page.goto(saved.as_uri())
    page.locator("[data-lens=latent] [data-token='2']").click()
    page.locator("[data-lens=latent] [data-token='3']").click()
    assert cards(page) == ["row 0, column 2", "row 1, column 0"]
    expect(page.locator(".common")).to_contain_text("Words in common:")
    before = page.locator(".card .score").all_text_contents()
    page.locator("#layer").fill("2")
    expect(page.locator("output")).to_have_text("3")
    assert cards(page) == ["row 0, column 2", "row 1, column 0"]
    assert page.locator(".card .score").all_text_contents() != before
    page.get_by_role("button", name="Unpin").first.click()
    assert page.locator(".pinned-card h3").all_text_contents() == ["row 1, column 0"]


def test_views_and_lenses(window: BrowserWindow, saved: Path) -> None:
    page = window.page
    page.goto(saved.as_uri())
    page.get_by_label("Heat map").check()
    fills = page.locator("[data-lens=latent] .patch").evaluate_all(
        "all => all.map(cell => cell.getAttribute('fill'))"
    )
    assert len(set(fills)) > 1
    assert page.locator(".word").count() == 0
    expect(page.locator(".legend").nth(1)).to_contain_text("probability")
    page.get_by_label("Bank layer", exact=True).check()
    shares = page.locator(".shares tbody tr")
    assert shares.count() == 3
    for row in shares.all():
        assert sum(int(text.split()[0]) for text in row.locator("td").all_inner_texts()) in (99, 100, 101)
    page.get_by_label("Image alone").check()
    assert page.locator(".patch.painted").count() == 0
    page.get_by_role("checkbox", name="LogitLens").uncheck()
    assert page.locator("figure").count() == 2
    for name in ("LatentLens", "EmbeddingLens"):
        page.get_by_role("checkbox", name=name).click()
    assert page.locator("figure").count() == 1  # the last lens cannot be switched off
    # Neither the image nor the tokens beside it are higher than the window.
    for height in (900, 300):
        page.set_viewport_size({"width": 1280, "height": height})
        image, first, last = (
            page.locator(what).bounding_box() for what in ("img", "[data-token='0']", "[data-token='5']")
        )
        assert image is not None
        assert first is not None
        assert last is not None
        assert (first["x"], first["y"]) == pytest.approx((image["x"], image["y"]), abs=3)
        assert last["x"] + last["width"] == pytest.approx(image["x"] + image["width"], abs=3)
        assert last["y"] + last["height"] == pytest.approx(image["y"] + image["height"], abs=3)
        assert image["height"] <= height
        assert image["width"] / image["height"] == pytest.approx(1.5, abs=0.02)


def test_the_address_says_it_all(window: BrowserWindow, saved: Path) -> None:
    page = window.page
    page.goto(saved.as_uri())
    page.locator("[data-lens=latent] [data-token='5']").click()
    page.get_by_label("Heat map").check()
    page.locator("#layer").fill("1")
    page.get_by_role("checkbox", name="EmbeddingLens").uncheck()
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert page.locator("figcaption").all_text_contents() == [
        "LatentLens, visual layer 2",
        "LogitLens, visual layer 2",
    ]
    assert cards(page) == ["row 1, column 2"]
    expect(page.get_by_label("Heat map")).to_be_checked()
    page.goto("about:blank")
    page.goto(f"{saved.as_uri()}#layer=77&view=nothing&lens=crystal&pins=99,x,-1&tile=8")
    assert page.locator("figure").count() == 3
    assert cards(page) == []
    window.check(saved.as_uri())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_and_axe_finds_nothing(
    window: BrowserWindow, saved: Path, scheme: Any, width: int
) -> None:
    window.resize(width, scheme)
    page = window.page
    page.goto(f"{saved.as_uri()}#lens=latent")
    window.check_place(width)
    page.goto(saved.as_uri())
    page.reload()
    page.locator("[data-lens=latent] [data-token='1']").click()
    page.locator("[data-lens=latent] [data-token='4']").click()
    # The words of one scheme and the colors of the other are looked at by axe.
    page.get_by_label("Words" if (width == 1280) == (scheme == "light") else "Bank layer", exact=True).check()
    assert window.findings() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 390])
def test_the_words_of_an_answer_mark_the_patches_that_name_them(
    window: BrowserWindow, tmp_path: Path, width: int
) -> None:
    window.resize(width)
    file = save_html(told_reading(), tmp_path / "told.html")
    page = window.page
    page.goto(f"{file.as_uri()}#layer=8")
    assert page.locator("figure .kind").all_text_contents() == ["Answer", "Prompt"]
    answer = page.get_by_role("grid", name="Answer").locator("[data-token]")
    assert answer.locator(".label").all_text_contents() == ["A", "w8", "x3", "."]
    named = page.locator("svg .named")
    for token, patches in ((0, []), (1, ["3"]), (2, ["3"]), (3, [])):
        answer.nth(token).hover()
        assert [cell.get_attribute("data-token") for cell in named.all()] == patches
    answer.nth(2).hover()
    expect(page.locator(".card")).to_contain_text("of the word “w8x3”")
    expect(page.locator(".card")).to_contain_text("1 visual token has this word")
    page.locator("svg [data-token='3']").hover()
    assert page.locator(".chip.named .label").all_text_contents() == ["w8", "x3"]
    page.locator("svg [data-token='2']").hover()
    assert page.locator(".chip.named").count() == 0
    page.get_by_label("Heat map").check()
    expect(page.locator(".legend")).to_contain_text(
        "0.400  0.650"
    )  # of the patches alone, not the text's 0.990
    assert window.findings() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    window.check(file.as_uri())


def test_tokens_without_a_place_are_listed_and_say_so(window: BrowserWindow, tmp_path: Path) -> None:
    reading = reading_of(lenses=("latent",), layers=(0,))
    lost = tuple(replace(t, label=str(t.index), place=Place(0, -1, -1, None)) for t in reading.tokens)
    reading = replace(
        reading, tokens=lost, geometry="unknown, new: there are no rules for models of this type"
    )
    page = window.page
    page.goto(save_html(reading, tmp_path / "out.html").as_uri())
    expect(page.locator("figure .about")).to_have_text(
        f"Tokens without a place in the image: {reading.geometry}."
    )
    assert page.locator("svg [data-token]").count() == 0
    assert page.locator(".chips .found").all_text_contents() == [f"w0x{number}" for number in range(6)]
    page.locator(".chip[data-token='4']").hover()
    assert cards(page) == ["token 4"]
    expect(page.locator(".source")).to_contain_text(f"boxes: {reading.geometry}")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_slider_leads_through_the_time_of_a_video(
    window: BrowserWindow, tmp_path: Path, width: int
) -> None:
    window.resize(width)
    file = save_html(film_reading(), tmp_path / "film.html")
    page = window.page
    page.goto(f"{file.as_uri()}#layer=8")
    expect(page.locator("figcaption")).to_have_text("LatentLens, visual layer 8, 0.00 to 0.50 s")
    first = page.locator(".picture img").get_attribute("src")
    slider = page.get_by_label("Time")
    slider.fill("1")
    expect(page.locator("figcaption")).to_have_text("LatentLens, visual layer 8, 0.50 to 1.00 s")
    assert page.locator(".picture img").get_attribute("src") != first
    assert [cell.get_attribute("data-token") for cell in page.locator("svg [data-token]").all()] == [
        str(number) for number in range(6, 12)
    ]
    page.locator("svg [data-token='7']").click()
    assert cards(page) == ["0.50 s, row 0, column 1"]
    slider.fill("0")
    assert cards(page)[0] == "0.50 s, row 0, column 1"  # a pinned token stays
    assert page.url.endswith("tile=0&pins=7")
    assert window.findings() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    window.check(file.as_uri())


@pytest.mark.parametrize("width", [1280, 390])
def test_a_sound_has_a_row_for_each_second(window: BrowserWindow, tmp_path: Path, width: int) -> None:
    window.resize(width)
    file = save_html(sound_reading(), tmp_path / "sound.html")
    page = window.page
    page.goto(f"{file.as_uri()}#layer=8")
    rows = page.locator(".timeline [role=row]")
    assert [row.locator("[data-token]").count() for row in rows.all()] == [4, 2]
    assert rows.locator(".second").all_text_contents() == ["0 s", "1 s"]
    page.locator(".timeline [data-token='4']").hover()
    assert cards(page) == ["1.00 s"]
    assert page.locator(".timeline [data-token='4']").inner_text() == "w8x4"
    assert page.get_by_role("grid", name="Answer").locator("[data-token]").count() == 1
    page.get_by_label("Heat map").check()
    assert page.locator(".beat").first.get_attribute("style") != page.locator(".beat").last.get_attribute(
        "style"
    )
    assert window.findings() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    window.check(file.as_uri())


def test_silent_tokens_are_blank_and_say_why(window: BrowserWindow, tmp_path: Path) -> None:
    read = reading_of(layers=(0,), lenses=("latent",))
    tokens = [
        replace(token, neighbors=(), p_value=0.31, silent=True)
        if token.index % 2
        else replace(token, p_value=0.0004)
        for token in read.tokens
    ]
    quiet = save_html(replace(read, tokens=tuple(tokens), fdr=0.05), tmp_path / "quiet.html")
    page = window.page
    page.goto(quiet.as_uri())
    expect(page.locator("figcaption")).to_have_text("LatentLens, visual layer 0, 3 of 6 tokens silent")
    expect(page.locator(".source")).to_contain_text("at most 5 % of the words may be false")
    assert page.locator(".word").all_text_contents() == ["w0x0", "w0x2", "w0x4"]
    page.locator("[data-token='0']").focus()
    expect(page.locator(".card")).to_contain_text("p = 4.0e-4")
    page.keyboard.press("ArrowRight")
    assert cards(page) == ["row 0, column 1"]
    expect(page.locator(".card")).to_contain_text("finds in pictures with nothing to see (p = 0.310)")
    assert page.locator("[data-token='1']").get_attribute("aria-label") == "row 0, column 1 silent, p 0.310"
    page.get_by_label("Heat map").check()
    assert page.locator(".patch.painted").count() == 3
    window.check(quiet.as_uri())
