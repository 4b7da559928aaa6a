"""Vision-language models: the visual tokens of images, at any layer, and their places in the image."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from PIL import Image
from transformers import PreTrainedModel

from latentbank.errors import ImageError, ModelError, QueryError
from latentbank.models.audio.model import AudioLanguageModel, hears_only
from latentbank.models.language.explaining import plain_errors, quiet, reason
from latentbank.models.language.intervening import Intervention, intervening
from latentbank.models.language.layout import find_blocks
from latentbank.models.language.loading import find_model, load_parts
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.answers import check_whole, followed_by, written_ids
from latentbank.models.vision.clips import Clip
from latentbank.models.vision.images import open_image
from latentbank.models.vision.multimodal import Multimodal
from latentbank.models.vision.placing import Placing, tokens_at
from latentbank.models.vision.processing import load_processor
from latentbank.models.vision.prompted import Prompted
from latentbank.models.vision.prompts import default_prompt
from latentbank.models.vision.refusals import check_takes_images
from latentbank.models.vision.tokens import VisualTokens
from latentbank.models.vision.video import REQUEST as VIDEO_REQUEST
from latentbank.models.vision.video import Film, clip_inputs, steps_of, video_token

log = logging.getLogger(__name__)

# The default request to a chat model. It comes after the image, so it changes the visual tokens of few models: those
# whose tokens attend to the whole prompt, such as PaliGemma.
REQUEST = "Describe this image."
# Some processors refuse longer strips than this, and others enlarge them many times.
MAX_ASPECT = 200


def load_vision_language_model(
    name: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    deepest_layer: int | Callable[[int], int] | None = None,
    load_in: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
) -> VisionLanguageModel | AudioLanguageModel:
    """Load an image-text-to-text model of transformers, or a model that hears.

    Args:
        name: a hub id or a directory. A path is made absolute.
        device: as for `load_language_model`.
        dtype: as for `load_language_model`.
        revision: branch, tag or commit on the hub.
        deepest_layer: the deepest layer that will be read, or a function that returns it for the number of layers.
            Of the blocks after it only one is kept in memory.
        load_in: as for `load_language_model`.
        adapter: as for `load_language_model`, trained on the vision-language model.
        trust_remote_code: run the Python code that comes with the model. Only for authors you trust.

    Raises:
        ModelError: it cannot be loaded, or takes no images.
        LayerNotFound: the model has no layer `deepest_layer`.
    """
    files = find_model(name, revision=revision, trust_remote_code=trust_remote_code)
    hears = hears_only(files)
    if not hears:
        check_takes_images(files)
    with plain_errors(files.name), quiet():
        processor = load_processor(files.source, files.config, files.options)
    parts = load_parts(
        files,
        device=device,
        dtype=dtype,
        deepest_layer=deepest_layer,
        load_in=load_in,
        adapter=adapter,
        vision=True,
    )
    language = LanguageModel(
        files.name,
        parts.decoder,
        parts.tokenizer,
        num_layers=parts.num_layers,
        revision=parts.revision,
        adapter=parts.adapter,
        trust_remote_code=trust_remote_code,
    )
    kind = AudioLanguageModel if hears else VisionLanguageModel
    return kind(cast(PreTrainedModel, parts.model), processor, language)


class VisionLanguageModel(Multimodal):
    """A vision-language model of transformers.

    Layers follow the convention of `LanguageModel`: layer 0 is the projected visual token that enters the first block,
    layer l is what enters block l+1, with whatever the model adds between blocks, and the last layer is the output of
    the last block before the final norm.

    Attributes:
        name: the name it was loaded by; a path is absolute.
        revision: the commit on the hub, where known.
        language: the LLM inside; it shares the decoder, and its fingerprint is that of the LLM loaded alone.
        num_layers: number of layers of the whole LLM, also if only part of it is loaded.
        hidden_size: width of a hidden state.
        model: the transformers model, cut after its deepest block if it was loaded that way.
        processor: turns images and text into the model's inputs.
        placeholder: the text that stands for an image in a prompt.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, language: LanguageModel) -> None:
        """Wrap a model, its processor, and a language model that shares the decoder."""
        super().__init__(model, processor, language)
        self._token_id = _image_token_id(self.name, model.config, processor)
        # Some processors have an AddedToken, not its text.
        self.placeholder = str(
            getattr(processor, "image_placeholder_token", None)
            or getattr(processor, "image_token", None)
            or processor.tokenizer.convert_ids_to_tokens(self._token_id)
        )
        takes = inspect.signature(model.forward).parameters
        if "mm_token_type_ids" in takes and getattr(processor, "return_mm_token_type_ids", None) is False:
            processor.return_mm_token_type_ids = True  # Cosmos 3 Edge needs them, but does not say so
        self._placing = Placing(self.name, model.config, processor)

    def __repr__(self) -> str:
        """Return name, layers, and how boxes are found."""
        return f"<VisionLanguageModel {self.name}, {self.num_layers} layers, {self.geometry}>"

    @property
    def geometry(self) -> str:
        """How boxes are found, for people: `exact, qwen2_vl`, or `unknown, TYPE: why` if tokens have no place.

        An image whose tokens could not be placed says so in the `geometry` of its own tokens.
        """
        return self._placing.geometry

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        """Return the visual tokens of each image, from one forward pass that stops after the deepest layer.

        Args:
            images: any number of images; each is first converted to RGB, as by `open_image`.
            layers: which layers' hidden states to return.
            prompt: the exact text, with `placeholder` in the place of an image. With one placeholder each image gets a
                prompt of its own; with several, each prompt takes that many images in turn. By default it is the
                model's chat template around one image and a request to describe it.

        Raises:
            LayerNotFound: the model does not have a layer, or the layer is not loaded.
            ImageError: the model's processor cannot take an image.
            QueryError: the prompt has no placeholder, or there are too few images for the last prompt.
            ModelError: the sequence is longer than the model's positions, or the memory is too small.
        """
        requested = self._check(layers)
        if not images:
            return []
        pictures = [_fitting(open_image(image)) for image in images]
        text = self._default_prompt() if prompt is None else prompt
        together = text.count(self.placeholder)
        if not together:
            raise QueryError(
                f"The prompt has no {self.placeholder}: put one where the image belongs.", argument="prompt"
            )
        if len(pictures) % together:
            raise QueryError(
                f"The prompt takes {together} images, and {len(pictures)} is not a multiple of {together}: give more "
                "images, or change the prompt.",
                argument="prompt",
            )
        groups = [pictures[i : i + together] for i in range(0, len(pictures), together)]
        try:
            return self._read(text, groups, requested)
        except ImageError:
            if len(groups) == 1:
                raise
            # Perception LM's processor, for example, takes images together only if it cuts them into as many crops.
            return [tokens for group in groups for tokens in self._read(text, [group], requested)]

    def _read(self, text: str, groups: list[list[Image.Image]], requested: list[int]) -> list[VisualTokens]:
        """Return the visual tokens of all images, from one forward pass over a prompt for each group."""
        together = len(groups[0])
        inputs = self._inputs(text, groups)
        states = self._run(inputs, requested)
        found = []
        for row, group in enumerate(groups):
            positions = (inputs["input_ids"][row] == self._token_id).nonzero().flatten().cpu()
            sizes = [image.size for image in group]
            placed = self._placing.places(sizes, row * together, inputs, len(positions))
            parts = torch.split(positions, [len(places) for places, _ in placed])
            own = {layer: states[layer][row] for layer in requested}
            for size, (places, geometry), here in zip(sizes, placed, parts, strict=True):
                found.append(tokens_at(size, places, geometry, own, here))
        return found

    def tokens_with_text(
        self, image: Image.Image, layers: Sequence[int], prompt: str | None = None, answer: int = 0
    ) -> VisualTokens:
        """Return the visual tokens of an image with the text tokens of its prompt and of the model's answer.

        The answer is written first, then prompt and answer run once. Special tokens of the prompt are text; positions
        of the image that show no part of it, such as a row's newline in LLaVA-NeXT, are neither.

        Args:
            image: it is first converted to RGB, as by `open_image`.
            layers: which layers' hidden states to return.
            prompt: as for `visual_tokens`, with one placeholder.
            answer: the largest number of tokens of the answer; 0: none is written.

        Raises:
            LayerNotFound: as for `visual_tokens`.
            ImageError: as for `visual_tokens`.
            QueryError: the prompt has no placeholder, or several.
            ModelError: as for `visual_tokens`; also if an answer is requested and only part of the model is loaded.
        """
        requested = self._check(layers)
        if answer:
            check_whole(self.language)
        picture = _fitting(open_image(image))
        text = self._default_prompt() if prompt is None else prompt
        if text.count(self.placeholder) != 1:
            raise QueryError(
                f"The prompt has {text.count(self.placeholder)} times {self.placeholder}, and the text around one "
                "image is read: put it there once.",
                argument="prompt",
            )
        inputs = self._inputs(text, [[picture]])
        states, positions, around = self._told(inputs, self._token_id, requested, answer)
        ((places, geometry),) = self._placing.places([picture.size], 0, inputs, len(positions))
        return replace(tokens_at(picture.size, places, geometry, states, positions), text=around)

    def video_tokens(
        self, clip: Clip, layers: Sequence[int], prompt: str | None = None, answer: int = 0
    ) -> VisualTokens:
        """Return the visual tokens of a video, with the text around them; a tile is a step of time.

        Args:
            clip: the frames that the model sees.
            layers: which layers' hidden states to return.
            prompt: the exact text, with the model's placeholder of a video once; None: its chat template.
            answer: as for `tokens_with_text`.

        Raises:
            ImageError: the model's processor cannot take the video.
            QueryError: the prompt has no placeholder, or several.
            ModelError: the model's type takes no videos; also as for `tokens_with_text`.
        """
        token, placeholder = video_token(self.name, self.model.config, self.processor)
        requested = self._check(layers)
        if answer:
            check_whole(self.language)
        if prompt is None:
            prompt = default_prompt(self.name, self.processor, placeholder, "video", VIDEO_REQUEST)
        text = prompt
        if text.count(placeholder) != 1:
            raise QueryError(
                f"The prompt has {text.count(placeholder)} times {placeholder}: put it there once."
            )
        inputs = self._ready(clip_inputs(self.name, self.processor, clip, text))
        states, positions, around = self._told(inputs, token, requested, answer)
        steps = steps_of(Film(clip, self.model.config, self.processor, inputs), len(positions), self.name)
        geometry = f"exact, {self.model.config.model_type}"
        found = tokens_at(clip.size, steps.places, geometry, states, positions)
        return replace(found, text=around, seconds=steps.seconds[steps.places.visual])

    def prompted(self, image: Image.Image, layers: Sequence[int], prompt: str | None = None) -> Prompted:
        """Return an image in its prompt, to run with interventions; see `PromptedModel` and `tokens_with_text`."""
        picture = _fitting(open_image(image))
        text = self._default_prompt() if prompt is None else prompt
        tokens = self.tokens_with_text(picture, layers, text)
        ready: dict[int, dict[str, Any]] = {}

        def copies(count: int) -> dict[str, Any]:
            if count not in ready:
                ready.clear()  # the inputs of one number of copies at a time: their pixels take memory
                ready[count] = self._for_model(self._inputs(text, [[picture]] * count))
            return ready[count]

        def run(answer: Sequence[int], count: int) -> object:
            return self.model(**followed_by(self.model, copies(count), answer), use_cache=False)

        def decode(most: int, rows: Sequence[Intervention]) -> list[list[int]]:
            decoder = self.language.decoder
            changes = intervening(decoder, find_blocks(decoder), rows)
            return written_ids(self.model, self.language, copies(len(rows)), most, changes)

        length = copies(1)["input_ids"].shape[1]
        return Prompted(self.language, replace(tokens, text=None), length, run, decode)

    def _default_prompt(self) -> str:
        return default_prompt(self.name, self.processor, self.placeholder, "image", REQUEST)

    def _inputs(self, text: str, groups: list[list[Image.Image]]) -> Mapping[str, Any]:
        start = self.processor.tokenizer.bos_token
        options = {"padding": True, "padding_side": "right"}
        if start and text.startswith(start):
            options["add_special_tokens"] = False
        with _plain_image_errors(self.name, groups):
            inputs = self.processor(
                images=groups, text=[text] * len(groups), text_kwargs=options, return_tensors="pt"
            )
        return self._ready(inputs)


def _image_token_id(name: str, config: Any, processor: Any) -> int:
    """Return the id of the token that holds the place of a visual token in the LLM's input."""
    for owner in (config, getattr(config, "vision_config", None), processor):
        for key in ("image_token_id", "image_token_index"):
            if isinstance(value := getattr(owner, key, None), int):
                return value
    raise ModelError(
        f"The configuration of {name} names no image token, so its visual tokens cannot be found."
    )


def _fitting(image: Image.Image) -> Image.Image:
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(
            f"The image has {image.width} x {image.height} pixels, over {MAX_ASPECT} times as long as wide: crop it."
        )
    return image


@contextlib.contextmanager
def _plain_image_errors(name: str, groups: list[list[Image.Image]]) -> Iterator[None]:
    """Turn an error of a processor into an ImageError of one sentence."""
    try:
        yield
    except (ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError, OSError) as error:
        sizes = sorted({f"{image.width} x {image.height}" for group in groups for image in group})
        raise ImageError(
            f"The processor of {name} cannot take an image of {' or '.join(sizes[:3])} pixels: {reason(error)}."
        ) from error
