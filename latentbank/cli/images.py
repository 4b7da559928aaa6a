"""Commands of `latentbank images`: a bank of images, filled, listed and dropped."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.grouping import command, message_of
from latentbank.cli.options.banks import BankOptions, ModelBankOptions, only_bank, place
from latentbank.cli.options.common import (
    GlobalOptions,
    JsonOption,
    VisualLayersOption,
    deepest_of,
    layers_for,
    named_visual_layers,
)
from latentbank.cli.options.images import ImageBatchOption, ImageOptions, PromptOption
from latentbank.cli.options.models import VisualModelOptions
from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.bank.manifest import Manifest
    from latentbank.bank.settings import Settings
    from latentbank.ingest.images.naming import NamedImages
    from latentbank.ingest.images.planning import ImagesPlan
    from latentbank.models.vision.tokens import VisualModel

app = typer.Typer(no_args_is_help=True, help="Bank the visual tokens of images, and search them.")


@command(
    app,
    "ingest",
    example="images ingest photos --model demo --visual-layers 0,8,16",
    first="images bank model visual_layers name dry_run",
)
def images_ingest(
    ctx: typer.Context,
    *,
    images: ImageOptions,
    bank: ModelBankOptions,
    model: VisualModelOptions,
    visual_layers: VisualLayersOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="Name of the corpus of images; by default the first source's."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be stored and how long it takes; store nothing.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(help="Store only this share of the images, such as 0/4, the first of four.")
    ] = None,
    prompt: PromptOption = None,
    batch: ImageBatchOption = 8,
    as_json: JsonOption = False,
) -> None:
    """Store the visual tokens of images in a bank. Run again, it reads only what is new. Exits 1 if one failed."""
    from latentbank.bank.images.opening import bank_manifest, list_images
    from latentbank.bank.model import ModelCheck
    from latentbank.cli.output.images import show_images_plan, show_ingested
    from latentbank.ingest.images.banks import create_images
    from latentbank.ingest.images.job import ingest_images
    from latentbank.ingest.images.naming import named_images
    from latentbank.ingest.workers.shares import parse_share
    from latentbank.models.vision.tokens import visual_fingerprint
    from latentbank.progress import shown

    options = GlobalOptions.of(ctx)
    settings = options.settings() if dry_run else options.writer_settings()
    found = named_images(images.find(), images.images, name)
    share = None if shard is None else parse_share(shard)
    target = only_bank(bank.bank, settings)
    contexts = bank_manifest(target, settings)
    stored = list_images(target, settings)
    vlm, layers = _loaded(contexts, stored, visual_layers, model, settings)
    ModelCheck(allow_other_model=bank.allow_other_model)(
        contexts, settings, vlm.name, vlm.language.identity()
    )
    own = visual_fingerprint(vlm)
    known = next((one for one in stored if one.fingerprint == own), None)
    held = {} if known is None else {entry.name: entry.contexts for entry in known.corpora.values()}
    if dry_run or not held.get(found.corpus):  # what is stored already is known by its files
        plan = _planned(vlm, found, layers, contexts, held, settings, batch, prompt, dry_run=dry_run)
        show_images_plan(plan, target, vlm.name, as_json=as_json and dry_run, error=not dry_run)
    if dry_run:
        return

    def broken(name: str, error: LatentBankError) -> None:
        del name  # the message has it
        if found.total == 1:
            raise error
        print(f"skipped: {message_of(error, ctx)}", file=sys.stderr)

    with ExitStack() as stack:
        opened = stack.enter_context(create_images(target, vlm, layers, settings))
        progress = stack.enter_context(shown("ingesting", "images"))
        report = ingest_images(
            opened, found, vlm, progress, batch=batch, prompt=prompt, share=share, broken=broken
        )
    show_ingested(report, target, opened.model, opened.layers, as_json=as_json)
    if report.failed:
        raise typer.Exit(1)


@command(app, "list", example="images list")
def images_list(ctx: typer.Context, *, bank: BankOptions, as_json: JsonOption = False) -> None:
    """List what a bank holds of images: VLMs, visual layers, and corpora with their images."""
    from latentbank.bank.images.opening import list_images
    from latentbank.cli.output.images import show_images

    settings = GlobalOptions.of(ctx).settings()
    name = only_bank(bank.bank, settings)
    show_images(list_images(name, settings), name, place(settings), as_json=as_json)


@command(app, "drop", example="images drop photos")
def images_drop(
    ctx: typer.Context,
    *,
    corpus: Annotated[
        str | None, typer.Argument(help="The corpus of images; without one, all images of the VLM.")
    ] = None,
    bank: BankOptions,
    vlm: Annotated[
        str | None,
        typer.Option(
            "--vlm", help="First hex digits of the VLM's fingerprint (`images list`), if there are several."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before all images are dropped.")] = False,
) -> None:
    """Remove a corpus of images from a bank, or with none named everything stored of a VLM's images."""
    from latentbank.bank.images.opening import delete_images, open_images
    from latentbank.cli.bank import confirm

    settings = GlobalOptions.of(ctx).writer_settings()
    name = only_bank(bank.bank, settings)
    with open_images(name, settings, vlm) as opened:
        stored, of = opened.stored, opened.model
        if corpus is not None:
            dropped = opened.drop_corpus(corpus)
            typer.echo(
                f"Dropped '{corpus}' from the images of '{name}': {dropped:,} visual tokens in each layer."
            )
            return
    if not yes:
        confirm(f"Drop all images of {of} from bank '{name}'?")
    delete_images(stored, settings)
    typer.echo(f"Dropped all images of {of} from '{name}'.")


