"""A word's tokens are taken out from the page, and the link holds what was found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from latentbank.bank.bank import Bank
from latentbank.models.language.model import LanguageModel
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from tests.browser.conftest import BrowserWindow
from tests.query.patch_vlm import picture
from tests.query.pixels import pixel_vlm
from tests.query.web.readings import png
from tests.query.web.serving import serving


@pytest.fixture(scope="module")
def writing(bank: Bank, language: LanguageModel) -> Iterator[str]:
    """The address of a page with a VLM that writes answers; it opens with a picture."""
    service = ReadingService(bank, pixel_vlm(language))
    with serving(Guard(create_app(service, {"a cat": png(picture(1, (64, 64)))}, "a cat"))) as address:
        yield address


def test_the_tokens_of_a_word_are_taken_out(window: BrowserWindow, writing: str) -> None:
    page = window.page
    page.goto(writing)
    expect(page.locator("#status")).to_have_text("done")
    page.get_by_label("All words").check()
    page.locator(".entry").first.click()
    page.get_by_role("button", name="Take them out").click()
    causes = page.locator(".causes")
    expect(causes).to_contain_text("Change of log-probability without")
    rows = causes.locator("tbody tr")
    assert rows.count() >= 1
    assert rows.first.locator("th").inner_text() == "the tokens of the word"
    assert "cause=1" in page.url
    assert window.findings() == []
    told, address = causes.inner_text(), page.url
    page.goto("about:blank")
    page.goto(address)
    expect(causes).to_contain_text("Change of log-probability without")
    assert causes.inner_text() == told
    window.check(writing)
