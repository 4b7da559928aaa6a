"""Commands of `latentbank query` that take images: image, norms."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.grouping import command
from latentbank.cli.image_job import ImageJob
from latentbank.cli.options.banks import BankOptions, ModelBankOptions
from latentbank.cli.options.common import (
    GlobalOptions,
    JsonOption,
    LayerChoice,
    LensOption,
    VisualLayersOption,
    layers_for,
    named_visual_layers,
)
from latentbank.cli.options.correction import CorrectOption
from latentbank.cli.options.images import (
    FdrOption,
    FollowOption,
    ImageBatchOption,
    ImageOptions,
    MeansOption,
    PromptOption,
    ReadingOutputs,
    RecipeOption,
    SearchOptions,
    TextOptions,
)
from latentbank.cli.options.models import VisualModelOptions
from latentbank.cli.query import app
from latentbank.cli.visual_setup import Choices, load_as_deep, prepared, warn
from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel

_FIRST = "images bank model visual_layers"


@command(
    app,
    "image",
    example="query image 'photos/*.jpg' --model demo --visual-layers 0,4,8,16",
    first=f"{_FIRST} bank_layers lens",
)
def query_image(
    ctx: typer.Context,
    *,
    bank: ModelBankOptions,
    visual_layers: VisualLayersOption = None,
    lens: LensOption = "latent",
    search: SearchOptions,
    recipe: RecipeOption = None,
    prompt: PromptOption = None,
    text: TextOptions,
    means: MeansOption = None,
    correct: CorrectOption = "none",
    fdr: FdrOption = None,
    random_projector: Annotated[
        bool,
        typer.Option(
            "--random-projector",
            help="Replace the projector by one of random weights: a control, to be judged beside the readings.",
        ),
    ] = False,
    follow: FollowOption = None,
    batch: ImageBatchOption = 8,
    images: ImageOptions,
    model: VisualModelOptions,
    outputs: ReadingOutputs,
) -> None:
    """Read the visual tokens of images through one lens or several. Exits 1 if an image could not be read."""
    from latentbank.cli.following import follow_one, for_following
    from latentbank.query.reading.visual import read_images

    choices = Choices(
        visual_layers,
        lens,
        search,
        prompt,
        text.around(),
        means,
        recipe=recipe,
        random_projector=random_projector,
        correct=correct,
        fdr=fdr,
    )
    found = images.find()
    if follow is not None:
        choices = for_following(choices, found, outputs)
    with ExitStack() as stack:
        ready = prepared(stack, ctx, found, choices, bank, model, outputs)
        if follow is not None:
            follow_one(ready, follow, search.top_k, prompt, outputs)
            return
        ready.job.run(
            lambda pending: read_images(
                ready.vlm,
                pending,
                ready.lenses,
                ready.layers,
                top_k=search.top_k,
                prompt=prompt,
                batch=batch,
                query_mean=ready.query_mean,
                broken=ready.job.broken,
                warn=warn,
                tokens=text.kind,
                answer=text.answer,
                silence=ready.silence,
            )
        )


@command(
    app,
    "norms",
    example="query norms photos --model llava-hf/llava-1.5-7b-hf",
    first=_FIRST,
)
def query_norms(
    ctx: typer.Context,
    *,
    bank: BankOptions,
    visual_layers: Annotated[
        str | None, typer.Option("--visual-layers", help="Layers to compare; by default all.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Files or hub datasets of sentences; by default a few built-in ones."),
    ] = None,
    sentences: Annotated[int, typer.Option(min=1, help="Sentences taken from --text.")] = 200,
    prompt: PromptOption = None,
    batch: ImageBatchOption = 8,
    images: ImageOptions,
    model: VisualModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Compare the norms of visual tokens with those of text, layer by layer."""
    from latentbank.cli.output.readings import show_norms
    from latentbank.query.reading.norms import SENTENCES, measure_norms

    choice = named_visual_layers(visual_layers)
    job = ImageJob(ctx, images.find())
    compared = _sentences(text, sentences) if text else SENTENCES
    vlm = _load_alone(ctx, bank, model, choice)
    layers = layers_for(choice, vlm.num_layers)
    norms = measure_norms(
        vlm,
        job.counted(),
        layers or range(vlm.num_layers + 1),
        sentences=compared,
        prompt=prompt,
        batch=batch,
        broken=job.broken,
        warn=warn,
    )
    show_norms(norms, as_json=as_json)
    if job.failed:
        raise typer.Exit(1)


def _sentences(text: list[str], limit: int) -> list[str]:
    """Return the first sentences of --text. Its errors name no option: --column is that of the images."""
    from latentbank.ingest.corpus import Counts, open_corpus, read_sentences

    try:
        return list(read_sentences(open_corpus("text", text, limit=limit), Counts()))
    except LatentBankError as error:
        error.argument = None
        raise


def _load_alone(
    ctx: typer.Context, bank: BankOptions, model: VisualModelOptions, layers: LayerChoice
) -> VisualModel:
    """Load the VLM, by default the bank's, as deep as `layers`, else whole; the bank is not needed after that."""
    settings = GlobalOptions.of(ctx).settings()
    with ExitStack() as stack:
        opened = stack.enter_context(bank.opened(settings)) if model.model is None else None
        return load_as_deep(model, opened, settings, layers, lambda count: count)
