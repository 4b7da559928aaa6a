"""The live page as people use it: images and sentences, models, filters, refused uploads, and many readers at once."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from latentbank.bank.bank import Bank
from latentbank.query.web.service import ReadingService
from tests.browser.conftest import TIMEOUT, BrowserWindow, cards, wait_for_readings
from tests.query.patch_vlm import PatchVLM, picture
from tests.query.searches import block_second_layer
from tests.query.web.readings import png
from tests.query.web.serving import NO_KEPT


def opened(window: BrowserWindow, live: str) -> Page:
    """Return the live page, ready for use."""
    window.page.goto(live)
    expect(window.page.locator("#ask")).to_be_visible()
    return window.page


def done(page: Page) -> None:
    expect(page.locator("#status")).to_have_text("done")


def test_a_shipped_image_is_read_filtered_and_reproduced(window: BrowserWindow, live: str) -> None:
    page = opened(window, live)
    page.get_by_role("button", name="a cat").click()
    done(page)
    expect(page.locator(".title")).to_have_text("a cat")
    assert page.locator("[role=gridcell]").count() == 6
    page.get_by_text("Layers, lenses, filters").click()
    page.get_by_label("Visual layers").fill("1,2")
    for lens in ("LogitLens", "EmbeddingLens"):
        page.locator("#lenses").get_by_label(lens).check()
    page.get_by_label("Word", exact=True).fill("dog")
    page.get_by_label("Bank layers").fill("all")
    page.get_by_role("button", name="Read", exact=True).click()
    expect(page.locator("figure")).to_have_count(3)
    assert set(page.locator("[data-lens=latent] .word").all_text_contents()) == {"dog"}
    page.get_by_label("Corpus").select_option("sentences")  # reads again by itself
    done(page)
    page.locator("[data-lens=latent] [data-token='3']").click()
    expect(page.locator(".card .from").first).to_contain_text("sentences")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    done(page)
    expect(page.locator("figure")).to_have_count(3)
    expect(page.locator(".card h3")).to_have_text("row 1, column 0")
    assert window.findings() == []
    window.check(live)


def test_an_uploaded_image_is_in_the_address(window: BrowserWindow, live: str) -> None:
    page = opened(window, live)
    page.locator("#file").set_input_files(
        {"name": "mine.png", "mimeType": "image/png", "buffer": png(picture(11))}
    )
    done(page)
    address, words = page.url, page.locator(".word").all_text_contents()
    assert "upload=" in address
    page.goto("about:blank")
    page.goto(address)
    done(page)
    expect(page.locator(".title")).to_have_text("mine.png")
    assert page.locator(".word").all_text_contents() == words
    window.check(live)


def test_where_is_a_word(window: BrowserWindow, live: str) -> None:
    page = opened(window, live)
    page.get_by_role("button", name="a cat").click()
    done(page)
    page.get_by_label("Where is").fill("garden")
    page.get_by_label("Where is").press("Enter")
    done(page)
    expect(page.get_by_label("Heat map")).to_be_checked()
    page.locator("[data-lens=latent] [data-token='0']").hover()
    assert {text.strip() for text in page.locator(".card b").all_text_contents()} == {"garden"}
    fills = page.locator(".patch").evaluate_all("all => all.map(cell => cell.getAttribute('fill'))")
    assert len(set(fills)) > 1
    window.check(live)


def test_a_sentence_is_read_token_by_token(window: BrowserWindow, live: str) -> None:
    page = opened(window, live)
    page.get_by_label("a sentence").check()
    page.get_by_label("Sentence", exact=True).fill("The dog chased a cat.")
    page.get_by_role("button", name="Read", exact=True).click()
    done(page)
    page.locator(".chip").nth(2).hover()
    expect(page.locator(".card li").first).to_be_visible()
    assert "sentence=The+dog+chased+a+cat." in page.url
    # A sentence has no image, so there is no view of the image alone.
    assert page.locator("[name=view]").count() == 3
    assert window.findings() == []
    window.check(live)


def test_own_images_hostile_names_and_too_large_ones(
    window: BrowserWindow, live: str, tmp_path: Path
) -> None:
    page = opened(window, live)
    name = "<img src=x onerror='window.hit=1'>.png"
    chooser = page.locator("#file")
    chooser.set_input_files({"name": name, "mimeType": "image/png", "buffer": png(picture(6))})
    done(page)
    expect(page.locator(".title")).to_have_text(name)
    from PIL import Image

    large = png(Image.new("1", (10_000, 5_000)))
    chooser.set_input_files({"name": "large.png", "mimeType": "image/png", "buffer": large})
    expect(page.locator("#status")).to_have_text(
        "The image has more than 40 million pixels; make it smaller."
    )
    # The browser itself logs the refusal.
    window.complaints = [text for text in window.complaints if "status of 400" not in text]
    window.check(live)


def test_a_saved_page_is_opened_again(window: BrowserWindow, live: str, saved: Path, tmp_path: Path) -> None:
    page = opened(window, live)
    page.get_by_role("button", name="a cat").click()
    done(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Save this page").click()
    kept = tmp_path / "kept.html"
    download.value.save_as(kept)
    page.get_by_label("Open a saved reading").set_input_files(saved)
    expect(page.locator("#status")).to_have_text("opened out.html")
    expect(page.locator("figure")).to_have_count(3)
    page.get_by_label("Open a saved reading").set_input_files(kept)
    expect(page.locator(".title")).to_have_text("a cat")
    old = re.sub(r'"about_lenses":\{.*?\}\},', "", saved.read_text(encoding="utf-8"))
    assert "about_lenses" not in old.split('id="reading">')[1].split("</script>")[0]
    page.get_by_label("Open a saved reading").set_input_files(
        {"name": "old.html", "mimeType": "text/html", "buffer": old.encode()}
    )
    expect(page.locator("#status")).to_have_text("opened old.html")
    expect(page.locator("figcaption")).to_contain_text(["LatentLens", "LogitLens", "EmbeddingLens"])
    page.get_by_label("Open a saved reading").set_input_files(
        {
            "name": "x.html",
            "mimeType": "text/html",
            "buffer": b"<p>nothing</p><script>window.hit = 1</script>",
        }
    )
    expect(page.locator("#status")).to_contain_text("holds no reading")
    window.check(live)


def test_a_job_is_cancelled_by_its_button(
    window: BrowserWindow,
    live: str,
    vlm: PatchVLM,
    service: ReadingService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait_for_readings(service)  # others would wait, too
    proceed, original = threading.Event(), vlm.visual_tokens
    monkeypatch.setattr(vlm, "visual_tokens", lambda *a, **k: (proceed.wait(600), original(*a, **k))[1])
    page = opened(window, live)
    page.locator("#file").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": png(picture(77))}
    )
    expect(page.locator("#status")).to_have_text("running the model on the image")
    expect(page.locator("#progress")).to_be_visible()
    cancel(page)
    proceed.set()
    expect(page.locator("#status")).to_have_text("Cancelled.")
    expect(page.locator("#progress")).to_be_hidden()
    assert page.locator("[data-token]").count() == 0  # the image alone is shown
    window.check(live)


def cancel(page: Page) -> None:
    """Click Cancel, and wait until the server knows it: the reading goes on only after that."""
    with page.expect_response(lambda response: response.request.method == "DELETE"):
        page.get_by_role("button", name="Cancel").click()


# --- several models -----------------------------------------------------------------------------


def norms(page: Page) -> str:
    """Return what the first token's card shows about its layer and norm."""
    page.locator("[data-token='0']").first.hover()
    return page.locator(".card .about").first.inner_text()


