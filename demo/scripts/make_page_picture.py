"""Make docs/page.png, the picture of the page in the README: a held-out scene read against the demo's bank.

    make demo && .venv/bin/python -m latentbank.demo.scripts.make_page_picture

It needs Chromium (`apt-get install chromium`) and playwright.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from latentbank.bank.opening import open_bank
from latentbank.bank.where import Where
from latentbank.demo.descriptions import PICTURED
from latentbank.demo.scenes import EVALUATION, load_things, make_scene
from latentbank.demo.vlm import load_demo
from latentbank.models.vision.sources import ImageSource
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.output.pictures import png_bytes
from latentbank.query.reading.visual import read_images
from latentbank.query.web.file import save_html

OUTPUT = Path("docs/page.png")
DEMO = Path(".demo")
SCENE = 3
LAYERS = (0, 4, 8, 12, 16)
PINNED = 22  # a token on the shield


def main() -> None:
    """Read the scene, open its page in a browser and save a screenshot."""
    parser = argparse.ArgumentParser(
        prog="python -m latentbank.demo.scripts.make_page_picture",
        description=str(__doc__).splitlines()[0],
    )
    parser.parse_args()
    from playwright.sync_api import sync_playwright

    vlm = load_demo(DEMO / "SmolLM2-135M-Instruct")
    scene = ImageSource("scene", "", png_bytes(make_scene(load_things(), EVALUATION[SCENE]).image))
    with open_bank("demo", data_dir=DEMO / "banks", url="") as bank:
        lens = LatentLens(bank, "all", Where(corpus=PICTURED))
        (reading,) = read_images(vlm, [scene], [lens], LAYERS)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = save_html(reading, Path(folder) / "page.html")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        page.goto(f"{file.as_uri()}#layer=16&pins={PINNED}")
        page.screenshot(path=OUTPUT)
        browser.close()
    print(f"{OUTPUT}: {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
