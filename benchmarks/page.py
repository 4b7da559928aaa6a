"""The page in a real browser: time to the first paint, to a token's neighbors, and to a new image's first words.

    python -m benchmarks.page --states DIR --contexts 100000 --json page.json

The bank is that of reading.py, with hidden states of real sentences, made and kept in DIR as search.py makes them.
`latentbank view` runs in a process of its own with the demo VLM. A headless Chromium (LATENTBANK_BROWSER, or the one in
PATH) opens the page. Times are the browser's own, from its trace and its Performance API.

- First paint: in a browser with an empty cache. The bytes are all that it fetches until the network is idle.
- Hover: the pointer moves from token to token of a reading. The time is from the dispatch of `pointerover` to the next
  frame drawn, in the browser's trace.
- New image: a held-out scene of 224 x 224 pixels is chosen. The time is from that event to the frame with the first
  words on the image. Visual layers are the default four, bank layers those in `--layers`. The first scene warms up.
- File: the size of the file behind *Save this page* for these scenes, and its size for an image with as many visual
  tokens as all of them together, if the scenes share no caption.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import Row, answer_child, in_child, machine, show, write_json
from benchmarks.indexes import BANK
from benchmarks.scenes import filled_bank, scenes_parser
from latentbank.text import layer_numbers

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_MODULE = "benchmarks.page"
_OPENINGS = 10
_NAMES = ("chromium", "chromium-browser", "google-chrome")
# Stores when an image is chosen, when the first frame with words of its reading is drawn, and when the last one is.
_WATCH = """() => {
  const drawn = (then) => requestAnimationFrame(() => setTimeout(() => then(performance.now() - window.chosenAt)));
  const onceReady = (target, ready, then) => {
    const observer = new MutationObserver(() => {
      if (!ready()) return;
      observer.disconnect();
      drawn(then);
    });
    observer.observe(target, { childList: true, subtree: true });
  };
  const [view, status] = ["#seen", "#status"].map((id) => document.querySelector(id));
  document.querySelector("#file").addEventListener("change", () => {
    [window.chosenAt, window.firstAfter, window.allAfter] = [performance.now(), null, null];
    view.replaceChildren();
    onceReady(view, () => view.querySelector(".word"), (after) => (window.firstAfter = after));
    onceReady(status, () => status.textContent === "done", (after) => (window.allAfter = after));
  }, { capture: true });
}"""
_FETCHED = """() => ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind))
  .reduce((sum, entry) => sum + entry.transferSize, 0)"""
_PAINTED = """() => performance.getEntriesByName("first-contentful-paint")[0].startTime"""


def main() -> None:
    """Measure and print the table."""
    arguments = scenes_parser(_MODULE, __doc__, images=12).parse_args()
    layers = layer_numbers(arguments.layers)
    with filled_bank(arguments, layers) as work:
        found = in_child(_MODULE, "measure", work=work, layers=layers, images=arguments.images)
    rows = [
        _row("first paint", found["paint"], 0.5, " s"),
        _row("... fetched by then and soon after", [max(found["bytes"]) / 1000], 300, " kB"),
        _row("hover to neighbors", [1000 * seconds for seconds in found["hover"]], 50, " ms", largest=True),
        _row("a new image, first words on screen", found["first"], 3.0, " s"),
        _row("... all layers on screen", found["all"], None, " s"),
        _row("self-contained HTML", [max(found["files"]) / 1e6], 3.0, " MB"),
        _row(
            f"... if the image had {found['tokens'] * arguments.images} visual tokens",
            [found["large"] / 1e6],
            3.0,
            " MB",
        ),
    ]
    sizes = {
        "contexts a layer": arguments.contexts,
        "bank layers": arguments.layers,
        "visual layers": ",".join(map(str, found["visual_layers"])),
        "visual tokens": found["tokens"],
        "images": arguments.images,
        "browser": found["browser"],
    }
    where = machine()
    show("The page", sizes, rows, where)
    write_json(arguments.json, sizes, rows, found, where)


def _row(what: str, values: Sequence[float], most: float | None, unit: str, *, largest: bool = False) -> Row:
    """Return a line with the median and the range of values; the median counts, or the largest if `largest`."""
    counts = max(values) if largest else statistics.median(values)
    ends = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
    return Row(what, "", f"{statistics.median(values):.3g}{unit}{ends}", counts, unit, most=most)


def measure(work: str, layers: Sequence[int], images: int) -> dict[str, Any]:
    """Open the page in a browser and return all measurements."""
    from playwright.sync_api import sync_playwright

    named = os.environ.get("LATENTBANK_BROWSER")
    executable = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if executable is None:
        raise SystemExit("There is no Chromium: apt-get install chromium, or set LATENTBANK_BROWSER.")
    with _served(Path(work)) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        found: dict[str, Any] = {"browser": f"Chromium {browser.version}"}
        found |= _opened(browser, address)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.locator("#ask").wait_for()
        found |= _read(page, layers, images) | {"hover": _hovered(browser, page)}
        browser.close()
    return found


@contextmanager
def _served(work: Path) -> Iterator[str]:
    """Run `latentbank view` over the bank in `work` and yield the page's address."""
    command = [sys.executable, "-m", "latentbank", "--data-dir", str(work / "banks"), "view"]
    command += ["--bank", BANK, "--model", "demo", "--port", "0"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parent.parent, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stderr is not None
    try:
        output = []
        for line in process.stderr:
            output.append(line)
            if "The page is at " in line:
                yield line.split("The page is at ")[1].split(";")[0]
                return
        raise SystemExit("latentbank view did not start:\n" + "".join(output))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _opened(browser: Browser, address: str) -> dict[str, Any]:
    """Return first paints in seconds and bytes fetched, each time with an empty cache."""
    paint, fetched = [], []
    for number in range(_OPENINGS + 1):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.goto(address, wait_until="networkidle")
        if number:  # the first warms up
            paint.append(page.evaluate(_PAINTED) / 1000)
            fetched.append(page.evaluate(_FETCHED))
        context.close()
    return {"paint": paint, "bytes": fetched}


def _read(page: Page, layers: Sequence[int], images: int) -> dict[str, Any]:
    """Return seconds until new images' first words and all their layers are on screen, and bytes of their files."""
    from latentbank.demo.scenes import EVALUATION, load_things, make_scene
    from latentbank.query.output.pictures import png_bytes

    things = load_things()
    page.get_by_text("Layers, lenses, filters").click()
    page.locator("#bank_layers").fill(",".join(map(str, layers)))
    page.evaluate(_WATCH)
    found: dict[str, Any] = {"first": [], "all": [], "files": []}
    data = []
    for number, seed in enumerate(EVALUATION[: images + 1]):
        picture = png_bytes(make_scene(things, seed).image)
        page.locator("#file").set_input_files(
            {"name": f"scene {seed}.png", "mimeType": "image/png", "buffer": picture}
        )
        page.locator("#status:text-is('done')").wait_for(timeout=120_000)
        page.wait_for_timeout(100)  # for the last frame
        first, last = page.evaluate("[firstAfter, allAfter]")
        if not number:  # the first warms up
            continue
        found["first"].append(first / 1000)
        found["all"].append(last / 1000)
        saved = page.evaluate("fetch(document.querySelector('#save').href).then((answer) => answer.text())")
        found["files"].append(len(saved.encode()))
        data.append(saved.split('id="reading">')[1].split("</script>")[0])
    readings = [json.loads(text) for text in data]
    images_bytes = [len(reading["image"]) for reading in readings]
    rest = found["files"][-1] - len(data[-1].encode())  # page, style and script
    tables = sum(len(text.encode()) - image for text, image in zip(data, images_bytes, strict=True))
    return found | {
        "large": rest + max(images_bytes) + tables,
        "tokens": len(readings[0]["tokens"]),
        "visual_layers": readings[0]["layers"],
    }


def _hovered(browser: Browser, page: Page) -> list[float]:
    """Return for each token the seconds from the dispatch of `pointerover` to the next frame drawn, from the trace."""
    page.locator(".picture").scroll_into_view_if_needed()
    cells = page.locator("[role=gridcell]")
    boxes = [cell.bounding_box() for cell in cells.all()]
    page.mouse.move(1, 1)
    categories = ["devtools.timeline", "disabled-by-default-devtools.timeline.frame"]
    browser.start_tracing(page=page, categories=categories)
    names = []
    for box in boxes:
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        names.append(page.locator(".card h3").inner_text())
        page.wait_for_timeout(60)  # so that the next token falls into another frame
    events = json.loads(browser.stop_tracing())["traceEvents"]
    if len(set(names)) < len(names):
        raise SystemExit("Some token did not show its neighbors when the pointer was on it.")
    over = [
        event
        for event in events
        if event["name"] == "EventDispatch" and event["args"]["data"]["type"] == "pointerover"
    ]
    drawn = sorted(
        event["ts"] for event in events if event["name"] == "DrawFrame" and event["pid"] == over[0]["pid"]
    )
    seconds = []
    for event in over:
        ended = event["ts"] + event["dur"]
        seconds.append((next(frame for frame in drawn if frame > ended) - event["ts"]) / 1e6)
    return seconds


_TASKS = {"measure": measure}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
