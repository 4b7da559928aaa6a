"""`latentbank query`: text, and from `query_image` image and norms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from latentbank.cli.grouping import command
from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import GlobalOptions, JsonOption, numbers
from latentbank.cli.options.images import SearchOptions
from latentbank.cli.options.models import ModelOptions
from latentbank.errors import QueryError

app = typer.Typer(no_args_is_help=True, help="Read hidden states against a bank.")


@command(
    app,
    "text",
    example="query text 'The dog chased a cat.' --token dog --top-k 3",
    first="sentence bank model",
)
def query_text(
    ctx: typer.Context,
    *,
    sentence: Annotated[str, typer.Argument()],
    bank: ModelBankOptions,
    token: Annotated[str | None, typer.Option(help="Read only this word or token.")] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", help="Layers at which the sentence is read, such as 8,12.")
    ] = None,
    lens: Annotated[
        str, typer.Option("--lens", help="Lenses beside latent, which always reads, such as logit,tuned.")
    ] = "latent",
    search: SearchOptions,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Follow --token through --layer, by default all layers of the bank: its words and its drift.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="With --follow: write a picture (.png, .svg, .pdf) or a page (.html)."
        ),
    ] = None,
    model: ModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Read the tokens of a sentence against a bank, and through further lenses."""
    from latentbank.cli.output.following import give_followed
    from latentbank.cli.output.readings import show_reading
    from latentbank.cli.output.text import show_ways
    from latentbank.models.vision.alone import LanguageAlone
    from latentbank.query.following.tokens import follow_text
    from latentbank.query.lenses.base import LensOptions
    from latentbank.query.lenses.registry import lens_names, lenses_of, needs_whole
    from latentbank.query.reading.text import read_text

    settings, layers = GlobalOptions.of(ctx).settings(), numbers(layer)
    if follow and token is None:
        raise QueryError("One token is followed; name it.", argument="token")
    if output is not None and not follow:
        raise QueryError("Only a token that is followed is drawn.", argument="follow")
    others = [name for name in lens_names(lens) if name != "latent"]  # LatentLens always reads
    where = search.condition()
    with bank.opened(settings, include_incomplete=search.include_incomplete) as opened:
        manifest = opened.manifest
        default = None if model.model else opened.find_model()
        needed = layers or list(opened.layers)
        llm = model.load_llm(
            (lambda count: [count]) if needs_whole(others) else needed,
            default=default,
            default_revision=manifest.revision,
        )
        options = LensOptions(LanguageAlone(lambda: llm), unique=search.once(), data_dir=settings.data_dir)
        asked: dict[str, Any] = {
            "top_k": search.top_k,
            "where": where,
            "search": search.way(),
            "lenses": lenses_of(others, options),
        }
        if token is not None and follow:
            around: dict[str, Any] = {"bank_layers": search.layers("all"), "unique": search.once() or "word"}
            give_followed(
                follow_text(opened, llm, sentence, token, layers, **around, **asked), output, as_json
            )
            return
        reading = read_text(
            opened,
            llm,
            sentence,
            layers,
            token=token,
            bank_layers=search.layers(),
            unique=search.once(),
            **asked,
        )
        show_ways(opened)
    show_reading(reading, as_json=as_json)
