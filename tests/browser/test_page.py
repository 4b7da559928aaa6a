"""The page as people use it: pointer, keys, views, addresses; in light and dark, wide and narrow."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from bank.bank import Bank
from models.language import LanguageModel
from query.lenses import EmbeddingLens, LatentLens, LogitLens
from query.visual import read_images
from query.web.file import save_html
from tests.browser.conftest import Watched
from tests.query.eye import PatchEye, Unembedded, picture
from tests.query.web.readings import HOSTILE, png


@pytest.fixture(scope="module")
def saved(
    bank: Bank, eye: PatchEye, language: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A file of a reading with three lenses, three layers and hostile captions and name."""
    folder = tmp_path_factory.mktemp("files")
    image = folder / "<img src=x onerror='window.hit=1'>.png"
    picture(5, (300, 200)).save(image)
    lenses = [
        LatentLens(bank, "all"),
        LogitLens(Unembedded(language.embedding), language.tokenizer),
        EmbeddingLens(language.embedding, language.tokenizer),
    ]
    (reading,) = read_images(eye, [image], lenses, [0, 2, 3], top_k=8)
    assert any(HOSTILE in n.caption for token in reading.tokens for n in token.neighbors)
    return save_html(reading, folder / "out.html")


def cards(page: Page) -> list[str]:
    return page.locator(".card h3").all_text_contents()


def test_a_file_from_disk_shows_neighbors_of_what_is_pointed_at(window: Watched, saved: Path) -> None:
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


def test_every_step_works_by_keys(window: Watched, saved: Path) -> None:
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


def test_pins_stay_while_layers_change_and_two_are_compared(window: Watched, saved: Path) -> None:
    page = window.page
    page.goto(saved.as_uri())
    page.locator("[data-lens=latent] [data-token='2']").click()
    page.locator("[data-lens=latent] [data-token='3']").click()
    assert cards(page) == ["row 0, column 2", "row 1, column 0"]
    expect(page.locator(".common")).to_contain_text("Words in common:")
    before = page.locator(".card .score").all_text_contents()
    page.get_by_label("Visual layer").fill("2")
    expect(page.locator("output")).to_have_text("3")
    assert cards(page) == ["row 0, column 2", "row 1, column 0"]
    assert page.locator(".card .score").all_text_contents() != before
    page.get_by_role("button", name="Unpin").first.click()
    assert page.locator(".card.held h3").all_text_contents() == ["row 1, column 0"]


