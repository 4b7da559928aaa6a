"""Encoding images: their visual tokens at each visual layer, with payloads and small pictures, a batch at a time."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from latentbank.bank.images.points import PatchPayload, patch_ids
from latentbank.errors import ImageError, LatentBankError, ModelError
from latentbank.ingest.images.reading import Missing
from latentbank.models.vision.checks import check_directions

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel, VisualTokens

PICTURE_SIDE = 256
"""Pixels of the longer side of the small picture that is kept of each image."""
_QUALITY = 80
# Bytes of hidden states that are stored at once.
_MOST = 64 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class OpenImage:
    """An image that is to be encoded, open; `picture` is its small picture, a JPEG in base64."""

    name: str
    digest: str
    pixels: Image.Image
    picture: str


@dataclass(frozen=True)
class EncodedImages:
    """The visual tokens of some images.

    Attributes:
        ids: the id of each token.
        states: by visual layer, float32 `[tokens, hidden]`.
        payloads: by visual layer, the payload of each token.
        counted: how many images there are.
    """

    ids: list[str]
    states: dict[int, npt.NDArray[np.float32]]
    payloads: dict[int, list[PatchPayload]]
    counted: int

    def payloads_at(self, layer: int) -> list[PatchPayload]:
        """Return the payload of each token at a visual layer."""
        return self.payloads[layer]


def open_images(
    missing: Iterable[Missing], fail: Callable[[str, LatentBankError], None]
) -> Iterator[OpenImage]:
    """Open images, upright and in RGB, and make their small pictures; those that cannot be read go to `fail`."""
    for image in missing:
        try:
            pixels = image.source.open()
        except ImageError as error:
            fail(image.source.name, error)
            continue
        yield OpenImage(image.source.name, image.digest, pixels, small_picture(pixels))


def batches_ahead(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield items in lists of at most `size`; while one is worked on, a thread makes the next."""
    rest = iter(items)

    def following() -> list[T]:
        return list(itertools.islice(rest, size))

    with ThreadPoolExecutor(1, "latentbank images") as pool:
        made = pool.submit(following)
        while part := made.result():
            made = pool.submit(following)
            yield part


def encode_images(
    model: VisualModel,
    corpus: str,
    images: Sequence[OpenImage],
    layers: Sequence[int],
    prompt: str | None,
    fail: Callable[[str, LatentBankError], None],
) -> Iterator[EncodedImages]:
    """Yield the visual tokens of some images at each layer; images that the model refuses go to `fail`.

    They come together, unless they are large: then a few images at a time, so that little waits to be stored.

    Args:
        model: the VLM.
        corpus: name of the corpus of images.
        images: in one forward pass; one by one if the model refuses one of them.
        layers: the visual layers, ascending.
        prompt: the text beside each image; None: the model's own.
        fail: called with an image's name and the error.

    Raises:
        ModelError: a hidden state is not finite or zero, or the model fails for a reason that is not the image's.
    """
    most = _MOST // (4 * model.hidden_size * len(layers))
    group: list[tuple[OpenImage, VisualTokens]] = []
    for one in list(_visual_tokens(model, images, layers, prompt, fail)):
        if group and sum(len(tokens) for _, tokens in [*group, one]) > most:
            yield _encoded(corpus, group, layers)
            group = []
        group.append(one)
    if group:
        yield _encoded(corpus, group, layers)


def _encoded(
    corpus: str, found: Sequence[tuple[OpenImage, VisualTokens]], layers: Sequence[int]
) -> EncodedImages:
    ids = [id_ for image, tokens in found for id_ in patch_ids(corpus, image.digest, len(tokens))]
    states = {
        layer: np.concatenate([tokens.states[layer].detach().float().cpu().numpy() for _, tokens in found])
        for layer in layers
    }
    fixed = [payload for image, tokens in found for payload in _payloads(corpus, image, tokens)]
    payloads: dict[int, list[PatchPayload]] = {}
    for layer in layers:
        squares = np.einsum("th,th->t", states[layer], states[layer], dtype=np.float64)
        norms = np.sqrt(squares).tolist()
        payloads[layer] = [
            {**payload, "norm": float(f"{norm:.4g}")} for payload, norm in zip(fixed, norms, strict=True)
        ]
    at = 0
    for image, tokens in found:
        payloads[layers[0]][at]["picture"] = image.picture
        at += len(tokens)
    return EncodedImages(ids, states, payloads, len(found))


def _visual_tokens(
    model: VisualModel,
    images: Sequence[OpenImage],
    layers: Sequence[int],
    prompt: str | None,
    fail: Callable[[str, LatentBankError], None],
) -> Iterator[tuple[OpenImage, VisualTokens]]:
    try:
        found = model.visual_tokens([image.pixels for image in images], layers, prompt)
    except (ImageError, ModelError) as error:
        if len(images) > 1:  # any of them may be the cause, so each is run alone
            for image in images:
                yield from _visual_tokens(model, [image], layers, prompt, fail)
            return
        name = images[0].name
        fail(name, error if name in str(error) else type(error)(f"{name}: {error}", argument=error.argument))
        return
    for image, tokens in zip(images, found, strict=True):
        check_directions(tokens.states, f"visual tokens of {image.name}", model.name)
        if not len(tokens):
            fail(image.name, ImageError(f"{image.name} has no visual tokens; use a larger image."))
            continue
        yield image, tokens


def _payloads(corpus: str, image: OpenImage, tokens: VisualTokens) -> Iterator[PatchPayload]:
    boxes = tokens.boxes.astype(np.float64).round(1).tolist()
    size = list(tokens.size)
    for token, (tile, row, column, box) in enumerate(
        zip(tokens.tiles.tolist(), tokens.rows.tolist(), tokens.columns.tolist(), boxes, strict=True)
    ):
        yield {
            "corpus": corpus,
            "image": image.name,
            "digest": image.digest,
            "token": token,
            "tokens": len(tokens),
            "tile": tile,
            "row": row,
            "column": column,
            "box": [_shorter(edge) for edge in box] if all(map(math.isfinite, box)) else [],
            "size": size,
        }


def _shorter(number: float) -> float:
    """Return a whole number as an int, which the embedded engine reads in half the time."""
    return int(number) if number.is_integer() else number


def small_picture(pixels: Image.Image) -> str:
    """Return an image's small picture: a JPEG of at most `PICTURE_SIDE` pixels a side, in base64."""
    scale = PICTURE_SIDE / max(pixels.size)
    small = pixels
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in pixels.size)
        small = pixels.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii")
