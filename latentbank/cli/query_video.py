"""`latentbank query video`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from latentbank.cli.grouping import command
from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import LensOption, VisualLayersOption
from latentbank.cli.options.correction import CorrectOption
from latentbank.cli.options.images import (
    FdrOption,
    MeansOption,
    PromptOption,
    ReadingOutputs,
    RecipeOption,
    SearchOptions,
    TextOptions,
)
from latentbank.cli.options.models import VisualModelOptions
from latentbank.cli.query import app
from latentbank.cli.visual_setup import Choices, find_files, prepared, warn
from latentbank.errors import ImageError


@command(
    app,
    "video",
    example="query video cat.mp4 --model Qwen/Qwen2.5-VL-7B-Instruct --frames 8 --html cat.html",
    first="videos bank model visual_layers frames",
)
def query_video(
    ctx: typer.Context,
    *,
    videos: Annotated[
        list[str], typer.Argument(help="Video files, globs, or folders of frames.", show_default=False)
    ],
    bank: ModelBankOptions,
    visual_layers: VisualLayersOption = None,
    frames: Annotated[
        int, typer.Option("--frames", help="Frames that the model sees, evenly spread over the video.")
    ] = 8,
    frame_rate: Annotated[
        float | None, typer.Option("--frame-rate", help="Frames per second of a folder of frames; else 1.")
    ] = None,
    lens: LensOption = "latent",
    search: SearchOptions,
    recipe: RecipeOption = None,
    prompt: PromptOption = None,
    text: TextOptions,
    means: MeansOption = None,
    correct: CorrectOption = "none",
    fdr: FdrOption = None,
    model: VisualModelOptions,
    outputs: ReadingOutputs,
) -> None:
    """Read the visual tokens of videos, each with its time. Exits 1 if a video could not be read."""
    from latentbank.query.reading.video import read_videos

    choices = Choices(
        visual_layers, lens, search, prompt, text.around(), means, recipe=recipe, correct=correct, fdr=fdr
    )
    with ExitStack() as stack:
        found = find_files(videos, "video", ImageError)
        ready = prepared(
            stack, ctx, found, choices, bank, model, outputs, frames=frames, frame_rate=frame_rate
        )
        ready.job.run(
            lambda pending: read_videos(
                ready.vlm,
                pending,
                ready.lenses,
                ready.layers,
                frames=frames,
                frame_rate=frame_rate,
                top_k=search.top_k,
                prompt=prompt,
                query_mean=ready.query_mean,
                broken=ready.job.broken,
                warn=warn,
                tokens=text.kind,
                answer=text.answer,
                silence=ready.silence,
            )
        )
