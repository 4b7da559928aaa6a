"""The bank's images that show a word are a gallery on the page, and each of them can be read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from latentbank.bank.opening import open_bank
from latentbank.models.language.model import LanguageModel
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from tests.browser.conftest import BrowserWindow
from tests.query.images.drawn import fill_drawn
from tests.query.patch_vlm import PatchVLM, picture
from tests.query.web.readings import png
from tests.query.web.serving import serving


@pytest.fixture(scope="module")
def searched(language: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page over a bank with images; it opens with a picture."""
    path = tmp_path_factory.mktemp("gallery")
    fill_drawn(path, language)
    with open_bank("small", data_dir=path, url="") as bank:
        service = ReadingService(bank, PatchVLM(language))
        app = create_app(service, {"a cat": png(picture(1, (64, 64)))}, "a cat")
        with serving(Guard(app)) as address:
            yield address


def test_a_word_is_asked_of_all_images(window: BrowserWindow, searched: str) -> None:
    page = window.page
    page.goto(searched)
    expect(page.locator("#status")).to_have_text("done")
    page.get_by_label("Where is").fill("dog")
    page.get_by_role("button", name="In all images").press("Enter")
    gallery = page.get_by_role("region", name="“dog” in all images")
    shown = gallery.get_by_role("button", name="Read image")
    expect(shown).to_have_count(12)
    names = [name.split()[-1] for name in shown.locator(".name").all_text_contents()]
    assert set(names[:3]) == {"<0>.png", "<4>.png", "<8>.png"}
    assert gallery.get_by_role("button", name=f"Read image 1 {names[0]}").count() == 1
    assert shown.first.locator(".mark").count() == 3
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            window.resize(width, scheme)  # type: ignore[arg-type]
            page.evaluate("document.querySelector('#gallery').scrollIntoView()")
            panel, found = page.locator(".panel").bounding_box(), gallery.bounding_box()
            assert found is not None
            assert width == 390 or (panel is not None and panel["y"] + panel["height"] <= found["y"])
            assert window.findings() == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "images=dog" in page.url
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    expect(shown).to_have_count(12)
    expect(page.locator("#status")).to_have_text("done")
    shown.first.press("Enter")
    expect(page.locator("#status")).to_have_text("done")
    expect(page.locator(".title")).to_have_text(names[0])
    assert "images=dog" in page.url
    check_likes(window, searched)
    gallery = page.get_by_role("region", name="in all images")
    gallery.get_by_role("button", name="Close").click()
    assert "images=" not in page.url
    assert "like=" not in page.url
    expect(page.locator("#gallery")).to_be_hidden()
    expect(page.locator("#where")).to_be_focused()
    window.check(searched)


def check_likes(window: BrowserWindow, address: str) -> None:
    """Ask, with the keyboard, for what a stored patch shows, then for what one of the image that is read shows."""
    page = window.page
    gallery = page.get_by_role("region", name="in all images")
    gallery.get_by_role("button", name="Like this, in all images: row 0, column 0 of <4>.png").press("Enter")
    title = gallery.get_by_role("heading")
    expect(title).to_have_text("Like <4>.png, row 0, column 0, in all images")
    expect(title).to_be_focused()
    names = [name.split()[-1] for name in gallery.locator(".shown .name").all_text_contents()]
    assert set(names[:3]) == {"<0>.png", "<4>.png", "<8>.png"}
    assert "images=" not in page.url
    stored = page.url
    page.goto(f"{address}?picture=a+cat")
    expect(page.locator("#status")).to_have_text("done")
    page.locator("[role=gridcell]").nth(4).press("Enter")
    page.get_by_role("button", name="Like this, in all images: row 1, column 1").press("Enter")
    expect(title).to_have_text("Like a cat, row 1, column 1, in all images")
    assert "like=1%2C1%2C0" in page.url
    assert window.findings() == []
    page.reload()
    expect(title).to_have_text("Like a cat, row 1, column 1, in all images")
    page.goto(stored)
    expect(title).to_have_text("Like <4>.png, row 0, column 0, in all images")


def test_without_images_there_is_no_such_button(window: BrowserWindow, live: str) -> None:
    page = window.page
    page.goto(live)
    expect(page.get_by_role("button", name="Find", exact=True)).to_be_visible()
    expect(page.locator("#ask")).to_be_visible()
    expect(page.locator("#everywhere")).to_be_hidden()
