"""The visual tokens of many images, a batch at a time, without the images that the model refuses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from latentbank.errors import ImageError, LatentBankError, ModelError, SoundError
from latentbank.models.vision.checks import check_directions
from latentbank.models.vision.sources import ImageSource, Source, opened
from latentbank.models.vision.tokens import tokens_with_text
from latentbank.query.reading.around import VISUAL_ALONE, Around
from latentbank.text import check_text

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.models.vision.tokens import VisualModel, VisualTokens

Broken = Callable[[str, LatentBankError], None]
"""A function that is called with the name of an image that cannot be read, and the error."""


@dataclass(frozen=True)
class ImageTokens:
    """An image, its name, and its visual tokens, with the text around them if it was asked for.

    Of a video, `frames` are images of its steps of time, the first of which is `image`, and `duration` its seconds.
    """

    name: str
    image: Image.Image | None
    tokens: VisualTokens
    frames: tuple[Image.Image, ...] = ()
    duration: float | None = None


def image_tokens(
    model: VisualModel,
    images: Iterable[Source],
    layers: Sequence[int],
    prompt: str | None,
    batch: int,
    broken: Broken | None,
    around: Around = VISUAL_ALONE,
) -> Iterator[list[ImageTokens]]:
    """Run a VLM on images and yield their visual tokens, one list for each batch.

    Args:
        model: the VLM.
        images: paths, bytes, open images or what `find_images` finds.
        layers: the visual layers.
        prompt: the text beside the image; None: the model's own.
        batch: images in one forward pass.
        broken: called with the name of an image that cannot be read or that the model refuses, and the error; such an
            image is left out. None: the error is raised.
        around: the text that is read, too. An image then has a forward pass of its own.

    Raises:
        ImageError: an image cannot be read.
        ModelError: the model refuses an image. Also, whether or not `broken` is given, if a hidden state is not finite
            or zero.
    """
    if prompt is not None:
        check_text(prompt, "prompt")
    stream = opened(images, broken)
    while part := list(itertools.islice(stream, batch)):
        if found := list(_run(model, part, layers, prompt, broken, around)):
            yield found


def _run(
    model: VisualModel,
    part: Sequence[tuple[str, Image.Image]],
    layers: Sequence[int],
    prompt: str | None,
    broken: Broken | None,
    around: Around,
) -> Iterator[ImageTokens]:
    try:
        found = _found(model, [image for _, image in part], layers, prompt, around)
    except (ImageError, ModelError) as error:
        if len(part) > 1:  # any of them may be the cause, so each is run alone
            for single in part:
                yield from _run(model, [single], layers, prompt, broken, around)
            return
        name = part[0][0]
        named = error if name in str(error) else type(error)(f"{name}: {error}", argument=error.argument)
        if broken is None:
            raise named from error
        broken(name, named)
        return
    for (name, image), tokens in zip(part, found, strict=True):
        check_states(tokens, name, model)  # not the image's fault but the dtype's, so it ends the job
        yield ImageTokens(name, image, tokens)


def _found(
    model: VisualModel,
    images: Sequence[Image.Image],
    layers: Sequence[int],
    prompt: str | None,
    around: Around,
) -> list[VisualTokens]:
    """Run a VLM on images; text that is not to be read is left out."""
    if not around:
        return model.visual_tokens(images, layers, prompt)
    found = [tokens_with_text(model, image, layers, prompt, around.answer) for image in images]
    return [without_text(tokens, around) for tokens in found]


def tokens_one_by_one(
    model: VisualModel,
    sources: Iterable[Any],
    read: Callable[[Any], ImageTokens],
    broken: Broken | None,
    around: Around,
) -> Iterator[list[ImageTokens]]:
    """Read sources that share no forward pass, such as videos and sounds; each is a batch of its own.

    Args:
        model: the model that reads.
        sources: what `read` takes, or an `ImageSource` of it, whose name is then the reading's.
        read: opens one source and returns its tokens with all the text around them.
        broken: as for `image_tokens`.
        around: the text that is read, too.

    Raises:
        ImageError: an image or a video cannot be read, and `broken` is None.
        SoundError: a sound cannot be read, and `broken` is None.
        ModelError: the model refuses a source, and `broken` is None; or a hidden state is not finite or zero.
    """
    for given in sources:
        named = isinstance(given, ImageSource)
        source = given.data if named else given
        try:
            found = read(source)
        except (ImageError, SoundError, ModelError) as error:
            if broken is None:
                raise
            broken(given.name if named else str(source), error)
            continue
        name = given.name if named else found.name
        tokens = without_text(found.tokens, around)
        check_states(tokens, name, model)
        yield [replace(found, name=name, tokens=tokens)]


def without_text(tokens: VisualTokens, around: Around) -> VisualTokens:
    """Return tokens without the text that is not to be read."""
    if around.prompt:
        return tokens
    return replace(tokens, text=tokens.text.of_answer() if around and tokens.text is not None else None)


def check_states(tokens: VisualTokens, name: str, model: VisualModel) -> None:
    """Check that a lens can read the tokens of the image `name`, and the text around them if there is any.

    Raises:
        ModelError: a hidden state is not finite or all zeros; the message names layer, image and dtype.
    """
    check_directions(tokens.states, f"visual tokens of {name}", model.name)
    if tokens.text is not None:
        check_directions(tokens.text.states, f"text tokens beside {name}", model.name)
