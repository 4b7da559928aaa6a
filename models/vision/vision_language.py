"""Vision-language models: the visual tokens of images, at any layer, and where each is in its image."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from latentbank.errors import ImageError, LayerNotFound, ModelError, QueryError
from latentbank.models.language.loading import choose_device, choose_dtype, load_parts
from latentbank.models.language.model import LanguageModel, absolute
from latentbank.models.language.unembedding import Unembedding
from latentbank.models.vision.geometry import Picture, Places, Unplaced, guess
from latentbank.models.vision.images import open_image
from latentbank.models.vision.registry import places_of

log = logging.getLogger(__name__)

# What a chat model is told when nobody says otherwise. It comes after the image, so only few models' visual
# tokens see it (those whose whole prompt is one prefix, such as PaliGemma's).
REQUEST = "Describe this image."
# Longer strips than this some processors refuse, and others blow up to many times their size.
MAX_ASPECT = 200
# Made by processors for other uses than the forward pass.
_NOT_FOR_THE_MODEL = ("labels", "num_crops")


@dataclass(frozen=True)
class VisualTokens:
    """The visual tokens of one image, in the order of the LLM's input sequence.

    Attributes:
        states: per layer their hidden states [tokens, hidden], in the model's dtype, on its device.
        boxes: left, top, right, bottom in pixels of the original image, [tokens, 4] float32.
        rows: within the grid of the token's tile, [tokens] int64.
        columns: within the grid of the token's tile, [tokens] int64.
        tiles: 0 for a view of the whole image, 1 and more for the others, [tokens] int64.
        size: width and height of the original image.
    """

    states: dict[int, Tensor]
    boxes: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int64]
    size: tuple[int, int]

    def norms(self, layer: int) -> npt.NDArray[np.float32]:
        """The L2 norms of the hidden states of `layer`, [tokens] float32, computed in float32.

        Raises:
            LayerNotFound: `layer` was not asked for.
        """
        if layer not in self.states:
            raise LayerNotFound(f"Layer {layer} was not asked for, only {', '.join(map(str, self.states))}.")
        norms: npt.NDArray[np.float32] = self.states[layer].float().norm(dim=-1).cpu().numpy()
        return norms

    def __len__(self) -> int:
        return len(self.rows)


class VisualModel(Protocol):
    """What reading images takes: a vision-language model of transformers, or one composed here.

    Attributes:
        name: as it was asked for.
        revision: the commit on the hub, where known.
        language: the LLM inside, with its tokenizer.
        num_layers: of the whole LLM.
        hidden_size: width of a hidden state.
        means_file: where the means of its visual tokens are kept, once they were measured; None: it comes from no
            file or folder of its own.
    """

    name: str
    revision: str | None
    language: LanguageModel
    num_layers: int
    hidden_size: int
    means_file: Path | None

    @property
    def geometry(self) -> str:
        """For people: how boxes are found."""

    def fingerprint(self) -> str:
        """The LLM's."""

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        """The visual tokens of each image, from one forward pass stopped after the deepest layer."""


def load_vision_language_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    deepest_layer: int | Callable[[int], int] | None = None,
    trust_remote_code: bool = False,
) -> VisionLanguageModel:
    """Load an image-text-to-text model of transformers.

    Args:
        name: a hub id or a directory. A path is kept absolute.
        device: as for `load_language_model`.
        dtype: as for `load_language_model`.
        revision: branch, tag or commit on the hub.
        deepest_layer: the deepest layer that will be asked for, or what chooses it by the number of layers; blocks
            above it are not kept in memory, but for one.
        trust_remote_code: run the Python code that comes with the model. Only for authors you trust.

    Raises:
        ModelError: it cannot be loaded, or takes no images.
        LayerNotFound: `deepest_layer` is none of the model's layers.
    """
    where = choose_device(device)
    name = absolute(name)
    parts = load_parts(
        name,
        device=where,
        dtype=choose_dtype(dtype, where),
        revision=revision,
        deepest_layer=deepest_layer,
        trust_remote_code=trust_remote_code,
        vision=True,
    )
    language = LanguageModel(
        name,
        parts.decoder,
        parts.tokenizer,
        num_layers=parts.num_layers,
        revision=parts.revision,
        trust_remote_code=trust_remote_code,
    )
    return VisionLanguageModel(cast(PreTrainedModel, parts.model), parts.processor, language)


