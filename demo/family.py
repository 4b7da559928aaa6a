"""The demo as a family of models: its VLM, LLM and encoder, loaded by name.

The entry point in pyproject.toml names `FAMILY`. Importing this module loads no model library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentbank.demo.names import LANGUAGE_NAME
from latentbank.errors import ModelError
from latentbank.models.vision.registry import Family, LoadOptions

if TYPE_CHECKING:
    from latentbank.models.composite.model import CompositeVLM
    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.encoders import Encoder


def _load_model(options: LoadOptions) -> CompositeVLM:
    from latentbank.demo.vlm import load_demo

    _check(options)
    return load_demo(
        options.folder, device=options.device, deepest_layer=options.deepest_layer, say=options.say
    )


def _load_linear(options: LoadOptions) -> CompositeVLM:
    from latentbank.demo.vlm import LINEAR, load_demo

    _check(options)
    return load_demo(
        options.folder,
        projector=LINEAR,
        device=options.device,
        deepest_layer=options.deepest_layer,
        say=options.say,
    )


def _load_language(options: LoadOptions) -> LanguageModel:
    from latentbank.demo.vlm import load_demo_language

    _check(options)
    return load_demo_language(
        options.folder, device=options.device, deepest_layer=options.deepest_layer, say=options.say
    )


def _load_encoder(_options: LoadOptions) -> Encoder:
    from latentbank.demo.vlm import load_demo_encoder

    return load_demo_encoder()


def _check(options: LoadOptions) -> None:
    if options.dtype not in (None, "float32"):
        raise ModelError("The demo VLM runs in float32 only.", argument="dtype")
    for argument in ("load_in", "adapter"):
        if getattr(options, argument) is not None:
            raise ModelError("The demo VLM is neither quantized nor adapted.", argument=argument)


FAMILY = Family(
    "demo",
    models={"demo": _load_model, "demo-linear": _load_linear},
    languages={LANGUAGE_NAME: _load_language},
    encoders={"efficientnet-lite0": _load_encoder},
)
