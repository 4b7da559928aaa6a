"""The registry of families: what is known about kinds of vision-language models.

A family says where the visual tokens of its models are in an image, or loads models that have names of their own, or
both. Built-in families are the modules of `latentbank.models.vision.families`. Installed packages add theirs through
entry points of the group `latentbank.families`, each of which names a `Family`.
"""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from latentbank.extensions import extensions_of

if TYPE_CHECKING:
    import torch

    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.encoders import Encoder
    from latentbank.models.vision.geometry import Picture, Places
    from latentbank.models.vision.tokens import VisualModel

log = logging.getLogger(__name__)

GROUP = "latentbank.families"
BUILT_IN = "latentbank.models.vision.families"


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model; a family uses the options that apply to its models.

    Attributes:
        device: `cpu`, `cuda`, `cuda:1`, `mps` or `auto`; None: a GPU if there is one.
        dtype: `float32`, `bfloat16` or `float16`; None: bfloat16 on a GPU and float32 on the CPU.
        revision: branch, tag or commit on the hub.
        deepest_layer: the deepest LLM layer that will be read, or a function that returns it for the LLM's number of
            layers; None: all layers are kept.
        load_in: `4bit` or `8bit`; None: weights are not quantized.
        adapter: a LoRA adapter's directory or hub id; None: there is none.
        trust_remote_code: whether Python code that comes with the model may run.
        folder: where converted weights may be kept for later loads; None: nowhere.
        say: called with one line of text before something that takes long.
    """

    device: str | None = None
    dtype: str | torch.dtype | None = None
    revision: str | None = None
    deepest_layer: int | Callable[[int], int] | None = None
    trust_remote_code: bool = False
    folder: str | os.PathLike[str] | None = None
    say: Callable[[str], None] | None = None
    load_in: str | None = None
    adapter: str | os.PathLike[str] | None = None


@dataclass(frozen=True)
class Family:
    """A kind of vision-language model.

    Attributes:
        name: for people.
        model_types: the `model_type` values of transformers' configurations that `places` applies to. A value such as
            `llava/pixtral` applies only if the vision model's type is the one after the slash.
        places: returns the places of one image's positions in the LLM's input sequence; raises `Unplaced` for settings
            that it does not know.
        models: functions that load vision-language models, by the name given to `load_visual_model`.
        languages: functions that load LLMs, by the name in a projector's card.
        encoders: functions that load vision encoders, by the name given to `load_encoder`, in lower case.
    """

    name: str
    model_types: tuple[str, ...] = ()
    places: Callable[[Picture], Places] | None = None
    models: Mapping[str, Callable[[LoadOptions], VisualModel]] = field(default_factory=dict)
    languages: Mapping[str, Callable[[LoadOptions], LanguageModel]] = field(default_factory=dict)
    encoders: Mapping[str, Callable[[LoadOptions], Encoder]] = field(default_factory=dict)


@cache
def families() -> tuple[Family, ...]:
    """Return all families: those of installed packages first, so that a package can replace a built-in one.

    A family that cannot be imported is left out, with a warning.
    """
    return (*_installed(), *_built_in())


def places_of(config: Any) -> Callable[[Picture], Places] | None:
    """Return the function that says where a model's visual tokens are, or None if no family has one.

    Args:
        config: the model's configuration.
    """
    vision = getattr(getattr(config, "vision_config", None), "model_type", None)
    for model_type in (f"{config.model_type}/{vision}", config.model_type):
        for family in families():
            if family.places is not None and model_type in family.model_types:
                return family.places
    return None


def model_loader(name: str) -> Callable[[LoadOptions], VisualModel] | None:
    """Return the function that loads the vision-language model called `name`, or None if no family has one."""
    return next((family.models[name] for family in families() if name in family.models), None)


def language_loader(name: str) -> Callable[[LoadOptions], LanguageModel] | None:
    """Return the function that loads the LLM called `name`, or None if no family has one."""
    return next((family.languages[name] for family in families() if name in family.languages), None)


def encoder_loader(name: str) -> Callable[[LoadOptions], Encoder] | None:
    """Return the function that loads the encoder called `name` (in any case), or None if no family has one."""
    key = name.lower()
    return next((family.encoders[key] for family in families() if key in family.encoders), None)


def _built_in() -> list[Family]:
    package = importlib.import_module(BUILT_IN)
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{BUILT_IN}.{name}").FAMILY for name in names]


def _installed() -> list[Family]:
    return list(extensions_of(GROUP, "family of models", (Family,), log.warning))
