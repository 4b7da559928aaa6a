"""Calibration: the mean of a VLM's visual tokens at each layer, measured once on many images and kept in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from latentbank.errors import QueryError
from latentbank.models.vision.sources import Source
from latentbank.query.lenses.centring import Means, means_of
from latentbank.query.reading.visual_tokens import Broken, image_tokens
from latentbank.values import Layers, layers_of, whole

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel


def measure_means(
    model: VisualModel,
    images: Iterable[Source],
    layers: Layers,
    *,
    what: str = "images",
    prompt: str | None = None,
    batch: int = 8,
    broken: Broken | None = None,
) -> Means:
    """Measure the mean of all visual tokens of images at each layer, with which a centred bank centres its queries.

    Args:
        model: the VLM.
        images: images like those that will be read: paths, bytes, open images or what `find_images` finds.
        layers: the visual layers.
        what: what the images are, for people.
        prompt: the text beside the image; None: the model's own.
        batch: images in one forward pass.
        broken: as for `read_images`.

    Raises:
        QueryError: there are no images, or no layers.
        ImageError: an image cannot be read, and `broken` is None.
        ModelError: a hidden state is not finite.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> means = lb.measure_means(vlm, lb.find_images(["photos"]), layers=[0, 8])
        >>> sorted(means.by_layer)
        [0, 8]
    """
    chosen, batch = layers_of(layers), whole(batch, "batch", 1)
    if not chosen:
        raise QueryError("Name at least one layer.")
    count = 0

    def states() -> Iterator[Mapping[int, Any]]:
        nonlocal count
        for part in image_tokens(model, images, chosen, prompt, batch, broken):
            for image in part:
                yield image.tokens.states
            count += len(part)

    means = means_of(states(), "visual tokens", model.language.identity())
    return replace(means, kind=f"visual tokens of {count:,} {what}")