def test_another_model_is_chosen_and_stands_in_the_address(window: BrowserWindow, live: str) -> None:
    page = opened(window, live)
    page.get_by_role("button", name="a cat").click()
    done(page)
    own = norms(page)
    page.locator("#model").select_option("loud")  # reads again by itself
    done(page)
    loud, address = norms(page), page.url
    assert loud != own
    assert "model=loud" in address
    page.goto("about:blank")
    page.goto(address)
    done(page)
    expect(page.locator("#model")).to_have_value("loud")
    assert norms(page) == loud
    page.get_by_label("a sentence").check()
    expect(page.locator("#model")).to_be_hidden()  # a sentence is read by the bank's LLM
    assert window.findings() == []
    window.check(live)


def test_a_model_of_another_llm_is_refused(window: BrowserWindow, live: str) -> None:
    page = opened(window, f"{live}?picture=a+cat&model=stranger")
    expect(page.locator("#status")).to_contain_text("choose that bank's model or another bank")
    page.goto(f"{live}?picture=a+cat&model=<img src=x onerror='window.hit=1'>")
    expect(page.locator("#status")).to_contain_text("There is no model <img src=x")
    assert page.locator("figure").count() == 0
    window.check(live)


# --- while it is read ---------------------------------------------------------------------------


@pytest.fixture
def second_layer(
    bank: Bank, service: ReadingService, monkeypatch: pytest.MonkeyPatch
) -> Iterator[threading.Event]:
    """An event; an image's second visual layer is searched only when it is set."""
    wait_for_readings(service)  # their searches would count, too
    proceed = block_second_layer(bank, monkeypatch)
    yield proceed
    proceed.set()


def first_layer_is_there(page: Page, seed: int) -> None:
    page.get_by_text("Layers, lenses, filters").click()
    page.get_by_label("Visual layers").fill("1,2")
    page.locator("#file").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": png(picture(seed, (300, 200)))}
    )
    expect(page.locator("figcaption")).to_have_text("LatentLens, visual layer 1")
    expect(page.locator("#status")).to_have_text("visual layer 1 is read, 1 of 2")
    assert all(page.locator(".word").all_text_contents())


