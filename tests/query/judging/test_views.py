from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from latentbank.errors import ImageError
from latentbank.models.vision.geometry import Places, even, grid, squeezed
from latentbank.query.judging.views import centres, crop, outline, picture, view_of
from latentbank.query.output.stored import Cell

RED = (255, 0, 0)


def _cells(places: Places) -> dict[tuple[int, int], Cell]:
    found = zip(places.rows, places.columns, places.boxes, places.visual, strict=True)
    return {
        (int(row), int(column)): Cell(at, tuple(map(float, box)))
        for at, (row, column, box, visual) in enumerate(found)
        if visual
    }


def _padded(size: tuple[int, int], patches: int) -> dict[tuple[int, int], Cell]:
    """The patches of an encoder that keeps the aspect ratio and pads to a square."""
    longer = max(size)
    edges = [even((side - longer) / 2, (side + longer) / 2, patches) for side in (size[1], size[0])]
    return _cells(grid(size, *edges))


def test_a_squeezed_image_fills_the_square() -> None:
    cells = _cells(squeezed((600, 300), 336, 14))
    view = view_of(cells, (600, 300))
    assert view.size == (512, 512)
    assert view.placed((0, 0, 600, 300)) == pytest.approx((0, 0, 512, 512))
    assert len(centres(cells, view)) == 22 * 22


def test_a_padded_image_keeps_its_aspect_ratio_and_no_box_touches_padding() -> None:
    cells = _padded((600, 290), 24)
    view = view_of(cells, (600, 290))
    assert view.size == (512, 512)
    left, top, right, bottom = view.placed((0, 0, 600, 290))
    assert (left, right) == pytest.approx((0, 512))
    assert (right - left) / (bottom - top) == pytest.approx(600 / 290)
    assert top == pytest.approx(512 - bottom)
    # 290 of 600 pixels are 11.6 of 24 patches: the first and last rows lie partly on padding.
    rows = {row for row, _ in centres(cells, view)}
    assert (min(cell for cell, _ in cells), max(cell for cell, _ in cells)) == (6, 17)
    assert (min(rows), max(rows)) == (8, 15)
    shown = picture(Image.new("RGB", (600, 290), "white"), view, outline(cells, (12, 5)))
    assert shown.getpixel((256, 20)) == (0, 0, 0)
    assert shown.getpixel((256, 256)) == (255, 255, 255)


def test_native_patches_give_a_picture_of_the_same_aspect() -> None:
    view = view_of(_cells(grid((400, 200), even(0, 200, 8), even(0, 400, 16))), (400, 200))
    assert view.size == (512, 256)


def test_patches_that_leave_pixels_over_show_the_whole_image() -> None:
    # 384 pixels are 27 patches of 14 and 6 pixels, which the last patch shows.
    view = view_of(_cells(squeezed((384, 384), 384, 14)), (384, 384))
    assert view.placed((0, 0, 384, 384)) == pytest.approx((0, 0, 512, 512))
    assert view.scale == pytest.approx(512 / 384 * 14)


def test_a_cut_image_shows_its_middle() -> None:
    cells = _cells(grid((600, 200), even(0, 200, 4), even(200, 400, 4)))
    image = Image.new("RGB", (600, 200), "white")
    image.paste("lime", (200, 0, 400, 200))
    shown = picture(image, view_of(cells, image.size), outline(cells, (1, 1)))
    assert shown.size == (512, 512)
    assert {shown.getpixel((5, 508)), shown.getpixel((508, 508))} == {(0, 255, 0)}


def test_the_outline_is_around_three_by_three_patches() -> None:
    cells = _cells(squeezed((120, 120), 120, 10))
    view = view_of(cells, (120, 120))
    box = outline(cells, (5, 7))
    assert box == (60, 40, 90, 70)
    shown = np.array(picture(Image.new("RGB", (120, 120), "white"), view, box))
    rows, columns = np.nonzero((shown == RED).all(axis=-1))
    left, top, right, bottom = (round(edge / 120 * 512) for edge in box)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (top, bottom - 1, left, right - 1)
    assert (shown[top + 5 : bottom - 5, left + 5 : right - 5] == 255).all()


def test_the_crop_is_what_is_in_the_box() -> None:
    cells = _cells(squeezed((120, 60), 120, 10))
    image = Image.new("RGB", (120, 60), "white")
    box = outline(cells, (5, 7))
    image.paste("lime", tuple(map(int, box)))
    part = crop(image, view_of(cells, image.size), box)
    assert part.size == (256, 256)  # stretched as the encoder sees it
    assert part.getpixel((5, 128)) == part.getpixel((250, 128)) == (0, 255, 0)


@pytest.mark.parametrize("patches", [(2, 6), (3, 2)])
def test_a_small_grid_has_no_box(patches: tuple[int, int]) -> None:
    cells = _cells(grid((60, 60), even(0, 60, patches[0]), even(0, 60, patches[1])))
    assert centres(cells, view_of(cells, (60, 60))) == []


def test_another_image_of_the_same_name_is_refused() -> None:
    cells = _cells(squeezed((120, 120), 120, 10))
    view, box = view_of(cells, (120, 120)), outline(cells, (5, 7))
    for draw in (picture, crop):
        with pytest.raises(ImageError, match="120 x 110 pixels, and 120 x 120 when it was read"):
            draw(Image.new("RGB", (120, 110)), view, box)
