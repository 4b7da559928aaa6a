"""Commands of `latentbank query` that take images: image, means, norms."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbank.cli.grouping import command
from latentbank.cli.image_job import ImageJob, reading_folder
from latentbank.cli.options.banks import BankOptions, ModelBankOptions
from latentbank.cli.options.common import (
    GlobalOptions,
    JsonOption,
    LensOption,
    VisualLayersOption,
    numbers,
)
from latentbank.cli.options.images import (
    ImageBatchOption,
    ImageOptions,
    PromptOption,
    ReadingOutputs,
    SearchOptions,
    TextOptions,
)
from latentbank.cli.options.models import VisualModelOptions
from latentbank.cli.query import app
from latentbank.errors import LatentBankError, QueryError
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lens_class, lens_names, lenses_of

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.settings import Settings
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.reading.around import Around

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
    prompt: PromptOption = None,
    text: TextOptions,
    means: Annotated[
        Path | None,
        typer.Option(
            help="For a centred bank: file of visual means; by default those kept with the VLM, else each image's own."
        ),
    ] = None,
    batch: ImageBatchOption = 8,
    images: ImageOptions,
    model: VisualModelOptions,
    outputs: ReadingOutputs,
) -> None:
    """Read the visual tokens of images through one lens or several. Exits 1 if an image could not be read."""
    from latentbank.query.lenses.centring import load_means
    from latentbank.query.reading.visual import chosen_layers, read_images

    if outputs.as_json and outputs.parquet is not None:
        raise QueryError("Readings go to one place: choose --json or --parquet.")
    names = lens_names(lens)
    layers, around = numbers(visual_layers), text.around()
    condition, unique = search.condition(), search.once()
    found = images.find()
    files = outputs.files(found.total)
    settings = GlobalOptions.of(ctx).settings()
    with ExitStack() as stack:
        opened = None
        if model.model is None or any(lens_class(name).needs_bank for name in names):
            opened = stack.enter_context(bank.opened(settings, include_incomplete=search.include_incomplete))
            opened.choose_layers(search.layers())
        vlm = _load_for(model, opened, settings, layers, around)
        layers = layers or chosen_layers(vlm.num_layers, opened, around)
        means = means or _kept_means(vlm, opened)
        query_mean = load_means(means, vlm.language.identity()) if means is not None else None
        lenses = lenses_of(names, LensOptions(vlm, opened, search.layers(), condition, unique, search.exact))
        job = ImageJob(ctx, found, as_json=outputs.as_json, pictures=outputs.pictures, files=files)
        if outputs.parquet is not None:
            choice = _choice(names, layers, search, prompt, query_mean, means) | _text_choice(around)
            job.folder = reading_folder(outputs.parquet, vlm, opened, search.layers(), choice)
        job.run(
            lambda pending: read_images(
                vlm,
                pending,
                lenses,
                layers,
                top_k=search.top_k,
                prompt=prompt,
                batch=batch,
                query_mean=query_mean,
                broken=job.broken,
                warn=_warn,
                tokens=text.tokens,
                answer=around.answer,
            )
        )


@command(
    app,
    "means",
    example="query means photos --model demo -o means.safetensors",
    first="images output bank model",
)
def query_means(
    ctx: typer.Context,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write, for query image --means; by default beside the VLM's own files.",
        ),
    ] = None,
    bank: BankOptions,
    visual_layers: Annotated[
        str | None, typer.Option("--visual-layers", help="Layers to measure; by default all.")
    ] = None,
    prompt: PromptOption = None,
    batch: ImageBatchOption = 8,
    images: ImageOptions,
    model: VisualModelOptions,
) -> None:
    """Measure the mean visual token of each layer on many images, for reading others against a centred bank."""
    from latentbank.query.lenses.centring import save_means
    from latentbank.query.reading.calibrate import measure_means

    layers = numbers(visual_layers)
    job = ImageJob(ctx, images.find())
    vlm = _load_alone(ctx, bank, model, layers)
    file = output or vlm.means_file
    if file is None:
        raise LatentBankError(
            f"{vlm.name} was not loaded from a local folder; name the file to write with --output."
        )
    measured = layers or range(vlm.num_layers + 1)
    means = measure_means(vlm, job.counted(), measured, prompt=prompt, batch=batch, broken=job.broken)
    save_means(file, means)
    print(f"The mean of {means.kind} ({means.count:,} in all) at {len(measured)} layers is in {file}.")
    if job.failed:
        raise typer.Exit(1)


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
    sentences: Annotated[int, typer.Option(help="Sentences taken from --text.")] = 200,
    prompt: PromptOption = None,
    batch: ImageBatchOption = 8,
    images: ImageOptions,
    model: VisualModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Compare the norms of visual tokens with those of text, layer by layer."""
    from latentbank.cli.output.readings import show_norms
    from latentbank.query.reading.norms import SENTENCES, measure_norms

    layers = numbers(visual_layers)
    job = ImageJob(ctx, images.find())
    compared = _sentences(text, sentences) if text else SENTENCES
    vlm = _load_alone(ctx, bank, model, layers)
    norms = measure_norms(
        vlm,
        job.counted(),
        layers or range(vlm.num_layers + 1),
        sentences=compared,
        prompt=prompt,
        batch=batch,
        broken=job.broken,
        warn=_warn,
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


def _load(
    model: VisualModelOptions,
    bank: Bank | None,
    settings: Settings,
    layers: list[int] | None,
    deepest: Callable[[int], int],
) -> VisualModel:
    """Load the VLM, by default the bank's, as deep as `layers`, else as `deepest` says."""
    from latentbank.bank.model import own_model

    name, revision = model.model, None
    if name is None:
        assert bank is not None
        name, revision = own_model(bank.manifest, settings), bank.manifest.revision
    return model.load_vlm(name, max(layers) if layers else deepest, settings, revision=revision)


def _load_for(
    model: VisualModelOptions, bank: Bank | None, settings: Settings, layers: list[int] | None, around: Around
) -> VisualModel:
    """Load the VLM as deep as it will be read; whole if it is to write an answer."""
    from latentbank.query.reading.visual import chosen_layers

    if around.answer:
        return _load(model, bank, settings, None, lambda count: count)
    return _load(model, bank, settings, layers, lambda count: max(chosen_layers(count, bank, around)))


def _load_alone(
    ctx: typer.Context, bank: BankOptions, model: VisualModelOptions, layers: list[int] | None
) -> VisualModel:
    """Load the VLM, by default the bank's, as deep as `layers`, else whole; the bank is not needed after that."""
    settings = GlobalOptions.of(ctx).settings()
    with ExitStack() as stack:
        opened = stack.enter_context(bank.opened(settings)) if model.model is None else None
        return _load(model, opened, settings, layers, lambda count: count)


def _kept_means(vlm: VisualModel, bank: Bank | None) -> Path | None:
    """Return the file of means kept with the VLM, which a centred bank's queries are centred with."""
    if bank is None or bank.metric != "centred" or vlm.means_file is None:
        return None
    return vlm.means_file if vlm.means_file.is_file() else None


def _text_choice(around: Around) -> dict[str, Any]:
    """Return what a folder of readings depends on besides `_choice`; nothing for visual tokens alone."""
    return {"prompt_tokens": around.prompt, "answer": around.answer} if around else {}


def _choice(
    lenses: list[str],
    layers: list[int],
    search: SearchOptions,
    prompt: str | None,
    query_mean: Any,
    means: Path | None,
) -> dict[str, Any]:
    """Return the options that a folder of readings depends on."""
    from latentbank.query.lenses.centring import described

    return {
        "lenses": lenses,
        "visual_layers": layers,
        "top_k": search.top_k,
        "unique": search.unique,
        "prompt": prompt,
        "where": search.where or [],
        "exact": search.exact,
        "query_mean": described(query_mean),
        # Two sets of images may have means of the same description.
        "means": None if means is None else hashlib.blake2b(means.read_bytes(), digest_size=16).hexdigest(),
    }


def _warn(text: str) -> None:
    """Print the library's warning that norms are beyond the model's dtype, with the option that helps."""
    print(f"warning: {text.removesuffix('.')} (--dtype).", file=sys.stderr)