def test_a_layer_is_shown_and_used_while_the_next_is_read(
    window: BrowserWindow, live: str, second_layer: threading.Event
) -> None:
    page = opened(window, live)
    first_layer_is_there(page, 501)
    page.locator("[data-token='4']").click()
    assert page.locator(".card li").count() == 5
    page.locator("#layer").fill("1")
    expect(page.locator("figcaption")).to_have_text("LatentLens, visual layer 2: not read yet")
    expect(page.locator(".card")).to_contain_text("Not read yet.")
    assert page.locator(".word").count() == 0
    for view in ("Heat map", "Bank layer", "Words"):
        page.get_by_role("radio", name=view).check()
    assert window.findings() == []
    page.locator("#layer").focus()
    second_layer.set()
    done(page)
    expect(page.locator("figcaption")).to_have_text("LatentLens, visual layer 2")
    assert all(page.locator(".word").all_text_contents())
    assert cards(page) == ["row 1, column 1"]  # what was pinned stays
    assert page.locator(".card li").count() == 5
    expect(page.locator("#layer")).to_be_focused()
    expect(page.get_by_role("link", name="Save this page")).to_be_visible()
    window.check(live)


def test_a_saved_reading_opened_meanwhile_stays(
    window: BrowserWindow, live: str, saved: Path, service: ReadingService, second_layer: threading.Event
) -> None:
    page = opened(window, live)
    first_layer_is_there(page, 503)
    page.get_by_label("Open a saved reading").set_input_files(saved)
    expect(page.locator("figure")).to_have_count(3)
    second_layer.set()
    wait_for_readings(service)
    expect(page.locator("#status")).to_have_text("opened out.html")
    expect(page.locator("#progress")).to_be_hidden()
    assert page.locator("figure").count() == 3
    window.check(live)


def test_what_was_read_stays_when_the_rest_is_cancelled(
    window: BrowserWindow, live: str, second_layer: threading.Event
) -> None:
    page = opened(window, live)
    first_layer_is_there(page, 502)
    cancel(page)
    second_layer.set()
    expect(page.locator("#status")).to_have_text("Cancelled.")
    page.locator("[data-token='4']").hover()
    assert page.locator(".card li").count() == 5
    expect(page.get_by_role("link", name="Save this page")).to_be_hidden()
    window.check(live)


# --- how it looks, and how many -----------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (390, "light"), (1280, "dark")])
def test_the_live_page_fits_and_axe_finds_nothing(
    window: BrowserWindow, live: str, width: int, scheme: Any
) -> None:
    window.resize(width, scheme)
    page = opened(window, live)
    page.get_by_role("button", name="a cat").click()
    done(page)
    window.check_place(width)
    page.get_by_text("Layers, lenses, filters").click()
    page.locator("[data-token='4']").click()
    assert window.findings() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_label("a sentence").check()
    page.get_by_label("Sentence", exact=True).fill("The bank of the river was muddy.")
    page.get_by_label("Sentence", exact=True).press("Enter")
    expect(page.locator(".title")).to_have_text("The bank of the river was muddy.")
    assert window.findings() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    window.check(live)


def asked(live: str, sentence: str) -> str:
    """Ask what the page asks when a sentence is read, and return the name of what was read."""
    with httpx.Client(base_url=live, timeout=60, limits=NO_KEPT) as client:
        job = client.post("api/readings", params={"sentence": sentence}).raise_for_status().json()["job"]
        told = client.get(f"api/jobs/{job}/events").raise_for_status().text
        reading = json.loads(told.rsplit("data: ", 1)[1].split("\n")[0])["reading"]
        data = client.get(f"api/readings/{reading}").raise_for_status().json()
        return str(data["source"])


def test_twenty_readers_at_once(browser: Browser, live: str) -> None:
    """Four read in windows of their own; sixteen ask as the page does, as twenty windows take half a minute."""
    sentences = [f"The dog chased cat {number}." for number in range(20)]
    windows = [BrowserWindow(browser.new_context().new_page()) for _ in range(4)]
    for window in windows:
        window.page.set_default_timeout(TIMEOUT)
    with ThreadPoolExecutor(16) as pool:
        others = [pool.submit(asked, live, sentence) for sentence in sentences[4:]]
        for sentence, window in zip(sentences, windows, strict=False):
            # All send their requests before anything is waited for.
            window.page.goto(f"{live}?sentence={quote_plus(sentence)}", wait_until="commit")
        for sentence, window in zip(sentences, windows, strict=False):
            expect(window.page.locator(".title")).to_have_text(sentence)
            expect(window.page.locator(".chip").first).to_be_visible()
            window.check(live)
            window.page.context.close()
        assert [other.result() for other in others] == sentences[4:]


def test_an_answer_is_read_and_the_address_holds_it(window: BrowserWindow, live: str) -> None:
    page = opened(window, live)
    page.get_by_text("Layers, lenses, filters").click()
    page.get_by_label("Answer of").fill("2")
    page.locator("#tokens").select_option("all")
    page.get_by_role("button", name="a cat").click()
    done(page)
    assert page.get_by_role("grid", name="Answer").locator("[data-token]").count() == 2
    assert page.get_by_role("grid", name="Prompt").locator("[data-token]").count() == 2
    page.goto(page.url)
    done(page)
    assert page.get_by_role("grid", name="Answer").locator("[data-token]").count() == 2
    page.get_by_label("a sentence").check()
    expect(page.locator("#around-part")).to_be_hidden()
    window.check(live)
