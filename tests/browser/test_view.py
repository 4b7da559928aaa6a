"""What a reading shows at first, and how one looks on: the best layer, words, layers that play, links and figures."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from latentbank.query.web.file import save_html
from tests.browser.conftest import BrowserWindow, cards
from tests.query.web.readings import neighbor, reading_of, told_reading

# Of each layer, the best words of its six tokens; the first three have the higher scores.
WORDS = {
    0: ("fog", "mist", "rain", "rain", "snow", "snow"),
    8: ("dog", "dog", "cat", "lamp", "lamp", "lamp"),
    16: ("the", "the", "the", "the", "the", "the"),
}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose tokens say something at layer 8 alone: elsewhere neighbors disagree, or say "the"."""
    plain = reading_of(lenses=("latent",), layers=tuple(WORDS), size=(300, 200))
    tokens = []
    for token in plain.tokens:
        word, score = WORDS[token.layer][token.index], 0.6 - token.index / 20
        others = ["odd", "off"] if token.layer == 0 else [word, "odd"]
        found = (neighbor(word, score), *(neighbor(other, score - 0.01) for other in others))
        tokens.append(replace(token, neighbors=found))
    return save_html(replace(plain, tokens=tuple(tokens)), tmp_path_factory.mktemp("view") / "spoken.html")


def shown(page: Page) -> list[str]:
    return page.locator(".word").all_text_contents()


def test_the_layer_at_which_most_is_said_comes_first_with_its_words(
    window: BrowserWindow, spoken: Path
) -> None:
    page = window.page
    page.goto(spoken.as_uri())
    expect(page.locator(".strip output")).to_have_text("8")
    assert shown(page) == ["dog", "cat"]  # one word across two tokens; "lamp" is in the lower half
    expect(page.locator(".sentence")).to_have_text(
        "Each square is a visual token. At visual layer 8 LatentLens reads dog on 2 and cat on 1."
    )
    expect(page.locator(".hidden-words")).to_contain_text("3 of 6 words are hidden: fewer than half")
    assert "layer=" not in page.url
    page.get_by_label("All words").check()
    assert sorted(shown(page)) == ["cat", "dog", "lamp"]
    page.goto("about:blank")
    page.goto(f"{spoken.as_uri()}#all=1&layer=16")
    assert shown(page) == ["the"]
    page.get_by_label("All words").uncheck()
    assert shown(page) == []
    expect(page.locator(".sentence")).to_contain_text("has nothing to say")
    window.check(spoken.as_uri())


def test_layers_play_and_pause(stopped: BrowserWindow, spoken: Path) -> None:
    page = stopped.page
    page.goto(spoken.as_uri())
    page.get_by_role("button", name="Play the layers").click()
    layer = page.locator(".strip output")
    expect(layer).to_have_text("16")
    page.clock.run_for(1000)
    expect(layer).to_have_text("0")
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(3000)
    expect(layer).to_have_text("0")
    assert "layer=0" in page.url
    page.emulate_media(reduced_motion="reduce")
    page.get_by_role("button", name="Next layer").click()  # a step, and no more
    page.clock.run_for(3000)
    expect(layer).to_have_text("8")


def test_a_tokens_life_leads_to_its_layers(window: BrowserWindow, spoken: Path) -> None:
    page = window.page
    page.goto(spoken.as_uri())
    page.locator("[data-token='0']").focus()
    moments = page.locator(".life .moment")
    expect(moments).to_have_count(3)  # they come a frame after the neighbors
    assert moments.locator(".found").all_text_contents() == ["fog", "dog", "the"]
    assert [moment.get_attribute("aria-current") for moment in moments.all()] == [None, "step", None]
    moments.nth(2).click()
    expect(page.locator(".strip output")).to_have_text("16")
    assert cards(page) == ["row 0, column 0"]


def test_a_word_is_found_and_stands_in_the_link(window: BrowserWindow, spoken: Path) -> None:
    page = window.page
    page.goto(spoken.as_uri())
    page.get_by_label("Where is").fill("lamp")
    page.get_by_label("Where is").press("Enter")
    named = page.locator("svg .named")
    assert [cell.get_attribute("data-token") for cell in named.all()] == ["3", "4", "5"]
    expect(page.locator("#seen [role=status]")).to_have_text(
        "3 tokens have “lamp” among the neighbors at visual layer 8"
    )
    page.locator(".entry", has_text="dog").focus()
    page.keyboard.press("Enter")
    assert [cell.get_attribute("data-token") for cell in named.all()] == ["0", "1"]
    expect(page.locator(".entry", has_text="dog")).to_be_focused()
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert named.count() == 2
    expect(page.get_by_label("Where is")).to_have_value("dog")


def test_light_or_dark_is_chosen_and_kept(window: BrowserWindow, spoken: Path) -> None:
    page = window.page
    page.goto(spoken.as_uri())
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.get_by_role("button", name="Dark colors").click()
    dark = page.evaluate(ground)
    assert dark != "rgb(255, 255, 255)"
    page.reload()
    assert page.evaluate(ground) == dark
    assert window.findings() == []
    page.get_by_role("button", name="Light colors").click()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.evaluate("localStorage.clear()")


def download(page: Page, kind: str, folder: Path) -> Path:
    page.locator("#figure summary").click()
    with page.expect_download() as started:
        page.get_by_role("button", name=kind).click()
    started.value.save_as(folder / started.value.suggested_filename)
    return folder / started.value.suggested_filename


def test_a_figure_is_made_of_what_is_seen(window: BrowserWindow, spoken: Path, tmp_path: Path) -> None:
    page = window.page
    page.goto(f"{spoken.as_uri()}#pins=0")
    file = download(page, "SVG", tmp_path)
    assert file.name == "a-photo-layer-8.svg"
    root = ET.parse(file).getroot()
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"dog", "cat", "LatentLens, visual layer 8", "row 0, column 0, visual layer 8"} <= set(texts)
    assert root.find(".//{http://www.w3.org/2000/svg}image") is not None
    page.get_by_label("Heat map").check()
    with Image.open(download(page, "PNG", tmp_path)) as image:
        assert image.width == 2 * float(root.get("width", "0"))
        colours = image.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 20
    window.check(spoken.as_uri())


def test_text_around_an_image_is_in_the_figure(window: BrowserWindow, tmp_path: Path) -> None:
    page = window.page
    page.goto(save_html(told_reading(), tmp_path / "told.html").as_uri())
    text = download(page, "SVG", tmp_path).read_text(encoding="utf-8")
    assert ">x3</text>" in text
