"""A model that cuts images into tiles: on the page, each token is drawn over the pixels that it encodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentbank.models.vision.vision_language import load_vision_language_model
from latentbank.query.lenses.embedding import EmbeddingLens
from latentbank.query.reading.visual import read_images
from latentbank.query.web.file import save_html
from tests.browser.conftest import BrowserWindow, cards
from tests.models.tiny_vlm import save_tiny_vlm

SIZE = (288, 144)
# Where each cell is drawn, in pixels of the image under it.
_DRAWN = """() => {
  const image = document.querySelector(".picture img").getBoundingClientRect();
  return [...document.querySelectorAll("[role=gridcell]")].map((cell) => {
    const box = cell.querySelector(".patch").getBoundingClientRect();
    return [Number(cell.dataset.token), box.left - image.left, box.top - image.top, box.right - image.left,
            box.bottom - image.top].map((edge, at) => at ? edge * WIDTH / image.width : edge);
  });
}"""


@pytest.mark.parametrize("family", ["llava_next", "idefics3"])
def test_tokens_of_every_tile_are_drawn_over_what_they_see(
    window: BrowserWindow, tmp_path: Path, family: str
) -> None:
    """Invert the colours under a token as it is drawn: no other token of its tile changes as much."""
    vlm = load_vision_language_model(str(save_tiny_vlm(tmp_path / family, family)), device="cpu")
    rng = np.random.default_rng(0)
    cells = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    image = cells.resize(SIZE, Image.Resampling.NEAREST)
    lens = EmbeddingLens(vlm.language.embedding, vlm.language.tokenizer)
    image.save(tmp_path / "image.png")
    (reading,) = read_images(vlm, [tmp_path / "image.png"], [lens], [0])
    (before,) = vlm.visual_tokens([image], [0])
    page = window.page
    page.goto(save_html(reading, tmp_path / "out.html").as_uri())
    tiles = sorted(set(before.tiles.tolist()))
    assert len(tiles) > 1
    tried, drawn = [], {}
    for tile in tiles:
        page.locator("#tile").select_option(str(tile))
        boxes = {int(number): box for number, *box in page.evaluate(_DRAWN.replace("WIDTH", str(SIZE[0])))}
        assert sorted(boxes) == np.flatnonzero(before.tiles == tile).tolist()
        drawn |= boxes
        token = int(rng.choice(sorted(boxes)))
        page.locator(f"[data-token='{token}']").hover()
        assert cards(page) == [f"tile {tile}, row {before.rows[token]}, column {before.columns[token]}"]
        tried.append(token)
    assert max(box[2] for box in drawn.values()) == pytest.approx(SIZE[0], abs=1)
    assert max(box[3] for box in drawn.values()) == pytest.approx(SIZE[1], abs=1)
    for token in tried:
        left, top, right, bottom = (round(edge) for edge in drawn[token])
        pixels = np.array(image)
        pixels[top:bottom, left:right] = 255 - pixels[top:bottom, left:right]
        (after,) = vlm.visual_tokens([Image.fromarray(pixels)], [0])
        moved = (after.states[0] - before.states[0]).norm(dim=-1).numpy()
        same = np.flatnonzero(before.tiles == before.tiles[token])
        assert same[moved[same].argmax()] == token
    window.check(page.url.split("#")[0])
