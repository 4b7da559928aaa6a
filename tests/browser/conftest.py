"""A real browser, and the page in it: as a file from disk, and live over a real bank of a tiny LLM."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from latentbank.bank.bank import Bank
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.query.lenses.embedding import EmbeddingLens
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.lenses.logit import LogitLens
from latentbank.query.reading.visual import read_images
from latentbank.query.web.file import save_html
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from tests.query.banks import SENTENCES, fill
from tests.query.patch_vlm import PatchVLM, Unembedded, picture
from tests.query.web.readings import HOSTILE, png
from tests.query.web.serving import be_patient, serving
from tests.tiny import save_tiny

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_VIEWPORT: Any = {"width": 1280, "height": 900}
TIMEOUT = 60_000
"""Milliseconds to wait for what is expected, and until something can be clicked."""
_AXE = Path(__file__).parent / "axe.min.js"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a screen. LATENTBANK_BROWSER may name its file; the tests are then never skipped."""
    named = os.environ.get("LATENTBANK_BROWSER")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    # Playwright waits 5 seconds for what is expected, which is too short where other tests run beside this one.
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        # Containers' root cannot have Chromium's sandbox.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def cards(page: Page) -> list[str]:
    """The tokens whose neighbors are shown."""
    return page.locator(".card h3").all_text_contents()


class BrowserWindow:
    """A page whose console messages and requests are recorded."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._listeners: dict[Any, Callable[[Any], object]] = {
            "console": lambda said: said.type in ("error", "warning") and self.complaints.append(said.text),
            "pageerror": lambda error: self.complaints.append(str(error)),
            "request": lambda request: self.requests.append(request.url),
        }
        for event, listener in self._listeners.items():
            page.on(event, listener)

    def resize(self, width: int, scheme: Literal["light", "dark"] = "light") -> None:
        """Show the page in a window of some width, to someone who prefers light or dark pages."""
        self.page.set_viewport_size({"width": width, "height": 844 if width < 860 else 900})
        self.page.emulate_media(color_scheme=scheme)

    def leave(self) -> None:
        """Leave the page as a new one is, for the next test."""
        self.page.goto("about:blank")
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)
        self.page.unroute_all()
        self.page.context.clear_cookies()
        self.page.set_viewport_size(_VIEWPORT)
        self.page.emulate_media(color_scheme="light")
        self.page.mouse.move(0, 0)

    def check(self, origin: str) -> None:
        """Check that nothing failed, no hostile script ran, and all requests went to `origin`."""
        assert self.complaints == []
        assert self.page.evaluate("window.hit") is None
        away = [url for url in self.requests if not url.startswith((origin, "data:", "blob:"))]
        assert away == []

    def check_place(self, width: int) -> None:
        """Check that the image lies high in the first window, and whole."""
        self.page.evaluate("scrollTo(0, 0)")
        image = self.page.locator(".picture").first.bounding_box()
        size = self.page.viewport_size
        assert image is not None
        assert size is not None
        assert image["y"] <= (200 if width < 860 else 120)
        assert image["y"] + image["height"] <= size["height"]
        assert image["height"] > 0.5 * min(width, size["height"])

    def findings(self) -> list[str]:
        """Return the accessibility problems that axe finds in the page as it is now."""
        # Not as a script element, which the page's policy would block.
        self.page.evaluate(_AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run()")["violations"]
        return [
            f"{violation['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for violation in found
            for node in violation["nodes"]
        ]


@pytest.fixture(scope="session")
def shared_page(browser: Browser) -> Iterator[Page]:
    """One page for all tests: Chromium starts processes for each new one, which takes most of a second."""
    context = browser.new_context(viewport=_VIEWPORT)
    context.set_default_timeout(TIMEOUT)
    yield context.new_page()
    context.close()


@pytest.fixture
def stopped(browser: Browser) -> Iterator[BrowserWindow]:
    """A window of its own, whose clock stands still: a context has such a clock for good."""
    context = browser.new_context(viewport=_VIEWPORT)
    context.set_default_timeout(TIMEOUT)
    context.clock.install(time=0)
    context.clock.pause_at(1000)
    yield BrowserWindow(context.new_page())
    context.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no page give up what a busy machine delays."""
    be_patient(monkeypatch)


@pytest.fixture
def window(shared_page: Page) -> Iterator[BrowserWindow]:
    shown = BrowserWindow(shared_page)
    yield shown
    shown.leave()


@pytest.fixture(scope="session")
def language(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(str(save_tiny(tmp_path_factory.mktemp("tiny") / "llama-tiny")))


@pytest.fixture(scope="session")
def vlm(language: LanguageModel) -> PatchVLM:
    return PatchVLM(language)


@pytest.fixture(scope="session")
def bank(language: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    corpora = {"sentences": SENTENCES, "hostile": [HOSTILE, f"A dog says {HOSTILE}"]}
    with fill("small", tmp_path_factory.mktemp("banks"), language, corpora, (1, 2, 3)) as filled:
        yield filled


@pytest.fixture(scope="session")
def saved(
    bank: Bank, vlm: PatchVLM, language: LanguageModel, tmp_path_factory: pytest.TempPathFactory
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
    (reading,) = read_images(vlm, [image], lenses, [0, 2, 3], top_k=8)
    assert any(HOSTILE in n.caption for token in reading.tokens for n in token.neighbors)
    return save_html(reading, folder / "out.html")


@pytest.fixture(scope="session")
def service(bank: Bank, vlm: PatchVLM, tmp_path_factory: pytest.TempPathFactory) -> ReadingService:
    """What reads for the live page; its models are `patch-vlm`, `loud`, and `stranger`, which has another LLM."""
    folder = tmp_path_factory.mktemp("stranger") / "llama-other"
    others = {
        "loud": lambda say: PatchVLM(vlm.language, gain=9.0),
        "stranger": lambda say: PatchVLM(load_language_model(str(save_tiny(folder, seed=7)))),
    }
    return ReadingService(bank, vlm, others)


@pytest.fixture(scope="session")
def live(service: ReadingService) -> Iterator[str]:
    """The address of the live page."""
    app = Guard(create_app(service, {"a cat": png(picture(1, (300, 200)))}))
    with serving(app) as address:
        yield address


def wait_for_readings(service: ReadingService) -> None:
    """Wait until all that was asked of the live page so far is read: its thread takes one after the other."""
    service._thread.submit(int).result()
