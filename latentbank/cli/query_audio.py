"""`latentbank query audio`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from latentbank.cli.grouping import command
from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import LensOption, VisualLayersOption
from latentbank.cli.options.images import (
    PromptOption,
    ReadingOutputs,
    RecipeOption,
    SearchOptions,
    TextOptions,
)
from latentbank.cli.options.models import VisualModelOptions
from latentbank.cli.query import app
from latentbank.cli.visual_setup import Choices, find_files, prepared, warn
from latentbank.errors import QueryError, SoundError


@command(
    app,
    "audio",
    example="query audio cat.wav --model Qwen/Qwen2-Audio-7B-Instruct --html cat.html",
    first="sounds bank model visual_layers",
)
def query_audio(
    ctx: typer.Context,
    *,
    sounds: Annotated[list[str], typer.Argument(help="Audio files or globs.", show_default=False)],
    bank: ModelBankOptions,
    visual_layers: VisualLayersOption = None,
    lens: LensOption = "latent",
    search: SearchOptions,
    recipe: RecipeOption = None,
    prompt: PromptOption = None,
    text: TextOptions,
    model: VisualModelOptions,
    outputs: ReadingOutputs,
) -> None:
    """Read the tokens of sounds, each with its seconds. Exits 1 if a sound could not be read."""
    from latentbank.query.reading.audio import read_sounds

    if outputs.pictures is not None:
        raise QueryError("Sound has no picture to write words on: use --png or --html instead of --pictures.")
    found = find_files(sounds, "sound", SoundError)
    choices = Choices(
        visual_layers, lens, search, prompt, text.around(), None, of_images=False, recipe=recipe
    )
    with ExitStack() as stack:
        ready = prepared(stack, ctx, found, choices, bank, model, outputs)
        ready.job.run(
            lambda pending: read_sounds(
                ready.vlm,
                pending,
                ready.lenses,
                ready.layers,
                top_k=search.top_k,
                prompt=prompt,
                broken=ready.job.broken,
                warn=warn,
                tokens=text.kind,
                answer=text.answer,
            )
        )
