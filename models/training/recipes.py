"""Recipes: the settings of trainings that were published, by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from transformers import AutoConfig, AutoImageProcessor

from latentbank.errors import ModelError
from latentbank.models.language.explaining import plain_errors, quiet
from latentbank.models.language.loading import absolute
from latentbank.models.training.stages import TrainSettings
from latentbank.models.vision.encoders import DEFAULT_LAYER
from latentbank.models.vision.pictures import PADDED, SQUEEZED, Pictures
from latentbank.models.vision.registry import encoder_loader
from latentbank.text import listed

_SIDE = 336  # of DINOv2's pictures in the paper; its own are 518 pixels wide
# How an image fills the square, by the type of the encoder: fit, filter, antialias.
_FITS = {
    "clip_vision_model": (PADDED, "bilinear", True),
    "siglip_vision_model": (SQUEEZED, "bilinear", False),
    "dinov2": (SQUEEZED, "bicubic", True),
}


@dataclass(frozen=True)
class Recipe:
    """How a projector is trained, where nothing else is said.

    Attributes:
        data: a folder, a Parquet file or a dataset on the hub; None: there is no default.
        steps: optimizer steps; None: there is no default.
        batch: rows in one step.
        rate: the highest learning rate.
        warmup: share of the steps in which the rate rises.
        warmup_steps: number of steps in which it rises, in the place of `warmup`; None: `warmup` counts.
        floor: share of the rate that remains at the end.
        llm_rate: the highest learning rate of the LLM, if it is trained.
        llm_warmup_steps: number of steps in which the LLM's rate rises; None: as for the projector.
        dtype: dtype of encoder and LLM; None: by device.
        fits_pictures: whether encoder layers and pictures are those of the paper (`paper_input`).
        settings: the other settings.
    """

    data: str | None = None
    steps: int | None = None
    batch: int = 16
    rate: float = 1e-3
    warmup: float = 0.03
    warmup_steps: int | None = None
    floor: float = 0.0
    llm_rate: float = 2e-5
    llm_warmup_steps: int | None = None
    dtype: str | None = None
    fits_pictures: bool = False
    settings: TrainSettings = field(default_factory=TrainSettings)


PLAIN = Recipe()
"""What counts without a recipe."""

RECIPES = {
    # arXiv 2602.00462, from the authors' training configuration of the nine connectors: McGill-NLP/latentlens at
    # 36de5cb, reproduce/configs.
    "latentlens": Recipe(
        data="allenai/pixmo-cap",
        steps=12_000,
        batch=8,
        rate=2e-4,
        warmup_steps=200,
        floor=0.1,
        llm_warmup_steps=2000,
        dtype="bfloat16",
        fits_pictures=True,
        settings=TrainSettings(
            projector="swiglu",
            weight_decay=0.0,
            betas=(0.9, 0.95),
            eps=1e-6,
            clip=1.0,
            softmax_loss=1e-4,
            dropout=0.1,
            prompt="long_caption",
            image_tokens=True,
        ),
    )
}


def recipe_of(name: str | None) -> Recipe:
    """Return a recipe by its name; without a name, what counts without one.

    Raises:
        ModelError: there is no such recipe.
    """
    if name is None:
        return PLAIN
    if name not in RECIPES:
        raise ModelError(f"There is no recipe {name!r}: use {listed(RECIPES)}.", argument="recipe")
    return RECIPES[name]


def settings_of(recipe: Recipe, **changes: Any) -> TrainSettings:
    """Return a recipe's settings with those of `changes` that are not None."""
    return replace(recipe.settings, **{key: value for key, value in changes.items() if value is not None})


def paper_input(name: str, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """Return how the paper's models use a vision encoder, as arguments of `load_encoder`: `layer` and `pictures`.

    The layers are the outputs of the second and the ninth block from the last, of CLIP without its last block. CLIP's
    pictures keep their shape, with black around them; those of SigLIP and DINOv2 are squeezed. Another kind of encoder
    has the layers and its own image processor.

    Args:
        name: hub id or directory of the encoder, or the name of one of a family, which has no such choice.
        trust_remote_code: run the Python code that comes with the model. Only for authors you trust.

    Raises:
        ModelError: the encoder's configuration or image processor cannot be read.
    """
    if encoder_loader(name):
        return {"layer": DEFAULT_LAYER}
    name = absolute(name)
    with plain_errors(name), quiet():
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        config = getattr(config, "vision_config", config)
        processor: Any = cast(Any, AutoImageProcessor).from_pretrained(
            name, trust_remote_code=trust_remote_code
        )
    kind = str(config.model_type)
    layers = (-3, -10) if kind == "clip_vision_model" else (-2, -9)
    if kind not in _FITS:
        return {"layer": layers}
    side = config.image_size // config.patch_size * config.patch_size
    if kind == "dinov2":
        side = min(side, _SIDE // config.patch_size * config.patch_size)
    mean, std = (
        cast("tuple[float, float, float]", tuple(float(value) for value in values))
        for values in (processor.image_mean, processor.image_std)
    )
    return {"layer": layers, "pictures": Pictures(side, *_FITS[kind], mean, std)}
