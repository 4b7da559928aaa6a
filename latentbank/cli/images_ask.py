"""Commands of `latentbank images` that ask: where, like, words."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbank.cli.grouping import command
from latentbank.cli.images import app
from latentbank.cli.options.banks import BankOptions, only_bank
from latentbank.cli.options.common import GlobalOptions, JsonOption, bank_layers_of, numbers
from latentbank.cli.options.correction import CorrectOption, mode_of
from latentbank.cli.options.image_search import (
    HowOptions,
    PatchOutputs,
    VlmOption,
    WhereImageOption,
    image_condition,
    place_of_patch,
)
from latentbank.cli.options.images import FdrOption
from latentbank.cli.options.models import LoadingOptions
from latentbank.errors import QueryError

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.images.bank import ImageBank
    from latentbank.bank.settings import Settings
    from latentbank.bank.where import Filter
    from latentbank.models.language.model import LanguageModel
    from latentbank.query.images.contexts import Term


@command(
    app,
    "where",
    example="images where dog --html dog.html",
    first="word bank sentence contexts visual_layers bank_layer limit by_image",
)
def images_where(
    ctx: typer.Context,
    *,
    word: Annotated[
        str, typer.Argument(help="A word, or several that follow each other.", show_default=False)
    ],
    bank: BankOptions,
    sentence: Annotated[
        str | None,
        typer.Option(help="Take the word as it stands in this sentence, which the LLM reads now."),
    ] = None,
    contexts: Annotated[
        list[str] | None,
        typer.Option(
            help="Make the word of these contexts alone, such as 'caption_contains!=hot dog'; all must hold."
        ),
    ] = None,
    bank_layer: Annotated[
        int | None,
        typer.Option(
            "--bank-layer",
            help="Bank layer of the word's contexts; by default the one nearest to two fifths of the LLM's depth.",
        ),
    ] = None,
    how: HowOptions,
    vlm: VlmOption = None,
    model: LoadingOptions,
    outputs: PatchOutputs,
) -> None:
    """Show the patches of a bank of images that mean a word, best first."""
    from latentbank.bank.where import parse_where
    from latentbank.progress import shown
    from latentbank.query.images.search import ImageSearch

    asked, chosen = how.how(pictures=outputs.pictures), parse_where(contexts or [])
    settings = GlobalOptions.of(ctx).settings()
    with ExitStack() as stack:
        opened, images = _opened(stack, bank, settings, vlm)
        search = ImageSearch(images, opened, stack.enter_context(shown("measuring", "contexts")))
        search.visual_layers(asked.layers)
        term = _term(opened, word, sentence, search.bank_layer(bank_layer), model, chosen)
        found = search.where(term, asked, bank_layer)
    outputs.show(found)


@command(
    app,
    "like",
    example="images like cat.jpg --patch 3,4 --html like.html",
    first="image patch bank visual_layers limit by_image",
)
def images_like(
    ctx: typer.Context,
    *,
    image: Annotated[
        str,
        typer.Argument(help="An image of the bank, by its name, or an image file.", show_default=False),
    ],
    patch: Annotated[
        str, typer.Option("--patch", help="ROW,COLUMN of the patch, from 0; with tiles ROW,COLUMN,TILE.")
    ],
    bank: BankOptions,
    how: HowOptions,
    vlm: VlmOption = None,
    model: Annotated[
        str | None,
        typer.Option(help="The VLM that reads an image file; by default the one whose images are stored."),
    ] = None,
    loading: LoadingOptions,
    outputs: PatchOutputs,
) -> None:
    """Show the patches of a bank of images with the meaning of a patch, best first."""
    from latentbank.bank.images.opening import open_images
    from latentbank.query.images.search import ImageSearch

    row, column, tile = place_of_patch(patch)
    asked = how.how(pictures=outputs.pictures)
    settings = GlobalOptions.of(ctx).settings()
    with open_images(only_bank(bank.bank, settings), settings, vlm) as images:
        search = ImageSearch(images)
        layers = search.visual_layers(asked.layers)
        file = Path(image).expanduser()
        if file.is_file() and not search.knows(image):
            from latentbank.query.images.photo import states_of_patch

            reader = loading.load_vlm(model or images.model, max(layers), settings)
            states = states_of_patch(images, reader, file, layers, row, column, tile)
            found = search.like(states, asked, f"{file.name}, row {row}, column {column}")
        else:
            found = search.like(search.patch(image, row, column, tile), asked)
    outputs.show(found)


@command(
    app,
    "words",
    example="images words --fdr 0.05",
    first="bank visual_layers bank_layers correct fdr limit",
)
def images_words(
    ctx: typer.Context,
    *,
    bank: BankOptions,
    visual_layers: Annotated[
        str | None,
        typer.Option(
            "--visual-layers", help="Stored visual layers that are read; by default the middle one."
        ),
    ] = None,
    bank_layers: Annotated[str, typer.Option(help="mid, all, paper, or numbers such as 8,12.")] = "mid",
    correct: CorrectOption = "none",
    fdr: FdrOption = None,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, help="Words that are shown.")] = 30,
    where: WhereImageOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="Read all patches anew, also those with a word.")
    ] = False,
    vlm: VlmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read the stored patches through the bank's lens, keep their words, and count them. Run again, it continues."""
    from latentbank.bank.where import WhereImage
    from latentbank.cli.output.patches import show_words
    from latentbank.progress import shown
    from latentbank.query.images.naming import lens_for, name_patches
    from latentbank.query.images.search import ImageSearch

    mode, condition = mode_of(correct), image_condition(where)
    layers = numbers(visual_layers)
    settings = GlobalOptions.of(ctx).writer_settings()
    done, counts = [], {}
    with ExitStack() as stack:
        opened, images = _opened(stack, bank, settings, vlm)
        chosen = ImageSearch(images, opened).visual_layers(layers)
        lens, silence = lens_for(images, opened, bank_layers_of(bank_layers), mode, fdr)
        if silence is not None:
            with shown("measuring chance", "tokens") as progress:
                silence.prepare([lens], chosen, progress)
        for layer in chosen:
            with shown(f"reading layer {layer}", "images") as progress:
                named = name_patches(
                    images, lens, layer, silence=silence, where=condition, again=again, progress=progress
                )
            done.append(named)
            worded = ~WhereImage(word="")
            counts[layer] = images.facet(
                "word", worded if condition is None else condition & worded, limit, layer
            )
        name = images.name
    show_words(done, counts, name, as_json=as_json)


