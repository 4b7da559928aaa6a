"""`latentbank cause`: what the visual tokens do that a lens says show a word."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.causes import AblationOptions, WritingOptions
from latentbank.cli.options.common import GlobalOptions, JsonOption, numbers
from latentbank.cli.options.correction import CorrectOption, mode_of
from latentbank.cli.options.images import MeansOption, PromptOption, SearchOptions
from latentbank.cli.options.models import VisualModelOptions
from latentbank.cli.visual_setup import correction_of, kept_means_file, load_as_deep
from latentbank.errors import QueryError
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lens_class, lens_names, lenses_of, title_of

if TYPE_CHECKING:
    pass


def cause(
    ctx: typer.Context,
    *,
    image: Annotated[str, typer.Argument(help="An image file.", show_default=False)],
    word: Annotated[str, typer.Option("--word", "-w", help="A word, or a name of several words.")],
    bank: ModelBankOptions,
    layers: Annotated[
        str, typer.Option("--layers", help="Layers from which on tokens are ablated, such as 0,8,16.")
    ],
    lens: Annotated[
        str, typer.Option("--lens", help="Lens that says which tokens show the word.")
    ] = "latent",
    ablation: AblationOptions,
    writing: WritingOptions,
    search: SearchOptions,
    correct: CorrectOption = "none",
    prompt: PromptOption = None,
    means: MeansOption = None,
    model: VisualModelOptions,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the figure and the JSON.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ablate the visual tokens that show a word, beside as many others, or write it into some: what is said then?"""
    from latentbank.cli.output.causes import show_causes, show_writings
    from latentbank.cli.output.scores import write_scores
    from latentbank.cli.output.text import print_json
    from latentbank.progress import shown
    from latentbank.query.causes import cause as causes
    from latentbank.query.causes.figure import draw_causes
    from latentbank.query.evaluation.figures import need_matplotlib
    from latentbank.query.lenses.centring import load_means

    chosen = numbers(layers) or []
    (name, *more) = lens_names(lens)
    if more:
        raise QueryError("One lens says which tokens show the word; name one.", argument="lens")
    others = ablation.checked(writes=writing.act() is not None)
    condition, unique, mode = search.condition(), search.once(), mode_of(correct)
    if output is not None:
        need_matplotlib()
    settings = GlobalOptions.of(ctx).settings()
    with ExitStack() as stack:
        opened = None
        if model.model is None or lens_class(name).needs_bank or writing.act() is not None:
            opened = stack.enter_context(bank.opened(settings, include_incomplete=search.include_incomplete))
            opened.choose_layers(search.layers())
        vlm = load_as_deep(model, opened, settings, None, lambda count: count)
        file = means or kept_means_file(vlm, opened)
        if (act := writing.act()) is not None:
            assert opened is not None
            made = writing.run(vlm, image, word, opened, chosen, ablation, prompt, act)
            write_scores(made.to_dict(), output, "writings", lambda _: None)
            show_writings(made, as_json=as_json)
            return
        if mode is not None and opened is None:
            raise QueryError(
                f"{title_of(name)} cannot be corrected; leave the correction out.", argument="correct"
            )
        correction = correction_of(mode, opened, vlm) if mode is not None and opened is not None else None
        asked = LensOptions(
            vlm, opened, search.layers(), condition, unique, correction=correction, search=search.way()
        )
        (reader,) = lenses_of([name], asked)
        options = ablation.options(
            others,
            top_k=search.top_k,
            prompt=prompt,
            query_mean=None if file is None else load_means(file, vlm.language.identity()),
        )
        with shown("ablating", "rows") as progress:
            found = causes.cause(vlm, image, word, reader, chosen, options, progress)
    write_scores(found.to_dict(), output, "causes", lambda folder: draw_causes(found, folder / "causes.png"))
    if as_json:
        print_json(found.to_dict())
    else:
        show_causes(found)
