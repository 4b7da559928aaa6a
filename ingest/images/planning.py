"""What an ingestion of images will store, how large it is, and about how long it takes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from latentbank.bank.planning import cores
from latentbank.bank.settings import Settings
from latentbank.bank.sizing import NO_GRAPH, Shape, index_seconds, layer_bytes, store_seconds
from latentbank.bank.store.backends import backend
from latentbank.errors import ImageError, LatentBankError
from latentbank.ingest.images.encoding import EncodedImages, batches_ahead, encode_images, open_images
from latentbank.ingest.images.reading import Missing
from latentbank.models.vision.sources import ImageSource
from latentbank.progress import Progress

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel

SAMPLE = 40
"""Images that a dry run encodes to measure, the first batch of them to warm up."""
# Seconds after which no further batch of them is encoded.
_SECONDS = 10.0
# Bytes of a visual token's payload and of its payload indexes beyond a context's without its caption.
_MORE = 230


@dataclass(frozen=True)
class ImagesPlan:
    """What an ingestion of images will store.

    Attributes:
        corpus: name of the corpus of images.
        images: how many images there are; None: a dataset does not tell.
        sampled: images that were encoded to estimate the rest.
        tokens_per_image: visual tokens of an image, on average.
        points: visual tokens at each visual layer, about; None: the number of images is not known.
        layers: the visual layers.
        disk_bytes: disk space of all visual layers, about; with `images` None, of one image.
        ram_bytes: memory of all visual layers for fast searches, about; with `images` None, of one image.
        picture_bytes: of an image's small picture, on average.
        forward_seconds: of an image in the model, on average.
        seconds: time of the whole job on this machine, about; None: the number of images is not known.
    """

    corpus: str
    images: int | None
    sampled: int
    tokens_per_image: float
    points: int | None
    layers: tuple[int, ...]
    disk_bytes: int
    ram_bytes: int
    picture_bytes: int
    forward_seconds: float
    seconds: float | None


def plan_images(
    model: VisualModel,
    images: Iterable[ImageSource],
    corpus: str,
    total: int | None,
    layers: Sequence[int],
    settings: Settings,
    progress: Progress,
    *,
    batch: int,
    prompt: str | None = None,
    stored: int = 0,
    sample: int = SAMPLE,
) -> ImagesPlan:
    """Encode some of the images and estimate what all of them need; nothing is stored.

    Args:
        model: the VLM, loaded at least as deep as the deepest layer.
        images: the images, of which the first ones are encoded.
        corpus: name of the corpus.
        total: how many images there are; None: it is not known.
        layers: the visual layers.
        settings: of the bank.
        progress: counts the images that are encoded.
        batch: images in one forward pass.
        prompt: the text beside each image; None: the model's own.
        stored: visual tokens of other corpora that each layer holds already.
        sample: how many images are encoded, at most.

    Raises:
        ImageError: none of the first images can be read.
        ModelError: a hidden state is not finite.
    """
    errors: list[LatentBankError] = []

    def fail(name: str, error: LatentBankError) -> None:
        del name  # it is named when it is ingested
        errors.append(error)

    first = itertools.islice(images, sample)
    opened = open_images((Missing(image, "") for image in first), fail)
    encoded: list[EncodedImages] = []
    times: list[float] = []  # of each batch, for an image
    began = time.monotonic()
    for part in batches_ahead(opened, batch):
        started = time.monotonic()
        if made := list(encode_images(model, corpus, part, layers, prompt, fail)):
            encoded += made
            times.append((time.monotonic() - started) / sum(one.counted for one in made))
        progress.update(sum(one.counted for one in encoded), total and min(total, sample))
        if time.monotonic() - began > _SECONDS:
            break
    if not times:
        raise errors[0] if errors else ImageError("There are no images to ingest; check what was named.")
    # The first batch warms up.
    return _estimated(model, corpus, total, layers, settings, encoded, mean(times[1:] or times), stored)


def _estimated(
    model: VisualModel,
    corpus: str,
    total: int | None,
    layers: Sequence[int],
    settings: Settings,
    encoded: Sequence[EncodedImages],
    forward: float,
    stored: int,
) -> ImagesPlan:
    sampled = sum(one.counted for one in encoded)
    tokens = sum(len(one.ids) for one in encoded) / sampled
    pictures = [payload.get("picture", "") for one in encoded for payload in one.payloads[layers[0]]]
    picture = sum(map(len, pictures)) / sampled
    points = round(tokens * (total or 1))
    shape = Shape(
        contexts=points + stored,
        layers=len(layers),
        hidden_size=model.hidden_size,
        caption_bytes=0,
        quantization=settings.quantization,
        hnsw_m=settings.hnsw_m,
        graph_from=NO_GRAPH,
        server=backend(settings).shared,
    )
    whole, share = layer_bytes(shape), points / (points + stored)
    disk = (whole.disk * share + points * _MORE) * len(layers) + picture * (total or 1)
    storing = points * len(layers) * (store_seconds(shape) + index_seconds(shape)) / cores()
    return ImagesPlan(
        corpus=corpus,
        images=total,
        sampled=sampled,
        tokens_per_image=tokens,
        points=points if total is not None else None,
        layers=tuple(layers),
        disk_bytes=round(disk),
        ram_bytes=round(whole.ram * share * len(layers)),
        picture_bytes=round(picture),
        forward_seconds=forward,
        seconds=forward * total + storing if total is not None else None,
    )
