"""The live page behind a proxy's sub-path: every address is relative to the page's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from tests.browser.conftest import BrowserWindow
from tests.browser.proxy import under
from tests.query.patch_vlm import picture
from tests.query.web.readings import png
from tests.query.web.serving import serving

PATH = "/people/me/latentbank/"
TOKEN = "a-token-of-the-team"


@pytest.fixture
def locked() -> Iterator[str]:
    """The address of a page without a model that needs a token."""
    with serving(Guard(create_app(None), TOKEN)) as address:
        yield address


def test_the_page_reads_uploads_and_saves_under_a_sub_path(window: BrowserWindow, live: str) -> None:
    page = window.page
    with under(PATH, live) as address:
        page.goto(address)
        page.get_by_role("button", name="a cat").click()
        expect(page.locator("#status")).to_have_text("done")
        upload = {"name": "mine.png", "mimeType": "image/png", "buffer": png(picture(21))}
        page.locator("#file").set_input_files(upload)
        expect(page.locator(".title")).to_have_text("mine.png")
        expect(page.locator("#status")).to_have_text("done")
        reading = page.url
        assert reading.startswith(f"{address}?")
        with page.expect_download() as saving:
            page.get_by_role("link", name="Save this page").click()
        assert saving.value.path().read_text(encoding="utf-8").startswith("<!doctype html>")
        page.goto("about:blank")
        page.goto(reading)
        expect(page.locator(".title")).to_have_text("mine.png")
        expect(page.locator("#status")).to_have_text("done")
        window.check(address)


def test_a_token_is_given_once_under_a_sub_path(window: BrowserWindow, locked: str) -> None:
    page = window.page
    with under(PATH, locked) as address:
        page.goto(f"{address}?picture=a+cat")
        page.get_by_label("Token").fill("a-wrong-token")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_label("Token")).to_have_value("")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Open").click()
        expect(page.locator("#about")).to_contain_text("No model is loaded")
        assert page.url == f"{address}?picture=a+cat"
        (cookie,) = page.context.cookies()
        assert cookie["path"] == PATH.rstrip("/")  # other apps behind the proxy do not get it
        page.goto(address)
        expect(page.locator("#about")).to_contain_text("No model is loaded")
        # The answers 401 without the token are the only complaints.
        assert {text.rsplit("status of", 1)[-1] for text in window.complaints} == {" 401 (Unauthorized)"}