def _opened(
    stack: ExitStack, bank: BankOptions, settings: Settings, vlm: str | None
) -> tuple[Bank, ImageBank]:
    """Open a bank and its images."""
    from latentbank.bank.images.opening import open_images

    opened = stack.enter_context(bank.opened(settings))
    return opened, stack.enter_context(open_images(opened.name, settings, vlm))


def _term(
    bank: Bank,
    word: str,
    sentence: str | None,
    layer: int,
    loading: LoadingOptions,
    contexts: Filter | None,
) -> Term:
    """Return the word as the sentence has it, or the bank, or plain sentences that the LLM reads.

    Raises:
        QueryError: the bank has no context of the word, and its LLM is not on this machine.
    """
    from latentbank.errors import ModelError
    from latentbank.query.images.contexts import term_of_bank, term_of_sentence, term_of_templates

    if sentence is not None:
        return term_of_sentence(bank, _language(bank, layer, loading), sentence, word, [layer])
    found = term_of_bank(bank, word, [layer], contexts)
    if found is not None:
        return found
    try:
        return term_of_templates(bank, _language(bank, layer, loading), word, [layer])
    except ModelError as error:
        raise QueryError(
            f"The bank '{bank.name}' has no context of '{word}', and its LLM cannot be loaded to read sentences with "
            f"it: {error}"
        ) from error


def _language(bank: Bank, layer: int, loading: LoadingOptions) -> LanguageModel:
    manifest: Any = bank.manifest
    return loading.load_language(bank.find_model(), layer, revision=manifest.revision)
