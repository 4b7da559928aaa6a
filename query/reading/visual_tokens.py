"""Seeing: the visual tokens of many images, a batch at a time, without the images that the model refuses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentbank.errors import ImageError, LatentBankError, ModelError
from latentbank.query.reading.images import Source, opened

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from latentbank.models.vision.vision_language import VisualModel, VisualTokens

Broken = Callable[[str, LatentBankError], None]


@dataclass(frozen=True)
class Seen:
    """An image, what it is called, and its visual tokens."""

    name: str
    image: Image.Image
    tokens: VisualTokens


def see(
    model: VisualModel,
    images: Iterable[Source],
    layers: Sequence[int],
    prompt: str | None,
    batch: int,
    broken: Broken | None,
) -> Iterator[list[Seen]]:
    """Give the visual tokens of images, one list for each forward pass.

    Args:
        model: the VLM.
        images: paths, bytes, open images or what `find_images` finds.
        layers: the visual layers.
        prompt: the text beside the image; None: the model's own way.
        batch: images in one forward pass.
        broken: told the name of an image that cannot be read, or that the model refuses, and why; the others go on.
            None: raise.

    Raises:
        ImageError: an image cannot be read.
        ModelError: the model refuses an image; or a hidden state is not finite or zero, also where `broken` is given.
    """
    stream = opened(images, broken)
    while part := list(itertools.islice(stream, batch)):
        if seen := list(_look(model, part, layers, prompt, broken)):
            yield seen


def _look(
    model: VisualModel,
    part: Sequence[tuple[str, Image.Image]],
    layers: Sequence[int],
    prompt: str | None,
    broken: Broken | None,
) -> Iterator[Seen]:
    try:
        found = model.visual_tokens([image for _, image in part], layers, prompt)
    except (ImageError, ModelError) as error:
        if len(part) > 1:  # one of them is to blame: the others are read alone
            for single in part:
                yield from _look(model, [single], layers, prompt, broken)
            return
        name = part[0][0]
        named = error if name in str(error) else type(error)(f"{name}: {error}")
        if broken is None:
            raise named from error
        broken(name, named)
        return
    for (name, image), tokens in zip(part, found, strict=True):
        check_states(
            tokens, name, model
        )  # the model and its dtype are to blame, not the image: this stops the job
        yield Seen(name, image, tokens)


def check_states(tokens: VisualTokens, name: str, model: VisualModel) -> None:
    """Refuse visual tokens of the image `name` that no lens can read.

    Raises:
        ModelError: a hidden state is not finite or all zeros; layer, image and dtype are named.
    """
    for layer, states in tokens.states.items():
        if not states.isfinite().all():
            raise overflow(model.name, layer, f"visual tokens of {name}", states.dtype)
        if not states.any(dim=-1).all():
            raise ModelError(
                f"Layer {layer} of {model.name} gives a visual token of {name} that is all zeros: it has no direction "
                "to read; leave out that image or that layer."
            )


def overflow(model: str, layer: int, what: str, dtype: torch.dtype) -> ModelError:
    """Make the error that says of which layer's states the dtype cannot hold."""
    return ModelError(
        f"Layer {layer} of {model} gives {what} that are not finite in {called(dtype)}: load it in "
        f"{wider(dtype)} (--dtype)."
    )


def wider(dtype: torch.dtype) -> str:
    """Name the dtypes that hold more than this one."""
    return "bfloat16 or float32" if called(dtype) == "float16" else "float32"


def called(dtype: torch.dtype) -> str:
    """Give a dtype's name, such as float32."""
    return str(dtype).removeprefix("torch.")
