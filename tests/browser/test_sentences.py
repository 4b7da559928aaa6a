"""The live page over an LLM without a VLM: it says that it reads sentences alone, and offers no image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from latentbank.bank.bank import Bank
from latentbank.models.language.model import LanguageModel
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from tests.browser.conftest import BrowserWindow
from tests.query.web.serving import serving


@pytest.fixture(scope="module")
def sentences(bank: Bank, language: LanguageModel) -> Iterator[str]:
    """The address of a page that has an LLM alone."""
    app = Guard(create_app(ReadingService(bank, language, name="tiny-llama")))
    with serving(app) as address:
        yield address


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_reads_sentences_and_says_so(
    sentences: str, window: BrowserWindow, width: int, scheme: Any
) -> None:
    window.resize(width, scheme)
    page = window.page
    # A link of a page that had images.
    page.goto(f"{sentences}?upload=abc")
    expect(page.locator("#alone")).to_contain_text(
        "This page reads sentences alone: tiny-llama takes no images."
    )
    for hidden in ("#tabs", "#file", "#pictures", "#where", "#lenses", "#around-part", "#model"):
        expect(page.locator(hidden)).to_be_hidden()
    page.get_by_role("button", name="Read", exact=True).click()
    expect(page.locator("#status")).to_have_text("Write a sentence first.")
    page.get_by_label("Sentence", exact=True).fill("The dog chased a cat.")
    page.get_by_text("Layers, lenses, filters").click()
    page.get_by_label("Layers", exact=True).fill("1,2")
    page.get_by_label("Sentence", exact=True).press("Enter")
    expect(page.locator("#status")).to_have_text("done")
    page.locator(".chip").nth(2).hover()
    expect(page.locator(".card li").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert window.findings() == []
    window.check(sentences)