def test_views_and_lenses(window: Watched, saved: Path) -> None:
    page = window.page
    page.goto(saved.as_uri())
    page.get_by_label("Heat map").check()
    fills = page.locator("[data-lens=latent] .patch").evaluate_all(
        "all => all.map(one => one.getAttribute('fill'))"
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
    assert page.locator("figure").count() == 1  # the last stays
    for height in (
        900,
        300,
    ):  # in a low window the image is not drawn higher than it, nor its tokens beside it
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


def test_the_address_says_it_all(window: Watched, saved: Path, browser: Browser) -> None:
    page = window.page
    page.goto(saved.as_uri())
    page.locator("[data-lens=latent] [data-token='5']").click()
    page.get_by_label("Heat map").check()
    page.get_by_label("Visual layer").fill("1")
    page.get_by_role("checkbox", name="EmbeddingLens").uncheck()
    other = Watched(browser.new_context())
    other.page.goto(page.url)
    assert other.page.locator("figcaption").all_text_contents() == [
        "LatentLens, visual layer 2",
        "LogitLens, visual layer 2",
    ]
    assert cards(other.page) == ["row 1, column 2"]
    expect(other.page.get_by_label("Heat map")).to_be_checked()
    other.page.goto(f"{saved.as_uri()}#layer=77&view=nothing&lens=crystal&pins=99,x,-1&tile=8")
    assert other.page.locator("figure").count() == 3
    assert cards(other.page) == []
    other.check(saved.as_uri())
    other.page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_and_axe_finds_nothing_serious(
    browser: Browser, saved: Path, scheme: str, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    window = Watched(context)
    page = window.page
    page.goto(saved.as_uri())
    page.locator("[data-lens=latent] [data-token='1']").click()
    page.locator("[data-lens=latent] [data-token='4']").click()
    for view in ("Words", "Bank layer"):
        page.get_by_label(view, exact=True).check()
        assert window.serious() == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


# --- the live page ------------------------------------------------------------------------------


def opened(window: Watched, live: str) -> Page:
    """The live page, ready to be used."""
    window.page.goto(live)
    expect(window.page.locator("#ask")).to_be_visible()
    return window.page


def done(page: Page) -> None:
    expect(page.locator("#said")).to_have_text("done")


def test_a_shipped_image_is_read_filtered_and_reproduced(window: Watched, live: str) -> None:
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
    page.locator("[data-lens=latent] [data-token='3']").click()
    expect(page.locator(".card .from").first).to_contain_text("sentences")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    done(page)
    expect(page.locator("figure")).to_have_count(3)
    expect(page.locator(".card h3")).to_have_text("row 1, column 0")
    assert window.serious() == []
    window.check(live)


def test_where_is_a_word(window: Watched, live: str) -> None:
    page = opened(window, live)
    page.get_by_role("button", name="a cat").click()
    done(page)
    page.get_by_label("Where is").fill("garden")
    page.get_by_label("Where is").press("Enter")
    expect(page.get_by_label("Heat map")).to_be_checked()
    page.locator("[data-lens=latent] [data-token='0']").hover()
    assert {text.strip() for text in page.locator(".card b").all_text_contents()} == {"garden"}
    fills = page.locator(".patch").evaluate_all("all => all.map(one => one.getAttribute('fill'))")
    assert len(set(fills)) > 1
    window.check(live)


def test_a_sentence_is_read_token_by_token(window: Watched, live: str) -> None:
    page = opened(window, live)
    page.get_by_label("a sentence").check()
    page.get_by_label("Sentence", exact=True).fill("The dog chased a cat.")
    page.get_by_role("button", name="Read", exact=True).click()
    done(page)
    page.locator(".chip").nth(2).hover()
    expect(page.locator(".card li").first).to_be_visible()
    assert "sentence=The+dog+chased+a+cat." in page.url
    assert window.serious() == []
    window.check(live)


def test_own_images_hostile_names_and_too_large_ones(window: Watched, live: str, tmp_path: Path) -> None:
    page = opened(window, live)
    name = "<img src=x onerror='window.hit=1'>.png"
    chooser = page.locator("#file")
    chooser.set_input_files({"name": name, "mimeType": "image/png", "buffer": png(picture(6))})
    done(page)
    expect(page.locator(".title")).to_have_text(name)
    from PIL import Image

    large = png(Image.new("1", (10_000, 5_000)))
    chooser.set_input_files({"name": "large.png", "mimeType": "image/png", "buffer": large})
    expect(page.locator("#said")).to_have_text("The image has more than 40 million pixels; make it smaller.")
    # The browser tells of the refusal by itself.
    window.complaints = [said for said in window.complaints if "status of 400" not in said]
    window.check(live)


def test_a_saved_page_is_opened_again(window: Watched, live: str, saved: Path, tmp_path: Path) -> None:
    page = opened(window, live)
    page.get_by_role("button", name="a cat").click()
    done(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Save this page").click()
    kept = tmp_path / "kept.html"
    download.value.save_as(kept)
    page.get_by_label("Open a saved reading").set_input_files(saved)
    expect(page.locator("#said")).to_have_text("opened out.html")
    expect(page.locator("figure")).to_have_count(3)
    page.get_by_label("Open a saved reading").set_input_files(kept)
    expect(page.locator(".title")).to_have_text("a cat")
    page.get_by_label("Open a saved reading").set_input_files(
        {
            "name": "x.html",
            "mimeType": "text/html",
            "buffer": b"<p>nothing</p><script>window.hit = 1</script>",
        }
    )
    expect(page.locator("#said")).to_contain_text("holds no reading")
    window.check(live)


def test_a_job_is_cancelled_by_its_button(
    window: Watched, live: str, eye: PatchEye, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    go, look = threading.Event(), eye.visual_tokens
    monkeypatch.setattr(eye, "visual_tokens", lambda *a, **k: (go.wait(20), look(*a, **k))[1])
    page = opened(window, live)
    page.locator("#file").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": png(picture(77))}
    )
    expect(page.locator("#said")).to_have_text("looking at the image")
    expect(page.locator("#progress")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    go.set()
    expect(page.locator("#said")).to_have_text("Cancelled.")
    expect(page.locator("#progress")).to_be_hidden()
    assert page.locator("figure").count() == 0
    window.check(live)
