"""The page of questions as people use it: by keyboard alone, by mouse, back and forth, and on a telephone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from latentbank.query.judging.annotations import Annotations
from latentbank.query.judging.questions import Candidate, Question, Subject
from latentbank.query.judging.views import View
from latentbank.query.web.annotate import create_annotation_app
from latentbank.query.web.guard import Guard
from tests.browser.conftest import BrowserWindow
from tests.query.web.readings import HOSTILE
from tests.query.web.serving import serving

_BROKEN = 3  # the image of this question cannot be shown


@dataclass
class Served:
    """A page of four questions, of two words each."""

    address: str
    path: Path

    def answers(self, rater: str) -> list[tuple[str, list[str]]]:
        """Return the questions and kinds of a person's lines."""
        if not self.path.exists():
            return []
        lines = map(json.loads, self.path.read_text().splitlines())
        return [(line["question"], line["kinds"]) for line in lines if line["rater"] == rater]


def question(number: int) -> Question:
    """Return a question about a sentence and a word."""
    subject = Subject("owner/vlm", "photo", "", "latent", 8, 1, 2, 7)
    candidates = (Candidate("dog"), Candidate(HOSTILE, f"A {HOSTILE}!", 2, 2 + len(HOSTILE)))
    view = View((60, 60), (0, 0), (10, 10), (6, 6))
    return Question(f"id{number}", "sentences", candidates, view, (10, 10, 40, 40), subject)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    def opened(asked: Question) -> Image.Image:
        if asked.id == f"id{_BROKEN}":
            raise_broken()
        return Image.linear_gradient("L").resize((60, 60)).convert("RGB")

    path = tmp_path_factory.mktemp("annotate") / "a.jsonl"
    questions = [question(number) for number in range(4)]
    with serving(Guard(create_annotation_app(questions, Annotations(path), opened))) as address:
        yield Served(address, path)


def raise_broken() -> None:
    from latentbank.errors import ImageError

    raise ImageError("The image is damaged.")


def at(page: Page, number: int) -> None:
    """Wait until a question is shown."""
    expect(page.locator("#number")).to_have_text(f"question {number} of 4")


def check(window: BrowserWindow, served: Served) -> None:
    """Check the page; the browser itself logs that the broken image was refused."""
    window.complaints = [text for text in window.complaints if "status of 400" not in text]
    window.check(served.address)


def begun(window: BrowserWindow, served: Served, name: str) -> Page:
    """Return the page after a name was given, by keyboard."""
    window.page.goto(served.address)
    expect(window.page.get_by_label("Your name")).to_be_focused()
    window.page.keyboard.type(name)
    window.page.keyboard.press("Enter")
    return window.page


def test_by_keyboard_alone_back_and_forth_and_again_later(window: BrowserWindow, served: Served) -> None:
    page = begun(window, served, "Ada")
    at(page, 1)
    keys = page.keyboard
    keys.press("Enter")  # nothing is marked
    expect(page.locator("#status")).to_contain_text("press N if none of them fits")
    assert served.answers("Ada") == []
    for key in ("c", "2", "g", "ArrowUp", "a", "Enter"):
        keys.press(key)
    at(page, 2)
    assert served.answers("Ada") == [("id0", ["abstract", "global"])]
    keys.press("n")
    at(page, 3)
    keys.press("c")
    keys.press("ArrowLeft")
    at(page, 2)
    expect(page.locator("#status")).to_have_text("Answered; you can change it.")
    keys.press("ArrowRight")
    at(page, 3)
    expect(page.locator("#status")).to_have_text("These marks are not saved yet.")
    page.reload()  # the address holds name and question; marks that were not saved are gone
    at(page, 3)
    expect(page.locator("#about")).to_have_text("Ada: 2 of 4 questions answered")
    assert page.locator("[aria-pressed=true]").count() == 0
    keys.press("ArrowLeft")
    at(page, 2)
    keys.press("ArrowLeft")
    at(page, 1)
    expect(page.locator("[aria-pressed=true]")).to_have_text(["abstract A", "global G"])
    keys.press("a")  # takes the kind away
    keys.press("Enter")
    at(page, 3)  # the next open question
    assert served.answers("Ada")[2:] == [("id0", ["", "global"])]
    check(window, served)


def test_by_mouse_to_the_end_with_hostile_words_and_a_broken_image(
    window: BrowserWindow, served: Served
) -> None:
    page = begun(window, served, "Bo")
    at(page, 1)
    expect(page.locator("mark")).to_have_text(HOSTILE)
    for number in (1, 2, 3):
        at(page, number)
        page.get_by_role("button", name="concrete").first.click()
        page.get_by_role("button", name="Save and next").click()
    expect(page.locator("#status")).to_have_text("The image is damaged.")
    page.get_by_role("button", name="None of them").click()  # there is nothing to answer
    assert len(served.answers("Bo")) == 3
    page.get_by_role("button", name="Back").click()
    at(page, 3)
    check(window, served)


def test_what_the_server_did_not_take_stays_and_is_said(window: BrowserWindow, served: Served) -> None:
    page = begun(window, served, "Cy")
    at(page, 1)
    page.route("**/api/answers?*", lambda route: route.abort())
    page.keyboard.press("c")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Not saved: The page's server does not answer")
    expect(page.locator("[aria-pressed=true]")).to_have_count(1)
    page.unroute("**/api/answers?*")
    page.keyboard.press("Enter")
    at(page, 2)
    assert served.answers("Cy") == [("id0", ["concrete", ""])]


def test_all_answered(window: BrowserWindow, served: Served) -> None:
    answers = Annotations(served.path)
    for number in range(4):
        answers.save(question(number), "Di", ["", ""])
    page = begun(window, served, "Di")
    expect(page.locator("#thanks")).to_have_text(
        "All 4 questions are answered. Thank you, Di! You can close the page."
    )
    page.get_by_role("button", name="Go back").click()
    at(page, 1)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_it_fits_and_axe_finds_nothing(
    window: BrowserWindow, served: Served, width: int, scheme: Any
) -> None:
    window.resize(width, scheme)
    page = begun(window, served, f"Ed {width}")
    at(page, 1)
    page.keyboard.press("c")
    assert window.findings() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    window.check(served.address)
