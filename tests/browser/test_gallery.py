"""The bank's images that show a word are a gallery on the page, and each of them can be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from latentbank.bank.images.opening import create_images
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from tests.browser.conftest import BrowserWindow
from tests.query.banks import fill
from tests.query.images.drawn import SENTENCES, fill_images
from tests.query.patch_vlm import PatchVLM, picture
from tests.query.web.readings import png
from tests.query.web.serving import serving


@pytest.fixture(scope="module")
def searched(language: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page over a bank with images; it opens with a picture."""
    path = tmp_path_factory.mktemp("gallery")
    vlm = PatchVLM(language)
    given: Any = {"model": "patch", "fingerprint": visual_fingerprint(vlm), "num_layers": 4}
    given |= {"hidden_size": language.hidden_size, "data_dir": path, "url": ""}
    with fill("small", path, language, {"c": SENTENCES}) as bank:
        with create_images("small", layers=(2,), **given) as images:
            fill_images(bank, images)
        app = create_app(ReadingService(bank, vlm), {"a cat": png(picture(1, (64, 64)))}, "a cat")
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
    gallery.get_by_role("button", name="Close").click()
    assert "images=dog" not in page.url
    expect(page.locator("#gallery")).to_be_hidden()
    expect(page.locator("#where")).to_be_focused()
    window.check(searched)


def test_without_images_there_is_no_such_button(window: BrowserWindow, live: str) -> None:
    page = window.page
    page.goto(live)
    expect(page.get_by_role("button", name="Find", exact=True)).to_be_visible()
    expect(page.locator("#ask")).to_be_visible()
    expect(page.locator("#everywhere")).to_be_hidden()
