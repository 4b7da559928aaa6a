"""The picture of a question: the image as the encoder sees it, with the 3 x 3 patches around a token in red.

An encoder squeezes the image into a square, or keeps its aspect ratio with padding around, or cuts its middle out. All
of this can be seen in the boxes of its patches, so a view needs no model.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from latentbank.errors import ImageError
from latentbank.query.output.stored import Cell

SIDE = 512
"""The longer side of the picture in pixels, as in the paper."""
CROP = 256
"""The longer side of the crop in pixels."""
_LINE = 3  # width of the outline in pixels; a white one of a pixel on both sides shows it on red
_CLIPPED = 0.99  # a patch that shows less than this share of its width or height lies partly on padding

Box = tuple[float, float, float, float]
Place = tuple[int, int]


@dataclass(frozen=True)
class View:
    """How the encoder sees an image.

    Attributes:
        image: width and height of the image in pixels.
        origin: x and y of the grid's top left corner in pixels of the image; negative if padding comes first.
        pitch: width and height of a patch in pixels of the image.
        extent: columns and rows of the grid, padding counted.
    """

    image: tuple[int, int]
    origin: tuple[float, float]
    pitch: tuple[float, float]
    extent: tuple[float, float]

    @property
    def scale(self) -> float:
        """Side of a patch in the picture, in pixels."""
        return SIDE / max(self.extent)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture; its longer side is `SIDE`."""
        wide, high = (max(1, round(count * self.scale)) for count in self.extent)
        return wide, high

    def placed(self, box: Box) -> Box:
        """Return a box of the image in pixels of the picture."""
        left, top, right, bottom = (
            (edge - self.origin[axis]) / self.pitch[axis] * self.scale
            for edge, axis in zip(box, (0, 1, 0, 1), strict=True)
        )
        return left, top, right, bottom


def view_of(cells: Mapping[Place, Cell], image: tuple[int, int]) -> View:
    """Return the view that an encoder has of an image, from the boxes of its patches by row and column.

    Padding is taken to be as wide on one side as on the other, since no patch tells where it ends.
    """
    spans = []
    for axis in (1, 0):  # columns, then rows
        edges = {place[axis]: (cell.box[1 - axis], cell.box[3 - axis]) for place, cell in cells.items()}
        spans.append(_span(edges))
    (x, wide, columns), (y, high, rows) = spans
    return View(image, (x, y), (wide, high), (columns, rows))


def _span(edges: Mapping[int, tuple[float, float]]) -> tuple[float, float, float]:
    """Return origin, pitch and extent of one axis from the edges of its rows; the first and last may be clipped."""
    numbers = sorted(edges)
    first, last = numbers[0], numbers[-1]
    whole = numbers[1:-1] or numbers
    pitch = float(np.median([edges[number][1] - edges[number][0] for number in whole]))
    if len(numbers) > 2:
        origin = float(np.median([edges[number][0] - number * pitch for number in whole]))
    else:  # the end of the first row is not clipped, unless there is no other
        pitch = max(edges[number][1] - edges[number][0] for number in numbers)
        origin = edges[first][1] - (first + 1) * pitch
    return origin, pitch, max(last + 1 + first, (edges[last][1] - origin) / pitch)


def centres(cells: Mapping[Place, Cell], view: View) -> list[Place]:
    """Return the places whose 3 x 3 patches all lie wholly on the image, sorted."""
    whole = {
        place
        for place, cell in cells.items()
        if all(cell.box[axis + 2] - cell.box[axis] >= _CLIPPED * view.pitch[axis] for axis in (0, 1))
    }
    return sorted(place for place in whole if all(near in whole for near in around(place)))


def around(place: Place) -> list[Place]:
    """Return the 3 x 3 places around one."""
    row, column = place
    return [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]


def outline(cells: Mapping[Place, Cell], centre: Place) -> Box:
    """Return the box of the 3 x 3 patches around a place, in pixels of the image."""
    boxes = np.array([cells[place].box for place in around(centre)])
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = boxes[:, 2:].max(axis=0).tolist()
    return left, top, right, bottom


def picture(image: Image.Image, view: View, box: Box) -> Image.Image:
    """Return the image as the encoder sees it, padding in black, with a box outlined in red.

    Args:
        image: the image, upright and in RGB.
        view: the encoder's view of it.
        box: what to outline, in pixels of the image.

    Raises:
        ImageError: it is another image, as its size tells.
    """
    _check(image, view)
    left, top, right, bottom = view.placed((0, 0, *image.size))
    canvas = Image.new("RGB", view.size)
    size = max(1, round(right - left)), max(1, round(bottom - top))
    canvas.paste(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), (round(left), round(top)))
    left, top, right, bottom = map(round, view.placed(box))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left - 1, top - 1, right, bottom), outline="white", width=_LINE + 2)
    draw.rectangle((left, top, right - 1, bottom - 1), outline="red", width=_LINE)
    return canvas


def crop(image: Image.Image, view: View, box: Box) -> Image.Image:
    """Return the part of the image in a box, stretched as the encoder sees it and enlarged to `CROP` pixels.

    Raises:
        ImageError: as for `picture`.
    """
    _check(image, view)
    left, top, right, bottom = view.placed(box)
    scale = CROP / max(right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    return image.resize(size, Image.Resampling.BILINEAR, box=_within(box, image.size))


def _check(image: Image.Image, view: View) -> None:
    if image.size != view.image:
        raise ImageError(
            f"An image has {image.width} x {image.height} pixels, and {view.image[0]} x {view.image[1]} when it was "
            "read: another image has its name."
        )


def _within(box: Box, size: Sequence[int]) -> Box:
    return max(0.0, box[0]), max(0.0, box[1]), min(float(size[0]), box[2]), min(float(size[1]), box[3])


def jpeg(image: Image.Image) -> bytes:
    """Return an image as the bytes of a JPEG file, which takes far less time than a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
