"""A vision-language model's processor, which makes its inputs of images and text, also where torchvision is not.

transformers' image processors come for Pillow as well as for torchvision, but many of its processor classes have a
video part that exists for torchvision only. latentbank shows no videos, so that part is left out here.
"""

from __future__ import annotations

from typing import Any, cast

import transformers
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, Idefics3Processor
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto import processing_auto
from transformers.processing_utils import ProcessorMixin
from transformers.utils.import_utils import is_num2words_available, is_torchvision_available

_LOADERS: dict[str, Any] = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}
_WHOLE: Any = AutoProcessor


def load_processor(source: str, config: Any, options: dict[str, Any]) -> Any:
    """Load the processor of the vision-language model in `source` (a directory or hub id).

    Where torchvision is installed, this is transformers' own. Elsewhere its images go through Pillow and its video part
    is left out; two classes that cannot be had at all without torchvision are replaced: Pixtral's by one of ours,
    SmolVLM's by Idefics3's, which writes the same prompts.

    Args:
        source: a directory or hub id.
        config: the model's configuration.
        options: what `from_pretrained` takes besides: `revision`, `trust_remote_code`.
    """
    settings, _ = ProcessorMixin.get_processor_dict(source, **options)
    name = _class_name(source, config, settings, options)
    # SmolVLM's class writes the numbers of a video's frames in words.
    if is_torchvision_available() and (name != "SmolVLMProcessor" or is_num2words_available()):
        return _WHOLE.from_pretrained(source, **options)
    known = _class_for(name)
    if known is None:
        return _WHOLE.from_pretrained(source, **options)
    parts: list[Any] = []
    for part in known.get_attributes():
        loader = _LOADERS.get(part)
        parts.append(None if loader is None else loader.from_pretrained(source, **options))
    return known.from_args_and_dict(parts, settings)


def _class_name(source: str, config: Any, settings: dict[str, Any], options: dict[str, Any]) -> str | None:
    """The processor class that the model's files ask for."""
    if name := settings.get("processor_class"):
        return str(name)
    try:
        images, _ = ImageProcessingMixin.get_image_processor_dict(source, **options)
    except OSError:
        images = {}
    by_type = cast(Any, processing_auto).PROCESSOR_MAPPING_NAMES
    return cast(str | None, images.get("processor_class") or by_type.get(config.model_type))


def _class_for(name: str | None) -> Any:
    """A class that does its work, but for videos, without torchvision; None: transformers' own does."""
    if name == "PixtralProcessor":
        return _PixtralProcessor
    if name == "SmolVLMProcessor":
        return Idefics3Processor
    found = getattr(transformers, name or "", None)
    if found is None or "video_processor" not in found.get_attributes():
        return None
    return type(found.__name__, (_WithoutVideo, found), {})


class _WithoutVideo:
    """Goes before a processor class: parts that are None are taken as they are."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Check a part's class, as transformers does, unless there is no such part."""
        if argument is None:
            return type(None)
        return cast(Any, super()).check_argument_for_proper_class(argument_name, argument)


class _PixtralProcessor(ProcessorMixin):
    """Pixtral's and Mistral 3's: an image is rows of `[IMG]`, each ended by a break, the last by an end token."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: Any = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
    ) -> None:
        self.patch_size, self.spatial_merge_size = patch_size, spatial_merge_size
        self.image_token, self.image_token_id = image_token, tokenizer.convert_tokens_to_ids(image_token)
        self.image_break_token, self.image_end_token = image_break_token, image_end_token
        cast(Any, super()).__init__(image_processor, tokenizer, chat_template=chat_template)

    def _process_images(self, images: Any, **options: Any) -> Any:
        options["patch_size"] = self.patch_size * self.spatial_merge_size
        return super()._process_images(images, **options)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **_: Any) -> str:
        """Write the placeholders of one image."""
        step = self.patch_size * self.spatial_merge_size
        rows, columns = (int(pixels) // step for pixels in image_inputs["image_sizes"][image_idx])
        text = (self.image_token * columns + self.image_break_token) * rows
        return text.removesuffix(self.image_break_token) + self.image_end_token

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes."""
        return [*self.tokenizer.model_input_names, "pixel_values", "image_sizes"]