class VisionLanguageModel:
    """A vision-language model that gives the visual tokens of images.

    Layers follow the convention of `LanguageModel`: layer 0 is the projected visual token as it enters the first block,
    layer l what enters block l+1, with whatever the model adds between blocks, and the last layer is the output of the
    last block before the final norm.

    Attributes:
        name: as it was asked for.
        revision: the commit on the hub, where known.
        language: the LLM inside; it shares the decoder, and its fingerprint is that of the LLM loaded alone.
        num_layers: of the whole LLM, also when only part of it is loaded.
        hidden_size: width of a hidden state.
        model: transformers' own, cut after its deepest block if it was loaded that way.
        processor: makes the model's inputs of images and text.
        placeholder: what stands for an image in a prompt.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, language: LanguageModel) -> None:
        """Wrap a model, its processor, and the language model around the model's own decoder."""
        self.name = language.name
        self.revision = language.revision
        self.language = language
        self.num_layers = language.num_layers
        self.hidden_size = language.hidden_size
        folder = Path(self.name)
        self.means_file = folder / "latentbank-means.safetensors" if folder.is_dir() else None
        self.model = model
        self.processor = processor
        self._token_id = _image_token_id(self.name, model.config)
        self.placeholder: str = getattr(processor, "image_token", None) or str(
            processor.tokenizer.convert_ids_to_tokens(self._token_id)
        )
        self._places_of = places_of(model.config)
        self._guesses = False
        if self._places_of is None:
            self._warn_of_guess(f"there are no rules for models of type {model.config.model_type}")

    def __repr__(self) -> str:
        """Name, layers, and how boxes are found."""
        return f"<VisionLanguageModel {self.name}, {self.num_layers} layers, {self.geometry}>"

    @property
    def geometry(self) -> str:
        """For people: how boxes are found, such as `exact, qwen2_vl` or `guessed: a square grid`."""
        kind = self.model.config.model_type
        if self._guesses:
            return f"guessed, {kind}: a square grid over the whole image where the tokens form one"
        return f"exact, {kind}"

    def fingerprint(self) -> str:
        """The fingerprint of the language model inside."""
        return self.language.fingerprint()

    def unembedding(self) -> Unembedding:
        """The model's unembedding, for LogitLens; it shares the weights.

        Raises:
            ModelError: it has none.
        """
        return Unembedding(self.name, self.model, self.language.lock)

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        """The visual tokens of each image, from one forward pass stopped after the deepest layer.

        Args:
            images: any number; each is brought into RGB first, as `open_image` does it.
            layers: which layers' hidden states to return.
            prompt: the exact text, with `placeholder` where an image belongs. With one placeholder every image gets the
                prompt for itself; with several, each prompt takes as many images in turn. By default the model's own
                chat template around one image and a request to describe it.

        Raises:
            LayerNotFound: a layer the model does not have, or deeper than what was loaded.
            ImageError: an image the model's processor cannot take.
            QueryError: the prompt has no placeholder, or the images do not fill the prompts.
            ModelError: the sequence is longer than the model's positions, or the memory too small.
        """
        wanted = self._checked(layers)
        if not images:
            return []
        pictures = [_fitting(open_image(image)) for image in images]
        text = self._default_prompt() if prompt is None else prompt
        together = text.count(self.placeholder)
        if not together:
            raise QueryError(
                f"The prompt has no {self.placeholder}: put one where {self.name} should see the image."
            )
        if len(pictures) % together:
            raise QueryError(f"The prompt takes {together} images, so {len(pictures)} do not fill prompts.")
        groups = [pictures[i : i + together] for i in range(0, len(pictures), together)]
        inputs = self._inputs(text, groups)
        states = self._run(inputs, wanted)
        found = []
        for row, group in enumerate(groups):
            positions = (inputs["input_ids"][row] == self._token_id).nonzero().flatten().cpu()
            places = self._places(group, row * together, inputs, positions.numpy())
            parts = torch.split(positions, [len(place) for place in places])
            for image, place, here in zip(group, places, parts, strict=True):
                found.append(
                    _tokens(image.size, place, {layer: states[layer][row] for layer in wanted}, here)
                )
        return found

    def _checked(self, layers: Sequence[int]) -> list[int]:
        wanted = sorted(set(layers))
        loaded = self.language.loaded_layers
        # What a model adds after a block is seen only by the block that comes next.
        deepest = loaded if loaded == self.num_layers else loaded - 1
        for layer in wanted:
            if not 0 <= layer <= self.num_layers:
                raise LayerNotFound(
                    f"{self.name} has no layer {layer}: it has layers 0 to {self.num_layers}."
                )
            if layer > deepest:
                raise LayerNotFound(
                    f"Layer {layer} of {self.name} is not loaded, only 0 to {deepest}: "
                    f"load it with deepest_layer={layer}."
                )
        return wanted

    def _default_prompt(self) -> str:
        template = getattr(self.processor, "chat_template", None) or self.processor.tokenizer.chat_template
        if not template:
            return f"{self.placeholder}\n{REQUEST}"
        content = [{"type": "image"}, {"type": "text", "text": REQUEST}]
        return str(
            self.processor.apply_chat_template(
                [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True
            )
        )

    def _inputs(self, text: str, groups: list[list[Image.Image]]) -> Mapping[str, Any]:
        start = self.processor.tokenizer.bos_token
        options = {"padding": True, "padding_side": "right"}
        if start and text.startswith(start):
            options["add_special_tokens"] = False
        with _plain_image_errors(self.name, groups):
            inputs = self.processor(
                images=groups, text=[text] * len(groups), text_kwargs=options, return_tensors="pt"
            )
        tokens = inputs["input_ids"].shape[-1]
        if tokens > self.language.max_length:
            raise ModelError(
                f"The prompt and its images make {tokens:,} tokens, but {self.name} has {self.language.max_length:,} "
                "positions: use smaller or fewer images."
            )
        return cast(Mapping[str, Any], inputs.to(self.language.device, self.language.dtype))

    def _run(self, inputs: Mapping[str, Any], wanted: list[int]) -> dict[int, Tensor]:
        given = {key: value for key, value in inputs.items() if key not in _NOT_FOR_THE_MODEL}
        try:
            return self.language.collect(
                lambda: self.model(**given, use_cache=False), wanted, inputs["input_ids"].numel()
            )
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            # Mistral 3, for one, fails on an image of a single token.
            raise ModelError(f"{self.name} fails on these images: {_first_line(error)}.") from error

    def _places(
        self, group: list[Image.Image], first: int, inputs: Mapping[str, Any], positions: npt.NDArray[Any]
    ) -> list[Places]:
        """The places of the image positions of one prompt, image by image."""
        if self._places_of is not None:
            with contextlib.suppress(Unplaced):
                places = [
                    self._places_of(
                        Picture(
                            image.size, self.model.config, self.processor, inputs, first + number, len(group)
                        )
                    )
                    for number, image in enumerate(group)
                ]
                if sum(map(len, places)) == len(positions):
                    return places
            self._warn_of_guess("its processor does not follow the rules known for its type")
        if len(positions) % len(group):
            raise ModelError(
                f"The {len(positions)} visual tokens of {self.name} cannot be told apart for {len(group)} images: "
                "use a prompt with one image."
            )
        return [guess(image.size, len(positions) // len(group)) for image in group]

    def _warn_of_guess(self, why: str) -> None:
        """Log once that boxes are guessed, and why."""
        if not self._guesses:
            log.warning(
                "Where the visual tokens of %s are in the image is a guess, a square grid: %s.",
                self.name,
                why,
            )
        self._guesses = True


def _image_token_id(name: str, config: Any) -> int:
    for key in ("image_token_id", "image_token_index"):
        if isinstance(value := getattr(config, key, None), int):
            return value
    raise ModelError(
        f"The configuration of {name} names no image token, so its visual tokens cannot be found."
    )


def _fitting(image: Image.Image) -> Image.Image:
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(
            f"The image has {image.width} x {image.height} pixels, over {MAX_ASPECT} times as long as wide: cut it."
        )
    return image


def _tokens(
    size: tuple[int, int], places: Places, states: Mapping[int, Tensor], positions: Tensor
) -> VisualTokens:
    """The visual tokens among the image positions of one image; `states` are of its whole sequence."""
    visual = places.visual
    here = positions[torch.from_numpy(visual)]
    return VisualTokens(
        states={layer: state[here.to(state.device)] for layer, state in states.items()},
        boxes=places.boxes[visual],
        rows=places.rows[visual],
        columns=places.columns[visual],
        tiles=places.tiles[visual],
        size=size,
    )


@contextlib.contextmanager
def _plain_image_errors(name: str, groups: list[list[Image.Image]]) -> Iterator[None]:
    """Turn whatever a processor says of an image into an ImageError of one sentence."""
    try:
        yield
    except (ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError, OSError) as error:
        sizes = sorted({f"{image.width} x {image.height}" for group in groups for image in group})
        raise ImageError(
            f"The processor of {name} cannot take an image of {' or '.join(sizes[:3])} pixels: {_first_line(error)}."
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(". ") if lines else type(error).__name__