def _planned(
    vlm: VisualModel,
    images: NamedImages,
    layers: list[int],
    contexts: Manifest,
    held: dict[str, int],
    settings: Settings,
    batch: int,
    prompt: str | None,
    *,
    dry_run: bool,
) -> ImagesPlan:
    """Plan an ingestion; a few images tell how large it will be, unless that is all that is asked."""
    from latentbank.ingest.images.planning import SAMPLE, plan_images
    from latentbank.progress import shown

    few = max(1, min(SAMPLE, (images.total or SAMPLE) // 20))
    with shown("measuring", "images") as progress:
        return plan_images(
            vlm,
            images,
            images.corpus,
            images.total,
            layers,
            settings.model_copy(update={"quantization": contexts.quantization}),
            progress,
            batch=batch,
            prompt=prompt,
            stored=sum(count for corpus, count in held.items() if corpus != images.corpus),
            sample=SAMPLE if dry_run else few,
        )


def _loaded(
    contexts: Manifest,
    known: list[Manifest],
    visual_layers: str | None,
    model: VisualModelOptions,
    settings: Settings,
) -> tuple[VisualModel, list[int]]:
    """Load the VLM, by default the bank's own, as deep as needed; return it and the visual layers to store."""
    from latentbank.bank.model import own_model
    from latentbank.models.vision.tokens import visual_fingerprint
    from latentbank.query.reading.visual import default_visual_layers

    choice = named_visual_layers(visual_layers)
    name, revision = model.model, None
    if name is None:
        name, revision = own_model(contexts, settings), contexts.revision
    before = [layer for one in known for layer in one.layers]

    def deepest(count: int) -> int:
        return max([*default_visual_layers(count), *(layer for layer in before if layer <= count)])

    asked = deepest_of(choice)
    vlm = model.load_vlm(name, deepest if asked is None else asked, settings, revision=revision)
    given = layers_for(choice, vlm.num_layers)
    if given is None:
        own = visual_fingerprint(vlm)
        stored = [list(one.layers) for one in known if one.fingerprint == own]
        given = stored[0] if stored else default_visual_layers(vlm.num_layers)
    return vlm, sorted(set(given))
