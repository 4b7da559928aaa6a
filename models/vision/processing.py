"""Loading the processor of a vision-language model, with or without torchvision.

A processor turns images and text into a model's inputs. transformers has image processors for both Pillow and
torchvision, but many of its processor classes have a video part that exists for torchvision only. latentbank reads no
videos, so this module leaves that part out.
"""

from __future__ import annotations

from typing import Any, cast

import transformers
from transformers import AutoImageProcessor, AutoProcessor, Idefics3Processor
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import make_flat_list_of_images
from transformers.models.auto import processing_auto
from transformers.processing_utils import ProcessorMixin
from transformers.utils.import_utils import is_num2words_available, is_torchvision_available

from latentbank.errors import QueryError
from latentbank.models.audio import voxtral
from latentbank.models.language.tekken import load_tokenizer, tekken_file, tekken_template
from latentbank.models.vision.molmo import WithProcess

_LOADERS: dict[str, Any] = {
    "image_processor": lambda source, options: cast(Any, AutoImageProcessor).from_pretrained(
        source, **options
    ),
    "tokenizer": load_tokenizer,
}
_WHOLE: Any = AutoProcessor


def load_processor(source: str, config: Any, options: dict[str, Any]) -> Any:
    """Load the processor of a vision-language model.

    With torchvision this is transformers' own. Without it, images are processed by Pillow and the video part is left
    out. Two classes that do not work without torchvision are replaced: Pixtral's by a class of this module, SmolVLM's
    by Idefics3's, which writes the same prompts. GOT-OCR 2's and Fuyu's classes take images and prompts in forms of
    their own; they are made to take them as the others do. Voxtral's is `VoxtralProcessor`.

    Args:
        source: a directory or hub id.
        config: the model's configuration.
        options: further arguments of `from_pretrained`: `revision`, `trust_remote_code`.
    """
    if config.model_type == voxtral.KIND:
        return voxtral.VoxtralProcessor(source, config, options)
    processor = _completed(_loaded(source, config, options), config)
    if type(getattr(processor, "image_processor", None)).__name__ == "FuyuImageProcessorPil":
        # The class exists, but transformers' processor hands it tensors that it cannot take.
        raise ImportError("Fuyu's image processor requires torchvision")
    if mixin := _MIXINS.get(type(processor).__name__):
        processor.__class__ = type(type(processor).__name__, (mixin, type(processor)), {})
    return processor


def _loaded(source: str, config: Any, options: dict[str, Any]) -> Any:
    settings, _ = ProcessorMixin.get_processor_dict(source, **options)
    name = _class_name(source, config, settings, options)
    # SmolVLM's class writes the numbers of a video's frames in words.
    whole = is_torchvision_available() and (name != "SmolVLMProcessor" or is_num2words_available())
    known, tekken = None if whole else _class_for(name), tekken_file(source, options)
    if known is None and tekken is not None:
        known = getattr(transformers, name or "", None)  # with another tokenizer than it would load itself
    if known is None:
        return _WHOLE.from_pretrained(source, **options)
    parts: list[Any] = []
    for part in known.get_attributes():
        loader = _LOADERS.get(part)
        parts.append(None if loader is None else loader(source, options))
    processor = known.from_args_and_dict(parts, settings)
    if tekken and not (processor.chat_template or processor.tokenizer.chat_template):
        processor.tokenizer.chat_template = tekken_template(tekken)
    return processor


def _completed(processor: Any, config: Any) -> Any:
    """Return a processor of the LLaVA kind with the settings that old files lack, taken from the model's configuration.

    Without them such a processor does not know how many tokens an image has.
    """
    vision: Any = getattr(config, "vision_config", None)
    if getattr(processor, "patch_size", 0) is None and getattr(vision, "patch_size", None):
        processor.patch_size = vision.patch_size
        if getattr(processor, "vision_feature_select_strategy", 0) is None:
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        if hasattr(processor, "num_additional_image_tokens") and not processor.num_additional_image_tokens:
            # CLIP has a CLS token, which the processor counts even where the model drops it.
            processor.num_additional_image_tokens = int(vision.model_type == "clip_vision_model")
    return processor


def _class_name(source: str, config: Any, settings: dict[str, Any], options: dict[str, Any]) -> str | None:
    """Return the name of the processor class that the model's files ask for."""
    if name := settings.get("processor_class"):
        return str(name)
    try:
        images, _ = ImageProcessingMixin.get_image_processor_dict(source, **options)
    except OSError:
        images = {}
    by_type = cast(Any, processing_auto).PROCESSOR_MAPPING_NAMES
    return cast(str | None, images.get("processor_class") or by_type.get(config.model_type))


def _class_for(name: str | None) -> Any:
    """Return a class that works without torchvision, except for videos, or None if transformers' own does."""
    if name == "PixtralProcessor":
        return _PixtralProcessor
    if name == "SmolVLMProcessor":
        return Idefics3Processor
    found = getattr(transformers, name or "", None)
    if found is None or "video_processor" not in found.get_attributes():
        return None
    return type(found.__name__, (_WithoutVideo, found), {})


class _WithoutVideo:
    """A mixin for a processor class that allows parts to be None."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Check the class of a part, as transformers does, unless the part is None."""
        if argument is None:
            return type(None)
        return cast(Any, super()).check_argument_for_proper_class(argument_name, argument)


class _WithFlatImages:
    """A mixin for GOT-OCR 2's processor, which takes the images of all prompts in one list."""

    def prepare_inputs_layout(self, images: Any = None, **inputs: Any) -> Any:
        """Return images and text as the class wants them."""
        return cast(Any, super()).prepare_inputs_layout(
            images=None if images is None else make_flat_list_of_images(images), **inputs
        )


class _WithImageFirst:
    """A mixin for Fuyu's processor, which writes one image's placeholder before each prompt by itself."""

    image_token: str

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, **inputs: Any) -> Any:
        """Return images and text as the class wants them: without the placeholder."""
        token = self.image_token
        if images is not None and any(
            sample.count(token) != 1 or not sample.startswith(token) for sample in text
        ):
            raise QueryError(
                f"This model takes one image, before all text: put {token} at the beginning of the prompt.",
                argument="prompt",
            )
        texts = [sample.removeprefix(token) for sample in text]
        return cast(Any, super()).prepare_inputs_layout(images=images, text=texts, **inputs)


_MIXINS: dict[str, type] = {
    "GotOcr2Processor": _WithFlatImages,
    "FuyuProcessor": _WithImageFirst,
    "MolmoProcessor": WithProcess,
}


class _PixtralProcessor(ProcessorMixin):
    """The processor of Pixtral and Mistral 3: an image is rows of `[IMG]` with breaks between and an end token."""

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
        """Return the placeholders of one image."""
        step = self.patch_size * self.spatial_merge_size
        rows, columns = (int(pixels) // step for pixels in image_inputs["image_sizes"][image_idx])
        text = (self.image_token * columns + self.image_break_token) * rows
        return text.removesuffix(self.image_break_token) + self.image_end_token

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs."""
        return [*self.tokenizer.model_input_names, "pixel_values", "image_sizes"]
